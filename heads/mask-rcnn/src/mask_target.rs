//! What the mask head should say: the object's mask inside the RoI, brought to the size of the head's output (mmdetection's
//! `BitmapMasks.crop_and_resize`, that is RoIAlign of the bitmap with half a pixel's shift, then a threshold of one half).

use vmamba_types::MaskPatch;

/// The mask inside `roi`, `[x0, y0, x1, y1]` in pixels of the mask's canvas, as `side * side` values 0 or 1.
///
/// The operations come in the order of mmcv's RoIAlign: boxes on whole pixels average to exactly one half often enough for the order to
/// matter.
pub fn mask_target(mask: &MaskPatch, [x0, y0, x1, y1]: [f32; 4], side: usize) -> Vec<f32> {
    let [canvas_height, canvas_width] = mask.canvas;
    let (start_x, start_y) = (x0 - 0.5, y0 - 0.5);
    let (roi_width, roi_height) = (x1 - 0.5 - start_x, y1 - 0.5 - start_y);
    let rows = taps(start_y, roi_height, side, canvas_height);
    let columns = taps(start_x, roi_width, side, canvas_width);
    let bit = |y: usize, x: usize| match (y.checked_sub(mask.top), x.checked_sub(mask.left)) {
        (Some(y), Some(x)) if y < mask.height && x < mask.width => f32::from(mask.bits[y * mask.width + x]),
        _ => 0.0,
    };
    let count = (rows.per_bin * columns.per_bin).max(1) as f32;
    let mut target = Vec::with_capacity(side * side);
    for bin_y in 0..side {
        for bin_x in 0..side {
            let mut sum = 0.0;
            for row in rows.of_bin(bin_y) {
                for column in columns.of_bin(bin_x) {
                    if let (Some(row), Some(column)) = (row, column) {
                        let (hy, hx) = (1.0 - row.weight, 1.0 - column.weight);
                        sum += hy * hx * bit(row.low, column.low)
                            + hy * column.weight * bit(row.low, column.high)
                            + row.weight * hx * bit(row.high, column.low)
                            + row.weight * column.weight * bit(row.high, column.high);
                    }
                }
            }
            target.push(if sum / count >= 0.5 { 1.0 } else { 0.0 });
        }
    }
    target
}

/// Where a sample reads along one axis: two neighbours and the weight of the second.
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

/// The samples of all bins along one axis; `None` lies outside the canvas.
struct Taps {
    taps: Vec<Option<Tap>>,
    per_bin: usize,
}

impl Taps {
    fn of_bin(&self, bin: usize) -> &[Option<Tap>] {
        &self.taps[bin * self.per_bin..][..self.per_bin]
    }
}

fn taps(start: f32, length: f32, bins: usize, canvas: usize) -> Taps {
    let bin = length / bins as f32;
    // A box without extent has no sample.
    let per_bin = (length / bins as f32).ceil().max(0.0) as usize;
    let tap = |index: usize| {
        let (bin_index, sample) = (index / per_bin, index % per_bin);
        let position = start + bin_index as f32 * bin + (sample as f32 + 0.5) * bin / per_bin as f32;
        if !(-1.0..=canvas as f32).contains(&position) || canvas == 0 {
            return None;
        }
        let position = position.max(0.0);
        let low = position as usize;
        Some(if low >= canvas - 1 {
            Tap { low: canvas - 1, high: canvas - 1, weight: 0.0 }
        } else {
            Tap { low, high: low + 1, weight: position - low as f32 }
        })
    };
    Taps { taps: (0..bins * per_bin).map(tap).collect(), per_bin }
}
