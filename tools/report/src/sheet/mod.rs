//! A sheet of pictures, rectangles, lines and words, laid out once and written as PNG and as SVG.

mod shapes;
mod svg;

use std::io::Cursor;
use std::path::Path;

use ab_glyph::{Font, PxScale, ScaleFont};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ImageEncoder, ImageResult, Rgb, RgbImage, imageops};
use imageproc::drawing::{draw_filled_rect_mut, draw_hollow_rect_mut, draw_text_mut};
use imageproc::rect::Rect;

use self::shapes::{distance_to_segment, distance_to_triangle, draw_shape};
use self::svg::{base64, em, escaped, hexadecimal};
use crate::error::ReportError;
use crate::files::{write_png, write_whole};
use crate::pictures::{INK, PAPER, font, text_width};

/// Things at positions in pixels from the upper left corner. Later things cover earlier ones.
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

/// Which part of a text is at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The start of the text.
    Start,
    /// The middle of the text.
    Middle,
}

impl Sheet {
    /// An empty sheet of this size in pixels.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height, things: Vec::new() }
    }

    /// Adds a picture with its upper left corner at `[x, y]`.
    pub fn picture(&mut self, at: [u32; 2], picture: RgbImage) {
        self.things.push(Thing::Picture { at, picture });
    }

    /// Adds a filled rectangle of `size` `[width, height]` with its upper left corner at `[x, y]`.
    pub fn filled(&mut self, at: [i32; 2], size: [u32; 2], colour: [u8; 3]) {
        self.things.push(Thing::Box { at, size, colour, filled: true });
    }

    /// Adds the outline of a rectangle, one pixel wide.
    pub fn outline(&mut self, at: [i32; 2], size: [u32; 2], colour: [u8; 3]) {
        self.things.push(Thing::Box { at, size, colour, filled: false });
    }

    /// Adds a line of text with its baseline at `[x, y]`.
    pub fn words(&mut self, at: [u32; 2], words: impl Into<String>, size: f32, anchor: Anchor) {
        self.things.push(Thing::Words { at, words: words.into(), size, anchor, turned: false });
    }

    /// Adds a line of text that runs from bottom to top, with the middle of its baseline at `[x, y]`.
    pub fn turned_words(&mut self, at: [u32; 2], words: impl Into<String>, size: f32) {
        self.things.push(Thing::Words { at, words: words.into(), size, anchor: Anchor::Middle, turned: true });
    }

    /// Adds a line with round ends, `width` pixels wide; a dot where both ends coincide. Pixel centres are at halves.
    pub fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, colour: [u8; 3]) {
        self.things.push(Thing::Line { from, to, width, colour });
    }

    /// Adds a filled triangle with corners at `[x, y]`.
    pub fn triangle(&mut self, corners: [[f32; 2]; 3], colour: [u8; 3]) {
        self.things.push(Thing::Triangle { corners, colour });
    }

    /// Writes the sheet into `png` and `svg`, either of which may be none.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, png: Option<&Path>, svg: Option<&Path>) -> Result<(), ReportError> {
        let failed = |path: &Path, reason| ReportError::Picture { path: path.to_owned(), reason };
        if let Some(path) = png {
            write_png(path, png_bytes(&self.pixels()).map_err(|reason| failed(path, reason))?)?;
        }
        if let Some(path) = svg {
            write_whole(path, self.svg().map_err(|reason| failed(path, reason))?.as_bytes())?;
        }
        Ok(())
    }

    /// Renders the sheet.
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

    fn svg(&self) -> ImageResult<String> {
        let (width, height) = (self.width, self.height);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n<rect width=\"{width}\" \
             height=\"{height}\" fill=\"white\"/>\n"
        );
        for thing in &self.things {
            text += &thing.svg()?;
            text.push('\n');
        }
        text.push_str("</svg>\n");
        Ok(text)
    }
}

impl Thing {
    /// The SVG element.
    fn svg(&self) -> ImageResult<String> {
        Ok(match self {
            Self::Picture { at: [x, y], picture } => {
                let (width, height, data) = (picture.width(), picture.height(), base64(&png_bytes(picture)?));
                format!("<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" xlink:href=\"data:image/png;base64,{data}\"/>")
            }
            Self::Box { at: [x, y], size: [width, height], colour, filled: true } => {
                let colour = hexadecimal(*colour);
                format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{colour}\"/>")
            }
            Self::Box { at: [x, y], size: [width, height], colour, filled: false } => {
                // A stroke one pixel wide is centred half a pixel inside the rectangle.
                let (x, y, colour) = (f64::from(*x) + 0.5, f64::from(*y) + 0.5, hexadecimal(*colour));
                let (width, height) = (width.saturating_sub(1), height.saturating_sub(1));
                format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"{colour}\"/>")
            }
            Self::Words { at: [x, y], words, size, anchor, turned } => {
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                };
                let turn = if *turned { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
                let (size, colour, words) = (em(*size), hexadecimal(INK.0), escaped(words));
                format!("<text x=\"{x}\" y=\"{y}\" font-size=\"{size:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\"{turn}>{words}</text>")
            }
            Self::Line { from: [x1, y1], to: [x2, y2], width, colour } => {
                let colour = hexadecimal(*colour);
                format!(
                    "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linecap=\"round\"/>"
                )
            }
            Self::Triangle { corners: [a, b, c], colour } => {
                let ([ax, ay], [bx, by], [cx, cy], colour) = (a, b, c, hexadecimal(*colour));
                format!("<path d=\"M{ax:.1} {ay:.1}L{bx:.1} {by:.1}L{cx:.1} {cy:.1}Z\" fill=\"{colour}\"/>")
            }
        })
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

fn png_bytes(picture: &RgbImage) -> ImageResult<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive);
    encoder.write_image(picture, picture.width(), picture.height(), image::ExtendedColorType::Rgb8)?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

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
