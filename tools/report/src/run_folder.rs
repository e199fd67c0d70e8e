//! The folder of a run: checkpoints and configuration, with the log, TensorBoard events and curves of the other observers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vmamba_files::{FolderLock, Refusal};
use vmamba_train::{BoxError, CheckpointKind, Incident, Observer, Outcome, RunInfo, Snapshot, StepReport, ValidationReport};

use crate::curves::{Curves, curve_files};
use crate::error::ReportError;
use crate::files::{create_folder, write_json, write_whole};
use crate::metrics::{Kind, METRICS_FILE, MetricsLog, Repair, readable_lines, repair};
use crate::run_pictures::RunPictures;
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
/// The folder of the pictures of predictions.
const PICTURES: &str = "pictures";

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
/// | `pictures/` | pictures of predictions | [`RunPictures`] in [`RunFolder::pictures`] |
/// | `.lock` | nothing; it is there and locked as long as this value lives | `RunFolder` |
///
/// A second run in the folder, of this program or another one, is refused.
pub struct RunFolder {
    path: PathBuf,
    metrics: MetricsLog,
    events: TensorBoard,
    curves: Curves,
    _lock: FolderLock,
    /// Whether the files of an earlier run are deleted when this run begins.
    overwrite: bool,
}

impl RunFolder {
    /// The folder of a new run, which is created where it is missing.
    ///
    /// # Errors
    /// When the folder holds a run, is in use, or cannot be written to.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        let folder = Self::open(path.into())?;
        if holds_run(&folder.path) != Holds::Nothing {
            return Err(ReportError::HoldsRun { path: folder.path });
        }
        Ok(folder)
    }

    /// The folder of a new run. If it holds a run, the files of that run are deleted when the new run begins: with its first step, or when its
    /// configuration is written, its curves and pictures too. Other files stay, also pictures that the run has not written, and everything
    /// behind symbolic links. A program that [protects its inputs](vmamba_files::protect_inputs) gets an error before anything is deleted, where
    /// one of these files is an input of the new run.
    ///
    /// # Errors
    /// When the folder is in use, or cannot be written to.
    pub fn overwrite(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        Ok(Self { overwrite: true, ..Self::open(path.into())? })
    }

    /// Deletes the files of an earlier run, once, if this run overwrites it.
    fn begin(&mut self) -> Result<(), ReportError> {
        if !std::mem::take(&mut self.overwrite) {
            return Ok(());
        }
        let (events, pictures) = (self.path.join(TENSORBOARD), self.pictures());
        vmamba_files::may_replace(&self.path.join(METRICS_FILE));
        let mut files = curve_files(&self.path, self.metrics_of_log());
        files.extend(RunPictures::written(&pictures)?);
        if !events.is_symlink() {
            files.extend(TensorBoard::event_files(&events)?);
        }
        // The checkpoints come last: killed before, the folder still holds a run that can be resumed.
        files.extend([NON_FINITE, METRICS_FILE, CONFIG, BEST, LAST].map(|name| self.path.join(name)));
        if let Some(input) = files.iter().find(|file| vmamba_files::is_input(file)) {
            return Err(ReportError::HoldsInput { path: input.clone() });
        }
        for file in files {
            match std::fs::remove_file(&file) {
                Err(reason) if reason.kind() != std::io::ErrorKind::NotFound => return Err(ReportError::Delete { path: file, reason }),
                _ => (),
            }
            // Removes a subfolder of the pictures if it is empty; otherwise the call fails and the subfolder stays.
            if let Some(folder) = file.parent().filter(|folder| folder.starts_with(&pictures)) {
                drop(std::fs::remove_dir(folder));
            }
        }
        Ok(())
    }

    /// The names of the figures that the validations of an earlier run maximised. Damaged lines are skipped.
    fn metrics_of_log(&self) -> BTreeSet<String> {
        let lines = readable_lines(&self.path.join(METRICS_FILE));
        let validations = lines.iter().filter(|line| line["kind"] == Kind::Val.name()).filter_map(serde_json::Value::as_object);
        validations.filter_map(|line| line.keys().find(|key| !["kind", "iteration"].contains(&key.as_str())).cloned()).collect()
    }

    /// The folder of a run to resume from [`RunFolder::last`]. No file of the run changes before the run starts.
    ///
    /// # Errors
    /// When the folder has no newest checkpoint, is in use, or cannot be written to.
    pub fn resume(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        let path = path.into();
        let checkpoint = path.join(LAST);
        // First: a run that works in the folder has not ended too early, and must not be overwritten.
        if FolderLock::is_held(&path) {
            return Err(ReportError::InUse { path });
        }
        match holds_run(&path) {
            Holds::Nothing => Err(ReportError::NothingToResume { checkpoint }),
            Holds::Beginning => Err(ReportError::EndedTooEarly { path }),
            Holds::Checkpoint => {
                let folder = Self::open(path)?;
                // The state of the run is read, and then replaced.
                [LAST, BEST, CONFIG, METRICS_FILE].iter().for_each(|name| vmamba_files::may_replace(&folder.path.join(name)));
                Ok(folder)
            }
        }
    }

    fn open(path: PathBuf) -> Result<Self, ReportError> {
        create_folder(&path)?;
        let lock = FolderLock::acquire(&path).map_err(|reason| {
            let locked = reason.get_ref().and_then(|inner| inner.downcast_ref()) == Some(&Refusal::Locked);
            if locked { ReportError::InUse { path: path.clone() } } else { ReportError::Write { path: path.clone(), reason } }
        })?;
        let log = path.join(METRICS_FILE);
        Ok(Self {
            metrics: MetricsLog::new(&log),
            events: TensorBoard::new(path.join(TENSORBOARD)),
            curves: Curves::new(&path).with_history(log),
            path,
            _lock: lock,
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

    /// Removes damaged lines from the log of a run that is resumed, see [`repair`]; the run would do so when it starts. Tells a program what to
    /// print.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    pub fn repair_log(&mut self) -> Result<Option<Repair>, ReportError> {
        repair(&self.path.join(METRICS_FILE))
    }

    /// The folder of the pictures of predictions, which `RunFolder` does not create.
    pub fn pictures(&self) -> PathBuf {
        Self::pictures_in(&self.path)
    }

    /// The folder of the pictures of a run in the folder `path`.
    pub fn pictures_in(path: &Path) -> PathBuf {
        path.join(PICTURES)
    }

    /// Writes the configuration of the run. A resumed run writes it after its checkpoint has been loaded.
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

    /// Tells all parts, also those after one that fails.
    fn tell(&mut self, tell: impl Fn(&mut dyn Observer) -> Result<(), BoxError>) -> Result<(), BoxError> {
        self.parts().map(tell).into_iter().collect()
    }
}

/// What a folder holds of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// No run.
    Nothing,
    /// A run that ended before its first checkpoint: there is nothing to resume from, and nothing of it can be used.
    Beginning,
    /// A run that can be resumed.
    Checkpoint,
}

