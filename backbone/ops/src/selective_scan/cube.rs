//! The one-dimensional scan on GPUs: the scan of an image with one row, in channels-last order and with given step sizes.

mod gradients;
mod kernels;
pub(crate) mod launch;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{ScanGradOps, ScanGrads, ScanOps};
use crate::cube::{Rows, cast, float32};
use crate::route::Route;
use launch::Inputs;

/// Converts the inputs to channels-last order.
fn inputs_1d(
    u: CubeTensor,
    delta: CubeTensor,
    a: CubeTensor,
    b: CubeTensor,
    c: CubeTensor,
    d: CubeTensor,
    delta_bias: CubeTensor,
    delta_softplus: bool,
) -> Inputs {
    let [batch, channels, length] = u.meta.shape().dims::<3>();
    let [_, groups, state, _] = b.meta.shape().dims::<4>();
    let dtype = u.dtype;
    let last = |tensor: CubeTensor| Rows::new(CubeBackend::float_swap_dims(cast(tensor, dtype), 1, 2));
    let projections = CubeBackend::float_cat([b, c].map(|tensor| cast(tensor, dtype)).into(), 2);
    let projections = CubeBackend::float_permute(projections, &[0, 3, 1, 2]);
    let projections = CubeBackend::float_reshape(projections, Shape::from([batch, length, groups * 2 * state]));
    let [a, d, dt_bias] = [a, d, delta_bias].map(float32);
    Inputs {
        x: last(u),
        given: last(delta),
        projections: Rows::new(projections),
        // Not read, because step sizes are given.
        dt_weight: dt_bias.clone(),
        dt_bias,
        a,
        d,
        batch,
        height: 1,
        width: length,
        channels,
        groups,
        routes: vec![Route::Rows],
        rank: None,
        state,
        softplus: delta_softplus,
        logarithm: false,
    }
}

impl ScanOps for CubeBackend {
    fn scan(
        u: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        delta_bias: FloatTensor<Self>,
        delta_softplus: bool,
    ) -> FloatTensor<Self> {
        let inputs = inputs_1d(u, delta, a, b, c, d, delta_bias, delta_softplus);
        let shape = Shape::from([inputs.batch, inputs.width, inputs.channels]);
        Self::float_swap_dims(Self::float_reshape(inputs.merged(), shape), 1, 2)
    }
}

impl ScanGradOps for CubeBackend {
    fn scan_backward(
        grad: FloatTensor<Self>,
        u: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        delta_bias: FloatTensor<Self>,
        delta_softplus: bool,
    ) -> ScanGrads<Self> {
        let dtypes = [&u, &delta, &a, &b, &c, &d, &delta_bias].map(|tensor| tensor.dtype);
        let grad = Rows::new(Self::float_swap_dims(cast(grad, u.dtype), 1, 2));
        let inputs = inputs_1d(u, delta, a, b, c, d, delta_bias, delta_softplus);
        let Inputs { batch, width: length, channels, groups, state, .. } = inputs;
        let mut results = None;
        let dx = inputs.backward(&grad, |_, draw, dbc, parameters| results = Some((draw, dbc, parameters)));
        let Some((draw, dbc, parameters)) = results else { unreachable!("the one-dimensional scan has exactly one route") };
        let first = |tensor: CubeTensor, dtype: DType| {
            cast(Self::float_swap_dims(Self::float_reshape(tensor, Shape::from([batch, length, channels])), 1, 2), dtype)
        };
        // [batch, length, groups, 2 * state] to [batch, groups, 2 * state, length].
        let dbc = Self::float_permute(dbc, &[0, 2, 3, 1]);
        let half = |from: usize, dtype: DType| {
            let ranges = [(0..batch).into(), (0..groups).into(), (from..from + state).into(), (0..length).into()];
            cast(Self::float_slice(dbc.clone(), &ranges), dtype)
        };
        let parameters = Self::float_swap_dims(parameters, 0, 1);
        let part = |from: usize, to: usize, shape: Shape, dtype: DType| {
            let part = Self::float_slice(parameters.clone(), &[(0..channels).into(), (from..to).into()]);
            cast(Self::float_reshape(part, shape), dtype)
        };
        ScanGrads {
            u: first(dx, dtypes[0]),
            delta: first(draw, dtypes[1]),
            a: part(0, state, Shape::from([channels, state]), dtypes[2]),
            b: half(0, dtypes[3]),
            c: half(state, dtypes[4]),
            d: part(state, state + 1, Shape::from([channels]), dtypes[5]),
            delta_bias: part(state + 1, state + 2, Shape::from([channels]), dtypes[6]),
        }
    }
}
