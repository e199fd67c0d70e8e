//! The contract between a segmentor and whoever trains it or predicts with it.

use burn::prelude::*;
use vmamba_types::IGNORE_LABEL;

/// The label of pixels that neither loss nor accuracy counts, [`IGNORE_LABEL`] in the type of label tensors.
pub const IGNORE_INDEX: i64 = IGNORE_LABEL as i64;

/// The loss of a batch, with the names of mmsegmentation.
#[derive(Clone, Debug)]
pub struct SegmentationLoss {
    /// The sum of `parts`, `[1]` and float32: the value to minimise.
    pub total: Tensor<1>,
    /// Name and value `[1]` of every part, such as `decode.loss_ce`.
    pub parts: Vec<(String, Tensor<1>)>,
    /// Name (`decode.acc_seg`) and percentage of the labelled pixels with the right class, for every head.
    pub accuracies: Vec<(String, f64)>,
}

impl SegmentationLoss {
    /// Sums the parts.
    ///
    /// # Panics
    /// When there is no part.
    pub fn new(parts: Vec<(String, Tensor<1>)>, accuracies: Vec<(String, f64)>) -> Self {
        let Some(total) = parts.iter().map(|(_, part)| part.clone()).reduce(|a, b| a + b) else {
            panic!("SegmentationLoss: a loss has at least one part")
        };
        Self { total, parts, accuracies }
    }
}

/// A model that gives every pixel a class. [`inference`](crate::inference) predicts with any implementation.
///
/// `images` are normalised RGB, `[batch, 3, height, width]`, float32 or bf16.
pub trait Segmentor {
    /// The number of classes.
    fn num_classes(&self) -> usize;

    /// Float32 logits `[batch, classes, height', width']`; the prediction resizes them to the image.
    fn forward(&self, images: Tensor<4>) -> Tensor<4>;

    /// The loss of a batch. `labels`, `[batch, height, width]`, are class indices or [`IGNORE_INDEX`].
    fn loss(&self, images: Tensor<4>, labels: Tensor<3, Int>) -> SegmentationLoss;

    /// The fewest values of a channel that a batch norm in training takes from one image of `[height, width]` pixels; `None` when no batch
    /// norm is trained, which is the default. A trainer refuses batches that give a batch norm a single value.
    fn fewest_norm_values(&self, _image: [usize; 2]) -> Option<usize> {
        None
    }

    /// Runs the forward pass and calls `observe` with the official name of each module on the way, the index of an output and that output,
    /// `[batch, channels, height, width]`. A trainer looks for the first module whose output is not finite.
    fn observe(&self, images: Tensor<4>, observe: &mut dyn FnMut(&str, usize, &Tensor<4>));

    /// The key in checkpoints of the parameter at `path` in the model; by default the path.
    fn official_key(path: &str) -> String
    where
        Self: Sized,
    {
        path.to_owned()
    }
}