/// What a folder holds of a run.
pub fn holds_run(path: &Path) -> Holds {
    let has = |name: &str| path.join(name).exists();
    if has(LAST) {
        Holds::Checkpoint
    } else if [CONFIG, METRICS_FILE, BEST].into_iter().any(has) {
        Holds::Beginning
    } else {
        Holds::Nothing
    }
}

impl Observer for RunFolder {
    fn started(&mut self, run: &RunInfo) -> Result<(), BoxError> {
        self.begin()?;
        self.parts().into_iter().try_for_each(|part| part.started(run))
    }

    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        self.tell(|part| part.step(step))
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        self.tell(|part| part.validated(validation))
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
        self.tell(|part| part.finished(outcome, iteration))
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
        assert_eq!(holds_run(&path), Holds::Checkpoint);
        assert!(matches!(RunFolder::create(&path), Err(ReportError::HoldsRun { .. })));

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
        assert_eq!(holds_run(root.path()), Holds::Beginning);
        drop(trainer);
        let (new, resumed) = (RunFolder::create(root.path()).err().unwrap(), RunFolder::resume(root.path()).err().unwrap());
        assert!(matches!((&new, &resumed), (ReportError::HoldsRun { .. }, ReportError::EndedTooEarly { .. })), "{new} {resumed}");
    }

    /// Fails with the third step, as a log on a full disk does.
    struct Full;

    impl Observer for Full {
        fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
            if step.iteration == 3 { Err("the disk is full".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn an_observer_that_fails_costs_neither_a_step_nor_a_line_of_the_log() {
        let root = tempfile::tempdir().unwrap();
        let builder = tiny::builder(0.0).observe(Full).observe(RunFolder::create(root.path()).unwrap());
        let mut trainer = builder.checkpoint_interval(100).build(&Device::flex()).unwrap();
        let error = trainer.run().unwrap_err();
        assert!(matches!(error, TrainError::Observer(_)) && error.to_string() == "the disk is full", "{error}");
        drop(trainer);
        let folder = RunFolder::resume(root.path()).unwrap();
        let last = folder.last();
        let mut trainer = tiny::builder(0.0).observe(folder).build(&Device::flex()).unwrap();
        trainer.resume(&last).unwrap();
        assert_eq!(trainer.iteration(), 3);
        trainer.run().unwrap();
        let lines = read_metrics(&root.path().join(METRICS_FILE)).unwrap();
        assert_eq!(lines.iter().filter(|line| line["kind"] == "train").count(), 4);
    }

    #[test]
    fn a_second_run_in_a_folder_is_refused_until_the_first_one_ends() {
        let root = tempfile::tempdir().unwrap();
        let first = RunFolder::create(root.path()).unwrap();
        for second in [RunFolder::create(root.path()), RunFolder::overwrite(root.path())] {
            assert!(matches!(second, Err(ReportError::InUse { .. })));
        }
        drop(first);
        RunFolder::create(root.path()).unwrap();
    }

    #[test]
    fn temporary_files_of_a_killed_run_are_removed_by_the_next_one() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(".saving-abc"), "half a checkpoint").unwrap();
        drop(RunFolder::create(root.path()).unwrap());
        assert!(!root.path().join(".saving-abc").exists());
    }

    #[test]
    fn a_folder_in_use_is_named_as_such_before_advice_that_would_destroy_its_run() {
        let root = tempfile::tempdir().unwrap();
        let mut first = RunFolder::create(root.path()).unwrap();
        first.write_config("x").unwrap();
        assert!(matches!(RunFolder::resume(root.path()), Err(ReportError::InUse { .. })));
        drop(first);
        assert!(matches!(RunFolder::resume(root.path()), Err(ReportError::EndedTooEarly { .. })));
        assert!(matches!(RunFolder::resume(root.path().join("none")), Err(ReportError::NothingToResume { .. })));
        assert!(!root.path().join("none").exists());
    }

    #[test]
    fn overwriting_deletes_the_pictures_and_curves_of_the_old_run() {
        let root = tempfile::tempdir().unwrap();
        tiny::run(RunFolder::create(root.path()).unwrap());
        let mut pictures = RunPictures::open(&root.path().join(PICTURES)).unwrap();
        for name in ["a.png", "inner/b.png"] {
            pictures.save(name, &image::RgbImage::new(2, 2)).unwrap();
        }
        let old = ["loss.png", "loss.svg", "closeness.png", "closeness.svg", "pr_bbox.svg", "pr_segm.png"];
        let of_user = ["pictures/notes.txt", "pictures/own.png", "notes.png", "lr.png"];
        for file in old.iter().chain(&of_user) {
            std::fs::write(root.path().join(file), "x").unwrap();
        }
        RunFolder::overwrite(root.path()).unwrap().write_config("x").unwrap();
        let left = |files: &[&str]| files.iter().filter(|file| root.path().join(file).exists()).count();
        assert_eq!((left(&old), left(&["pictures/a.png", "pictures/inner"]), left(&of_user)), (0, 0, of_user.len()));
    }

    #[test]
    #[cfg(unix)]
    fn overwriting_leaves_everything_behind_symbolic_links() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let (run, album) = (root.path().join("run"), root.path().join("album"));
        tiny::run(RunFolder::create(&run).unwrap());
        RunPictures::open(&run.join(PICTURES)).unwrap().save("a.png", &image::RgbImage::new(2, 2)).unwrap();
        // The user has moved both folders to another disk.
        std::fs::create_dir(&album).unwrap();
        for name in [PICTURES, TENSORBOARD] {
            std::fs::rename(run.join(name), album.join(name)).unwrap();
            symlink(album.join(name), run.join(name)).unwrap();
        }
        RunFolder::overwrite(&run).unwrap().write_config("x").unwrap();
        assert!(album.join("pictures/a.png").exists());
        assert_eq!(TensorBoard::event_files(&album.join(TENSORBOARD)).unwrap().len(), 1);
        assert!(!run.join(LAST).exists());
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
        drop(folder);
        std::fs::remove_file(marked.join(CONFIG)).unwrap();
        for (file, kept) in [(LAST, false), (CONFIG, false), ("tensorboard/events.out.tfevents.1", false), ("notes.txt", true)] {
            assert_eq!(marked.join(file).exists(), kept, "{file}");
            assert!(root.path().join("run1").join(file).exists(), "{file}");
        }
        assert!(RunFolder::resume(&marked).err().unwrap().to_string().contains("nothing to resume"));
        RunFolder::create(&marked).unwrap();
    }
}
