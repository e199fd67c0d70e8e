//! Scalars for TensorBoard: event files that `tensorboard --logdir` reads.
//!
//! The format is written by hand because it is small and stable. The crates for it either run `protoc` at build time, which every user would
//! have to install, or have not been maintained for years. An event file is a sequence of records
//!
//! ```text
//! length u64 | masked crc32c of length u32 | data | masked crc32c of data u32        (all little endian)
//! ```
//!
//! (tensorflow/core/lib/io/record_writer.cc). The data of a record is a protobuf message `Event`; these of its fields are written
//! (tensorflow/core/util/event.proto, framework/summary.proto):
//!
//! ```text
//! Event      { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7; }
//! Summary    { repeated Value value = 1; }
//! Value      { string tag = 1; float simple_value = 2; }
//! SessionLog { enum SessionStatus { START = 1; } status = 1; }
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use vmamba_files::AppendLog;
use vmamba_train::{BoxError, Observer, RunInfo, Scalars, StepReport, ValidationReport};

use crate::error::ReportError;
use crate::files::create_folder;
use crate::metrics::Kind;

/// How the names of event files begin.
const EVENTS: &str = "events.out.tfevents.";

/// Wire types of protobuf.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Observer that writes the figures of every step and validation as TensorBoard scalars `train/<figure>` and `val/<figure>`. Figures that are
/// not finite are left out.
pub struct TensorBoard {
    folder: PathBuf,
    events: Option<EventWriter>,
}

impl TensorBoard {
    /// Writes into `folder`, which is created when the run starts. A resumed run adds an event file; TensorBoard joins them.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), events: None }
    }

    /// The event files in `folder`; none where the folder is missing.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn event_files(folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
        let list = || -> std::io::Result<Vec<PathBuf>> {
            let entries = match std::fs::read_dir(folder) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            entries.map(|entry| Ok(entry?.path())).collect()
        };
        let is_event = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(EVENTS));
        Ok(list().map_err(ReportError::read(folder))?.into_iter().filter(is_event).collect())
    }

    fn record(&mut self, kind: Kind, iteration: u64, scalars: &Scalars) -> Result<(), ReportError> {
        let Some(events) = &mut self.events else { return Ok(()) };
        for (name, value) in scalars.iter().filter(|(_, value)| value.is_finite()) {
            events.scalar(&format!("{}/{name}", kind.name()), iteration, *value as f32);
        }
        events.flush()
    }
}

impl Observer for TensorBoard {
    fn started(&mut self, run: &RunInfo) -> Result<(), BoxError> {
        let mut events = EventWriter::create(&self.folder)?;
        if run.first > 0 {
            events.restart(run.first + 1)?;
        }
        self.events = Some(events);
        Ok(())
    }

    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        Ok(self.record(Kind::Train, step.iteration, &step.scalars)?)
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        Ok(self.record(Kind::Val, validation.iteration, &validation.scalars)?)
    }
}

/// Appends scalars to one event file.
pub struct EventWriter {
    log: AppendLog,
    /// Records that are not written yet.
    buffer: Vec<u8>,
}

impl EventWriter {
    /// Creates a new event file in `folder`, which is created too where it is missing.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn create(folder: &Path) -> Result<Self, ReportError> {
        // Two writers of one process within the same second must not share a file.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        create_folder(folder)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let seconds = now().as_secs();
        let path = folder.join(format!("{EVENTS}{seconds:010}.local.{}.{number}", std::process::id()));
        let log = AppendLog::create_new(&path).map_err(ReportError::write(&path))?;
        let mut writer = Self { log, buffer: Vec::new() };
        let mut event = wall_time();
        field(&mut event, 3, BYTES);
        bytes(&mut event, b"brain.Event:2");
        writer.record(&event);
        writer.flush()?;
        Ok(writer)
    }

    /// The event file.
    pub fn path(&self) -> &Path {
        self.log.path()
    }

    /// Tells TensorBoard that a run goes on from `step`: it hides scalars of this step and later ones in earlier files, which a killed run
    /// wrote after its newest checkpoint.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn restart(&mut self, step: u64) -> Result<(), ReportError> {
        let mut event = wall_time();
        field(&mut event, 2, VARINT);
        varint(&mut event, step);
        field(&mut event, 7, BYTES);
        // SessionLog { status: START }
        bytes(&mut event, &[1 << 3 | VARINT, 1]);
        self.record(&event);
        self.flush()
    }

    /// Adds `value` of the curve `tag` (`train/loss`; TensorBoard groups curves by the part before the slash) at iteration `step`, to be
    /// written by the next [`EventWriter::flush`].
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) {
        let mut entry = Vec::with_capacity(tag.len() + 8);
        field(&mut entry, 1, BYTES);
        bytes(&mut entry, tag.as_bytes());
        field(&mut entry, 2, FIXED32);
        entry.extend(value.to_le_bytes());

        let mut summary = Vec::with_capacity(entry.len() + 4);
        field(&mut summary, 1, BYTES);
        bytes(&mut summary, &entry);

        let mut event = wall_time();
        field(&mut event, 2, VARINT);
        varint(&mut event, step);
        field(&mut event, 5, BYTES);
        bytes(&mut event, &summary);
        self.record(&event);
    }

    /// Writes the buffer, so that a running TensorBoard sees the newest scalars.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), ReportError> {
        let written = self.log.append(&self.buffer);
        self.buffer.clear();
        written.map_err(ReportError::write(self.log.path()))
    }

    fn record(&mut self, data: &[u8]) {
        let length = (data.len() as u64).to_le_bytes();
        for part in [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()] {
            self.buffer.extend_from_slice(part);
        }
    }
}

