//! Non-maximum suppression: of boxes that overlap too much, the one with the highest score stays (mmcv's `nms` and `batched_nms`).
//!
//! Boxes and scores are plain numbers: which boxes survive decides shapes, so they have left the device by then. Many boxes may still be
//! compared on a GPU, see [`batched_nms_on`].

mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

#[cfg(feature = "cube")]
use std::sync::Arc;

#[cfg(feature = "cube")]
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::prelude::*;
use rayon::prelude::*;

/// The pairs of boxes that overlap.
#[cfg(feature = "cube")]
#[burn::backend::backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait OverlapOps: burn::backend::Backend {
    /// Of `boxes` `[count, 4]`, a matrix of bits `[count, count / 32]`, rounded up: the later boxes of the same group that each overlaps
    /// too much.
    #[fusion(dtype = burn::tensor::DType::U32, shape = { let _ = (groups, iou_threshold); Shape::from([boxes[0], boxes[0].div_ceil(cube::BITS)]) })]
    fn overlaps(boxes: FloatTensor<Self>, groups: Arc<Vec<u32>>, iou_threshold: f32) -> IntTensor<Self>;
}

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

/// [`batched_nms`] with the boxes compared on `device` where that is a GPU and there are enough of them for it to pay.
///
/// # Panics
/// As [`batched_nms`].
pub fn batched_nms_on(device: &Device, boxes: &[[f32; 4]], scores: &[f32], groups: &[usize], iou_threshold: f32) -> Vec<usize> {
    /// Fewer are done on the host before a matrix has come back, and the matrix of more takes too long to read.
    const WORTH_IT: std::ops::Range<usize> = 2048..16_385;
    #[cfg(feature = "cube")]
    if WORTH_IT.contains(&boxes.len()) && matches!(device.clone().inner().as_dispatch(), burn::backend::DispatchDevice::Cube(_)) {
        return suppress_on(device, boxes, scores, groups, iou_threshold);
    }
    let _ = (device, WORTH_IT);
    batched_nms(boxes, scores, groups, iou_threshold)
}

#[cfg(feature = "cube")]
fn suppress_on(device: &Device, boxes: &[[f32; 4]], scores: &[f32], groups: &[usize], iou_threshold: f32) -> Vec<usize> {
    assert!(boxes.len() == scores.len() && boxes.len() == groups.len(), "batched_nms: one score and one group a box");
    let order = by_score(scores);
    let sorted: Vec<f32> = order.iter().flat_map(|index| boxes[*index]).collect();
    let groups = order.iter().map(|index| groups[*index] as u32).collect();
    let sorted = Tensor::<2>::from_data(TensorData::new(sorted, [order.len(), 4]), &device.clone().inner());
    let matrix = <burn::backend::Dispatch as OverlapOps>::overlaps(sorted.into_dispatch(), Arc::new(groups), iou_threshold);
    let matrix: Vec<u32> = Tensor::<2, Int>::from_dispatch(matrix).into_data().iter::<u32>().collect();
    let words = order.len().div_ceil(cube::BITS);
    let mut suppressed = vec![0_u32; words];
    let mut kept = Vec::new();
    for (place, (index, row)) in order.iter().zip(matrix.chunks_exact(words)).enumerate() {
        if suppressed[place / cube::BITS] >> (place % cube::BITS) & 1 == 0 {
            kept.push(*index);
            suppressed.iter_mut().zip(row).for_each(|(all, own)| *all |= own);
        }
    }
    kept
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
