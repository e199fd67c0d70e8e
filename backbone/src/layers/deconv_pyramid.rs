use burn::module::Param;
use burn::prelude::*;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use vision_ops::{Fused, Pointwise};

use super::{BatchNorm2d, uniform_fan_in};
use crate::complexity::Complexity;

/// Four levels from maps of one resolution: upsampled by 4, upsampled by 2, unchanged, and halved. The segmentors of BEiT, XCiT and Vim make a
/// pyramid like this from a network without stages (`fpn1` to `fpn4`).
#[derive(Module, Debug)]
pub struct DeconvPyramid {
    fpn1: TwiceUp,
    fpn2: Deconv,
}

/// Upsamples by 4.
#[derive(Module, Debug)]
struct TwiceUp {
    first: Deconv,
    norm: BatchNorm2d,
    second: Deconv,
}

/// A transposed convolution with kernel and stride 2: every position becomes 2x2 positions.
#[derive(Module, Debug)]
struct Deconv {
    /// `[in, out, 2, 2]`.
    weight: Param<Tensor<4>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl DeconvPyramid {
    /// Resolution of every level relative to the maps, as numerator and denominator.
    pub const SCALES: [[usize; 2]; 4] = [[4, 1], [2, 1], [1, 1], [1, 2]];

    /// A pyramid with random weights for maps of `channels` channels.
    pub fn new(channels: usize, device: &Device) -> Self {
        let deconv = || Deconv::new(channels, device);
        Self { fpn1: TwiceUp { first: deconv(), norm: BatchNorm2d::new(channels, device), second: deconv() }, fpn2: deconv() }
    }

    /// Level `index` of a map `[batch, height, width, channels]`, `[batch, channels, height', width']`.
    pub fn level(&self, index: usize, x: Tensor<4>) -> Tensor<4> {
        match index {
            0 => self.fpn1.forward(x).permute([0, 3, 1, 2]),
            1 => self.fpn2.forward(x, None).permute([0, 3, 1, 2]),
            2 => x.permute([0, 3, 1, 2]),
            _ => halved(x.permute([0, 3, 1, 2])),
        }
    }

    /// Height and width of the levels of a map.
    pub fn level_sizes(map: [usize; 2]) -> Vec<[usize; 2]> {
        Self::SCALES.iter().map(|[times, over]| map.map(|size| (size * times / over).max(1))).collect()
    }

    /// Adds the cost for a map of this size.
    pub(crate) fn add_cost(cost: &mut Complexity, channels: usize, map: [usize; 2]) {
        let twice = map.map(|size| 2 * size);
        for input in [map, twice, map] {
            // Every input position is multiplied by the whole kernel.
            cost.conv(channels, channels, [2, 2], input);
            cost.add_params(channels);
        }
        cost.batch_norm(channels, twice);
    }
}

/// Max pool 2x2 of `[batch, channels, height, width]`; an axis of size 1 stays as it is.
pub(crate) fn halved(x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let window = [height, width].map(|size| size.min(2));
    max_pool2d(x, MaxPoolOptions::new(window).with_stride(window))
}

impl TwiceUp {
    /// `[batch, height, width, channels]` to `[batch, 4 height, 4 width, channels]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = match self.norm.stored(&x.device()) {
            Some(stored) => self.first.forward(x, Some(stored)),
            None => Pointwise::Gelu.apply(self.norm.forward(self.first.forward(x, None))),
        };
        self.second.forward(x, None)
    }
}

impl Deconv {
    fn new(channels: usize, device: &Device) -> Self {
        // PyTorch computes the fan-in of a transposed convolution from its output channels.
        let fan_in = 4 * channels;
        Self { weight: uniform_fan_in([channels, channels, 2, 2], fan_in, device), bias: uniform_fan_in([channels], fan_in, device) }
    }

    /// `[batch, height, width, in]` to `[batch, 2 height, 2 width, out]`. Where `norm` holds a batch norm's scale and shift, they and
    /// GELU follow.
    fn forward(&self, x: Tensor<4>, norm: Option<(Tensor<1>, Tensor<1>)>) -> Tensor<4> {
        let [batch, height, width, inputs] = x.dims();
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let outputs = bias.dims()[0];
        // The 2x2 outputs of a position are four blocks of output channels of one matrix product.
        let weight = weight.permute([2, 3, 1, 0]).reshape([4 * outputs, inputs]);
        let four = |values: Tensor<1>| values.repeat(&[4]);
        let fused = match norm {
            Some((scale, shift)) => Fused {
                bias: Some(four(bias * scale.clone() + shift)),
                scale: Some(four(scale)),
                residual: None,
                activation: Pointwise::Gelu,
            },
            None => Fused::bias(Some(four(bias))),
        };
        let places: Tensor<6> = vision_ops::linear_fused(x, weight, fused).reshape([batch, height, width, 2, 2, outputs]);
        places.permute([0, 1, 3, 2, 4, 5]).reshape([batch, 2 * height, 2 * width, outputs])
    }
}

/// The official key of a parameter of the field `pyramid`; none for other paths.
pub(crate) fn deconv_pyramid_key(path: &str) -> Option<String> {
    const LAYERS: [(&str, &str); 4] =
        [("fpn1.first.", "fpn1.0."), ("fpn1.norm.", "fpn1.1."), ("fpn1.second.", "fpn1.3."), ("fpn2.", "fpn2.0.")];
    let path = path.strip_prefix("pyramid.")?;
    LAYERS.iter().find_map(|(ours, theirs)| path.strip_prefix(ours).map(|rest| format!("{theirs}{rest}")))
}
