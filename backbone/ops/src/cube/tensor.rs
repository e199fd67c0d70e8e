//! GPU tensors as the kernels see them.
//!
//! Kernels read feature maps as `[rows, pitch]`: the channels of a row are contiguous and are read and written as vectors. CUDA pads rows
//! to a power of two of bytes, so the pitch can exceed the number of channels; [`Rows`] accepts such tensors without a copy. Arithmetic
//! is float32 whatever the type of the maps.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Units of a cube in kernels without shared memory.
const UNITS: u32 = 128;

/// A tensor whose last axis is contiguous and whose rows are equally spaced.
pub(crate) struct Rows {
    /// The tensor.
    pub(crate) tensor: CubeTensor,
    /// Values from one row to the next.
    pub(crate) pitch: usize,
}

impl Rows {
    /// The tensor itself if its layout allows it, otherwise a contiguous copy.
    pub(crate) fn new(tensor: CubeTensor) -> Self {
        if let Some(pitch) = pitch(tensor.meta.shape(), tensor.meta.strides()) {
            return Self { tensor, pitch };
        }
        let tensor = into_contiguous(tensor);
        let pitch = tensor.meta.shape().last().copied().unwrap_or(1);
        Self { tensor, pitch }
    }

    /// Values in a row.
    pub(crate) fn width(&self) -> usize {
        self.tensor.meta.shape().last().copied().unwrap_or(1)
    }

    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.tensor.meta.shape().num_elements() / self.width().max(1)
    }

    /// Whether rows can be read in vectors of `size` values.
    pub(crate) fn allows(&self, size: usize) -> bool {
        let bytes = (size * self.tensor.dtype.size()) as u64;
        let offset = self.tensor.handle.offset_start.unwrap_or(0);
        self.pitch.is_multiple_of(size) && self.width().is_multiple_of(size) && offset.is_multiple_of(bytes)
    }
}

/// The distance between rows, if the last axis is contiguous and rows are equally spaced.
fn pitch(shape: &[usize], strides: &[usize]) -> Option<usize> {
    let rank = shape.len();
    let width = *shape.last()?;
    if width > 1 && strides[rank - 1] != 1 {
        return None;
    }
    // From the last axis but one outwards, the stride of an axis must be the extent times the stride of the axis inside it. Strides of axes
    // of length 1 do not matter.
    let mut pitch = None;
    let mut inside = 0;
    for axis in (0..rank - 1).rev() {
        if shape[axis] == 1 {
            continue;
        }
        match pitch {
            None if strides[axis] >= width => pitch = Some(strides[axis]),
            Some(_) if strides[axis] == inside => {}
            _ => return None,
        }
        inside = strides[axis] * shape[axis];
    }
    Some(pitch.unwrap_or(width))
}

/// The largest vector size of 4, 2 and 1, at most `most`, in which all of `rows` can be read.
pub(crate) fn vector_size(rows: &[&Rows], most: usize) -> usize {
    [4, 2].into_iter().find(|size| *size <= most && rows.iter().all(|rows| rows.allows(*size))).unwrap_or(1)
}

/// An uninitialised contiguous tensor on the device of `like`.
///
/// # Panics
/// When it has 2^32 values or more: kernels index with 32 bits.
pub(crate) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape = shape.into();
    assert!(
        u32::try_from(shape.num_elements()).is_ok(),
        "a tensor of shape {shape:?} has 2^32 values or more, beyond the 32-bit indices of the GPU kernels"
    );
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// The tensor in row-major order, aligned for vectors of up to four values.
pub(crate) fn contiguous(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    let vector = 4 * tensor.dtype.size() as u64;
    if tensor.handle.offset_start.unwrap_or(0).is_multiple_of(vector) { tensor } else { tensor.copy() }
}

/// [`contiguous`] in float32.
pub(crate) fn float32(tensor: CubeTensor) -> CubeTensor {
    contiguous(cast(tensor, DType::F32))
}

/// The tensor in another type.
pub(crate) fn cast(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    if tensor.dtype == dtype { tensor } else { burn_cubecl::kernel::cast(tensor, dtype) }
}

/// CubeCL's name of a tensor's type.
pub(crate) fn element(tensor: &CubeTensor) -> ElemType {
    burn::backend::cubecl::dtype_to_storage_type(tensor.dtype)
}

/// Copies numbers from the host to the device of `like`.
pub(crate) fn upload(like: &CubeTensor, values: &[u32]) -> CubeTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let handle = like.client.create_from_slice(&bytes);
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), Shape::from([values.len()]), handle, DType::U32)
}

/// The launch size for `units` units, in cubes of [`UNITS`]. Whole cubes may contain surplus units.
pub(crate) fn cubes(client: &Client, units: usize) -> (CubeCount, CubeDim) {
    (cubecl::calculate_cube_count_elemwise(client, units, CubeDim::new_1d(UNITS)), CubeDim::new_1d(UNITS))
}
