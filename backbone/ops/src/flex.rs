//! Raw access to the CPU backend's tensors, the only place where an operation meets them.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use burn::backend::DispatchDevice;
use burn::backend::flex::{FlexTensor, Layout};
use burn::prelude::*;
use burn::tensor::{Bytes, DType, Shape};
use rayon::prelude::*;

/// Whether a tensor lives on the CPU backend, where the native kernels run. Other devices get the plain-tensor composition.
pub(crate) fn is_native<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(tensor.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether there are kernels for the device of a tensor: the CPU's, or those of GPUs. Other devices get the plain-tensor composition.
pub(crate) fn has_kernel<const D: usize>(tensor: &Tensor<D>) -> bool {
    match tensor.device().inner().as_dispatch() {
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => true,
        #[allow(unreachable_patterns, reason = "which devices there are depends on Burn's features")]
        _ => false,
    }
}

/// The tensor in row-major order, copied only when it is a view.
///
/// # Panics
/// When the data are not float32: the CPU kernels have no other precision.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    assert!(tensor.dtype() == DType::F32, "the CPU kernels of vision-ops need float32 tensors, got {:?}", tensor.dtype());
    if tensor.is_contiguous() {
        return tensor;
    }
    // Between channels first and channels last on all threads and in tiles, as Burn does not.
    if tensor.layout().num_dims() == 4 {
        let [_, second, third, fourth] = dims::<4>(&tensor);
        for (axes, rows, columns) in [(LAST, third * fourth, second), (FIRST, fourth, second * third)] {
            let stored = tensor.permute(&axes);
            if stored.is_contiguous() {
                return self::tensor(transposed(values(&stored), rows, columns), tensor.layout().shape().clone());
            }
        }
    }
    tensor.to_contiguous()
}

/// Axes of a channels-first tensor in channels-last order, and the way back.
const LAST: [usize; 4] = [0, 2, 3, 1];
const FIRST: [usize; 4] = [0, 3, 1, 2];

/// A channels-first map as `[batch, height, width, channels]`, when that is how it lies in memory.
pub(crate) fn stored_channels_last(tensor: &FlexTensor) -> Option<FlexTensor> {
    let last = tensor.permute(&LAST);
    (!tensor.is_contiguous() && last.is_contiguous()).then_some(last)
}

/// `[batch, height, width, channels]` as a channels-first view of the same memory.
pub(crate) fn as_channels_first(tensor: &FlexTensor) -> FlexTensor {
    tensor.permute(&FIRST)
}

/// A channels-first map in channels-last order.
pub(crate) fn to_channels_last(tensor: &FlexTensor) -> FlexTensor {
    contiguous(tensor.permute(&LAST))
}

