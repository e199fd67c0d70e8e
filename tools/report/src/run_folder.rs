//! The folder of a run: checkpoints, configuration, log, TensorBoard events and curves.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vmamba_train::{BoxError, CheckpointKind, Incident, Observer, RunInfo, Scalars, Snapshot, StepReport, ValidationReport};

use crate::curves::training_curves;
use crate::files::write_whole;
use crate::metrics::{Kind, METRICS_FILE, MetricsLog};
use crate::tensorboard::EventWriter;

/// The checkpoint of the newest step, to resume from.
pub const LAST: &str = "last.safetensors";
/// The checkpoint of the best validation.
pub const BEST: &str = "best.safetensors";
/// The configuration of the run.
pub const CONFIG: &str = "config.toml";
/// The newest loss or gradient that was not finite.
pub const NON_FINITE: &str = "non_finite.json";
/// The folder of the TensorBoard events.
const TENSORBOARD: &str = "tensorboard";
/// How the names of TensorBoard's event files begin.
const EVENTS: &str = "events.out.tfevents.";

/// Writes a run into a folder. Add it to a trainer as an observer.
///
/// The folder holds `last.safetensors` and `best.safetensors`, `config.toml`, `metrics.jsonl` (a JSON object a step), `tensorboard/`, and
/// curves of losses and metric as PNG and SVG.
pub struct RunFolder {
    path: PathBuf,
    open: Option<Open>,
}

/// What is open while the run goes on.
struct Open {
    run: RunInfo,
    metrics: MetricsLog,
    events: EventWriter,
}

impl RunFolder {
    /// The folder of a new run; it is made if needed.
    ///
    /// # Errors
    /// When the folder holds a run, or cannot be written to.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if holds_run(&path) {
            bail!("{} holds a run already; resume it, overwrite it, or name another folder", path.display());
        }
        Self::open(path)
    }

    /// The folder of a new run; the files of a run that it holds are deleted.
    ///
    /// # Errors
    /// When a file cannot be deleted, or the folder cannot be written to.
    pub fn overwrite(path: impl Into<PathBuf>) -> Result<Self> {
        let folder = Self::open(path.into())?;
        let context = || format!("cannot delete the run in {}", folder.path.display());
        let files = [LAST, BEST, CONFIG, METRICS_FILE, NON_FINITE].into_iter().map(|name| folder.path.join(name));
        for file in files.chain(folder.event_files().with_context(context)?) {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(context),
                _ => (),
            }
        }
        Ok(folder)
    }

    /// The folder of a run to resume from [`RunFolder::last`].
    ///
    /// # Errors
    /// When the folder has no newest checkpoint, or cannot be written to.
    pub fn resume(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.join(LAST).exists() {
            bail!("nothing to resume: {} does not exist", path.join(LAST).display());
        }
        Self::open(path)
    }

    fn open(path: PathBuf) -> Result<Self> {
        let context = || format!("cannot write to the folder {}", path.display());
        std::fs::create_dir_all(&path).with_context(context)?;
        // A folder that cannot be written to is an error now, not after the first hour.
        tempfile::tempfile_in(&path).with_context(context)?;
        Ok(Self { path, open: None })
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
    pub fn write_config(&self, text: &str) -> Result<()> {
        write_whole(&self.config(), text.as_bytes())
    }

    fn event_files(&self) -> std::io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(self.path.join(TENSORBOARD)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        let is_event = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(EVENTS));
        Ok(paths.into_iter().filter(is_event).collect())
    }

    fn record(&mut self, kind: Kind, iteration: u64, scalars: &Scalars) -> Result<()> {
        let Some(Open { metrics, events, .. }) = &mut self.open else { return Ok(()) };
        metrics.record(kind, iteration, scalars)?;
        let finite = scalars.iter().filter(|(_, value)| value.is_finite());
        let write = || -> std::io::Result<()> {
            for (name, value) in finite {
                events.scalar(&format!("{}/{name}", kind.name()), iteration, *value as f32)?;
            }
            events.flush()
        };
        write().with_context(|| format!("cannot write TensorBoard events in {}", self.path.display()))
    }
}

/// Whether a folder holds a run.
pub fn holds_run(path: &Path) -> bool {
    [LAST, CONFIG].iter().any(|name| path.join(name).exists())
}

impl Observer for RunFolder {
    fn started(&mut self, run: &RunInfo) -> Result<(), BoxError> {
        let metrics = MetricsLog::open(&self.path.join(METRICS_FILE), run.first)?;
        let events = EventWriter::create(self.path.join(TENSORBOARD))
            .with_context(|| format!("cannot write TensorBoard events in {}", self.path.display()))?;
        self.open = Some(Open { run: run.clone(), metrics, events });
        Ok(())
    }

    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        Ok(self.record(Kind::Train, step.iteration, &step.scalars)?)
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        self.record(Kind::Val, validation.iteration, &validation.scalars)?;
        let metric = validation.scalars.first().map(|(name, _)| name.as_str());
        if let (Some(open), Some(metric)) = (&self.open, metric) {
            training_curves(&self.path, &open.run.name, open.run.plotted_losses, metric)?;
        }
        Ok(())
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
        Ok(write_whole(&self.path.join(NON_FINITE), format!("{:#}\n", incident.to_json()).as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwriting_deletes_the_files_of_this_run_only_whatever_the_folder_is_called() {
        let root = tempfile::tempdir().unwrap();
        // As a glob pattern, `run[1]` would be `run1`.
        for name in ["run[1]", "run1"] {
            let folder = root.path().join(name);
            std::fs::create_dir_all(folder.join(TENSORBOARD)).unwrap();
            for file in [LAST, BEST, CONFIG, METRICS_FILE, "notes.txt", "tensorboard/events.out.tfevents.1"] {
                std::fs::write(folder.join(file), "x").unwrap();
            }
        }
        let marked = root.path().join("run[1]");
        assert!(RunFolder::create(&marked).err().unwrap().to_string().contains("holds a run already"));
        RunFolder::overwrite(&marked).unwrap();
        for (file, kept) in [(LAST, false), (CONFIG, false), ("tensorboard/events.out.tfevents.1", false), ("notes.txt", true)] {
            assert_eq!(marked.join(file).exists(), kept, "{file}");
            assert!(root.path().join("run1").join(file).exists(), "{file}");
        }
        assert!(RunFolder::resume(&marked).err().unwrap().to_string().contains("nothing to resume"));
        RunFolder::create(&marked).unwrap();
    }
}
