//! Memory layouts of Flex tensors: row-major copies of views, and channels first against channels last.

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use rayon::prelude::*;

use super::flex::{dims, tensor, values};
use super::shared::SharedMut;

/// `[batch, channels, height, width]` permuted to `[batch, height, width, channels]`.
const TO_LAST: [usize; 4] = [0, 2, 3, 1];

/// The inverse of [`TO_LAST`].
const TO_FIRST: [usize; 4] = [0, 3, 1, 2];

/// The tensor in row-major order, copied only when it is a view.
///
/// # Panics
/// When the data are not float32: the CPU kernels have no other precision.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    assert!(tensor.dtype() == DType::F32, "the CPU kernels of vision-ops need float32 tensors, got {:?}", tensor.dtype());
    if tensor.is_contiguous() {
        return tensor;
    }
    // Burn copies views on one thread, element by element. Conversions between channels first and channels last are common and large, so
    // they are transposed here in tiles, on all threads.
    if tensor.layout().num_dims() == 4 {
        let [_, second, third, fourth] = dims::<4>(&tensor);
        for (axes, rows, columns) in [(TO_LAST, third * fourth, second), (TO_FIRST, fourth, second * third)] {
            let stored = tensor.permute(&axes);
            if stored.is_contiguous() {
                return self::tensor(transpose(values(&stored), rows, columns), tensor.layout().shape().clone());
            }
        }
    }
    tensor.to_contiguous()
}

/// The channels-first map as a `[batch, height, width, channels]` view, if its memory is channels last.
pub(crate) fn stored_channels_last(tensor: &FlexTensor) -> Option<FlexTensor> {
    let last = tensor.permute(&TO_LAST);
    (!tensor.is_contiguous() && last.is_contiguous()).then_some(last)
}

/// `[batch, height, width, channels]` as a channels-first view of the same memory.
pub(crate) fn as_channels_first(tensor: &FlexTensor) -> FlexTensor {
    tensor.permute(&TO_FIRST)
}

/// A channels-first map copied to channels-last order.
pub(crate) fn to_channels_last(tensor: &FlexTensor) -> FlexTensor {
    contiguous(tensor.permute(&TO_LAST))
}

/// `[n, rows, columns]` to `[n, columns, rows]`, in tiles that stay in the cache.
fn transpose(source: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 16;
    let mut target = vec![0.0; source.len()];
    if source.is_empty() {
        return target;
    }
    let matrix = rows * columns;
    // A task writes a band of up to `TILE` rows of one transposed matrix.
    let bands = columns.div_ceil(TILE);
    let shared = SharedMut::new(&mut target);
    (0..source.len() / matrix * bands).into_par_iter().for_each(|task| {
        let (n, first) = (task / bands, task % bands * TILE);
        let height = TILE.min(columns - first);
        let source = &source[n * matrix..][..matrix];
        // SAFETY: the bands of different tasks are disjoint and inside `target`.
        let target = unsafe { shared.block(n * matrix + first * rows, height * rows) };
        for begin in (0..rows).step_by(TILE) {
            for row in begin..rows.min(begin + TILE) {
                let line = &source[row * columns + first..][..height];
                for (column, value) in line.iter().enumerate() {
                    target[column * rows + row] = *value;
                }
            }
        }
    });
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_equals_burns_copy_for_every_permutation() {
        let shape = [2, 5, 18, 33];
        let stored = tensor(crate::testing::random(shape.iter().product(), 1), shape);
        for axes in [TO_LAST, TO_FIRST, [0, 1, 3, 2], [3, 1, 2, 0]] {
            let view = stored.permute(&axes);
            let copy = contiguous(view.clone());
            assert_eq!(dims::<4>(&copy), dims::<4>(&view));
            assert_eq!(values(&copy), values(&view.to_contiguous()), "{axes:?}");
        }
    }

    #[test]
    fn channels_last_memory_is_recognised() {
        let shape = [2, 5, 18, 33];
        let stored = tensor(crate::testing::random(shape.iter().product(), 1), shape);
        assert!(stored_channels_last(&stored).is_none());
        let last = stored_channels_last(&as_channels_first(&stored)).expect("the memory is channels last");
        assert_eq!(values(&last), values(&stored));
    }
}
