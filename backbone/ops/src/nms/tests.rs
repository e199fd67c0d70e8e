use super::{batched_nms, batched_nms_on, cpu, nms, reference};
use crate::testing::random;

/// Boxes in clusters, so that many overlap.
fn boxes(count: usize, seed: u64) -> Vec<[f32; 4]> {
    let centres = random(40, seed + 1);
    random(count * 4, seed)
        .as_chunks::<4>()
        .0
        .iter()
        .enumerate()
        .map(|(index, r)| {
            let (x, y) = (centres[index * 2 % 40] * 200.0 + r[0] * 6.0, centres[(index * 2 + 1) % 40] * 200.0 + r[1] * 6.0);
            let (w, h) = (20.0 + r[2] * 10.0, 20.0 + r[3] * 10.0);
            [x, y, x + w, y + h]
        })
        .collect()
}

#[test]
fn the_kernel_equals_the_reference() {
    for (count, seed) in [(0, 1), (1, 2), (17, 3), (500, 4), (1000, 5)] {
        for threshold in [0.3, 0.5, 0.7] {
            let boxes = boxes(count, seed);
            assert_eq!(cpu::kept(&boxes, threshold), reference::kept(&boxes, threshold), "{count} boxes, {threshold}");
        }
    }
}

#[test]
fn kept_boxes_come_by_descending_score_and_ties_in_input_order() {
    let boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.1], [50.0, 50.0, 60.0, 60.0], [50.0, 50.0, 60.0, 60.0]];
    assert_eq!(nms(&boxes, &[0.3, 0.9, 0.5, 0.5], 0.5), [1, 2]);
    // An IoU equal to the threshold does not suppress. These boxes share half of each, a third of their union.
    let halves = [[0.0, 0.0, 8.0, 2.0], [4.0, 0.0, 12.0, 2.0]];
    assert_eq!(nms(&halves, &[0.9, 0.8], 4.0 / 12.0), [0, 1]);
    assert_eq!(nms(&halves, &[0.9, 0.8], 0.33), [0]);
    // Boxes of zero area neither suppress nor are suppressed.
    let empty = [[3.0, 3.0, 3.0, 3.0]; 2];
    assert_eq!(nms(&empty, &[0.9, 0.8], 0.5), [0, 1]);
}

#[test]
fn nan_scores_come_first_whatever_their_sign() {
    let boxes = [0.0, 10.0, 20.0, 30.0].map(|x| [x, 0.0, x + 1.0, 1.0]);
    for nan in [f32::NAN.copysign(1.0), f32::NAN.copysign(-1.0)] {
        assert_eq!(nms(&boxes, &[0.3, 0.9, nan, 0.5], 0.5), [2, 1, 3, 0]);
    }
}

#[test]
fn boxes_suppress_only_boxes_of_their_group() {
    let boxes = boxes(400, 9);
    let scores = random(400, 10);
    let groups: Vec<usize> = (0..400).map(|i| i * 7 % 5).collect();
    let kept = batched_nms(&boxes, &scores, &groups, 0.5);
    assert!(kept.windows(2).all(|pair| scores[pair[0]] >= scores[pair[1]]));
    for group in 0..5 {
        let members: Vec<usize> = (0..400).filter(|i| groups[*i] == group).collect();
        let own = nms(&members.iter().map(|i| boxes[*i]).collect::<Vec<_>>(), &members.iter().map(|i| scores[*i]).collect::<Vec<_>>(), 0.5);
        let own: Vec<usize> = own.into_iter().map(|i| members[i]).collect();
        assert_eq!(kept.iter().copied().filter(|i| groups[*i] == group).collect::<Vec<_>>(), own);
    }
}

#[test]
fn the_gpu_keeps_the_same_boxes_as_the_cpu() {
    let device = crate::testing::gpu().unwrap_or_else(crate::testing::cpu);
    // Below and above the number from which the GPU is used; 2051 is not a multiple of the bits of a word.
    for count in [300, 2051] {
        let boxes = boxes(count, 11);
        let scores = random(count, 12);
        let groups: Vec<usize> = (0..count).map(|i| i * 7 % 5).collect();
        for threshold in [0.3, 0.7] {
            let expected = batched_nms(&boxes, &scores, &groups, threshold);
            assert_eq!(batched_nms_on(&device, &boxes, &scores, &groups, threshold), expected, "{count} boxes, {threshold}");
        }
    }
}
