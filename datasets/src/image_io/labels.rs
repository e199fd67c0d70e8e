//! Label maps.

use std::io::Cursor;
use std::path::Path;

use vmamba_types::LabelMap;

use super::{Problem, guarded, limits, read};
use crate::error::DataError;

/// Reads a label map: a PNG whose grey values or palette indices are the labels.
///
/// # Errors
/// When the file cannot be read, is not a PNG, is damaged, holds colours instead of indices, has values above 255, or claims more than
/// [`max_pixels`](super::max_pixels).
pub fn read_labels(path: &Path) -> Result<LabelMap, DataError> {
    let bytes = read(path)?;
    guarded(path, || decode(&bytes))
}

fn decode(bytes: &[u8]) -> Result<LabelMap, Problem> {
    let damaged = |message: String| Problem::Message(message);
    let decoding = |error: png::DecodingError| damaged(format!("the label map is not a readable PNG: {error}"));
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    // Without transformations, palette indices stay indices and narrow values stay packed.
    decoder.set_transformations(png::Transformations::IDENTITY);
    // Labels need neither a colour profile nor comments, which may inflate to any size.
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_ignore_text_chunk(true);
    let claimed = decoder.read_header_info().map_err(decoding)?;
    let claimed = [claimed.height as usize, claimed.width as usize];
    limits::check(claimed)?;
    decoder.set_limits(png::Limits { bytes: usize::try_from(limits::max_bytes(claimed)).unwrap_or(usize::MAX) });
    let mut reader = decoder.read_info().map_err(decoding)?;
    let size = reader.output_buffer_size().ok_or_else(|| damaged("the label map is too large for the memory of this machine".into()))?;
    let mut data = vec![0; size];
    let frame = reader.next_frame(&mut data).map_err(decoding)?;
    data.truncate(frame.buffer_size());
    let (width, height) = (frame.width as usize, frame.height as usize);
    match frame.color_type {
        png::ColorType::Grayscale | png::ColorType::Indexed => (),
        other => {
            let channels = other.samples();
            return Err(damaged(format!(
                "the label map is a PNG of {channels} channels, but must hold one class index a pixel (grey or palette PNG); convert its \
                 colours to class indices"
            )));
        }
    }
    let labels = match frame.bit_depth {
        png::BitDepth::Eight => data,
        png::BitDepth::Sixteen => data
            .as_chunks::<2>()
            .0
            .iter()
            .map(|value| u8::try_from(u16::from_be_bytes(*value)))
            .collect::<Result<_, _>>()
            .map_err(|_| damaged("the label map has labels above 255; 16 bits are read, but the values must fit into 8".into()))?,
        narrow => unpack(&data, frame.line_size, width, narrow as usize),
    };
    if labels.len() != width * height {
        return Err(damaged(format!("the label map has {} labels for {width}x{height} pixels", labels.len())));
    }
    Ok(LabelMap::new(height, width, labels))
}

/// Unpacks values of 1, 2 or 4 bits. The first value is in the highest bits, and every row begins a new byte.
fn unpack(data: &[u8], line: usize, width: usize, bits: usize) -> Vec<u8> {
    let mask = (1_u8 << bits) - 1;
    let per_byte = 8 / bits;
    let value = |row: &[u8], x: usize| (row[x / per_byte] >> (8 - bits * (x % per_byte + 1))) & mask;
    data.chunks_exact(line.max(1)).flat_map(|row| (0..width).map(move |x| value(row, x))).collect()
}
