//! The contract between any backbone and any head.

use burn::prelude::*;

use crate::layers::ChannelNorm;

/// A backbone that turns an image into feature maps of several resolutions.
///
/// Heads know a backbone only through this trait, so a backbone of your own works with every head; see `examples/own_feature_pyramid.rs`.
pub trait FeaturePyramid {
    /// Features of `images` `[batch, channels, height, width]`, float32 or bf16, normalised as the backbone expects: one tensor
    /// `[batch, channels()[i], height / strides()[i], width / strides()[i]]` a level, the finest first, in the type of the images. A
    /// backbone may round sizes that the stride does not divide up or down; heads take the sizes from the tensors.
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>>;

    /// Channels of every level.
    fn channels(&self) -> Vec<usize>;

    /// Stride of every level, in pixels of the image.
    fn strides(&self) -> Vec<usize>;

    /// The fewest values of a channel that a batch norm in training takes from one image of `[height, width]` pixels; `None` when no batch
    /// norm is trained. Statistics of a single value are refused: with one value from each image, a batch needs two images. The default is for
    /// backbones without batch norm.
    fn fewest_norm_values(&self, _image: [usize; 2]) -> Option<usize> {
        None
    }

    /// Height and width of a detector's batch are multiples of this many pixels (mmdetection's `pad_size_divisor`). The default is the least
    /// common multiple of the strides, so that every stride divides both: 32 for the published models.
    fn size_divisor(&self) -> usize {
        self.strides().into_iter().filter(|stride| *stride > 0).fold(1, least_common_multiple)
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a / divisor * b
}

/// Normalises the features `[batch, height, width, channels]` of the stages that have a norm and leaves the others out; returns them as
/// `[batch, channels, height, width]`.
pub(crate) fn normalised(features: Vec<Tensor<4>>, norms: &[Option<ChannelNorm>]) -> Vec<Tensor<4>> {
    let of_stage = |(feature, norm): (Tensor<4>, &Option<ChannelNorm>)| Some(norm.as_ref()?.forward(feature).permute([0, 3, 1, 2]));
    features.into_iter().zip(norms).filter_map(of_stage).collect()
}
