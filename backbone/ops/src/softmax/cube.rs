//! Softmax and cross entropy over channels on GPUs: a unit processes a vector of pixels over all channels, so that neighbouring units read
//! neighbouring memory.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{CrossEntropyGradOps, CrossEntropyGrads, CrossEntropyOps, IGNORED, SoftmaxGradOps, SoftmaxGrads, SoftmaxOps};
use crate::cube::{cast, contiguous, cubes, element, empty, upload};

impl SoftmaxOps for CubeBackend {
    fn channel_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = contiguous(x);
        let y = empty(&x, x.meta.shape().clone(), x.dtype);
        let map = Map::of(&x);
        let (count, dim) = cubes(&x.client, map.units);
        // SAFETY: surplus units return at once, and a unit accesses only its own pixels.
        unsafe {
            softmax::launch_unchecked(
                &y.client,
                count,
                dim,
                map.vector,
                x.clone().into_buffer_arg(),
                y.clone().into_buffer_arg(),
                map.channels,
                map.pixels,
                map.units,
                element(&x),
            );
        }
        y
    }
}

impl SoftmaxGradOps for CubeBackend {
    fn channel_softmax_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>) -> SoftmaxGrads<Self> {
        let x = contiguous(x);
        let grad = contiguous(cast(grad, x.dtype));
        let dx = empty(&x, x.meta.shape().clone(), x.dtype);
        let map = Map::of(&x);
        let (count, dim) = cubes(&x.client, map.units);
        // SAFETY: as above.
        unsafe {
            softmax_backward::launch_unchecked(
                &dx.client,
                count,
                dim,
                map.vector,
                grad.into_buffer_arg(),
                x.clone().into_buffer_arg(),
                dx.clone().into_buffer_arg(),
                map.channels,
                map.pixels,
                map.units,
                element(&x),
            );
        }
        SoftmaxGrads { x: dx }
    }
}

impl CrossEntropyOps for CubeBackend {
    fn cross_entropy(logits: FloatTensor<Self>, targets: Arc<Vec<u32>>) -> FloatTensor<Self> {
        let logits = contiguous(logits);
        let [batch, _, height, width] = logits.meta.shape().dims::<4>();
        let loss = empty(&logits, [batch, height, width], logits.dtype);
        let map = Map::of(&logits);
        let (count, dim) = cubes(&logits.client, map.units);
        let targets = upload(&logits, &targets);
        // SAFETY: as above; there is a target for every pixel, and it is a class or `IGNORED`.
        unsafe {
            cross_entropy::launch_unchecked(
                &loss.client,
                count,
                dim,
                map.vector,
                logits.clone().into_buffer_arg(),
                targets.into_buffer_arg(),
                loss.clone().into_buffer_arg(),
                map.channels,
                map.pixels,
                map.units,
                element(&logits),
            );
        }
        loss
    }
}

impl CrossEntropyGradOps for CubeBackend {
    fn cross_entropy_backward(grad: FloatTensor<Self>, logits: FloatTensor<Self>, targets: Arc<Vec<u32>>) -> CrossEntropyGrads<Self> {
        let logits = contiguous(logits);
        let grad = contiguous(cast(grad, logits.dtype));
        let dlogits = empty(&logits, logits.meta.shape().clone(), logits.dtype);
        let map = Map::of(&logits);
        let (count, dim) = cubes(&logits.client, map.units);
        let targets = upload(&logits, &targets);
        // SAFETY: as above.
        unsafe {
            cross_entropy_backward::launch_unchecked(
                &dlogits.client,
                count,
                dim,
                map.vector,
                grad.into_buffer_arg(),
                logits.clone().into_buffer_arg(),
                targets.into_buffer_arg(),
                dlogits.clone().into_buffer_arg(),
                map.channels,
                map.pixels,
                map.units,
                element(&logits),
            );
        }
        CrossEntropyGrads { logits: dlogits }
    }
}

/// The sizes of a `[batch, channels, pixels]` map in vectors of pixels.
struct Map {
    vector: usize,
    channels: usize,
    pixels: usize,
    units: usize,
}

impl Map {
    fn of(x: &CubeTensor) -> Self {
        let [batch, channels, height, width] = x.meta.shape().dims::<4>();
        let pixels = height * width;
        let vector = [4, 2].into_iter().find(|size| pixels.is_multiple_of(*size)).unwrap_or(1);
        Self { vector, channels, pixels: pixels / vector, units: batch * pixels / vector }
    }
}

