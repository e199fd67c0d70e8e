//! PNG, TIFF, BMP and WebP photos, decoded by the image crate.

use std::io::Cursor;

use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Pixel, Rgb, RgbImage};

use super::{PhotoHeader, Problem, Stored, limits};

/// The size and the orientation of a photo.
pub(super) fn header(bytes: &[u8]) -> Result<PhotoHeader, Problem> {
    let (_, header, _) = open(bytes)?;
    Ok(header)
}

fn open(bytes: &[u8]) -> Result<(impl ImageDecoder, PhotoHeader, Option<ImageFormat>), Problem> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(Problem::message)?;
    let format = reader.format();
    // The image crate gives the decoder of PNG its limits when it is made, and then it unpacks the colour profile.
    reader.limits(match format {
        Some(ImageFormat::Png) => allowed(size_of_png(bytes)?)?,
        _ => Limits::no_limits(),
    });
    if format == Some(ImageFormat::WebP) {
        check_chunks(bytes)?;
    }
    let mut decoder = reader.into_decoder().map_err(problem)?;
    let (width, height) = decoder.dimensions();
    let size = [height as usize, width as usize];
    decoder.set_limits(allowed(size)?).map_err(problem)?;
    let orientation = decoder.orientation().map_err(problem)?;
    Ok((decoder, PhotoHeader { size, orientation }, format))
}

/// The limits of a decoder for an image that claims this `[height, width]`, or the problem with this size.
fn allowed(size: [usize; 2]) -> Result<Limits, Problem> {
    limits::check(size)?;
    let mut allowed = Limits::no_limits();
    allowed.max_alloc = Some(limits::max_bytes(size));
    Ok(allowed)
}

/// Refuses a WebP with a chunk that claims more bytes than the file has. The decoder allocates what the chunk of the orientation claims, up to
/// 4 GB, before it reads it.
fn check_chunks(bytes: &[u8]) -> Result<(), Problem> {
    let whole = bytes.get(4..).and_then(<[u8]>::first_chunk::<4>).map_or(0, |length| u32::from_le_bytes(*length) as usize);
    // Bytes behind the end that the file names belong to nothing. A chunk is a name and a length of four bytes each, and the content, padded to an
    // even length.
    let mut rest = bytes.get(12..whole.saturating_add(8).min(bytes.len())).unwrap_or_default();
    while let Some((head, content)) = rest.split_first_chunk::<8>() {
        let [.., a, b, c, d] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > content.len() {
            return Err(Problem::message("the WebP is truncated or damaged: a part of it claims more bytes than the file has"));
        }
        rest = content.get(length.saturating_add(length % 2)..).unwrap_or_default();
    }
    Ok(())
}

/// `[height, width]` that a PNG claims.
fn size_of_png(bytes: &[u8]) -> Result<[usize; 2], Problem> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    let header = decoder.read_header_info().map_err(|error| Problem::Message(error.to_string()))?;
    Ok([header.height as usize, header.width as usize])
}

fn problem(error: ImageError) -> Problem {
    match error {
        ImageError::Limits(_) => Problem::message("the image asks for more memory than an image of its size needs"),
        other => Problem::message(other),
    }
}

/// Decodes a photo to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<Stored, Problem> {
    let (decoder, PhotoHeader { orientation, .. }, format) = open(bytes)?;
    let image = DynamicImage::from_decoder(decoder).map_err(problem)?;
    Ok(Stored { image: to_rgb(image, format)?, orientation })
}

/// 8-bit RGB with the levels that OpenCV reads.
fn to_rgb(image: DynamicImage, format: Option<ImageFormat>) -> Result<RgbImage, Problem> {
    let high_byte: fn(u16) -> u8 = |level| (level >> 8) as u8;
    // libtiff's `TIFFReadRGBAImage` rounds the levels of colours, but not those of grey.
    let colours = if format == Some(ImageFormat::Tiff) { |level| ((u32::from(level) + 128) / 257) as u8 } else { high_byte };
    Ok(match image {
        DynamicImage::ImageRgb8(image) => image,
        DynamicImage::ImageRgba8(image) => map(&image, |level| level),
        DynamicImage::ImageLuma8(image) => map(&image, |level| level),
        DynamicImage::ImageLumaA8(image) => map(&image, |level| level),
        DynamicImage::ImageRgb16(image) => map(&image, colours),
        DynamicImage::ImageRgba16(image) => map(&image, colours),
        DynamicImage::ImageLuma16(image) => map(&image, high_byte),
        DynamicImage::ImageLumaA16(image) => map(&image, high_byte),
        // The levels of a float image have no known range, and neither OpenCV's IMREAD_COLOR nor Pillow reads one.
        _ => {
            let message = "the channels have 32 bits; photos must have 8 or 16 bits a channel, so convert the image";
            return Err(Problem::message(message));
        }
    })
}

/// Drops transparency and repeats grey.
fn map<P: Pixel>(image: &ImageBuffer<P, Vec<P::Subpixel>>, level: impl Fn(P::Subpixel) -> u8) -> RgbImage {
    let colours = if P::CHANNEL_COUNT < 3 { [0; 3] } else { [0, 1, 2] };
    let mut out = RgbImage::new(image.width(), image.height());
    for (target, source) in out.pixels_mut().zip(image.pixels()) {
        *target = Rgb(colours.map(|channel: usize| level(source.channels()[channel])));
    }
    out
}
