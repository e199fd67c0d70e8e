//! Epilogues on GPUs: one elementwise pass over the result of Burn's product or convolution.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::math::{gelu, sigmoid, silu};
use super::tensor::{Rows, cubes, element, empty, float32, vector_size};
use crate::epilogue::{Epilogue, EpilogueParts, Pointwise};

impl Epilogue<CubeTensor> {
    /// Applies the epilogue to `y: [.., channels]`, in the memory of `y`, which no other tensor may share.
    pub(crate) fn apply(self, y: CubeTensor) -> CubeTensor {
        let parts = self.parts();
        if parts.is_empty() {
            return y;
        }
        let y = Rows::new(y);
        // A kernel needs a buffer for every argument, also for parts that it does not read.
        let vector = |values: Option<CubeTensor>| values.map_or_else(|| empty(&y.tensor, [4], DType::F32), float32);
        let (scale, bias) = (vector(self.scale), vector(self.bias));
        let residual = self.residual.map(Rows::new);
        let mut read = vec![&y];
        read.extend(&residual);
        let size = vector_size(&read, 4);
        let (width, pitch) = (y.width() / size, y.pitch / size);
        let units = y.count() * width;
        let client = y.tensor.client.clone();
        let (count, dim) = cubes(&client, units);
        let residual = residual.unwrap_or_else(|| Rows::new(empty(&y.tensor, [4], y.tensor.dtype)));
        let residual_pitch = residual.pitch / size;
        let dtype = element(&y.tensor);
        // SAFETY: surplus units return at once; buffers of missing parts are not read.
        unsafe {
            kernel::launch_unchecked(
                &client,
                count,
                dim,
                size,
                y.tensor.clone().into_buffer_arg(),
                scale.into_buffer_arg(),
                bias.into_buffer_arg(),
                residual.tensor.into_buffer_arg(),
                width,
                pitch,
                residual_pitch,
                units,
                parts,
                dtype,
            );
        }
        y.tensor
    }
}

#[cube(launch_unchecked)]
fn kernel<F: Float, V: Size>(
    y: &mut [Vector<F, V>],
    scale: &[Vector<f32, V>],
    bias: &[Vector<f32, V>],
    residual: &[Vector<F, V>],
    width: usize,
    pitch: usize,
    residual_pitch: usize,
    units: usize,
    #[comptime] parts: EpilogueParts,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (row, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let at = row * pitch + column;
    let mut value = Vector::<f32, V>::cast_from(y[at]);
    if comptime!(parts.scale) {
        value *= scale[column];
    }
    if comptime!(parts.bias) {
        value += bias[column];
    }
    if comptime!(parts.residual) {
        value += Vector::cast_from(residual[row * residual_pitch + column]);
    }
    y[at] = Vector::cast_from(pointwise::<V>(value, parts.activation));
}

/// An activation in a kernel.
#[cube]
pub(crate) fn pointwise<V: Size>(x: Vector<f32, V>, #[comptime] activation: Pointwise) -> Vector<f32, V> {
    match activation {
        Pointwise::Identity => x,
        // NaN stays NaN.
        Pointwise::Relu => select_many(x.less_than(&Vector::new(0.0_f32)), Vector::new(0.0_f32), x),
        Pointwise::Gelu => gelu::<V>(x),
        Pointwise::Silu => silu::<V>(x),
        Pointwise::Sigmoid => sigmoid::<V>(x),
    }
}
