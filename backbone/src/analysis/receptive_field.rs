//! The effective receptive field (Luo et al., 2016): how much every pixel of an image contributes to the middle of the last feature map.
//!
//! The protocol is that of the paper's figures and of RepLKNet (Ding et al., 2022): the gradient of the positive activations in the middle
//! with respect to the image; its positive part, summed over the colour channels and averaged over images.
//!
//! ```
//! use burn::prelude::*;
//! use burn::tensor::Distribution;
//! use vmamba::LastMap;
//! use vmamba::analysis::{ReceptiveField, central_gradient, covering_square};
//! use vmamba::zoo::BackboneConfig;
//!
//! // Frozen: no stochastic depth, and no gradients of weights.
//! let device = Device::flex().autodiff();
//! let model = BackboneConfig::named("resnet50").unwrap().try_init(&device).unwrap().freeze();
//! let chain = model.chain([64, 64]);
//! let mut field = ReceptiveField::new([64, 64]);
//! for _ in 0..2 {
//!     let image = Tensor::random([1, 3, 64, 64], Distribution::Normal(0.0, 1.0), &device);
//!     field.add(&central_gradient(&chain, image).into_data().to_vec::<f32>().unwrap());
//! }
//! let mean = field.mean().unwrap();
//! println!("half of it lies in {:?}", covering_square(&mean, [64, 64], 0.5));
//! ```
//!
//! For a backbone of your own a closure is enough: `Chain::of(|images| backbone.forward_features(images).pop().unwrap())`. Several steps with
//! [`Chain::then`](crate::Chain::then) need less memory.

use burn::prelude::*;

use crate::Chain;

/// The contribution `[height, width]`, at least 0, of every pixel of `image` `[1, channels, height, width]` to the middle of the last map.
/// `chain` computes that map `F` `[1, maps, rows, columns]`. The contribution is the positive part of the gradient of
/// `sum over maps of max(F[.., rows / 2, columns / 2], 0)` with respect to the image, summed over the channels, and over the images of a
/// larger batch.
///
/// The result is on the device without autodiff. The network must be on an autodiff device and [frozen](burn::module::Module::freeze), because
/// batch norm and stochastic depth would otherwise act as in training. Every step runs forwards twice, the second time alone with its
/// gradients, so memory is that of the largest step. A network that draws random numbers would draw different ones the second time.
///
/// # Panics
/// When the network is on another device than `image`, or the map is empty.
pub fn central_gradient(chain: &Chain<'_>, image: Tensor<4>) -> Tensor<2> {
    let [_, _, height, width] = image.dims();
    let image = if image.device().is_autodiff() { image.detach() } else { Tensor::from_inner(image) };
    let mut inputs = Vec::with_capacity(chain.parts().len());
    let mut x = image;
    for part in chain.parts() {
        inputs.push(x.clone());
        x = part(x).detach();
    }
    let mut gradient = gradient_of_centre(x.inner());
    for (part, input) in chain.parts().iter().zip(inputs).rev() {
        let input = input.require_grad();
        let output = part(input.clone());
        // The gradient of this sum with respect to the output is the gradient so far.
        let mut gradients = (output * Tensor::from_inner(gradient)).sum().backward();
        gradient = input.grad_remove(&mut gradients).unwrap_or_else(|| input.inner().zeros_like());
    }
    gradient.clamp_min(0.0).sum_dim(1).sum_dim(0).reshape([height, width])
}

/// The gradient of the sum of the positive activations in the middle with respect to `map` `[batch, channels, rows, columns]`: 1 at positive
/// values in the middle, 0 elsewhere. NaN stays NaN, so that it is noticed.
fn gradient_of_centre(map: Tensor<4>) -> Tensor<4> {
    let [_, _, rows, columns] = map.dims();
    let middle = map.clone().narrow(2, rows / 2, 1).narrow(3, columns / 2, 1);
    let positive = middle.clone().greater_elem(0.0).float() + middle.clone().sub(middle);
    let centre = [0..map.dims()[0], 0..map.dims()[1], rows / 2..rows / 2 + 1, columns / 2..columns / 2 + 1];
    map.zeros_like().slice_assign(centre, positive)
}

/// The mean contribution over images.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceptiveField {
    sum: Vec<f64>,
    images: usize,
    skipped: usize,
}

impl ReceptiveField {
    /// An empty mean for images of `[height, width]` pixels.
    pub fn new([height, width]: [usize; 2]) -> Self {
        Self { sum: vec![0.0; height * width], images: 0, skipped: 0 }
    }

    /// Adds the contribution of an image, in raster order, and returns true. A contribution with values that are not finite is left out and
    /// counted, and the result is false.
    ///
    /// # Panics
    /// When the number of pixels differs.
    pub fn add(&mut self, contribution: &[f32]) -> bool {
        assert_eq!(contribution.len(), self.sum.len(), "the contribution must have as many pixels as the receptive field");
        if !contribution.iter().all(|value| value.is_finite()) {
            self.skipped += 1;
            return false;
        }
        self.images += 1;
        for (sum, value) in self.sum.iter_mut().zip(contribution) {
            *sum += f64::from(*value);
        }
        true
    }

    /// Number of images that were added.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Number of images that were left out.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The mean in raster order; none without an image.
    pub fn mean(&self) -> Option<Vec<f32>> {
        (self.images > 0).then(|| self.sum.iter().map(|sum| (sum / self.images as f64) as f32).collect())
    }
}

/// A square around the middle of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CoveringSquare {
    /// Side in pixels, an odd number. The square may extend beyond the map.
    pub side: usize,
    /// The share of the map's area inside the square, at most 1.
    pub area: f64,
}

/// The smallest square with an odd side around pixel `[height / 2, width / 2]` that contains more than `share` of the sum of `map`, whose
/// values are in raster order and at least 0. None for a map without a positive value, and for a share of 1 or more.
///
/// As RepLKNet's `get_rectangle`, except that squares may have side 1 and may extend over the border.
///
/// # Panics
/// When the map does not have `height * width` values.
pub fn covering_square(map: &[f32], [height, width]: [usize; 2], share: f64) -> Option<CoveringSquare> {
    assert_eq!(map.len(), height * width, "covering_square: the map must have {height} x {width} values");
    // Sums over the rings between consecutive squares: pixels with equal Chebyshev distance from the middle.
    let (row, column) = (height / 2, width / 2);
    let mut rings = vec![(0.0_f64, 0_usize); height.max(width) / 2 + 1];
    for (place, value) in map.iter().enumerate() {
        let distance = (place / width).abs_diff(row).max((place % width).abs_diff(column));
        rings[distance].0 += f64::from(*value);
        rings[distance].1 += 1;
    }
    let total: f64 = rings.iter().map(|(sum, _)| sum).sum();
    let (mut sum, mut pixels) = (0.0, 0);
    rings.iter().enumerate().find_map(|(distance, ring)| {
        sum += ring.0;
        pixels += ring.1;
        (sum > share * total).then(|| CoveringSquare { side: 2 * distance + 1, area: pixels as f64 / map.len() as f64 })
    })
}

#[cfg(test)]
mod tests;
