//! Networks as chains of steps, from the images to the last feature map.

use std::fmt;

use burn::prelude::*;

/// A step of a [`Chain`].
type Part<'a> = Box<dyn Fn(Tensor<4>) -> Tensor<4> + 'a>;

/// A network cut into consecutive steps. Gradients can be computed step by step, which needs the memory of the largest step instead of
/// that of the whole network.
pub struct Chain<'a> {
    parts: Vec<Part<'a>>,
}

impl<'a> Chain<'a> {
    /// A chain of one step.
    pub fn of(part: impl Fn(Tensor<4>) -> Tensor<4> + 'a) -> Self {
        Self { parts: vec![Box::new(part)] }
    }

    /// This chain with one more step at the end.
    #[must_use]
    pub fn then(mut self, part: impl Fn(Tensor<4>) -> Tensor<4> + 'a) -> Self {
        self.parts.push(Box::new(part));
        self
    }

    /// Applies all steps.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.parts.iter().fold(x, |x, part| part(x))
    }

    /// The steps in order.
    pub(crate) fn parts(&self) -> &[Part<'a>] {
        &self.parts
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("parts", &self.parts.len()).finish()
    }
}

/// A network with a last feature map: the input of its classifier's final norm and pooling, without the class token where there is one.
///
/// | family | the last map | stride |
/// |---|---|---|
/// | VMamba, Swin | the last stage, before the norm | 32 |
/// | ConvNeXt, S4ND-ConvNeXt | the last stage, before the average | 32 |
/// | ResNet | the last stage, after its ReLU | 32 |
/// | HiViT | the last block, before average and norm | 16 |
/// | DeiT | the patches after the last block, before the norm | 16 |
/// | Vim | the residual sum after the last layer without the class token, before the norm | 16 |
/// | XCiT | the patches before the class attention, in which patches do not attend to each other | 16 |
pub trait LastMap {
    /// The steps from `images` `[batch, in_chans, height, width]`, float32 and normalised, to the last map
    /// `[batch, channels, height', width']`. `image` is `[height, width]`, a size that the family's `check_image` accepts.
    fn chain(&self, image: [usize; 2]) -> Chain<'_>;

    /// The last map `[batch, channels, height', width']` of `images` `[batch, in_chans, height, width]`.
    fn last_map(&self, images: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = images.dims();
        self.chain([height, width]).forward(images)
    }
}

/// Implements [`LastMap`] for the backbone and classifier of a family, which share a trunk.
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