/// Maximum `m` over the channels and sum of `exp(x - m)`, for the vector of pixels at `first`.
#[cube]
fn normaliser<F: Float, V: Size>(x: &[Vector<F, V>], first: usize, channels: usize, pixels: usize) -> (Vector<f32, V>, Vector<f32, V>) {
    let mut largest = Vector::<f32, V>::cast_from(x[first]);
    for channel in 1..channels {
        largest = max(largest, Vector::cast_from(x[first + channel * pixels]));
    }
    let mut sum = Vector::<f32, V>::new(0.0_f32);
    for channel in 0..channels {
        sum += (Vector::<f32, V>::cast_from(x[first + channel * pixels]) - largest).exp();
    }
    (largest, sum)
}

#[cube(launch_unchecked)]
fn softmax<F: Float, V: Size>(
    x: &[Vector<F, V>],
    y: &mut [Vector<F, V>],
    channels: usize,
    pixels: usize,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let first = ABSOLUTE_POS / pixels * channels * pixels + ABSOLUTE_POS % pixels;
    let (largest, sum) = normaliser::<F, V>(x, first, channels, pixels);
    for channel in 0..channels {
        let at = first + channel * pixels;
        y[at] = Vector::cast_from((Vector::<f32, V>::cast_from(x[at]) - largest).exp() / sum);
    }
}

#[cube(launch_unchecked)]
fn softmax_backward<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    x: &[Vector<F, V>],
    dx: &mut [Vector<F, V>],
    channels: usize,
    pixels: usize,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let first = ABSOLUTE_POS / pixels * channels * pixels + ABSOLUTE_POS % pixels;
    let (largest, sum) = normaliser::<F, V>(x, first, channels, pixels);
    let mut mean = Vector::<f32, V>::new(0.0_f32);
    for channel in 0..channels {
        let at = first + channel * pixels;
        let y = (Vector::<f32, V>::cast_from(x[at]) - largest).exp() / sum;
        mean = fma(y, Vector::cast_from(grad[at]), mean);
    }
    for channel in 0..channels {
        let at = first + channel * pixels;
        let y = (Vector::<f32, V>::cast_from(x[at]) - largest).exp() / sum;
        dx[at] = Vector::cast_from(y * (Vector::<f32, V>::cast_from(grad[at]) - mean));
    }
}

#[cube(launch_unchecked)]
fn cross_entropy<F: Float, V: Size>(
    logits: &[Vector<F, V>],
    targets: &[u32],
    loss: &mut [Vector<F, V>],
    channels: usize,
    pixels: usize,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let first = ABSOLUTE_POS / pixels * channels * pixels + ABSOLUTE_POS % pixels;
    let (largest, sum) = normaliser::<F, V>(logits, first, channels, pixels);
    let mut value = largest + sum.ln();
    #[unroll]
    for i in 0..V::value() {
        let target = targets[ABSOLUTE_POS * V::value() + i];
        if target == IGNORED {
            value.insert(i, 0.0_f32);
        } else {
            let own = Vector::<f32, V>::cast_from(logits[first + target as usize * pixels]);
            value.insert(i, value.extract(i) - own.extract(i));
        }
    }
    loss[ABSOLUTE_POS] = Vector::cast_from(value);
}

#[cube(launch_unchecked)]
fn cross_entropy_backward<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    logits: &[Vector<F, V>],
    targets: &[u32],
    dlogits: &mut [Vector<F, V>],
    channels: usize,
    pixels: usize,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let first = ABSOLUTE_POS / pixels * channels * pixels + ABSOLUTE_POS % pixels;
    let (largest, sum) = normaliser::<F, V>(logits, first, channels, pixels);
    let mut g = Vector::<f32, V>::cast_from(grad[ABSOLUTE_POS]);
    #[unroll]
    for i in 0..V::value() {
        if targets[ABSOLUTE_POS * V::value() + i] == IGNORED {
            g.insert(i, 0.0_f32);
        }
    }
    for channel in 0..channels {
        let at = first + channel * pixels;
        let mut share = (Vector::<f32, V>::cast_from(logits[at]) - largest).exp() / sum;
        #[unroll]
        for i in 0..V::value() {
            if targets[ABSOLUTE_POS * V::value() + i] == channel as u32 {
                share.insert(i, share.extract(i) - 1.0_f32);
            }
        }
        dlogits[at] = Vector::cast_from(share * g);
    }
}
