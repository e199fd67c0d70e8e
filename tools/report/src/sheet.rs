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
use crate::files::write_whole;

/// What lies on a sheet, in pixels from its left upper corner; later things cover earlier ones.
#[derive(Clone, Debug)]
pub struct Sheet {
    width: u32,
    height: u32,
    things: Vec<Thing>,
}

#[derive(Clone, Debug)]
enum Thing {
    Picture { at: [u32; 2], picture: RgbImage },
    Box { at: [i32; 2], size: [u32; 2], colour: [u8; 3], filled: bool },
    Words { at: [u32; 2], words: String, size: f32, anchor: Anchor, turned: bool },
    Line { from: [f32; 2], to: [f32; 2], width: f32, colour: [u8; 3] },
    Triangle { corners: [[f32; 2]; 3], colour: [u8; 3] },
}

/// Which part of the words is at their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The text begins at the point.
    Start,
    /// The text is centred on the point.
    Middle,
}

impl Sheet {
    /// An empty sheet of this size in pixels.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height, things: Vec::new() }
    }

    /// A picture with its left upper corner at `at` `[x, y]`.
    pub fn picture(&mut self, at: [u32; 2], picture: RgbImage) {
        self.things.push(Thing::Picture { at, picture });
    }

    /// A filled rectangle.
    pub fn filled(&mut self, at: [i32; 2], size: [u32; 2], colour: [u8; 3]) {
        self.things.push(Thing::Box { at, size, colour, filled: true });
    }

    /// The outline of a rectangle, a pixel wide.
    pub fn outline(&mut self, at: [i32; 2], size: [u32; 2], colour: [u8; 3]) {
        self.things.push(Thing::Box { at, size, colour, filled: false });
    }

    /// A line of words whose baseline goes through `at` `[x, y]`.
    pub fn words(&mut self, at: [u32; 2], words: impl Into<String>, size: f32, anchor: Anchor) {
        self.things.push(Thing::Words { at, words: words.into(), size, anchor, turned: false });
    }

    /// A line of words from bottom to top, whose middle is beside `at` `[x, y]` and whose baseline goes through it.
    pub fn turned_words(&mut self, at: [u32; 2], words: impl Into<String>, size: f32) {
        self.things.push(Thing::Words { at, words: words.into(), size, anchor: Anchor::Middle, turned: true });
    }

    /// A line with round ends, `width` pixels wide; a dot where both ends are at one place. Pixel centres are at halves.
    pub fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, colour: [u8; 3]) {
        self.things.push(Thing::Line { from, to, width, colour });
    }

    /// A filled triangle between three places `[x, y]`.
    pub fn triangle(&mut self, corners: [[f32; 2]; 3], colour: [u8; 3]) {
        self.things.push(Thing::Triangle { corners, colour });
    }

    /// Writes the sheet as PNG and SVG; either may be left out.
    pub fn write(&self, png: Option<&Path>, svg: Option<&Path>) -> Result<()> {
        if let Some(path) = png {
            write_whole(path, &png_bytes(&self.pixels())?)?;
        }
        if let Some(path) = svg {
            write_whole(path, self.svg()?.as_bytes())?;
        }
        Ok(())
    }

    /// The sheet as pixels.
    pub fn pixels(&self) -> RgbImage {
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
                Thing::Line { from, to, width, colour } => {
                    let outside = |place| distance_to_segment(place, *from, *to) - width / 2.0;
                    draw_shape(&mut out, &[*from, *to], width / 2.0, *colour, outside);
                }
                Thing::Triangle { corners, colour } => {
                    draw_shape(&mut out, corners, 0.0, *colour, |place| distance_to_triangle(place, *corners));
                }
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
                Thing::Line { from: [x1, y1], to: [x2, y2], width, colour } => {
                    let colour = hexadecimal(*colour);
                    writeln!(
                        text,
                        "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\" \
                         stroke-linecap=\"round\"/>"
                    )?;
                }
                Thing::Triangle { corners: [a, b, c], colour } => {
                    let colour = hexadecimal(*colour);
                    writeln!(
                        text,
                        "<path d=\"M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}Z\" fill=\"{colour}\"/>",
                        a[0], a[1], b[0], b[1], c[0], c[1]
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

/// Fills the shape around `corners`, `margin` pixels beyond them, where `outside` is the signed distance to its edge, negative within;
/// pixels on the edge are mixed by how much of them is covered.
fn draw_shape(out: &mut RgbImage, corners: &[[f32; 2]], margin: f32, colour: [u8; 3], outside: impl Fn([f32; 2]) -> f32) {
    let pixels = |axis: usize, limit: u32| {
        let low = corners.iter().map(|corner| corner[axis]).fold(f32::INFINITY, f32::min) - margin - 1.0;
        let high = corners.iter().map(|corner| corner[axis]).fold(f32::NEG_INFINITY, f32::max) + margin + 1.0;
        low.max(0.0) as u32..(high.max(0.0).ceil() as u32).min(limit)
    };
    for y in pixels(1, out.height()) {
        for x in pixels(0, out.width()) {
            let covered = (0.5 - outside([x as f32 + 0.5, y as f32 + 0.5])).clamp(0.0, 1.0);
            for (below, above) in out.get_pixel_mut(x, y).0.iter_mut().zip(colour) {
                *below = (f32::from(*below) * (1.0 - covered) + f32::from(above) * covered).round() as u8;
            }
        }
    }
}

fn distance_to_segment([x, y]: [f32; 2], from: [f32; 2], to: [f32; 2]) -> f32 {
    let [along_x, along_y] = [to[0] - from[0], to[1] - from[1]];
    let squared = along_x * along_x + along_y * along_y;
    let share = if squared > 0.0 { (((x - from[0]) * along_x + (y - from[1]) * along_y) / squared).clamp(0.0, 1.0) } else { 0.0 };
    f32::hypot(x - from[0] - share * along_x, y - from[1] - share * along_y)
}

/// Negative within the triangle.
fn distance_to_triangle(place: [f32; 2], corners: [[f32; 2]; 3]) -> f32 {
    let sides = [0, 1, 2].map(|first| [corners[first], corners[(first + 1) % 3]]);
    let turns = sides.map(|[from, to]| (to[0] - from[0]) * (place[1] - from[1]) - (to[1] - from[1]) * (place[0] - from[0]));
    let nearest = sides.iter().map(|[from, to]| distance_to_segment(place, *from, *to)).fold(f32::INFINITY, f32::min);
    let within = turns.iter().all(|turn| *turn >= 0.0) || turns.iter().all(|turn| *turn <= 0.0);
    if within { -nearest } else { nearest }
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

    #[test]
    fn lines_and_triangles_cover_what_lies_between_their_corners() {
        let mut sheet = Sheet::new(60, 30);
        sheet.line([5.0, 10.0], [25.0, 10.0], 4.0, [200, 0, 0]);
        sheet.line([30.0, 10.0], [30.0, 10.0], 6.0, [0, 0, 200]);
        sheet.triangle([[40.0, 5.0], [40.0, 25.0], [50.0, 15.0]], [0, 200, 0]);
        let pixels = sheet.pixels();
        let at = |x, y| pixels.get_pixel(x, y).0;
        assert_eq!([at(15, 8), at(15, 11), at(15, 12), at(15, 7)], [[200, 0, 0], [200, 0, 0], [255; 3], [255; 3]]);
        assert_eq!([at(30, 10), at(31, 9), at(34, 10)], [[0, 0, 200], [0, 0, 200], [255; 3]]);
        assert_eq!([at(42, 15), at(48, 15), at(48, 8), at(38, 15)], [[0, 200, 0], [0, 200, 0], [255; 3], [255; 3]]);
        // The area of a triangle of base 20 and height 10, counted from how far each pixel is covered: exact but for its three corners.
        let green: f32 = pixels.enumerate_pixels().filter(|(x, ..)| *x >= 38).map(|(.., pixel)| f32::from(255 - pixel.0[0]) / 255.0).sum();
        assert!((green - 100.0).abs() < 2.0, "{green}");
        let svg = sheet.svg().unwrap();
        for part in ["M5.0 10.0L25.0 10.0", "stroke-width=\"4\"", "M40.0 5.0L40.0 25.0L50.0 15.0Z"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }
}
