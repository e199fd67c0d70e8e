//! JPEG photos, with the pixels of libjpeg-turbo, which OpenCV and Pillow use.
//!
//! Decoders may round the inverse transform and interpolate chroma as they like. `zune-jpeg`, behind the image crate, differs from
//! libjpeg-turbo by up to six levels; `libjpeg-turbo-rs` by none. Files of four channels (CMYK, YCCK) are the exception: `libjpeg-turbo-rs`
//! 0.9 panics on some of them, so that the image crate decodes them, within two levels of OpenCV.

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, DecodeWarning, Decoder, PixelFormat};

use super::{PhotoHeader, Problem, Stored, limits};

/// Scans of a progressive file. Encoders write about ten; a file of thousands takes minutes.
const MAX_SCANS: usize = 500;

/// The size and the orientation of a JPEG.
pub(super) fn header(bytes: &[u8]) -> Result<PhotoHeader, Problem> {
    Ok(header_of(&open(bytes)?))
}

fn open(bytes: &[u8]) -> Result<Decoder<'_>, Problem> {
    let limits = DecodeLimits {
        max_width: usize::from(u16::MAX),
        max_height: usize::from(u16::MAX),
        max_pixels: u64::MAX,
        max_scans: MAX_SCANS,
        max_memory: None,
    };
    let decoder = Decoder::new_with_limits(bytes, limits).map_err(damaged)?;
    let (width, height) = decoder.header().dimensions();
    limits::check([height, width])?;
    Ok(decoder)
}

fn header_of(decoder: &Decoder) -> PhotoHeader {
    let (width, height) = decoder.header().dimensions();
    let orientation = decoder.exif_orientation().and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    PhotoHeader { size: [height, width], orientation }
}

fn damaged(reason: impl std::fmt::Display) -> Problem {
    Problem::Message(format!("the JPEG is damaged: {reason}"))
}

/// Decodes a JPEG to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<Stored, Problem> {
    if !is_complete(bytes) {
        return Err(Problem::message("the JPEG is truncated: its end marker is missing"));
    }
    let mut decoder = open(bytes)?;
    let PhotoHeader { size: [height, width], orientation } = header_of(&decoder);
    let frame = decoder.header();
    if frame.precision != 8 {
        return Err(Problem::Message(format!("the JPEG has {} bits a channel; photos have 8", frame.precision)));
    }
    if frame.components.len() == 4 {
        let image = image::load_from_memory_with_format(bytes, ImageFormat::Jpeg).map_err(damaged)?;
        return Ok(Stored { image: DynamicImage::into_rgb8(image), orientation });
    }
    decoder.set_output_format(PixelFormat::Rgb);
    // Strict decoding refuses stray bytes between segments, which many photos have and which cost no pixel.
    decoder.set_lenient(true);
    let decoded = decoder.decode_image().map_err(damaged)?;
    if let Some(lost) = decoded.warnings.iter().find(|warning| !matches!(warning, DecodeWarning::ExtraneousData { .. })) {
        return Err(damaged(lost));
    }
    let image = RgbImage::from_raw(width as u32, height as u32, decoded.data);
    Ok(Stored { image: image.ok_or_else(|| damaged("its data do not have its size"))?, orientation })
}

/// Whether the compressed data of a JPEG end with the end marker. The segments of the header are skipped, because a thumbnail in them has
/// an end marker of its own.
fn is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    loop {
        match bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
            None => return false,
            Some([0xff, marker, high, low]) if !matches!(marker, 0 | 0xff) => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                at += 2 + length.max(2);
                if *marker == START_OF_SCAN {
                    break;
                }
            }
            // A fill byte, or stray bytes between two segments.
            Some(_) => at += 1,
        }
    }
    // Inside compressed data, 0xff is always followed by 0 or a restart marker, so 0xff 0xd9 can only be the end marker.
    bytes.get(at..).is_some_and(|rest| rest.windows(2).any(|pair| pair == [0xff, 0xd9]))
}
