//! The pairwise comparison of boxes on GPUs: a unit computes 32 bits of the matrix of all pairs. The host then combines the rows of the
//! kept boxes.

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use cubecl::prelude::*;

use super::OverlapOps;
use crate::cube::{cubes, empty, upload};

/// Boxes that a unit compares with its own: the bits of a word.
pub(super) const BITS: usize = 32;

impl OverlapOps for CubeBackend {
    fn overlaps(boxes: FloatTensor<Self>, groups: Arc<Vec<u32>>, iou_threshold: f32) -> IntTensor<Self> {
        let boxes = into_contiguous(boxes);
        let [boxes_count, _] = boxes.meta.shape().dims::<2>();
        let words = boxes_count.div_ceil(BITS);
        let matrix = empty(&boxes, [boxes_count, words], DType::U32);
        let units = boxes_count * words;
        let client = boxes.client.clone();
        let (count, dim) = cubes(&client, units);
        let groups = upload(&boxes, &groups);
        // SAFETY: surplus units return at once, and boxes beyond the last are not read.
        unsafe {
            pairs::launch_unchecked(
                &client,
                count,
                dim,
                boxes.into_buffer_arg(),
                groups.into_buffer_arg(),
                matrix.clone().into_buffer_arg(),
                boxes_count,
                words,
                iou_threshold,
                units,
            );
        }
        matrix
    }
}

/// Sets bit `j` of word `w` of row `i` if box `32 w + j` is later than box `i`, in the same group, and their IoU is above the threshold.
#[cube(launch_unchecked)]
fn pairs(boxes: &[f32], groups: &[u32], matrix: &mut [u32], count: usize, words: usize, iou_threshold: f32, units: usize) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (index, word) = (ABSOLUTE_POS / words, ABSOLUTE_POS % words);
    let (x0, y0, x1, y1) = (boxes[index * 4], boxes[index * 4 + 1], boxes[index * 4 + 2], boxes[index * 4 + 3]);
    let area = (x1 - x0) * (y1 - y0);
    let group = groups[index];
    let mut bits = 0_u32;
    for bit in 0..BITS {
        let other = word * BITS + bit;
        if other > index && other < count && groups[other] == group {
            let (a0, b0, a1, b1) = (boxes[other * 4], boxes[other * 4 + 1], boxes[other * 4 + 2], boxes[other * 4 + 3]);
            let width = max(min(x1, a1) - max(x0, a0), 0.0_f32);
            let height = max(min(y1, b1) - max(y0, b0), 0.0_f32);
            let overlap = width * height;
            let union = area + (a1 - a0) * (b1 - b0) - overlap;
            // The IoU of two boxes of zero area is undefined; they do not suppress each other.
            if union > 0.0_f32 && overlap / union > iou_threshold {
                bits |= 1_u32 << bit as u32;
            }
        }
    }
    matrix[ABSOLUTE_POS] = bits;
}
