//! PNG, TIFF, BMP and WebP photos, decoded by the image crate.

use std::io::Cursor;

use image::error::UnsupportedErrorKind;
use image::{
    DynamicImage, ExtendedColorType, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Pixel, Rgb, RgbImage,
};
use tiff::tags::Tag;

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
    // Bytes after the length in the header of the file are ignored. A chunk is a name and a length of four bytes each, and the content, padded to an
    // even length.
    let mut rest = bytes.get(12..whole.saturating_add(8).min(bytes.len())).unwrap_or_default();
    while let Some((head, content)) = rest.split_first_chunk::<8>() {
        let [.., a, b, c, d] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > content.len() {
            return Err(Problem::message("the WebP is truncated or damaged: a chunk claims more bytes than the file has"));
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
        ImageError::Unsupported(unsupported) => match unsupported.kind() {
            UnsupportedErrorKind::Color(ExtendedColorType::Unknown(bits)) => {
                Problem::Message(format!("pixels of {bits} bits are not supported; {CONVERT}"))
            }
            UnsupportedErrorKind::GenericFeature(_) if unsupported.format_hint() == ImageFormat::Tiff.into() => {
                Problem::Message(format!("this kind of TIFF is not supported; {CONVERT}"))
            }
            _ => Problem::message(unsupported),
        },
        other => Problem::message(other),
    }
}

/// What to do about an image of unusual channels.
const CONVERT: &str = "photos must be grey, RGB or RGBA with 8 or 16 bits a channel, so convert the image";

/// Decodes a photo to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<Stored, Problem> {
    let (decoder, PhotoHeader { orientation, .. }, format) = open(bytes)?;
    let image = DynamicImage::from_decoder(decoder).map_err(problem)?;
    let image =
        if format == Some(ImageFormat::Tiff) { tiff_to_rgb(image, has_unassociated_alpha(bytes)?)? } else { to_rgb(image, high_byte)? };
    Ok(Stored { image, orientation })
}

/// OpenCV's 8-bit level of a 16-bit level, except for the colours of a TIFF.
fn high_byte(level: u16) -> u8 {
    (level >> 8) as u8
}

/// 8-bit RGB with the levels that OpenCV reads from a TIFF through libtiff's `TIFFReadRGBAImage` (tif_getimage.c): it rounds 16-bit levels of
/// colours (`Bitdepth16To8`), but not those of grey, and multiplies colours by an unassociated alpha (`UaToAa`).
fn tiff_to_rgb(image: DynamicImage, unassociated: bool) -> Result<RgbImage, Problem> {
    let rounded = |level: u16| ((u32::from(level) + 128) / 257) as u8;
    let blended = |[r, g, b, alpha]: [u8; 4]| Rgb([r, g, b].map(|level| ((u16::from(level) * u16::from(alpha) + 127) / 255) as u8));
    Ok(match image {
        DynamicImage::ImageRgba8(image) if unassociated => map(&image, |pixel| blended(pixel.0)),
        DynamicImage::ImageRgba16(image) if unassociated => map(&image, |pixel| blended(pixel.0.map(rounded))),
        DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) => to_rgb(image, rounded)?,
        other => to_rgb(other, high_byte)?,
    })
}

/// Whether the first extra channel of a TIFF is an alpha by which the colours are not multiplied yet.
fn has_unassociated_alpha(bytes: &[u8]) -> Result<bool, Problem> {
    const UNASSOCIATED: u16 = 2;
    let mut decoder = tiff::decoder::Decoder::new(Cursor::new(bytes)).map_err(Problem::message)?;
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(Problem::message)?;
    Ok(extra.is_some_and(|extra| extra.first() == Some(&UNASSOCIATED)))
}

/// 8-bit RGB. Transparency is dropped, grey is repeated; `narrow` converts 16-bit levels.
fn to_rgb(image: DynamicImage, narrow: impl Fn(u16) -> u8) -> Result<RgbImage, Problem> {
    Ok(match image {
        DynamicImage::ImageRgb8(image) => image,
        DynamicImage::ImageRgba8(image) => map(&image, |pixel| Rgb([pixel.0[0], pixel.0[1], pixel.0[2]])),
        DynamicImage::ImageLuma8(image) => map(&image, |pixel| Rgb([pixel.0[0]; 3])),
        DynamicImage::ImageLumaA8(image) => map(&image, |pixel| Rgb([pixel.0[0]; 3])),
        DynamicImage::ImageRgb16(image) => map(&image, |pixel| Rgb(pixel.0.map(&narrow))),
        DynamicImage::ImageRgba16(image) => map(&image, |pixel| Rgb([pixel.0[0], pixel.0[1], pixel.0[2]].map(&narrow))),
        DynamicImage::ImageLuma16(image) => map(&image, |pixel| Rgb([narrow(pixel.0[0]); 3])),
        DynamicImage::ImageLumaA16(image) => map(&image, |pixel| Rgb([narrow(pixel.0[0]); 3])),
        // The levels of a float image have no known range, and neither OpenCV's IMREAD_COLOR nor Pillow reads one.
        _ => return Err(Problem::Message(format!("the channels have 32 bits; {CONVERT}"))),
    })
}

/// Converts every pixel.
fn map<P: Pixel>(image: &ImageBuffer<P, Vec<P::Subpixel>>, convert: impl Fn(&P) -> Rgb<u8>) -> RgbImage {
    let mut out = RgbImage::new(image.width(), image.height());
    for (target, source) in out.pixels_mut().zip(image.pixels()) {
        *target = convert(source);
    }
    out
}
