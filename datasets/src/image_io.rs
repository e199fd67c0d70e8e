//! Image and label map files.
//!
//! Photos are decoded to 8-bit RGB with their EXIF orientation applied, as by OpenCV's `imread` in mmsegmentation. Label maps are never
//! converted: the numbers in the file are the labels, so a palette PNG gives its indices.

use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use vmamba_types::LabelMap;

use crate::error::DataError;

/// Extensions of image files.
pub(crate) const IMAGE_ENDINGS: [&str; 7] = ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp"];

/// Reads a photo as 8-bit RGB and applies its EXIF orientation. Transparency is dropped, grey becomes three equal channels.
///
/// # Errors
/// When the file cannot be read, is not a supported image, or is damaged. A truncated JPEG is an error, although decoders fill the missing
/// part with grey.
pub fn read_rgb(path: &Path) -> Result<RgbImage, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::io(path, source))?;
    let damaged = |message: &str| DataError::Image { path: path.to_owned(), message: message.to_owned() };
    if bytes.is_empty() {
        return Err(damaged("the file is empty"));
    }
    if bytes.starts_with(&[0xff, 0xd8]) && !jpeg_is_complete(&bytes) {
        return Err(damaged("the JPEG is truncated: its end marker is missing"));
    }
    let decode = || -> Result<DynamicImage, image::ImageError> {
        let mut decoder = ImageReader::new(Cursor::new(&bytes)).with_guessed_format()?.into_decoder()?;
        let orientation = decoder.orientation()?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(image)
    };
    Ok(decode().map_err(|source| DataError::image(path, source))?.into_rgb8())
}

/// Whether the compressed data of a JPEG end with the end marker. The segments of the header are skipped, because a thumbnail in them has
/// an end marker of its own.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    loop {
        let Some([0xff, marker, high, low]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { return false };
        if *marker == 0xff {
            // A fill byte before a marker.
            at += 1;
            continue;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        at += 2 + length.max(2);
        if *marker == START_OF_SCAN {
            break;
        }
    }
    // Inside compressed data, 0xff is always followed by 0 or a restart marker, so 0xff 0xd9 can only be the end marker.
    bytes.get(at..).is_some_and(|rest| rest.windows(2).any(|pair| pair == [0xff, 0xd9]))
}

/// Reads a label map: a PNG whose grey values or palette indices are the labels.
///
/// # Errors
/// When the file cannot be read, is not a PNG, is damaged, holds colours instead of indices, or has values above 255.
pub fn read_labels(path: &Path) -> Result<LabelMap, DataError> {
    let file = File::open(path).map_err(|source| DataError::io(path, source))?;
    let damaged = |message: String| DataError::Image { path: path.to_owned(), message };
    let decoding = |error: png::DecodingError| match error {
        png::DecodingError::IoError(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => DataError::io(path, source),
        other => damaged(format!("the label map is not a readable PNG: {other}")),
    };
    let mut decoder = png::Decoder::new(BufReader::new(file));
    // Without transformations, palette indices stay indices and narrow values stay packed.
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(decoding)?;
    let size = reader.output_buffer_size().ok_or_else(|| damaged("the label map is too large for the memory of this machine".into()))?;
    let mut data = vec![0; size];
    let frame = reader.next_frame(&mut data).map_err(decoding)?;
    data.truncate(frame.buffer_size());
    let (width, height) = (frame.width as usize, frame.height as usize);
    match frame.color_type {
        png::ColorType::Grayscale | png::ColorType::Indexed => (),
        other => {
            return Err(damaged(format!(
                "the label map is a PNG of type {other:?}, but must hold one class index a pixel (grey or palette PNG); convert its \
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

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_truncated_jpeg_is_an_error_at_every_length() {
        let folder = folder();
        let path = folder.path().join("photo.jpg");
        let image = RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * 4) as u8, (y * 5) as u8, ((x * y) % 251) as u8]));
        image.save(&path).unwrap();
        assert_eq!(read_rgb(&path).unwrap().dimensions(), (64, 48));
        let whole = std::fs::read(&path).unwrap();
        for keep in [0, 1, 3, 100, whole.len() / 2, whole.len() - 2] {
            std::fs::write(&path, &whole[..keep]).unwrap();
            let error = read_rgb(&path).unwrap_err().to_string();
            assert!(error.contains("photo.jpg"), "{error}");
        }
    }

    #[test]
    fn the_exif_orientation_of_a_photo_is_applied() {
        let folder = folder();
        let path = folder.path().join("turned.jpg");
        RgbImage::from_pixel(32, 16, image::Rgb([200, 10, 10])).save(&path).unwrap();
        let plain = std::fs::read(&path).unwrap();
        // An EXIF segment with orientation 6: the camera was rotated by 90 degrees.
        let tiff: &[u8] = &[b'I', b'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        let mut exif = vec![0xff, 0xe1, 0, (2 + 6 + tiff.len()) as u8];
        exif.extend(b"Exif\0\0");
        exif.extend(tiff);
        let turned: Vec<u8> = plain[..2].iter().chain(&exif).chain(&plain[2..]).copied().collect();
        std::fs::write(&path, turned).unwrap();
        assert_eq!(read_rgb(&path).unwrap().dimensions(), (16, 32));
    }

    fn write_png(path: &Path, width: u32, height: u32, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, height);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == png::ColorType::Indexed {
            encoder.set_palette(vec![9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
    }

    #[test]
    fn labels_are_the_numbers_in_the_file() {
        let folder = folder();
        let path = folder.path().join("labels.png");
        write_png(&path, 2, 2, png::ColorType::Grayscale, png::BitDepth::Eight, &[0, 7, 254, 255]);
        assert_eq!(read_labels(&path).unwrap().as_slice(), [0, 7, 254, 255]);
        write_png(&path, 2, 2, png::ColorType::Indexed, png::BitDepth::Eight, &[0, 1, 2, 3]);
        assert_eq!(read_labels(&path).unwrap().as_slice(), [0, 1, 2, 3]);
        write_png(&path, 3, 1, png::ColorType::Indexed, png::BitDepth::Two, &[0b0110_1100]);
        assert_eq!(read_labels(&path).unwrap().as_slice(), [1, 2, 3]);
        write_png(&path, 2, 1, png::ColorType::Grayscale, png::BitDepth::Sixteen, &[0, 5, 0, 255]);
        assert_eq!(read_labels(&path).unwrap().as_slice(), [5, 255]);
    }

    #[test]
    fn an_invalid_label_map_says_what_to_do() {
        let folder = folder();
        let path = folder.path().join("labels.png");
        write_png(&path, 1, 1, png::ColorType::Rgb, png::BitDepth::Eight, &[1, 2, 3]);
        assert!(read_labels(&path).unwrap_err().to_string().contains("class indices"));
        write_png(&path, 1, 1, png::ColorType::Grayscale, png::BitDepth::Sixteen, &[1, 0]);
        assert!(read_labels(&path).unwrap_err().to_string().contains("above 255"));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        assert!(read_labels(&path).unwrap_err().to_string().contains("labels.png"));
        assert!(read_labels(&folder.path().join("none.png")).unwrap_err().to_string().contains("none.png"));
    }
}
