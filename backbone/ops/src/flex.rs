//! Raw access to the CPU backend's tensors, the only place where an operation meets them.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use burn::backend::DispatchDevice;
use burn::backend::flex::{FlexTensor, Layout};
use burn::prelude::*;
use burn::tensor::{Bytes, DType, Shape};

/// Whether a tensor lives on the CPU backend, where the native kernels run. Other devices get the plain-tensor composition.
pub(crate) fn is_native<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(tensor.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// The tensor in row-major order, copied only when it is a view.
///
/// # Panics
/// When the data are not float32: the CPU kernels have no other precision.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    assert!(tensor.dtype() == DType::F32, "the CPU kernels of vision-ops need float32 tensors, got {:?}", tensor.dtype());
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
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

/// A buffer that is used within one call and kept for the next: fresh pages of memory cost more than the copy that fills them.
pub(crate) struct Scratch(Vec<f32>);

/// Buffers between two uses, the most that one operation needs at once.
static KEPT: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());
const MOST_KEPT: usize = 4;

impl Scratch {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let kept = KEPT.lock().ok().and_then(|mut kept| {
            let fitting = kept.iter().position(|buffer| buffer.capacity() >= len)?;
            Some(kept.swap_remove(fitting))
        });
        let mut buffer = kept.unwrap_or_default();
        buffer.clear();
        buffer.resize(len, 0.0);
        Self(buffer)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Ok(mut kept) = KEPT.lock() {
            kept.push(std::mem::take(&mut self.0));
            // The largest stay: they fit most.
            kept.sort_by_key(|buffer| std::cmp::Reverse(buffer.capacity()));
            kept.truncate(MOST_KEPT);
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
