//! Which prior boxes stand for which object (mmdetection's `MaxIoUAssigner` with low-quality matches).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::boxes::{iof, iou};

/// What a prior box is trained to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// Neither object nor background: takes no part.
    Ignored,
    /// Background.
    Negative,
    /// The object of this index.
    Object(usize),
}

/// Thresholds of the assignment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxIouAssigner {
    /// From this IoU on a prior is the object it overlaps most.
    pub positive: f32,
    /// Below this IoU it is background.
    pub negative: f32,
    /// An object also gets the priors that overlap it most, if they do by at least this much.
    pub minimum: f32,
    /// Whether an object gets these.
    #[serde(default = "yes")]
    pub match_low_quality: bool,
    /// Priors with more than this share of their area inside a crowd take no part; absent to train on crowds as background, as the
    /// published models were.
    #[serde(default)]
    pub ignore_crowd: Option<f32>,
}

fn yes() -> bool {
    true
}

impl MaxIouAssigner {
    /// That of the region proposals.
    pub const RPN: Self = Self { positive: 0.7, negative: 0.3, minimum: 0.3, match_low_quality: true, ignore_crowd: None };
    /// That of the heads.
    pub const ROI: Self = Self { positive: 0.5, negative: 0.5, minimum: 0.5, match_low_quality: true, ignore_crowd: None };

    /// Assigns every prior box; `objects` are the ground truth without its crowds, all boxes `[x0, y0, x1, y1]`.
    pub fn assign(&self, priors: &[[f32; 4]], objects: &[[f32; 4]], crowds: &[[f32; 4]]) -> Vec<Assignment> {
        let in_crowd = |prior: &[f32; 4]| self.ignore_crowd.is_some_and(|share| crowds.iter().any(|crowd| iof(prior, crowd) > share));
        let by_overlap = |prior: &[f32; 4]| {
            if in_crowd(prior) {
                return Assignment::Ignored;
            }
            // The first of equal ones.
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
            // A later object takes a prior from an earlier one.
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

    /// All priors that overlap an object most, if they do enough.
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
