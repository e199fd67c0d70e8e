//! Raw access to the CPU backend's tensors, the only place where an operation meets them.

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
