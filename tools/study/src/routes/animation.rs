//! The scan of an image along its routes as an animated PNG.

use std::path::Path;

use image::{Rgb, RgbImage, imageops};
use imageproc::drawing::{draw_hollow_rect_mut, draw_text_mut};
use imageproc::rect::Rect;
use vmamba_report::files::write_png;
use vmamba_report::pictures::{INK, PAPER, font};

use super::figure::{RouteFigure, cell, colours, panel_size};
use crate::error::{Result, StudyError};

/// Most frames after the empty one.
const FRAMES: usize = 32;
/// Time of a frame in tenths of a second.
const DELAY: u16 = 1;
/// Time of the first frame, which shows the end, in tenths of a second.
const END_DELAY: u16 = 25;
/// Approximate longest side of a panel in pixels.
const PANEL: u32 = 150;
const GAP: u32 = 10;
const LINE: u32 = 20;
const TEXT: f32 = 14.0;
const COLUMN: u32 = 120;

impl RouteFigure {
    /// Writes an animated PNG of the patches that each walk, and all walks together, have read so far. The first frame shows the end, for
    /// viewers without animation; then the scan runs from the empty grid to the end, and repeats. At most 34 frames.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_animation(&self, path: &Path) -> Result<()> {
        let bytes = encode(&self.frames()).map_err(|error| StudyError::Run(format!("cannot encode the animation: {error}")))?;
        Ok(write_png(path, bytes)?)
    }

    fn frames(&self) -> Vec<RgbImage> {
        let total: usize = self.stages().iter().sum();
        let count = total.min(FRAMES);
        // The end has no marks for the current patches.
        std::iter::once(self.frame(total, false)).chain((0..=count).map(|frame| self.frame(frame * total / count, true))).collect()
    }

    /// The picture after `time` steps; the walks of the second stage start when the first stage has finished.
    fn frame(&self, time: usize, marks: bool) -> RgbImage {
        let side = cell(self.grid(), PANEL);
        let [width, height] = panel_size(self.grid(), side);
        let pitch = width.max(COLUMN) + GAP;
        let mut out = RgbImage::from_pixel(5 * pitch + GAP, 2 * LINE + height + 2 * GAP, PAPER);
        draw_text_mut(&mut out, INK, GAP as i32, GAP as i32 - 3, TEXT, &font(), &self.title());
        let (base, patches) = (self.base(side), self.patches());
        let mut readers = vec![0_usize; patches];
        let mut panels = Vec::new();
        for trail in self.trails() {
            let begin = if trail.walk.stage() == 0 { 0 } else { self.stages()[0] };
            let steps = time.saturating_sub(begin).min(trail.visited.len());
            let reached = trail.reached_after(steps, patches);
            readers.iter_mut().zip(&reached).for_each(|(readers, reached)| *readers += usize::from(*reached));
            let mut shares: Vec<f32> = reached.iter().map(|reached| if *reached { 0.4 } else { 0.0 }).collect();
            if marks && steps > 0 {
                shares[trail.visited[steps - 1]] = 1.0;
            }
            panels.push((trail.walk.name().to_owned(), shares));
        }
        let read = readers.iter().filter(|readers| **readers > 0).count();
        panels.push((format!("{read} of {patches} read"), readers.iter().map(|readers| *readers as f32 * 0.19).collect()));
        for (number, ((words, shares), colour)) in panels.iter().zip(colours()).enumerate() {
            let left = GAP + number as u32 * pitch;
            draw_text_mut(&mut out, INK, left as i32, (GAP + LINE) as i32 - 3, TEXT, &font(), words);
            let mut panel = self.tinted(&base, side, shares, colour);
            let [row, column] = self.query().map(|place| place as u32 * side);
            draw_hollow_rect_mut(&mut panel, Rect::at(column as i32, row as i32).of_size(side + 1, side + 1), Rgb([200, 0, 0]));
            imageops::replace(&mut out, &panel, i64::from(left), i64::from(GAP + 2 * LINE));
        }
        out
    }
}

