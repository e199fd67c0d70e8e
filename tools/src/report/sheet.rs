//! A sheet of paper with pictures, rectangles, lines and words, laid out once and written as PNG and as SVG.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;

use ab_glyph::{Font, PxScale, ScaleFont};
use anyhow::Result;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ImageEncoder, Rgb, RgbImage, imageops};
use imageproc::drawing::{draw_filled_rect_mut, draw_hollow_rect_mut, draw_text_mut};
use imageproc::rect::Rect;

use super::pictures::{INK, PAPER, font, text_width};
use super::write_whole;

/// What lies on a sheet, in pixels from its left upper corner; later things cover earlier ones.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    width: u32,
    height: u32,
    things: Vec<Thing>,
}

#[derive(Clone, Debug)]
enum Thing {
    Picture { at: [u32; 2], picture: RgbImage },
    Box { at: [i32; 2], size: [u32; 2], colour: [u8; 3], filled: bool },
    Words { at: [u32; 2], words: String, size: f32, anchor: Anchor, turned: bool },
}

/// Which part of the words is at their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
}

impl Sheet {
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self { width, height, things: Vec::new() }
    }

    /// A picture with its left upper corner at `at` `[x, y]`.
    pub(super) fn picture(&mut self, at: [u32; 2], picture: RgbImage) {
        self.things.push(Thing::Picture { at, picture });
    }

    /// A filled rectangle.
    pub(super) fn filled(&mut self, at: [i32; 2], size: [u32; 2], colour: [u8; 3]) {
        self.things.push(Thing::Box { at, size, colour, filled: true });
    }

    /// The outline of a rectangle, a pixel wide.
    pub(super) fn outline(&mut self, at: [i32; 2], size: [u32; 2], colour: [u8; 3]) {
        self.things.push(Thing::Box { at, size, colour, filled: false });
    }

    /// A line of words whose baseline goes through `at` `[x, y]`.
    pub(super) fn words(&mut self, at: [u32; 2], words: impl Into<String>, size: f32, anchor: Anchor) {
        self.things.push(Thing::Words { at, words: words.into(), size, anchor, turned: false });
    }

    /// A line of words from bottom to top, whose middle is beside `at` `[x, y]` and whose baseline goes through it.
    pub(super) fn turned_words(&mut self, at: [u32; 2], words: impl Into<String>, size: f32) {
        self.things.push(Thing::Words { at, words: words.into(), size, anchor: Anchor::Middle, turned: true });
    }

    /// Writes the sheet as PNG and SVG; either may be left out.
    pub(super) fn write(&self, png: Option<&Path>, svg: Option<&Path>) -> Result<()> {
        if let Some(path) = png {
            write_whole(path, &png_bytes(&self.pixels())?)?;
        }
        if let Some(path) = svg {
            write_whole(path, self.svg()?.as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn pixels(&self) -> RgbImage {
        let mut out = RgbImage::from_pixel(self.width, self.height, PAPER);
        for thing in &self.things {
            match thing {
                Thing::Picture { at: [x, y], picture } => imageops::replace(&mut out, picture, i64::from(*x), i64::from(*y)),
                Thing::Box { at: [x, y], size: [width, height], colour, filled } => {
                    let area = Rect::at(*x, *y).of_size((*width).max(1), (*height).max(1));
                    let draw = if *filled { draw_filled_rect_mut } else { draw_hollow_rect_mut };
                    draw(&mut out, area, Rgb(*colour));
                }
                Thing::Words { at, words, size, anchor, turned } => draw_words(&mut out, *at, words, *size, *anchor, *turned),
            }
        }
        out
    }

    fn svg(&self) -> Result<String> {
        let (width, height) = (self.width, self.height);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n<rect width=\"{width}\" \
             height=\"{height}\" fill=\"white\"/>\n"
        );
        for thing in &self.things {
            match thing {
                Thing::Picture { at: [x, y], picture } => {
                    let (width, height, data) = (picture.width(), picture.height(), base64(&png_bytes(picture)?));
                    writeln!(
                        text,
                        "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" xlink:href=\"data:image/png;base64,{data}\"/>"
                    )?;
                }
                Thing::Box { at: [x, y], size: [width, height], colour, filled } => {
                    let colour = hexadecimal(*colour);
                    if *filled {
                        writeln!(text, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{colour}\"/>")?;
                    } else {
                        // The middle of a line a pixel wide is half a pixel inside.
                        let (x, y) = (f64::from(*x) + 0.5, f64::from(*y) + 0.5);
                        let (width, height) = (width.saturating_sub(1), height.saturating_sub(1));
                        writeln!(
                            text,
                            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"{colour}\"/>"
                        )?;
                    }
                }
                Thing::Words { at: [x, y], words, size, anchor, turned } => {
                    let anchor = match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                    };
                    let turn = if *turned { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
                    let (size, colour, words) = (em(*size), hexadecimal(INK.0), escaped(words));
                    writeln!(
                        text,
                        "<text x=\"{x}\" y=\"{y}\" font-size=\"{size:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\"{turn}>{words}</text>"
                    )?;
                }
            }
        }
        text.push_str("</svg>\n");
        Ok(text)
    }
}

fn draw_words(out: &mut RgbImage, [x, y]: [u32; 2], words: &str, size: f32, anchor: Anchor, turned: bool) {
    let (scale, long) = (PxScale::from(size), text_width(words, size));
    let ascent = font().as_scaled(scale).ascent().round() as i32;
    let begin = match anchor {
        Anchor::Start => 0,
        Anchor::Middle => long / 2,
    };
    if turned {
        let mut line = RgbImage::from_pixel(long.max(1), size.ceil() as u32 + 2, PAPER);
        draw_text_mut(&mut line, INK, 0, 0, scale, &font(), words);
        let line = imageops::rotate270(&line);
        imageops::replace(out, &line, i64::from(x) - i64::from(ascent), i64::from(y) - i64::from(long / 2));
    } else {
        draw_text_mut(out, INK, x as i32 - begin as i32, y as i32 - ascent, scale, &font(), words);
    }
}

/// The font size of SVG, the side of the em square, of letters that are `size` pixels from their highest to their lowest point.
fn em(size: f32) -> f32 {
    let font = font();
    let scale = font.units_per_em().map_or(1.0, |units| units / font.height_unscaled());
    size * scale
}

fn hexadecimal([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn png_bytes(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive);
    encoder.write_image(picture, picture.width(), picture.height(), image::ExtendedColorType::Rgb8)?;
    Ok(bytes.into_inner())
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4648, section 10.
    #[test]
    fn base64_is_that_of_the_standard() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xef, 0xff]), "++//");
    }

    #[test]
    fn words_boxes_and_pictures_lie_where_they_were_put_in_both_forms() {
        let mut sheet = Sheet::new(120, 60);
        sheet.picture([5, 7], RgbImage::from_pixel(10, 8, Rgb([1, 2, 3])));
        sheet.filled([20, 7], [4, 4], [9, 8, 7]);
        sheet.outline([30, 7], [6, 5], [200, 0, 0]);
        sheet.words([60, 50], "a < b", 15.0, Anchor::Middle);
        let pixels = sheet.pixels();
        assert_eq!(pixels.get_pixel(5, 7).0, [1, 2, 3]);
        assert_eq!(pixels.get_pixel(14, 14).0, [1, 2, 3]);
        assert_eq!(pixels.get_pixel(23, 10).0, [9, 8, 7]);
        assert_eq!((pixels.get_pixel(35, 11).0, pixels.get_pixel(32, 9).0), ([200, 0, 0], [255; 3]));
        let dark: Vec<(u32, u32)> =
            pixels.enumerate_pixels().filter(|(_, y, pixel)| *y > 30 && pixel.0[0] < 100).map(|(x, y, _)| (x, y)).collect();
        let middle = dark.iter().map(|(x, _)| *x).sum::<u32>() / dark.len() as u32;
        assert!((52..68).contains(&middle) && dark.iter().all(|(_, y)| *y <= 50), "{middle}");
        let svg = sheet.svg().unwrap();
        for part in ["width=\"120\"", "a &lt; b", "data:image/png;base64,iVBOR", "fill=\"#090807\"", "x=\"30.5\""] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }
}
