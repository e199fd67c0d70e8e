//! A fixed number of boxes to train on, of which a limited share are objects (mmdetection's `RandomSampler`).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::assigner::Assignment;

/// How many boxes are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomSampler {
    /// Boxes an image.
    pub num: usize,
    /// Largest share of objects among them.
    pub positive_fraction: f64,
}

/// The sampled boxes, by index and in rising order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Objects.
    pub positives: Vec<usize>,
    /// Background.
    pub negatives: Vec<usize>,
}

/// Picks `count` of the candidates, of which there are more.
pub trait Choose {
    /// The picked ones, each once.
    fn choose(&mut self, candidates: &[usize], count: usize) -> Vec<usize>;
}

/// Picks at random, the same ones for the same seed.
#[derive(Clone, Debug)]
pub struct RandomChoice(ChaCha8Rng);

impl RandomChoice {
    /// A generator of this seed.
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
            // The product's high half is uniform in 0..left but for a bias of left / 2^64.
            let drawn = ((u128::from(self.0.next_u64()) * u128::from(left)) >> 64) as usize;
            rest.swap(place, place + drawn);
        }
        rest.truncate(count);
        rest
    }
}

impl RandomSampler {
    /// That of the region proposals.
    pub const RPN: Self = Self { num: 256, positive_fraction: 0.5 };
    /// That of the heads.
    pub const ROI: Self = Self { num: 512, positive_fraction: 0.25 };

    /// Samples among assigned boxes. Missing objects are replaced by background.
    pub fn sample(&self, assigned: &[Assignment], choose: &mut dyn Choose) -> Sampled {
        let those = |test: fn(&Assignment) -> bool| -> Vec<usize> {
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
        let positives = pick(those(|a| matches!(a, Assignment::Object(_))), (self.num as f64 * self.positive_fraction) as usize);
        let negatives = pick(those(|a| matches!(a, Assignment::Negative)), self.num.saturating_sub(positives.len()));
        Sampled { positives, negatives }
    }
}