/// Encodes all frames. Unchanged pixels are transparent in all frames but the first, which makes the file small.
fn encode(frames: &[RgbImage]) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let Some(first) = frames.first() else { return Ok(bytes) };
    let mut encoder = png::Encoder::new(&mut bytes, first.width(), first.height());
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    encoder.set_animated(frames.len() as u32, 0)?;
    encoder.set_frame_delay(END_DELAY, 10)?;
    encoder.set_dispose_op(png::DisposeOp::None)?;
    encoder.set_blend_op(png::BlendOp::Over)?;
    let mut writer = encoder.write_header()?;
    let mut before: Option<&RgbImage> = None;
    for (number, frame) in frames.iter().enumerate() {
        if number == 1 {
            writer.set_frame_delay(DELAY, 10)?;
        }
        let pixels = frame.enumerate_pixels().flat_map(|(x, y, pixel)| {
            let stays = before.is_some_and(|before| before.get_pixel(x, y) == pixel);
            let [red, green, blue] = pixel.0;
            if stays { [0; 4] } else { [red, green, blue, 255] }
        });
        writer.write_image_data(&pixels.collect::<Vec<u8>>())?;
        before = Some(frame);
    }
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use vmamba::vmamba::ScanPattern;

    use super::*;

    /// Decodes a file by the rules of APNG for frames that cover the whole picture.
    fn played(bytes: &[u8]) -> Vec<RgbImage> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let count = reader.info().animation_control().unwrap().num_frames;
        let (width, height) = (reader.info().width, reader.info().height);
        let mut canvas = RgbImage::new(width, height);
        let mut frames = Vec::new();
        let mut data = vec![0; reader.output_buffer_size().unwrap()];
        for _ in 0..count {
            reader.next_frame(&mut data).unwrap();
            for (pixel, rgba) in canvas.pixels_mut().zip(data.chunks_exact(4)) {
                if rgba[3] == 255 {
                    pixel.0.copy_from_slice(&rgba[..3]);
                }
            }
            frames.push(canvas.clone());
        }
        frames
    }

    #[test]
    fn a_decoded_file_shows_the_encoded_frames() {
        let figure = RouteFigure::new(ScanPattern::Cascade, [3, 5], [1, 3], None).unwrap();
        let frames = figure.frames();
        // The end without marks, the empty grid, four steps along the row and two along the column.
        assert_eq!(frames.len(), 1 + 1 + 6);
        let coloured = |frame: &RgbImage| frame.pixels().filter(|pixel| pixel.0[0].abs_diff(pixel.0[2]) > 30).count();
        let most = frames.iter().map(coloured).max();
        assert!(coloured(&frames[0]) * 2 > most.unwrap() && coloured(&frames[1]) < coloured(&frames[0]), "the first frame shows the end");
        let played = played(&encode(&frames).unwrap());
        assert!(played == frames, "a decoded frame differs");
        assert!(frames.windows(2).all(|pair| pair[0] != pair[1]), "a step changes the picture");
    }

    /// Noise compresses worst.
    #[test]
    fn the_largest_grid_over_noise_stays_below_500_kb_and_34_frames() {
        let mut state = 1_u32;
        let noise = RgbImage::from_fn(200, 200, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Rgb([(state >> 24) as u8; 3])
        });
        for (pattern, grid) in [(ScanPattern::Cross, [64, 64]), (ScanPattern::Cross, [8, 8]), (ScanPattern::Cascade, [16, 16])] {
            let figure = RouteFigure::new(pattern, grid, grid.map(|side| side / 2), Some(noise.clone())).unwrap();
            let frames = figure.frames();
            let size = encode(&frames).unwrap().len();
            assert!(frames.len() <= 34 && size < 500_000, "{pattern:?} {grid:?}: {} frames, {size} bytes", frames.len());
        }
    }
}
