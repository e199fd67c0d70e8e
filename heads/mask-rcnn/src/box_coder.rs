//! Boxes as offsets from other boxes (mmdetection's `DeltaXYWHBBoxCoder`).

use serde::{Deserialize, Serialize};

/// Encodes and decodes boxes relative to a prior box: shift of the centre in sizes of the prior, logarithm of the size's ratio, both
/// divided by `stds`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BoxCoder {
    /// Deviations of `dx, dy, dw, dh`.
    pub stds: [f32; 4],
}

/// Decoded sizes are at most this many times the prior's.
const LARGEST_RATIO: f32 = 1000.0 / 16.0;

impl BoxCoder {
    /// That of the region proposals.
    pub const RPN: Self = Self { stds: [1.0; 4] };
    /// That of the box head.
    pub const BOX_HEAD: Self = Self { stds: [0.1, 0.1, 0.2, 0.2] };

    /// The offsets `[dx, dy, dw, dh]` from `prior` to `target`, both `[x0, y0, x1, y1]` with positive sides.
    pub fn encode(&self, prior: [f32; 4], target: [f32; 4]) -> [f32; 4] {
        let ([px, py, pw, ph], [x, y, w, h]) = (centre_size(prior), centre_size(target));
        let deltas = [(x - px) / pw, (y - py) / ph, (w / pw).ln(), (h / ph).ln()];
        std::array::from_fn(|i| deltas[i] / self.stds[i])
    }

    /// The box `[x0, y0, x1, y1]` at offsets from `prior`, clipped to an image of `[height, width]` pixels where that is given.
    pub fn decode(&self, prior: [f32; 4], deltas: [f32; 4], clip: Option<[usize; 2]>) -> [f32; 4] {
        let [px, py, pw, ph] = centre_size(prior);
        let [dx, dy, dw, dh]: [f32; 4] = std::array::from_fn(|i| deltas[i] * self.stds[i]);
        let limit = LARGEST_RATIO.ln();
        let (x, y) = (px + pw * dx, py + ph * dy);
        let (half_w, half_h) = (pw * dw.clamp(-limit, limit).exp() * 0.5, ph * dh.clamp(-limit, limit).exp() * 0.5);
        let bbox = [x - half_w, y - half_h, x + half_w, y + half_h];
        match clip {
            Some([height, width]) => {
                let (w, h) = (width as f32, height as f32);
                [bbox[0].clamp(0.0, w), bbox[1].clamp(0.0, h), bbox[2].clamp(0.0, w), bbox[3].clamp(0.0, h)]
            }
            None => bbox,
        }
    }
}

fn centre_size([x0, y0, x1, y1]: [f32; 4]) -> [f32; 4] {
    [(x0 + x1) * 0.5, (y0 + y1) * 0.5, x1 - x0, y1 - y0]
}
