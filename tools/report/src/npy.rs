//! Arrays of float32 in NumPy's file format (`.npy`, format 1.0), for those who go on in Python.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::files::write_whole;

/// What begins every file: the magic bytes and the version of the format.
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// The data begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// Writes `values`, row by row, as an array of `shape`: little-endian float32, C order. The file is there completely or not at all.
///
/// # Errors
/// When `shape` is not that of as many values, and when the file cannot be written.
pub fn write_npy(path: &Path, values: &[f32], shape: &[usize]) -> Result<()> {
    write_whole(path, &npy_bytes(values, shape)?)
}

/// The bytes of the file.
fn npy_bytes(values: &[f32], shape: &[usize]) -> Result<Vec<u8>> {
    ensure!(shape.iter().product::<usize>() == values.len(), "{} values are no array of shape {shape:?}", values.len());
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    // Python writes the tuple of one as `(3,)`, of more as `(3, 4)`; it reads both with a comma at the end.
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sides.trim_end());
    // The header, whose length is stated in two bytes, is filled with blanks and ends with a line break.
    let unpadded = MAGIC.len() + 2 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len())?;
    let mut bytes = [MAGIC, &length.to_le_bytes(), header.as_bytes()].concat();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_header_that_the_format_asks_for_and_the_values_behind_it() {
        for (shape, text) in [(&[6][..], "(6,)"), (&[2, 3], "(2, 3,)"), (&[1, 2, 3, 1], "(1, 2, 3, 1,)"), (&[2, 0], "(2, 0,)"), (&[], "()")]
        {
            let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32 - 2.5).collect();
            let bytes = npy_bytes(&values, shape).unwrap();
            assert_eq!(&bytes[..8], MAGIC);
            let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            let (header, data) = bytes[10..].split_at(length);
            assert_eq!((10 + length) % ALIGNMENT, 0);
            let header = std::str::from_utf8(header).unwrap();
            assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': ") && header.ends_with('\n'), "{header}");
            assert!(header.contains(text), "{header}");
            let back: Vec<f32> = data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            assert_eq!(back, values);
        }
    }

    #[test]
    fn a_shape_of_other_length_is_refused_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.npy");
        assert!(write_npy(&path, &[1.0; 5], &[2, 3]).unwrap_err().to_string().contains("[2, 3]"));
        assert!(!path.exists());
        write_npy(&path, &[1.0; 6], &[2, 3]).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
