//! Values and dimensions of tensors of Flex, Burn's CPU backend.

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};

/// The values of a float32 tensor in row-major order, as [`super::contiguous`] returns it.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    // `None` means another type or layout, both of which `contiguous` rules out.
    tensor.as_slice::<f32>().unwrap_or_default()
}

/// The dimensions of a tensor.
pub(crate) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims::<D>()
}

/// A float32 tensor from its values in row-major order.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}
