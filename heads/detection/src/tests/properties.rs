//! Properties of boxes, assignments and samples.

use proptest::prelude::*;

use crate::anchor_generator::AnchorConfig;
use crate::assigner::{Assignment, MaxIouAssigner};
use crate::box_coder::BoxCoder;
use crate::boxes::{giou, iof, iou};
use crate::sampler::{Choose, RandomChoice, RandomSampler};

/// Boxes whose sides have ratios below the coder's limit.
fn bbox() -> impl Strategy<Value = [f32; 4]> {
    (0.0..200.0_f32, 0.0..200.0_f32, 2.0..120.0_f32, 2.0..120.0_f32).prop_map(|(x, y, w, h)| [x, y, x + w, y + h])
}

/// The slow reference of [`MaxIouAssigner::assign`]: one prior and one object at a time.
fn slow(assigner: &MaxIouAssigner, priors: &[[f32; 4]], objects: &[[f32; 4]]) -> Vec<Assignment> {
    let mut assigned: Vec<Assignment> = priors
        .iter()
        .map(|prior| {
            let overlaps: Vec<f32> = objects.iter().map(|object| iou(object, prior)).collect();
            let most = overlaps.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            match overlaps.iter().position(|overlap| *overlap == most) {
                Some(object) if most >= assigner.positive => Assignment::Object(object),
                Some(_) if most >= assigner.negative => Assignment::Ignored,
                _ => Assignment::Negative,
            }
        })
        .collect();
    for (index, object) in objects.iter().enumerate() {
        let most = priors.iter().map(|prior| iou(object, prior)).fold(f32::NEG_INFINITY, f32::max);
        for (prior, place) in priors.iter().zip(&mut assigned) {
            if most >= assigner.minimum && iou(object, prior) == most {
                *place = Assignment::Object(index);
            }
        }
    }
    assigned
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_decoded_box_is_the_encoded_one(prior in bbox(), target in bbox()) {
        for coder in [BoxCoder::RPN, BoxCoder::BOX_HEAD] {
            let back = coder.decode(prior, coder.encode(prior, target), None);
            for (a, b) in back.iter().zip(target) {
                // Float32 resolves 2e-5 pixels at a coordinate of 200; the logarithm and the ratio of the sides amplify that.
                prop_assert!((a - b).abs() < 0.01, "{back:?}, {target:?}");
            }
        }
    }

    #[test]
    fn overlaps_are_shares(a in bbox(), b in bbox()) {
        prop_assert!((0.0..=1.0).contains(&iou(&a, &b)) && iou(&a, &b) == iou(&b, &a));
        prop_assert!(iof(&a, &b) >= iou(&a, &b) - 1e-6);
        prop_assert!(giou(&a, &b) <= iou(&a, &b) + 1e-6 && giou(&a, &b) > -1.0);
    }

    #[test]
    fn assignments_follow_the_definition(priors in prop::collection::vec(bbox(), 0..40), objects in prop::collection::vec(bbox(), 0..5)) {
        for assigner in [MaxIouAssigner::RPN, MaxIouAssigner::ROI] {
            prop_assert_eq!(assigner.assign(&priors, &objects, &[]), slow(&assigner, &priors, &objects));
        }
    }

    #[test]
    fn samples_keep_their_limits(codes in prop::collection::vec(0_u8..3, 0..200), num in 1_usize..80, seed in any::<u64>()) {
        let assigned: Vec<Assignment> = codes
            .iter()
            .map(|code| match code {
                0 => Assignment::Ignored,
                1 => Assignment::Negative,
                _ => Assignment::Object(0),
            })
            .collect();
        let sampler = RandomSampler { num, positive_fraction: 0.5 };
        let sampled = sampler.sample(&assigned, &mut RandomChoice::new(seed));
        let count = |code: u8| codes.iter().filter(|c| **c == code).count();
        prop_assert_eq!(sampled.positives.len(), count(2).min(num / 2));
        prop_assert_eq!(sampled.negatives.len(), count(1).min(num - sampled.positives.len()));
        prop_assert!(sampled.positives.iter().all(|i| codes[*i] == 2) && sampled.negatives.iter().all(|i| codes[*i] == 1));
        prop_assert!(sampled.positives.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn no_anchor_of_the_grid_is_closer_than_the_best_one(b in bbox()) {
        let anchors = AnchorConfig { scales: vec![2.0, 8.0], ..AnchorConfig::default() }.init(&[8, 16]);
        let grid = (0..2).flat_map(|level| anchors.grid(level, [64, 64])).map(|anchor| iou(&anchor, &b)).fold(0.0, f32::max);
        prop_assert!((anchors.best_iou(b) - grid).abs() < 1e-5, "{} against {grid}", anchors.best_iou(b));
    }
}

#[test]
fn random_choices_are_distinct_and_reach_every_candidate() {
    let candidates: Vec<usize> = (100..150).collect();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let picked = RandomChoice::new(seed).choose(&candidates, 10);
        let distinct: std::collections::BTreeSet<usize> = picked.iter().copied().collect();
        assert_eq!((picked.len(), distinct.len()), (10, 10));
        assert_eq!(picked, RandomChoice::new(seed).choose(&candidates, 10), "the same seed, the same choice");
        seen.extend(distinct);
    }
    assert_eq!(seen.len(), 50);
}
