//! Non-maximum suppression: of boxes that overlap too much, the one with the highest score stays (mmcv's `nms` and `batched_nms`).
//!
//! Boxes and scores are plain numbers: which boxes survive decides shapes, so they have left the device by then.

mod cpu;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

/// Indices of the boxes `[x0, y0, x1, y1]` that stay, by falling score (equal ones in their order): every box suppresses those of lower
/// score whose IoU with it is above `iou_threshold`.
///
/// # Panics
/// When there are not as many scores as boxes.
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f32) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "nms: one score a box");
    suppress(boxes, by_score(scores), iou_threshold)
}

/// As [`nms`], but only boxes of the same group (class or level) suppress each other.
///
/// # Panics
/// When there are not as many scores and groups as boxes.
pub fn batched_nms(boxes: &[[f32; 4]], scores: &[f32], groups: &[usize], iou_threshold: f32) -> Vec<usize> {
    assert!(boxes.len() == scores.len() && boxes.len() == groups.len(), "batched_nms: one score and one group a box");
    let order = by_score(scores);
    let mut members: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for index in &order {
        members.entry(groups[*index]).or_default().push(*index);
    }
    let kept: Vec<Vec<usize>> =
        members.into_values().collect::<Vec<_>>().into_par_iter().map(|own| suppress(boxes, own, iou_threshold)).collect();
    let mut stays = vec![false; boxes.len()];
    kept.iter().flatten().for_each(|index| stays[*index] = true);
    order.into_iter().filter(|index| stays[*index]).collect()
}

/// Indices by falling score; NaN comes first, so that it is seen rather than hidden.
fn by_score(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

/// Of the boxes `order`, those that none before them suppresses.
fn suppress(boxes: &[[f32; 4]], order: Vec<usize>, iou_threshold: f32) -> Vec<usize> {
    let sorted: Vec<[f32; 4]> = order.iter().map(|index| boxes[*index]).collect();
    let stays = cpu::stays(&sorted, iou_threshold);
    order.into_iter().zip(stays).filter(|(_, stays)| *stays).map(|(index, _)| index).collect()
}
