//! Sampling of a fixed number of training boxes with a limited share of positives (mmdetection's `RandomSampler`).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::assigner::Assignment;

/// Samples assigned boxes at random.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RandomSampler {
    /// Boxes per image.
    pub num: usize,
    /// Largest share of positives among them, in `[0, 1]`.
    pub positive_fraction: f64,
}

/// Indices of the sampled boxes, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Boxes assigned to an object.
    pub positives: Vec<usize>,
    /// Background.
    pub negatives: Vec<usize>,
}

/// The random choice behind [`RandomSampler`], as a trait so that a test can replace it.
pub trait Choose {
    /// Picks `count` of `candidates`, of which there are more than `count`, each at most once.
    fn choose(&mut self, candidates: &[usize], count: usize) -> Vec<usize>;
}

/// Picks uniformly at random; the same seed makes the same choices.
#[derive(Clone, Debug)]
pub struct RandomChoice(ChaCha8Rng);

impl RandomChoice {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
}

impl Choose for RandomChoice {
    fn choose(&mut self, candidates: &[usize], count: usize) -> Vec<usize> {
        let mut rest = candidates.to_vec();
        let count = count.min(rest.len());
        for place in 0..count {
            let left = (rest.len() - place) as u64;
            // The high half of the product is uniform in 0..left, up to a bias of left / 2^64.
            let drawn = ((u128::from(self.0.next_u64()) * u128::from(left)) >> 64) as usize;
            rest.swap(place, place + drawn);
        }
        rest.truncate(count);
        rest
    }
}

impl RandomSampler {
    /// The sampler of the published region proposal networks.
    pub const RPN: Self = Self { num: 256, positive_fraction: 0.5 };
    /// The sampler of the published heads.
    pub const ROI: Self = Self { num: 512, positive_fraction: 0.25 };

    /// Largest numbers of boxes and of positives among them.
    pub fn counts(&self) -> [usize; 2] {
        [self.num, (self.num as f64 * self.positive_fraction).ceil() as usize]
    }

    /// Samples among assigned boxes. Where there are fewer positives than allowed, more negatives are sampled.
    pub fn sample(&self, assigned: &[Assignment], choose: &mut dyn Choose) -> Sampled {
        let indices = |test: fn(&Assignment) -> bool| -> Vec<usize> {
            assigned.iter().enumerate().filter(|(_, a)| test(a)).map(|(index, _)| index).collect()
        };
        let mut pick = |candidates: Vec<usize>, most: usize| {
            if candidates.len() <= most {
                return candidates;
            }
            let mut picked = choose.choose(&candidates, most);
            picked.sort_unstable();
            picked.dedup();
            picked
        };
        let positives = pick(indices(|a| matches!(a, Assignment::Object(_))), (self.num as f64 * self.positive_fraction) as usize);
        let negatives = pick(indices(|a| matches!(a, Assignment::Negative)), self.num.saturating_sub(positives.len()));
        Sampled { positives, negatives }
    }
}
