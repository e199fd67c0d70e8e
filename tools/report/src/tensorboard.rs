//! Scalars for TensorBoard: an event file that `tensorboard --logdir` reads.
//!
//! Written by hand, because what is needed is small and stable: the crates for it either generate code with `protoc` at build time (an
//! extra program that every user would have to install) or have not been maintained for years. An event file is a sequence of records
//!
//! ```text
//! length u64 | masked crc32c of length u32 | data | masked crc32c of data u32        (all little endian)
//! ```
//!
//! (tensorflow/core/lib/io/record_writer.cc) whose data is a protobuf message `Event`, of which we write these fields
//! (tensorflow/core/util/event.proto, framework/summary.proto):
//!
//! ```text
//! Event   { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
//! Summary { repeated Value value = 1; }
//! Value   { string tag = 1; float simple_value = 2; }
//! ```

use std::fs::{File, create_dir_all};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Wire types of protobuf.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Appends scalars to one event file.
pub struct EventWriter {
    out: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Makes `dir` if needed and a new event file in it. A resumed run writes a further file; TensorBoard joins them.
    pub fn create(dir: impl AsRef<Path>) -> io::Result<Self> {
        // Two writers of one process within the same second must not share a file.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = dir.as_ref();
        create_dir_all(dir)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let seconds = now().as_secs();
        let path = dir.join(format!("events.out.tfevents.{seconds:010}.local.{}.{number}", std::process::id()));
        let mut writer = Self { out: BufWriter::new(File::create_new(&path)?), path };
        let mut event = wall_time();
        field(&mut event, 3, BYTES);
        bytes(&mut event, b"brain.Event:2");
        writer.record(&event)?;
        writer.flush()?;
        Ok(writer)
    }

    /// The event file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `value` of the curve `tag` (`train/loss`; the part before the slash groups the curves) at iteration `step`.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) -> io::Result<()> {
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
        self.record(&event)
    }

    /// Brings what was written to the disk, so that a running TensorBoard sees it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        self.out.write_all(&length)?;
        self.out.write_all(&masked_crc(&length).to_le_bytes())?;
        self.out.write_all(data)?;
        self.out.write_all(&masked_crc(data).to_le_bytes())
    }
}

/// CRC-32C, rotated and shifted so that a CRC of data that contains CRCs stays meaningful (record_writer.cc, `MaskedCrc`).
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An event that so far has its first field, the time in seconds.
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

    /// The records of an event file; checks both sums of each.
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
        writer.scalar("a", 300, 1.5).unwrap();
        writer.flush().unwrap();
        let records = records(&std::fs::read(writer.path()).unwrap());
        assert_eq!(records.len(), 2);
        assert!(records[0].ends_with(b"brain.Event:2"));
        let expected = [&[0x10, 0xAC, 0x02, 0x2A, 10, 0x0A, 8, 0x0A, 1, b'a', 0x15][..], &1.5f32.to_le_bytes()].concat();
        assert_eq!(records[1][9..], expected);
    }

    #[test]
    fn two_writers_in_one_folder_do_not_share_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (EventWriter::create(dir.path()).unwrap(), EventWriter::create(dir.path()).unwrap());
        assert_ne!(a.path(), b.path());
    }
}