/// CRC-32C, rotated and shifted so that a CRC of data that contains CRCs stays meaningful (record_writer.cc, `MaskedCrc`).
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The beginning of an event: its first field, the time in seconds.
fn wall_time() -> Vec<u8> {
    let mut event = Vec::with_capacity(64);
    field(&mut event, 1, FIXED64);
    event.extend(now().as_secs_f64().to_le_bytes());
    event
}

fn field(out: &mut Vec<u8>, number: u8, wire: u8) {
    out.push(number << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, data: &[u8]) {
    varint(out, data.len() as u64);
    out.extend(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    /// The records of an event file; checks both checksums of each.
    fn records(mut data: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !data.is_empty() {
            let length = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
            assert_eq!(masked_crc(&data[..8]).to_le_bytes(), data[8..12]);
            let body = &data[12..12 + length];
            assert_eq!(masked_crc(body).to_le_bytes(), data[12 + length..16 + length]);
            found.push(body.to_vec());
            data = &data[16 + length..];
        }
        found
    }

    #[test]
    fn crc_is_the_published_one() {
        // RFC 3720, B.4: 32 bytes of zero.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn a_scalar_becomes_the_documented_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.scalar("a", 300, 1.5);
        writer.flush().unwrap();
        let records = records(&std::fs::read(writer.path()).unwrap());
        assert_eq!(records.len(), 2);
        assert!(records[0].ends_with(b"brain.Event:2"));
        let expected = [&[0x10, 0xAC, 0x02, 0x2A, 10, 0x0A, 8, 0x0A, 1, b'a', 0x15][..], &1.5f32.to_le_bytes()].concat();
        assert_eq!(records[1][9..], expected);
    }

    #[test]
    fn a_resumed_run_hides_the_steps_that_it_takes_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.restart(300).unwrap();
        let records = records(&std::fs::read(writer.path()).unwrap());
        // Event { step: 300, session_log: { status: START } }, as TensorBoard's event_accumulator.py purges on.
        assert_eq!(records[1][9..], [0x10, 0xAC, 0x02, 0x3A, 2, 0x08, 1]);
    }

    #[test]
    fn a_run_writes_the_scalars_of_its_steps_and_validations() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("events");
        assert!(TensorBoard::event_files(&folder).unwrap().is_empty());
        tiny::run(TensorBoard::new(&folder));
        let files = TensorBoard::event_files(&folder).unwrap();
        let [file] = &files[..] else { panic!("{files:?}") };
        let count = |tag: &str| {
            let events = records(&std::fs::read(file).unwrap());
            events.iter().filter(|event| event.windows(tag.len()).any(|part| part == tag.as_bytes())).count()
        };
        assert_eq!((count("train/loss"), count("train/lr"), count("val/closeness")), (4, 4, 2));
    }

    #[test]
    fn a_figure_that_is_not_finite_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard { folder: dir.path().to_owned(), events: Some(EventWriter::create(dir.path()).unwrap()) };
        board.record(Kind::Train, 1, &vec![("loss".to_owned(), f64::NAN), ("lr".to_owned(), 0.5)]).unwrap();
        let [file] = &TensorBoard::event_files(dir.path()).unwrap()[..] else { panic!("one file") };
        assert_eq!(records(&std::fs::read(file).unwrap()).len(), 2, "the version and one scalar");
    }

    #[test]
    fn two_writers_in_one_folder_do_not_share_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (EventWriter::create(dir.path()).unwrap(), EventWriter::create(dir.path()).unwrap());
        assert_ne!(a.path(), b.path());
    }
}
