//! The folder of a run: checkpoints and configuration, with the log, TensorBoard events and curves of the other observers.

use std::path::{Path, PathBuf};

use vmamba_train::{BoxError, CheckpointKind, Incident, Observer, Outcome, RunInfo, Snapshot, StepReport, ValidationReport};

use crate::curves::Curves;
use crate::error::ReportError;
use crate::files::{create_folder, write_json, write_whole};
use crate::metrics::{METRICS_FILE, MetricsLog};
use crate::tensorboard::TensorBoard;

/// The checkpoint of the newest step, to resume from.
pub const LAST: &str = "last.safetensors";
/// The checkpoint of the best validation.
pub const BEST: &str = "best.safetensors";
/// The configuration of the run.
pub const CONFIG: &str = "config.toml";
/// Report of the newest loss or gradient that was not finite.
pub const NON_FINITE: &str = "non_finite.json";
/// The folder of the TensorBoard events.
const TENSORBOARD: &str = "tensorboard";

/// Observer that keeps a whole run in one folder.
///
/// | file | contents | written by |
/// |---|---|---|
/// | `last.safetensors`, `best.safetensors` | checkpoints | `RunFolder` |
/// | `config.toml` | configuration | [`RunFolder::write_config`] |
/// | `non_finite.json` | newest loss or gradient that was not finite | `RunFolder` |
/// | `metrics.jsonl` | figures of every step and validation | [`MetricsLog`] |
/// | `tensorboard/` | the same figures as TensorBoard events | [`TensorBoard`] |
/// | `loss.png`, `<metric>.png`, `.svg` | curves | [`Curves`] |
pub struct RunFolder {
    path: PathBuf,
    metrics: MetricsLog,
    events: TensorBoard,
    curves: Curves,
    /// Whether the files of an earlier run are deleted when this run begins.
    overwrite: bool,
}

impl RunFolder {
    /// The folder of a new run, which is created where it is missing.
    ///
    /// # Errors
    /// When the folder holds a run, or cannot be written to.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        let path = path.into();
        if holds_run(&path) {
            return Err(ReportError::HoldsRun { path });
        }
        Self::open(path)
    }

    /// The folder of a new run. If it holds a run, the files of that run are deleted when the new run begins: with its first step, or when its
    /// configuration is written. Other files stay.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn overwrite(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        Ok(Self { overwrite: true, ..Self::open(path.into())? })
    }

    /// Deletes the files of an earlier run, once, if this run overwrites it.
    fn begin(&mut self) -> Result<(), ReportError> {
        if !std::mem::take(&mut self.overwrite) {
            return Ok(());
        }
        let files = [LAST, BEST, CONFIG, METRICS_FILE, NON_FINITE].into_iter().map(|name| self.path.join(name));
        for file in files.chain(TensorBoard::event_files(&self.path.join(TENSORBOARD))?) {
            match std::fs::remove_file(&file) {
                Err(reason) if reason.kind() != std::io::ErrorKind::NotFound => return Err(ReportError::Delete { path: file, reason }),
                _ => (),
            }
        }
        Ok(())
    }

    /// The folder of a run to resume from [`RunFolder::last`].
    ///
    /// # Errors
    /// When the folder has no newest checkpoint, or cannot be written to.
    pub fn resume(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        let path = path.into();
        let checkpoint = path.join(LAST);
        if !checkpoint.exists() {
            return Err(ReportError::NothingToResume { checkpoint });
        }
        Self::open(path)
    }

    fn open(path: PathBuf) -> Result<Self, ReportError> {
        create_folder(&path)?;
        // A folder that cannot be written to is an error now, not after the first hour.
        tempfile::tempfile_in(&path).map_err(ReportError::write(&path))?;
        let log = path.join(METRICS_FILE);
        Ok(Self {
            metrics: MetricsLog::new(&log),
            events: TensorBoard::new(path.join(TENSORBOARD)),
            curves: Curves::new(&path).with_history(log),
            path,
            overwrite: false,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint of the newest step.
    pub fn last(&self) -> PathBuf {
        self.path.join(LAST)
    }

    /// The checkpoint of the best validation.
    pub fn best(&self) -> PathBuf {
        self.path.join(BEST)
    }

    /// The configuration of the run.
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// Writes the configuration of the run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_config(&mut self, text: &str) -> Result<(), ReportError> {
        self.begin()?;
        write_whole(&self.config(), text.as_bytes())
    }

    /// The observers of the log, the events and the curves. The log comes first, since the curves of a resumed run read it.
    fn parts(&mut self) -> [&mut dyn Observer; 3] {
        [&mut self.metrics, &mut self.events, &mut self.curves]
    }
}

/// Whether a folder holds a run.
pub fn holds_run(path: &Path) -> bool {
    [LAST, CONFIG].iter().any(|name| path.join(name).exists())
}

impl Observer for RunFolder {
    fn started(&mut self, run: &RunInfo) -> Result<(), BoxError> {
        self.begin()?;
        self.parts().into_iter().try_for_each(|part| part.started(run))
    }

    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        self.parts().into_iter().try_for_each(|part| part.step(step))
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        self.parts().into_iter().try_for_each(|part| part.validated(validation))
    }

    fn wants_checkpoints(&self) -> bool {
        true
    }

    fn save(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let path = match snapshot.kind {
            CheckpointKind::Latest => self.last(),
            CheckpointKind::Best => self.best(),
        };
        Ok(snapshot.write(&path)?)
    }

    fn incident(&mut self, incident: &Incident) -> Result<(), BoxError> {
        Ok(write_json(&self.path.join(NON_FINITE), &incident.to_json())?)
    }

    fn finished(&mut self, outcome: Outcome, iteration: u64) -> Result<(), BoxError> {
        self.parts().into_iter().try_for_each(|part| part.finished(outcome, iteration))
    }
}

