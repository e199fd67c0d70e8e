//! A small square mask stretched over its box in the photo (mmdetection's `_do_paste_mask` as it runs on a CPU: bilinear, pixel centres at
//! one half, zero outside the small mask, and only inside the box with a margin of a pixel).
//!
//! The result is run-length encoded on the way: a hundred masks of a photo of 12 megapixels would take a gigabyte as pixels.

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Runs of zeros and ones in turn, down the columns, of the pixels whose stretched value is at least `threshold`, on a photo of
/// `[height, width]` pixels (COCO's uncompressed run-length encoding).
///
/// `mask` holds `side * side` probabilities, row-major; `bbox` is `[x0, y0, x1, y1]` in pixels of the photo and may reach outside.
///
/// # Panics
/// When `mask` has another length.
pub fn paste_mask(mask: &[f32], side: usize, bbox: [f32; 4], size: [usize; 2], threshold: f32) -> Vec<u32> {
    assert_eq!(mask.len(), side * side, "paste_mask: {side} x {side} values");
    let [height, width] = size;
    let [x0, y0, x1, y1] = bbox;
    let (columns, rows) = (axis(x0, x1, width, side), axis(y0, y1, height, side));
    let mut runs = Runs::default();
    let mut mixed = vec![0.0; side];
    for (x, column) in columns.taps.iter().enumerate() {
        for (mixed, row) in mixed.iter_mut().zip(mask.chunks_exact(side.max(1))) {
            *mixed = column.read(row);
        }
        runs.zeros((columns.first + x) * height + rows.first - runs.total);
        for row in &rows.taps {
            runs.push(row.read(&mixed) >= threshold);
        }
    }
    runs.finish(height * width)
}

/// Where pixels read along an axis.
struct Axis {
    /// The first pixel that may be set.
    first: usize,
    taps: Vec<Tap>,
}

/// Two neighbours in the small mask with their weights; one that does not exist has weight 0.
#[derive(Clone, Copy)]
struct Tap {
    places: [usize; 2],
    weights: [f32; 2],
}

impl Tap {
    fn read(&self, values: &[f32]) -> f32 {
        let [low, high] = self.places;
        values[low] * self.weights[0] + values[high] * self.weights[1]
    }
}

fn axis(begin: f32, end: f32, pixels: usize, side: usize) -> Axis {
    // The casts take NaN and what is below 0 to 0.
    let first = ((begin.floor() - 1.0).max(0.0) as usize).min(pixels);
    let last = ((end.ceil() + 1.0).max(0.0) as usize).min(pixels).max(first);
    let tap = |pixel: usize| {
        let mut position = (pixel as f32 + 0.5 - begin) / (end - begin) * 2.0 - 1.0;
        if position.is_infinite() {
            // A box without extent: its middle.
            position = 0.0;
        }
        let position = ((position + 1.0) * side as f32 - 1.0) / 2.0;
        let low = position.floor();
        let weight = position - low;
        let place = |at: f32, weight: f32| if at >= 0.0 && at < side as f32 { (at as usize, weight) } else { (0, weight * 0.0) };
        let ((low, low_weight), (high, high_weight)) = (place(low, 1.0 - weight), place(low + 1.0, weight));
        Tap { places: [low, high], weights: [low_weight, high_weight] }
    };
    Axis { first, taps: (first..last).map(tap).collect() }
}

/// Runs under construction.
#[derive(Default)]
struct Runs {
    counts: Vec<u32>,
    run: u32,
    current: bool,
    total: usize,
}

impl Runs {
    fn push(&mut self, bit: bool) {
        if bit != self.current {
            self.counts.push(std::mem::take(&mut self.run));
            self.current = bit;
        }
        self.run += 1;
        self.total += 1;
    }

    fn zeros(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        if self.current {
            self.counts.push(std::mem::take(&mut self.run));
            self.current = false;
        }
        self.run += count as u32;
        self.total += count;
    }

    fn finish(mut self, pixels: usize) -> Vec<u32> {
        self.zeros(pixels - self.total);
        self.counts.push(self.run);
        self.counts
    }
}