/// `[n, rows, columns]` to `[n, columns, rows]`, in tiles that stay in the cache.
fn transposed(source: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 16;
    let mut target = vec![0.0; source.len()];
    if source.is_empty() {
        return target;
    }
    let matrix = rows * columns;
    // A task makes a band of rows of one result.
    let bands = columns.div_ceil(TILE);
    let shared = SharedMut::new(&mut target);
    (0..source.len() / matrix * bands).into_par_iter().for_each(|task| {
        let (n, first) = (task / bands, task % bands * TILE);
        let height = TILE.min(columns - first);
        let source = &source[n * matrix..][..matrix];
        // SAFETY: the bands of all tasks are disjoint and inside `target`.
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

/// The values of a tensor that went through [`contiguous`].
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    // `contiguous` established both conditions under which this is `None`.
    tensor.as_slice::<f32>().unwrap_or_default()
}

/// The dimensions of a tensor.
pub(crate) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims::<D>()
}

/// A tensor from its values in row-major order.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}

/// The tensor with `f` applied to every block of `size` values; in its own memory where nobody else reads that.
pub(crate) fn map_blocks(x: FlexTensor, size: usize, f: impl Fn(&mut [f32]) + Send + Sync) -> FlexTensor {
    let mut x = contiguous(x);
    let len = values(&x).len();
    // A view may be a part of its memory.
    if let Some(own) = x.try_storage_mut::<f32>()
        && own.len() == len
    {
        own.par_chunks_mut(size).for_each(f);
        return x;
    }
    let mut y = vec![0.0; len];
    y.par_chunks_mut(size).zip(values(&x).par_chunks(size)).for_each(|(y, x)| {
        y.copy_from_slice(x);
        f(y);
    });
    tensor(y, x.layout().shape().clone())
}

/// A buffer that is used within one call and kept for later ones: fresh pages of memory cost more than the copy that fills them.
pub(crate) struct Scratch(Vec<f32>);

/// Buffers nobody uses at the moment, by rising capacity.
static KEPT: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Most values kept, all buffers together: 256 MiB.
const MOST_KEPT: usize = 1 << 26;

/// How much larger than needed a kept buffer may be: a large one should be there for those that need it.
const MOST_TOO_LARGE: usize = 4;

impl Scratch {
    /// `len` values that the caller sets; until then they are whatever was there.
    pub(crate) fn unset(len: usize) -> Self {
        let mut buffer = take(len).unwrap_or_else(|| Vec::with_capacity(len));
        buffer.resize(len, 0.0);
        Self(buffer)
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        // The system gives fresh memory as zeros.
        let Some(mut buffer) = take(len) else { return Self(vec![0.0; len]) };
        buffer.clear();
        buffer.resize(len, 0.0);
        Self(buffer)
    }
}

/// The smallest kept buffer that has room for `len` values and not much more.
fn take(len: usize) -> Option<Vec<f32>> {
    // An address sanitizer sees an access behind the end only when memory ends there: `.ci/run` asks for exact buffers.
    if len == 0 || cfg!(exact_buffers) {
        return None;
    }
    let mut kept = KEPT.lock().ok()?;
    let fitting = kept.partition_point(|buffer| buffer.capacity() < len);
    (kept.get(fitting)?.capacity() <= MOST_TOO_LARGE * len).then(|| kept.remove(fitting))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > MOST_KEPT {
            return;
        }
        let Ok(mut kept) = KEPT.lock() else { return };
        let place = kept.partition_point(|other| other.capacity() < buffer.capacity());
        kept.insert(place, buffer);
        // Small ones are cheap to get anew.
        while kept.iter().map(Vec::capacity).sum::<usize>() > MOST_KEPT {
            kept.remove(0);
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// A pointer that tasks share to write disjoint parts of one buffer.
///
/// Tasks that own a block of channels write strided, interleaved parts of the output, which slices cannot express.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(*mut f32);

// SAFETY: every user writes only the elements its task owns, see `SharedMut::block`.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    /// Shares a buffer that outlives the parallel section.
    pub(crate) fn new(buffer: &mut [f32]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// The range lies inside the buffer, no other task touches it, and the caller holds no second reference to it.
    #[expect(clippy::mut_from_ref, reason = "that is the purpose; disjointness is the caller's duty")]
    #[inline(always)]
    pub(crate) unsafe fn block(&self, start: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller keeps the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_between_channels_first_and_last_become_contiguous_as_burns_copy_has_them() {
        let shape = [2, 5, 18, 33];
        let stored = tensor(crate::testing::random(shape.iter().product(), 1), shape);
        for axes in [LAST, FIRST, [0, 1, 3, 2], [3, 1, 2, 0]] {
            let view = stored.permute(&axes);
            let copy = contiguous(view.clone());
            assert_eq!(dims::<4>(&copy), dims::<4>(&view));
            assert_eq!(values(&copy), values(&view.to_contiguous()), "{axes:?}");
        }
        assert!(stored_channels_last(&stored).is_none());
        let last = stored_channels_last(&as_channels_first(&stored)).expect("this is how it lies in memory");
        assert_eq!(values(&last), values(&stored));
    }

    #[test]
    fn blocks_are_mapped_in_place_only_where_nobody_else_reads_them() {
        let numbers: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let doubled = |from: usize, to: usize| numbers[from..to].iter().map(|x| 2.0 * x).collect::<Vec<_>>();
        let double = |x: &mut [f32]| x.iter_mut().for_each(|x| *x *= 2.0);
        let own = tensor(numbers.clone(), [3, 10]);
        let memory = values(&own).as_ptr();
        let mapped = map_blocks(own, 7, double);
        assert_eq!((values(&mapped), values(&mapped).as_ptr()), (doubled(0, 30).as_slice(), memory));
        let shared = tensor(numbers.clone(), [3, 10]);
        let mapped = map_blocks(shared.clone(), 7, double);
        assert_eq!((values(&shared), values(&mapped)), (numbers.as_slice(), doubled(0, 30).as_slice()));
        // The only reader of a part.
        let part = shared.narrow(0, 1, 1);
        drop(mapped);
        assert_eq!(values(&map_blocks(part, 7, double)), doubled(10, 20));
    }

    #[test]
    fn zeros_are_zeros_in_a_buffer_that_was_used_before() {
        // A size no other test asks for, so that the buffer is this one.
        for _ in 0..3 {
            let mut scratch = Scratch::zeros(12_347);
            assert!(scratch.iter().all(|value| *value == 0.0));
            scratch.fill(1.0);
        }
        assert_eq!(Scratch::unset(12_346).len(), 12_346);
        assert!(Scratch::zeros(0).is_empty());
    }

    #[test]
    fn a_buffer_much_larger_than_needed_stays_for_others() {
        drop(Scratch::unset(7_000_001));
        let small = Scratch::unset(10);
        assert!(small.0.capacity() <= 10 * MOST_TOO_LARGE);
    }
}
