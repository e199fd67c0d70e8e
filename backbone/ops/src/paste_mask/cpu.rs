//! Mask pasting: interpolation column by column, directly into runs.

/// The runs of [`super::paste_mask`].
pub(super) fn paste(mask: &[f32], side: usize, bbox: [f32; 4], size: [usize; 2], threshold: f32) -> Vec<u32> {
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

/// The pixels of an axis that may be set, and where they read the mask.
struct Axis {
    /// The first such pixel.
    first: usize,
    taps: Vec<Tap>,
}

/// Two neighbouring positions in the mask and their weights; the weight of a position outside is 0.
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

/// The taps of the pixels of an axis for the box `begin..end`.
fn axis(begin: f32, end: f32, pixels: usize, side: usize) -> Axis {
    // `max` maps NaN to 0, and the casts saturate.
    let first = ((begin.floor() - 1.0).max(0.0) as usize).min(pixels);
    let last = ((end.ceil() + 1.0).max(0.0) as usize).min(pixels).max(first);
    let tap = |pixel: usize| {
        let mut position = (pixel as f32 + 0.5 - begin) / (end - begin) * 2.0 - 1.0;
        if position.is_infinite() {
            // A box of zero extent reads the middle of the mask.
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

/// Run lengths under construction.
#[derive(Default)]
struct Runs {
    /// Lengths of finished runs.
    counts: Vec<u32>,
    /// Length of the current run.
    run: u32,
    /// Value of the current run.
    current: bool,
    /// Pixels so far.
    total: usize,
}

impl Runs {
    /// Appends one pixel.
    fn push(&mut self, bit: bool) {
        if bit != self.current {
            self.counts.push(std::mem::take(&mut self.run));
            self.current = bit;
        }
        self.run += 1;
        self.total += 1;
    }

    /// Appends zeros.
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

    /// Fills up to `pixels` with zeros and returns the lengths.
    fn finish(mut self, pixels: usize) -> Vec<u32> {
        self.zeros(pixels - self.total);
        self.counts.push(self.run);
        self.counts
    }
}
