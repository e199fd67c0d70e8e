//! Non-maximum suppression: of boxes that overlap, only the one with the highest score is kept (mmcv's `nms` and `batched_nms`).
//!
//! Boxes and scores are plain numbers on the host, because the kept boxes determine the shapes of later tensors. [`batched_nms_on`]
//! still compares large numbers of boxes on a GPU. There is no gradient.

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

/// The pairwise comparison of boxes.
#[cfg(feature = "cube")]
#[burn::backend::backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait OverlapOps: burn::backend::Backend {
    /// For `boxes: [count, 4]`, a bit matrix `[count, ceil(count / 32)]`: bit `j` of row `i` is set if `j > i`, both boxes are in the same
    /// group, and their IoU is above the threshold.
    #[fusion(dtype = burn::tensor::DType::U32, shape = { let _ = (groups, iou_threshold); Shape::from([boxes[0], boxes[0].div_ceil(cube::BITS)]) })]
    fn overlaps(boxes: FloatTensor<Self>, groups: Arc<Vec<u32>>, iou_threshold: f32) -> IntTensor<Self>;
}

/// Indices of the kept boxes, by descending score; ties keep the order of the input. A kept box suppresses every box of lower score whose
/// IoU with it is above `iou_threshold`. Boxes are `[x0, y0, x1, y1]`.
///
/// # Panics
/// When the numbers of boxes and scores differ.
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f32) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "nms: the numbers of boxes and scores differ");
    suppress(boxes, by_score(scores), iou_threshold)
}

/// Like [`nms`], but boxes suppress only boxes of the same group (class or pyramid level).
///
/// # Panics
/// When the numbers of boxes, scores and groups differ.
pub fn batched_nms(boxes: &[[f32; 4]], scores: &[f32], groups: &[usize], iou_threshold: f32) -> Vec<usize> {
    assert!(boxes.len() == scores.len() && boxes.len() == groups.len(), "batched_nms: the numbers of boxes, scores and groups differ");
    let order = by_score(scores);
    let mut members: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for index in &order {
        members.entry(groups[*index]).or_default().push(*index);
    }
    let kept: Vec<Vec<usize>> =
        members.into_values().collect::<Vec<_>>().into_par_iter().map(|own| suppress(boxes, own, iou_threshold)).collect();
    let mut is_kept = vec![false; boxes.len()];
    kept.iter().flatten().for_each(|index| is_kept[*index] = true);
    order.into_iter().filter(|index| is_kept[*index]).collect()
}

/// [`batched_nms`], with boxes compared on `device` if that is a GPU and their number makes it faster.
///
/// # Panics
/// Like [`batched_nms`].
pub fn batched_nms_on(device: &Device, boxes: &[[f32; 4]], scores: &[f32], groups: &[usize], iou_threshold: f32) -> Vec<usize> {
    /// Numbers of boxes for which a GPU is faster. With fewer, the host finishes before it could read the matrix back; with more, reading
    /// the matrix takes too long.
    const WORTH_IT: std::ops::Range<usize> = 2048..16_385;
    #[cfg(feature = "cube")]
    if WORTH_IT.contains(&boxes.len()) && matches!(device.clone().inner().as_dispatch(), burn::backend::DispatchDevice::Cube(_)) {
        return suppress_on(device, boxes, scores, groups, iou_threshold);
    }
    let _ = (device, WORTH_IT);
    batched_nms(boxes, scores, groups, iou_threshold)
}

/// [`batched_nms`] with the bit matrix of [`OverlapOps`], computed on a GPU.
#[cfg(feature = "cube")]
fn suppress_on(device: &Device, boxes: &[[f32; 4]], scores: &[f32], groups: &[usize], iou_threshold: f32) -> Vec<usize> {
    assert!(boxes.len() == scores.len() && boxes.len() == groups.len(), "batched_nms: the numbers of boxes, scores and groups differ");
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

/// Indices by descending score. NaN comes first, so that it is noticed.
fn by_score(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    // `total_cmp` ranks NaN by its sign, which is set in the NaN of an x86 processor: such NaN are last here.
    let last = order.iter().rev().take_while(|index| scores[**index].is_nan()).count();
    order.rotate_right(last);
    order
}

/// The boxes of `order`, which is by descending score, that no earlier box suppresses.
fn suppress(boxes: &[[f32; 4]], order: Vec<usize>, iou_threshold: f32) -> Vec<usize> {
    let sorted: Vec<[f32; 4]> = order.iter().map(|index| boxes[*index]).collect();
    let kept = cpu::kept(&sorted, iou_threshold);
    order.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(index, _)| index).collect()
}
