//! Activations on GPUs: one unit for each vector of values.

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{Activation, ActivationGradOps, ActivationGrads, ActivationOps};
use crate::cube::math::{gelu, normal_cumulative, sigmoid, silu, softplus};
use crate::cube::{Rows, cubes, element, empty, vector_size};

impl ActivationOps for CubeBackend {
    fn activation(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        let x = Rows::new(x);
        let y = empty(&x.tensor, x.tensor.meta.shape().clone(), x.tensor.dtype);
        let size = vector_size(&[&x], 4);
        let (width, pitch) = (x.width() / size, x.pitch / size);
        let units = x.count() * width;
        let (client, dtype) = (y.client.clone(), element(&y));
        let (count, dim) = cubes(&client, units);
        // SAFETY: surplus units return at once, and the others index inside both tensors.
        unsafe {
            forward::launch_unchecked(
                &client,
                count,
                dim,
                size,
                x.tensor.into_buffer_arg(),
                y.clone().into_buffer_arg(),
                width,
                pitch,
                units,
                kind,
                dtype,
            );
        }
        y
    }
}

impl ActivationGradOps for CubeBackend {
    fn activation_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>, kind: Activation) -> ActivationGrads<Self> {
        let (grad, x) = (Rows::new(grad), Rows::new(x));
        let dx = empty(&x.tensor, x.tensor.meta.shape().clone(), x.tensor.dtype);
        let size = vector_size(&[&grad, &x], 4);
        let width = x.width() / size;
        let units = x.count() * width;
        let (client, dtype) = (dx.client.clone(), element(&dx));
        let (count, dim) = cubes(&client, units);
        let (x_pitch, grad_pitch) = (x.pitch / size, grad.pitch / size);
        // SAFETY: as in the forward pass.
        unsafe {
            backward::launch_unchecked(
                &client,
                count,
                dim,
                size,
                grad.tensor.into_buffer_arg(),
                x.tensor.into_buffer_arg(),
                dx.clone().into_buffer_arg(),
                width,
                grad_pitch,
                x_pitch,
                units,
                kind,
                dtype,
            );
        }
        ActivationGrads { x: dx }
    }
}

#[cube(launch_unchecked)]
fn forward<F: Float, V: Size>(
    x: &[Vector<F, V>],
    y: &mut [Vector<F, V>],
    width: usize,
    pitch: usize,
    units: usize,
    #[comptime] kind: Activation,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let x = Vector::<f32, V>::cast_from(x[ABSOLUTE_POS / width * pitch + ABSOLUTE_POS % width]);
    let value = match kind {
        Activation::Gelu => gelu::<V>(x),
        Activation::Silu => silu::<V>(x),
        Activation::Softplus => softplus::<V>(x),
    };
    y[ABSOLUTE_POS] = Vector::cast_from(value);
}

#[cube(launch_unchecked)]
fn backward<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    x: &[Vector<F, V>],
    dx: &mut [Vector<F, V>],
    width: usize,
    grad_pitch: usize,
    x_pitch: usize,
    units: usize,
    #[comptime] kind: Activation,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (row, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let x = Vector::<f32, V>::cast_from(x[row * x_pitch + column]);
    let grad = Vector::<f32, V>::cast_from(grad[row * grad_pitch + column]);
    let one = Vector::<f32, V>::new(1.0_f32);
    let derivative = match kind {
        Activation::Gelu => fma(x * Vector::new(DENSITY), (x * x * Vector::new(-0.5_f32)).exp(), normal_cumulative::<V>(x)),
        Activation::Silu => {
            let s = sigmoid::<V>(x);
            fma(x * s, one - s, s)
        }
        Activation::Softplus => sigmoid::<V>(x),
    };
    dx[ABSOLUTE_POS] = Vector::cast_from(grad * derivative);
}

/// `1 / sqrt(2 pi)`, the maximum of the standard normal density.
const DENSITY: f32 = 0.398_942_3;
