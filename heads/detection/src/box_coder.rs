//! Boxes encoded as deltas from prior boxes (mmdetection's `DeltaXYWHBBoxCoder`).

use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

/// Encodes boxes as deltas `[dx, dy, dw, dh]` from prior boxes and decodes them.
///
/// `dx` and `dy` shift the centre, in widths and heights of the prior; `dw` and `dh` are logarithms of the ratios of the sides. Targets
/// are `(delta - target_means) / target_stds`, which gives the four components about the same scale.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BoxCoder {
    /// Means that encoding subtracts, `[dx, dy, dw, dh]`; zeros in every published model.
    #[serde(default)]
    pub target_means: [f32; 4],
    /// Standard deviations that encoding divides by, `[dx, dy, dw, dh]`.
    pub target_stds: [f32; 4],
}

/// Largest ratio of the sides of a decoded box and its prior; the smallest is its reciprocal. mmdetection's `wh_ratio_clip = 16 / 1000`.
const LARGEST_RATIO: f32 = 1000.0 / 16.0;

impl BoxCoder {
    /// The coder of the published region proposal networks, without scaling.
    pub const RPN: Self = Self::with_stds([1.0; 4]);
    /// The coder of the published box heads.
    pub const BOX_HEAD: Self = Self::with_stds([0.1, 0.1, 0.2, 0.2]);

    /// A coder with zero means.
    pub const fn with_stds(target_stds: [f32; 4]) -> Self {
        Self { target_means: [0.0; 4], target_stds }
    }

    /// Deltas from `prior` to `target`, both `[x0, y0, x1, y1]` with positive sides.
    pub fn encode(&self, prior: [f32; 4], target: [f32; 4]) -> [f32; 4] {
        let ([px, py, pw, ph], [x, y, w, h]) = (centre_size(prior), centre_size(target));
        let deltas = [(x - px) / pw, (y - py) / ph, (w / pw).ln(), (h / ph).ln()];
        std::array::from_fn(|i| (deltas[i] - self.target_means[i]) / self.target_stds[i])
    }

    /// The box `[x0, y0, x1, y1]` at `deltas` from `prior`. With `clip`, `[height, width]` in pixels, the box is clipped to the image.
    pub fn decode(&self, prior: [f32; 4], deltas: [f32; 4], clip: Option<[usize; 2]>) -> [f32; 4] {
        let [px, py, pw, ph] = centre_size(prior);
        let [dx, dy, dw, dh]: [f32; 4] = std::array::from_fn(|i| deltas[i] * self.target_stds[i] + self.target_means[i]);
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

    /// [`BoxCoder::decode`] with gradients and without clipping. `deltas` are float32, `[boxes, 4]`, with one prior for each row; the result
    /// holds the boxes, `[boxes, 4]`.
    ///
    /// # Panics
    /// When there are not as many priors as rows.
    pub fn decode_tensor(&self, priors: &[[f32; 4]], deltas: Tensor<2>) -> Tensor<2> {
        let count = priors.len();
        assert_eq!(deltas.dims(), [count, 4], "BoxCoder: one prior for each row of deltas");
        let device = deltas.device();
        let column = |index: usize| {
            let values: Vec<f32> = priors.iter().map(|prior| centre_size(*prior)[index]).collect();
            Tensor::<2>::from_data(TensorData::new(values, [count, 1]), &device)
        };
        let delta = |index: usize| deltas.clone().narrow(1, index, 1) * self.target_stds[index] + self.target_means[index];
        let limit = LARGEST_RATIO.ln();
        let (pw, ph) = (column(2), column(3));
        let (x, y) = (column(0) + pw.clone() * delta(0), column(1) + ph.clone() * delta(1));
        let half = |side: Tensor<2>, delta: Tensor<2>| side * delta.clamp(-limit, limit).exp() * 0.5;
        let (half_w, half_h) = (half(pw, delta(2)), half(ph, delta(3)));
        Tensor::cat(vec![x.clone() - half_w.clone(), y.clone() - half_h.clone(), x + half_w, y + half_h], 1)
    }
}

fn centre_size([x0, y0, x1, y1]: [f32; 4]) -> [f32; 4] {
    [(x0 + x1) * 0.5, (y0 + y1) * 0.5, x1 - x0, y1 - y0]
}
