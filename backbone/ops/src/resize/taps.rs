//! Where output pixels read along an axis.

/// The two neighbours that an output pixel interpolates between, and the weight of the second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    pub(super) low: usize,
    pub(super) high: usize,
    pub(super) weight: f32,
}

/// The taps of an axis that is resized from `from` to `to` pixels.
pub(super) fn taps(from: usize, to: usize, align_corners: bool) -> Vec<Tap> {
    (0..to)
        .map(|index| {
            let position = if align_corners {
                let scale = if to > 1 { (from - 1) as f32 / (to - 1) as f32 } else { 0.0 };
                index as f32 * scale
            } else {
                // In float32, like PyTorch.
                let scale = from as f32 / to as f32;
                (scale * (index as f32 + 0.5) - 0.5).max(0.0)
            };
            let low = (position as usize).min(from - 1);
            Tap { low, high: (low + 1).min(from - 1), weight: position - low as f32 }
        })
        .collect()
}
