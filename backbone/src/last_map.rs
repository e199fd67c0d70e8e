//! Networks as chains of parts, from images to the last map.

use std::fmt;

use burn::prelude::*;

/// A step of a [`Chain`].
type Part<'a> = Box<dyn Fn(Tensor<4>) -> Tensor<4> + 'a>;

/// A network cut into parts that follow one another, so that gradients can be taken part by part, in the memory of the largest part
/// instead of that of all.
pub struct Chain<'a> {
    parts: Vec<Part<'a>>,
}

impl<'a> Chain<'a> {
    /// A network of one part.
    pub fn of(part: impl Fn(Tensor<4>) -> Tensor<4> + 'a) -> Self {
        Self { parts: vec![Box::new(part)] }
    }

    /// The same with one more part behind.
    #[must_use]
    pub fn then(mut self, part: impl Fn(Tensor<4>) -> Tensor<4> + 'a) -> Self {
        self.parts.push(Box::new(part));
        self
    }

    /// Through all parts.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.parts.iter().fold(x, |x, part| part(x))
    }

    /// The parts, the first first.
    pub(crate) fn parts(&self) -> &[Part<'a>] {
        &self.parts
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("parts", &self.parts.len()).finish()
    }
}

/// A network whose last map can be looked at: what its classifier's final norm and pooling get, or, with a class token, the patches beside
/// that token.
///
/// | family | the last map | stride |
/// |---|---|---|
/// | VMamba, Swin | the last stage, before the norm | 32 |
/// | ConvNeXt, S4ND-ConvNeXt | the last stage, before the average | 32 |
/// | ResNet | the last stage, behind its ReLU | 32 |
/// | HiViT | the last block, before average and norm | 16 |
/// | DeiT | the patches behind the last block, before the norm | 16 |
/// | Vim | the sum behind the last layer without the class token, before the norm | 16 |
/// | XCiT | the patches before the class attention, in which they do not see one another | 16 |
pub trait LastMap {
    /// From `images` `[batch, in_chans, height, width]`, float32 and normalised, with `image` = `[height, width]`, to the last map
    /// `[batch, channels, height', width']`. Sizes are those that the family's `check_image` lets pass.
    fn chain(&self, image: [usize; 2]) -> Chain<'_>;

    /// The last map `[batch, channels, height', width']` of `images` `[batch, in_chans, height, width]`.
    fn last_map(&self, images: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = images.dims();
        self.chain([height, width]).forward(images)
    }
}

/// Backbone and classifier of a family have the chain of what they share.
macro_rules! last_map_of_trunk {
    ($($owner:ident),*) => {
        $(impl $crate::LastMap for $owner {
            fn chain(&self, image: [usize; 2]) -> $crate::Chain<'_> {
                self.trunk.chain(image)
            }
        })*
    };
}
pub(crate) use last_map_of_trunk;

/// `[batch, height, width, channels]` to `[batch, channels, height, width]`.
pub(crate) fn channels_first(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}
