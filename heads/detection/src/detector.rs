//! The contract between a detector and whoever trains it or predicts with it.

use burn::prelude::*;
use vmamba::NotFinite;
use vmamba_types::{Detection, Instance};

use crate::sampler::Choose;

/// The ground truth of a training image.
#[derive(Clone, Debug, Default)]
pub struct ImageTruth {
    /// `[height, width]` of the image in the batch, without padding.
    pub size: [usize; 2],
    /// Its objects, in pixels of the network's input.
    pub instances: Vec<Instance>,
    /// Boxes `[x0, y0, x1, y1]` of its crowds, which are not objects.
    pub crowds: Vec<[f32; 4]>,
}

impl ImageTruth {
    /// Boxes `[x0, y0, x1, y1]` of the objects.
    pub fn boxes(&self) -> Vec<[f32; 4]> {
        self.instances.iter().map(|instance| instance.bbox).collect()
    }
}

/// How an image of a batch relates to its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageInfo {
    /// `[height, width]` in the batch, without padding.
    pub size: [usize; 2],
    /// `[height, width]` of the file.
    pub original: [usize; 2],
    /// Size in the batch divided by the size of the file: width, then height.
    pub scale: [f32; 2],
}

impl ImageInfo {
    /// An image of `original: [height, width]` pixels that was resized to `size`.
    pub fn new(original: [usize; 2], size: [usize; 2]) -> Self {
        let ratio = |axis: usize| (size[axis] as f64 / original[axis].max(1) as f64) as f32;
        Self { size, original, scale: [ratio(1), ratio(0)] }
    }
}

/// The loss of a batch, with the names of mmdetection.
#[derive(Clone, Debug)]
pub struct DetectionLoss {
    /// The sum of `parts`, `[1]` and float32: the value to minimise.
    pub total: Tensor<1>,
    /// Name and value `[1]` of every part, such as `loss_rpn_cls`, in the order of mmdetection's log.
    pub parts: Vec<(String, Tensor<1>)>,
    /// Name (`acc`) and percentage of the sampled RoIs with the right class, for every box head.
    pub accuracies: Vec<(String, f64)>,
}

impl DetectionLoss {
    /// Sums the parts.
    ///
    /// # Panics
    /// When there is no part.
    pub fn new(parts: Vec<(String, Tensor<1>)>, accuracies: Vec<(String, f64)>) -> Self {
        let Some(total) = parts.iter().map(|(_, part)| part.clone()).reduce(|a, b| a + b) else {
            panic!("DetectionLoss: a loss has at least one part")
        };
        Self { total, parts, accuracies }
    }

    /// The part of that name.
    pub fn part(&self, name: &str) -> Option<&Tensor<1>> {
        self.parts.iter().find(|(own, _)| own == name).map(|(_, part)| part)
    }
}

/// A model that finds objects.
///
/// `images` are normalised RGB, `[batch, 3, height, width]`, float32 or bf16. Every image is padded with zeros on the right and at the
/// bottom to the size of the batch, whose sides are multiples of [`Detector::size_divisor`].
pub trait Detector {
    /// The number of classes, without the background.
    fn num_classes(&self) -> usize;

    /// The divisor of the sides of a batch, in pixels.
    fn size_divisor(&self) -> usize;

    /// The fewest values of a channel that a batch norm in training takes from one image of `[height, width]` pixels; `None` when no batch
    /// norm is trained, which is the default. A trainer refuses batches that give a batch norm a single value.
    fn fewest_norm_values(&self, _image: [usize; 2]) -> Option<usize> {
        None
    }

    /// The loss of a batch. `truth` holds the objects of each image, `choose` draws the boxes that are trained.
    fn loss(&self, images: Tensor<4>, truth: &[ImageTruth], choose: &mut dyn Choose) -> DetectionLoss;

    /// The objects of each image by descending score. Boxes and masks are in pixels of the files.
    ///
    /// # Errors
    /// When an output of the network is not finite. NaN scores would look like an image without objects.
    fn predict(&self, images: Tensor<4>, infos: &[ImageInfo]) -> Result<Vec<Vec<Detection>>, NotFinite>;

    /// Runs the modules that work on whole images, in the order of the forward pass, and calls `observe` with the official name of each
    /// module, the index of an output and that output, `[batch, channels, height, width]`. A trainer looks for the first module whose
    /// output is not finite.
    fn observe(&self, images: Tensor<4>, observe: &mut dyn FnMut(&str, usize, &Tensor<4>));

    /// The key in checkpoints of the parameter at `path` in the model; by default the path.
    fn official_key(path: &str) -> String
    where
        Self: Sized,
    {
        path.to_owned()
    }
}
