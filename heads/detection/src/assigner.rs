//! Assignment of prior boxes (anchors or proposals) to objects (mmdetection's `MaxIoUAssigner` with low-quality matches).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::boxes::{iof, iou};

/// The training target of a prior box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// Neither object nor background: the box is not trained.
    Ignored,
    /// Background.
    Negative,
    /// The object with this index.
    Object(usize),
}

/// Assigns prior boxes to objects by thresholds on their IoU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MaxIouAssigner {
    /// A prior whose largest IoU is at least this is assigned to the object it overlaps most.
    pub positive: f32,
    /// A prior whose largest IoU is below this is background; between the two thresholds it is ignored.
    pub negative: f32,
    /// Smallest IoU of a low-quality match.
    pub minimum: f32,
    /// Whether every object also gets the priors that overlap it most (low-quality matches), even below `positive`.
    #[serde(default = "yes")]
    pub match_low_quality: bool,
    /// Priors with more than this share of their area inside a crowd are ignored. If absent, crowds are background, as in the published
    /// models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_crowd: Option<f32>,
}

fn yes() -> bool {
    true
}

impl MaxIouAssigner {
    /// The assigner of the published region proposal networks.
    pub const RPN: Self = Self { positive: 0.7, negative: 0.3, minimum: 0.3, match_low_quality: true, ignore_crowd: None };
    /// The assigner of the published Mask R-CNN heads.
    pub const ROI: Self = Self { match_low_quality: true, ..Self::cascade(0.5) };

    /// The assigner of a stage of Cascade R-CNN: one threshold for all, no low-quality matches.
    pub const fn cascade(threshold: f32) -> Self {
        Self { positive: threshold, negative: threshold, minimum: threshold, match_low_quality: false, ignore_crowd: None }
    }

    /// The assignment of every prior. `objects` are the boxes of the ground truth without its crowds, `crowds` the boxes of the crowds; all
    /// boxes are `[x0, y0, x1, y1]`. Ties go to the first object.
    pub fn assign(&self, priors: &[[f32; 4]], objects: &[[f32; 4]], crowds: &[[f32; 4]]) -> Vec<Assignment> {
        let in_crowd = |prior: &[f32; 4]| self.ignore_crowd.is_some_and(|share| crowds.iter().any(|crowd| iof(prior, crowd) > share));
        let by_overlap = |prior: &[f32; 4]| {
            if in_crowd(prior) {
                return Assignment::Ignored;
            }
            let best =
                objects.iter().map(|object| iou(object, prior)).enumerate().fold(None, |best: Option<(usize, f32)>, (index, iou)| {
                    if best.is_none_or(|(_, value)| iou > value) { Some((index, iou)) } else { best }
                });
            match best {
                None => Assignment::Negative,
                Some((index, iou)) if iou >= self.positive => Assignment::Object(index),
                Some((_, iou)) if iou < self.negative => Assignment::Negative,
                Some(_) => Assignment::Ignored,
            }
        };
        let mut assigned: Vec<Assignment> = priors.par_iter().map(by_overlap).collect();
        if self.match_low_quality {
            // As in mmdetection, a later object takes a shared prior from an earlier one.
            let per_object: Vec<Vec<usize>> = objects.par_iter().map(|object| self.closest(priors, object, &in_crowd)).collect();
            for (index, closest) in per_object.into_iter().enumerate() {
                for prior in closest {
                    if let Some(place) = assigned.get_mut(prior) {
                        *place = Assignment::Object(index);
                    }
                }
            }
        }
        assigned
    }

    /// The priors with the largest IoU with `object`, several if they tie; none when that IoU is below `minimum`.
    fn closest(&self, priors: &[[f32; 4]], object: &[f32; 4], skip: &(impl Fn(&[f32; 4]) -> bool + Sync)) -> Vec<usize> {
        let mut best = (f32::NEG_INFINITY, Vec::new());
        for (index, prior) in priors.iter().enumerate() {
            let iou = iou(object, prior);
            if iou >= best.0 && iou >= self.minimum && !skip(prior) {
                if iou > best.0 {
                    best = (iou, Vec::new());
                }
                best.1.push(index);
            }
        }
        best.1
    }
}