#[cfg(test)]
mod tests {
    use burn::prelude::Device;
    use vmamba_train::TrainError;

    use super::*;
    use crate::metrics::read_metrics;
    use crate::tiny;

    #[test]
    fn a_run_leaves_checkpoints_log_events_and_curves_and_can_be_resumed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run");
        tiny::run(RunFolder::create(&path).unwrap());
        for file in [LAST, BEST, METRICS_FILE, "loss.png", "closeness.svg"] {
            assert!(path.join(file).is_file(), "{file}");
        }
        assert!(holds_run(&path) && matches!(RunFolder::create(&path), Err(ReportError::HoldsRun { .. })));

        let folder = RunFolder::resume(&path).unwrap();
        let last = folder.last();
        let mut trainer = tiny::builder(0.0).iterations(6).observe(folder).build(&Device::flex()).unwrap();
        trainer.resume(&last).unwrap();
        trainer.run().unwrap();
        let iterations = |kind: &str| -> Vec<u64> {
            let lines = read_metrics(&path.join(METRICS_FILE)).unwrap();
            lines.iter().filter(|line| line["kind"] == kind).map(|line| line["iteration"].as_u64().unwrap()).collect()
        };
        assert_eq!((iterations("train"), iterations("val")), (vec![1, 2, 3, 4, 5, 6], vec![2, 4, 6]));
        assert_eq!(TensorBoard::event_files(&path.join(TENSORBOARD)).unwrap().len(), 2);
    }

    #[test]
    fn a_loss_that_is_not_finite_is_written_down() {
        let root = tempfile::tempdir().unwrap();
        let mut trainer = tiny::builder(f32::NAN).observe(RunFolder::create(root.path()).unwrap()).build(&Device::flex()).unwrap();
        assert!(matches!(trainer.run(), Err(TrainError::NonFinite(_))));
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(root.path().join(NON_FINITE)).unwrap()).unwrap();
        assert_eq!((report["iteration"].as_u64(), report["first_in"].as_str()), (Some(1), Some("slope")));
        assert!(!root.path().join(LAST).exists());
    }

    #[test]
    fn overwriting_deletes_the_files_of_this_run_only_whatever_the_folder_is_called() {
        let root = tempfile::tempdir().unwrap();
        // As a glob pattern, `run[1]` would match `run1`.
        for name in ["run[1]", "run1"] {
            let folder = root.path().join(name);
            std::fs::create_dir_all(folder.join(TENSORBOARD)).unwrap();
            for file in [LAST, BEST, CONFIG, METRICS_FILE, "notes.txt", "tensorboard/events.out.tfevents.1"] {
                std::fs::write(folder.join(file), "x").unwrap();
            }
        }
        let marked = root.path().join("run[1]");
        let error = RunFolder::create(&marked).err().unwrap();
        assert!(matches!(&error, ReportError::HoldsRun { .. }) && error.to_string().contains("already holds a run"), "{error}");
        let mut folder = RunFolder::overwrite(&marked).unwrap();
        assert!(marked.join(LAST).exists(), "nothing is deleted before the new run begins");
        folder.write_config("x").unwrap();
        std::fs::remove_file(marked.join(CONFIG)).unwrap();
        for (file, kept) in [(LAST, false), (CONFIG, false), ("tensorboard/events.out.tfevents.1", false), ("notes.txt", true)] {
            assert_eq!(marked.join(file).exists(), kept, "{file}");
            assert!(root.path().join("run1").join(file).exists(), "{file}");
        }
        assert!(RunFolder::resume(&marked).err().unwrap().to_string().contains("nothing to resume"));
        RunFolder::create(&marked).unwrap();
    }
}
