//! Arrays of float32 in NumPy's file format (`.npy`, format 1.0), for further work in Python.

use std::path::Path;

use crate::error::ReportError;
use crate::files::write_whole;

/// The first bytes of every file: magic number and version of the format.
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// The offset of the data is a multiple of this.
const ALIGNMENT: usize = 64;

/// Writes `values` atomically as an array of `shape`: little-endian float32 in C order.
///
/// # Errors
/// When the number of values is not the product of `shape`, or the file cannot be written.
pub fn write_npy(path: &Path, values: &[f32], shape: &[usize]) -> Result<(), ReportError> {
    write_whole(path, &npy_bytes(values, shape)?)
}

/// The bytes of the file.
fn npy_bytes(values: &[f32], shape: &[usize]) -> Result<Vec<u8>, ReportError> {
    let wrong = || ReportError::Shape { values: values.len(), shape: shape.to_vec() };
    if shape.iter().product::<usize>() != values.len() {
        return Err(wrong());
    }
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    // Python writes tuples as `(3,)` and `(3, 4)`, and reads both with a trailing comma.
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sides.trim_end());
    // The header is padded with blanks and ends with a line break. Two bytes hold its length, so a shape of thousands of sides is refused.
    let unpadded = MAGIC.len() + 2 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| wrong())?;
    let mut bytes = [MAGIC, &length.to_le_bytes(), header.as_bytes()].concat();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_header_of_the_format_and_the_values() {
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
    fn a_wrong_number_of_values_is_refused_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.npy");
        assert!(write_npy(&path, &[1.0; 5], &[2, 3]).unwrap_err().to_string().contains("[2, 3]"));
        assert!(!path.exists());
        write_npy(&path, &[1.0; 6], &[2, 3]).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
