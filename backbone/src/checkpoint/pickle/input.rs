//! The bytes of a pickle, read once from start to end.

use std::io::{self, BufRead, Read};

use super::Kind;

/// Limit for a string in bytes. Keys and class names are far shorter; longer strings, such as logs, are skipped.
const MAX_TEXT: u64 = 64 << 10;

/// Limit for a line of the text opcodes, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// A reader that counts its bytes.
pub(crate) struct Input<R> {
    reader: R,
    offset: u64,
}

impl<R: BufRead> Input<R> {
    /// Starts at the current position of the reader, which counts as 0.
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, offset: 0 }
    }

    /// Bytes consumed.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn byte(&mut self) -> Result<u8, Kind> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Kind> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(end_or_io)?;
        self.offset += N as u64;
        Ok(bytes)
    }

    /// Reads `length` bytes of UTF-8; invalid bytes become U+FFFD. `None` when the string is too long to keep.
    pub(super) fn text(&mut self, length: u64) -> Result<Option<String>, Kind> {
        if length > MAX_TEXT {
            self.skip(length)?;
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes).map_err(end_or_io)?;
        self.offset += length;
        Ok(Some(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())))
    }

    /// Skips `length` bytes without storing them.
    pub(super) fn skip(&mut self, length: u64) -> Result<(), Kind> {
        let skipped = io::copy(&mut self.reader.by_ref().take(length), &mut io::sink()).map_err(Kind::Io)?;
        self.offset = self.offset.saturating_add(skipped);
        if skipped == length { Ok(()) } else { Err(Kind::End) }
    }

    /// Reads up to the next line feed, which is not part of the result.
    pub(super) fn line(&mut self) -> Result<String, Kind> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(Kind::Io)?;
        self.offset += bytes.len() as u64;
        if bytes.pop() != Some(b'\n') {
            return Err(if bytes.len() as u64 >= MAX_LINE - 1 { Kind::Malformed("line: too long") } else { Kind::End });
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn end_or_io(error: io::Error) -> Kind {
    if error.kind() == io::ErrorKind::UnexpectedEof { Kind::End } else { Kind::Io(error) }
}
