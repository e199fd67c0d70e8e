//! The RoIs that the heads are trained on.

use serde::{Deserialize, Serialize};
use vision_ops::Roi;

use crate::assigner::{Assignment, MaxIouAssigner};
use crate::detector::ImageTruth;
use crate::sampler::{Choose, RandomSampler, Sampled};

/// How RoIs are sampled among proposals and ground truth boxes. The defaults are those of the published Mask R-CNN models.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RoiConfig {
    /// Assigns proposals to objects.
    pub assigner: MaxIouAssigner,
    /// Samples the RoIs that are trained.
    pub sampler: RandomSampler,
}

impl Default for RoiConfig {
    fn default() -> Self {
        Self { assigner: MaxIouAssigner::ROI, sampler: RandomSampler::ROI }
    }
}

/// The sampled RoIs of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct RoiSample {
    /// `[x0, y0, x1, y1]` in pixels of the network's input, positives first.
    pub rois: Vec<[f32; 4]>,
    /// Index of the object of each positive.
    pub objects: Vec<usize>,
    /// Indices of the RoIs among the candidates: the ground truth boxes, followed by the proposals.
    pub sampled: Sampled,
    /// Number of ground truth boxes among the candidates.
    pub ground_truths: usize,
}

impl RoiConfig {
    /// Samples the RoIs of an image among its ground truth boxes and `proposals`, `[x0, y0, x1, y1]` each.
    pub fn sample(&self, proposals: &[[f32; 4]], truth: &ImageTruth, choose: &mut dyn Choose) -> RoiSample {
        let objects = truth.boxes();
        // Ground truth boxes become candidates after the assignment, each assigned to itself.
        let mut assigned: Vec<Assignment> = (0..objects.len()).map(Assignment::Object).collect();
        assigned.extend(self.assigner.assign(proposals, &objects, &truth.crowds));
        let candidates: Vec<[f32; 4]> = objects.iter().chain(proposals).copied().collect();
        let sampled = self.sampler.sample(&assigned, choose);
        let object = |at: &usize| match assigned[*at] {
            Assignment::Object(object) => Some(object),
            _ => None,
        };
        RoiSample {
            rois: sampled.positives.iter().chain(&sampled.negatives).map(|at| candidates[*at]).collect(),
            objects: sampled.positives.iter().filter_map(object).collect(),
            ground_truths: objects.len(),
            sampled,
        }
    }
}

impl RoiSample {
    /// Whether RoI `index` is a ground truth box. The next stage of a cascade leaves ground truth boxes out.
    pub fn is_ground_truth(&self, index: usize) -> bool {
        self.sampled.positives.get(index).is_some_and(|candidate| *candidate < self.ground_truths)
    }
}

/// The object that is the training target of a RoI.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiTarget {
    /// Class index.
    pub category: usize,
    /// `[x0, y0, x1, y1]` in pixels of the network's input.
    pub bbox: [f32; 4],
}

/// The sampled RoIs of a batch with their targets. There is always at least one RoI.
#[derive(Clone, Debug, PartialEq)]
pub struct RoiBatch {
    /// The RoIs, image by image.
    pub rois: Vec<Roi>,
    /// The target of each RoI; `None` for background.
    pub targets: Vec<Option<RoiTarget>>,
    /// Weight of the losses: 1, or 0 when nothing was sampled.
    pub weight: f64,
}

/// A RoI of weight zero.
pub(crate) const PLACEHOLDER: Roi = Roi { image: 0, bbox: [0.0, 0.0, 1.0, 1.0] };

impl RoiBatch {
    /// Joins the samples of the images. With no sample, one RoI of weight zero is added so that every parameter keeps a gradient.
    pub fn new(samples: &[RoiSample], truth: &[ImageTruth]) -> Self {
        let (mut rois, mut targets) = (Vec::new(), Vec::new());
        for (image, (sample, truth)) in samples.iter().zip(truth).enumerate() {
            rois.extend(sample.rois.iter().map(|bbox| Roi { image, bbox: *bbox }));
            targets.extend((0..sample.rois.len()).map(|index| {
                let instance = truth.instances.get(*sample.objects.get(index)?)?;
                Some(RoiTarget { category: instance.category, bbox: instance.bbox })
            }));
        }
        if rois.is_empty() {
            return Self { rois: vec![PLACEHOLDER], targets: vec![None], weight: 0.0 };
        }
        Self { rois, targets, weight: 1.0 }
    }
}

/// The RoIs of a batch from the boxes of each image, `[x0, y0, x1, y1]`.
pub fn rois_of(boxes: impl Iterator<Item = impl Iterator<Item = [f32; 4]>>) -> Vec<Roi> {
    boxes.enumerate().flat_map(|(image, own)| own.map(move |bbox| Roi { image, bbox })).collect()
}
