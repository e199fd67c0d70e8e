//! The scan of SS2D on GPUs, on the kernels of the one-dimensional scan.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{Scan2dGradOps, Scan2dGrads, Scan2dOps};
use crate::cube::matmul::{matmul, matmul_split_k};
use crate::cube::{Rows, cast, float32};
use crate::route::Route;
use crate::selective_scan::cube::launch::Inputs;

fn inputs_2d(
    x: CubeTensor,
    projections: CubeTensor,
    dt_weight: CubeTensor,
    dt_bias: CubeTensor,
    a_logs: CubeTensor,
    d: CubeTensor,
    routes: Vec<Route>,
) -> Inputs {
    let [batch, height, width, channels] = x.meta.shape().dims::<4>();
    let rank = dt_weight.meta.shape()[2];
    let state = a_logs.meta.shape()[1];
    // Kernels read both maps in one type.
    let projections = cast(projections, x.dtype);
    let [dt_weight, dt_bias, a, d] = [dt_weight, dt_bias, a_logs, d].map(float32);
    Inputs {
        x: Rows::new(x.clone()),
        given: Rows::new(x),
        projections: Rows::new(projections),
        dt_weight,
        dt_bias,
        a,
        d,
        batch,
        height,
        width,
        channels,
        groups: 1,
        routes,
        rank: Some(rank),
        state,
        softplus: true,
        logarithm: true,
    }
}

impl Scan2dOps for CubeBackend {
    fn scan_2d(
        x: FloatTensor<Self>,
        projections: FloatTensor<Self>,
        dt_weight: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_logs: FloatTensor<Self>,
        d: FloatTensor<Self>,
        routes: Vec<Route>,
    ) -> FloatTensor<Self> {
        inputs_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes).merged()
    }
}

impl Scan2dGradOps for CubeBackend {
    fn scan_2d_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        projections: FloatTensor<Self>,
        dt_weight: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_logs: FloatTensor<Self>,
        d: FloatTensor<Self>,
        routes: Vec<Route>,
    ) -> Scan2dGrads<Self> {
        let dtypes = [&x, &projections, &dt_weight, &dt_bias, &a_logs, &d].map(|tensor| tensor.dtype);
        let grad = Rows::new(cast(grad, x.dtype));
        let inputs = inputs_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes);
        let Inputs { batch, height, width, channels, state, .. } = inputs;
        let (count, rank, length) = (inputs.routes.len(), inputs.rank.unwrap_or(0), inputs.length());
        let fields = inputs.fields();
        let mut dprojections: Vec<Option<CubeTensor>> = vec![None; count];
        let mut dweights: Vec<Option<CubeTensor>> = vec![None; count];
        let mut dparameters: Vec<Option<CubeTensor>> = vec![None; count];
        let rows = batch * length;
        let projections = Self::float_reshape(float32(inputs.projections.tensor.clone()), Shape::from([rows, count * fields]));
        let dx = inputs.backward(&grad, |route, draw, dbc, parameters| {
            let own = [(route..route + 1).into(), (0..channels).into(), (0..rank).into()];
            let weight = Self::float_reshape(Self::float_slice(inputs.dt_weight.clone(), &own), Shape::from([channels, rank]));
            let own = [(0..rows).into(), (route * fields..route * fields + rank).into()];
            let steps = Self::float_slice(projections.clone(), &own);
            let draw = Self::float_reshape(draw, Shape::from([rows, channels]));
            let dsteps = matmul(draw.clone(), weight, DType::F32);
            let dbc = Self::float_reshape(dbc, Shape::from([rows, 2 * state]));
            dprojections[route] = Some(Self::float_cat(vec![dsteps, dbc], 1));
            let dweight = matmul_split_k(draw, steps);
            dweights[route] = Some(Self::float_reshape(dweight, Shape::from([1, channels, rank])));
            dparameters[route] = Some(parameters);
        });
        let all = |parts: Vec<Option<CubeTensor>>, dim: usize| Self::float_cat(parts.into_iter().flatten().collect(), dim);
        // [routes, state + 2, channels] to [routes, channels, state + 2].
        let dparameters = all(dparameters, 0);
        let dparameters = Self::float_swap_dims(Self::float_reshape(dparameters, Shape::from([count, state + 2, channels])), 1, 2);
        let part = |from: usize, to: usize, shape: Shape, dtype: DType| {
            let part = Self::float_slice(dparameters.clone(), &[(0..count).into(), (0..channels).into(), (from..to).into()]);
            cast(Self::float_reshape(part, shape), dtype)
        };
        let dprojections = Self::float_reshape(all(dprojections, 1), Shape::from([batch, height, width, count * fields]));
        Scan2dGrads {
            x: cast(dx, dtypes[0]),
            projections: cast(dprojections, dtypes[1]),
            dt_weight: cast(all(dweights, 0), dtypes[2]),
            dt_bias: part(state + 1, state + 2, Shape::from([count, channels]), dtypes[3]),
            a_logs: part(0, state, Shape::from([count * channels, state]), dtypes[4]),
            d: part(state, state + 1, Shape::from([count * channels]), dtypes[5]),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Dispatch;
    use burn::prelude::{Device, Tensor};

    use super::super::reference;
    use super::*;
    use crate::testing::{assert_close_values, cpu, gpu, random, random_tensor, values};

    /// The scan with chunks of a given length and with groups of channels.
    #[burn::backend::backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
    pub trait SplitScanOps: burn::backend::Backend {
        #[fusion(dtype = x, shape = { let _ = (projections, dt_weight, dt_bias, a_logs, d, routes, groups, chunk, converts); x.clone() })]
        fn split_scan(
            x: FloatTensor<Self>,
            projections: FloatTensor<Self>,
            dt_weight: FloatTensor<Self>,
            dt_bias: FloatTensor<Self>,
            a_logs: FloatTensor<Self>,
            d: FloatTensor<Self>,
            routes: Vec<Route>,
            groups: usize,
            chunk: usize,
            converts: bool,
        ) -> FloatTensor<Self>;

        /// The gradient of `x` for the gradient `grad` of the output.
        #[fusion(dtype = x, shape = { let _ = (grad, projections, dt_weight, dt_bias, a_logs, d, routes, groups); x.clone() })]
        fn input_gradient(
            grad: FloatTensor<Self>,
            x: FloatTensor<Self>,
            projections: FloatTensor<Self>,
            dt_weight: FloatTensor<Self>,
            dt_bias: FloatTensor<Self>,
            a_logs: FloatTensor<Self>,
            d: FloatTensor<Self>,
            routes: Vec<Route>,
            groups: usize,
        ) -> FloatTensor<Self>;
    }

    impl SplitScanOps for CubeBackend {
        fn split_scan(
            x: FloatTensor<Self>,
            projections: FloatTensor<Self>,
            dt_weight: FloatTensor<Self>,
            dt_bias: FloatTensor<Self>,
            a_logs: FloatTensor<Self>,
            d: FloatTensor<Self>,
            routes: Vec<Route>,
            groups: usize,
            chunk: usize,
            converts: bool,
        ) -> FloatTensor<Self> {
            let inputs = inputs_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes);
            Inputs { groups, ..inputs }.forward(Some(chunk), converts)
        }

        fn input_gradient(
            grad: FloatTensor<Self>,
            x: FloatTensor<Self>,
            projections: FloatTensor<Self>,
            dt_weight: FloatTensor<Self>,
            dt_bias: FloatTensor<Self>,
            a_logs: FloatTensor<Self>,
            d: FloatTensor<Self>,
            routes: Vec<Route>,
            groups: usize,
        ) -> FloatTensor<Self> {
            let inputs = inputs_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes);
            Inputs { groups, ..inputs }.backward(&Rows::new(grad), |_, _, _, _| {})
        }
    }

    type Arguments = (Tensor<4>, Tensor<4>, Tensor<3>, Tensor<2>, Tensor<2>, Tensor<1>);

    const IMAGES: [usize; 3] = [2, 6, 7];

    /// `(channels, groups, rank, state)`: units of four, two and one channels, without and with groups.
    const SIZES: [(usize, usize, usize, usize); 5] = [(8, 1, 2, 1), (6, 1, 3, 2), (5, 1, 2, 4), (8, 2, 2, 1), (6, 3, 1, 2)];

    const ROUTES: [&[Route]; 4] =
        [&Route::CROSS, &[Route::Rows], &[Route::ColumnsReversed, Route::Rows, Route::Columns], &[Route::Rows; 3]];

    fn arguments(device: &Device, (channels, groups, rank, state): (usize, usize, usize, usize), routes: &[Route]) -> Arguments {
        let ([batch, height, width], count) = (IMAGES, routes.len());
        let fields = count * groups * (rank + 2 * state);
        let t = |len: usize, seed: u64| Tensor::<1>::from_floats(random(len, seed).as_slice(), device);
        (
            t(batch * height * width * channels, 1).reshape([batch, height, width, channels]),
            t(batch * height * width * fields, 2).reshape([batch, height, width, fields]),
            t(count * channels * rank, 3).reshape([count, channels, rank]),
            t(count * channels, 4).reshape([count, channels]),
            t(count * channels * state, 5).reshape([count * channels, state]),
            t(count * channels, 6),
        )
    }

    /// The reference applied to each group of channels separately, with the fields of that group for every route.
    fn by_group((x, projections, dt_weight, dt_bias, a_logs, d): Arguments, routes: &[Route], groups: usize) -> Tensor<4> {
        let [count, channels, rank] = dt_weight.dims();
        let state = a_logs.dims()[1];
        let (own, fields) = (channels / groups, rank + 2 * state);
        let of_group = |group: usize| {
            let first = group * own;
            let of_route = |route: usize| projections.clone().narrow(3, (route * groups + group) * fields, fields);
            let a_logs: Tensor<3> = a_logs.clone().reshape([count, channels, state]).narrow(1, first, own);
            let d: Tensor<2> = d.clone().reshape([count, channels]).narrow(1, first, own);
            reference::selective_scan_2d(
                x.clone().narrow(3, first, own),
                Tensor::cat((0..count).map(of_route).collect(), 3),
                dt_weight.clone().narrow(1, first, own),
                dt_bias.clone().narrow(1, first, own),
                a_logs.reshape([count * own, state]),
                d.reshape([count * own]),
                routes,
            )
        };
        Tensor::cat((0..groups).map(of_group).collect(), 3)
    }

    /// Float32 rounding of two orders of evaluation over 42 steps.
    const TOLERANCE: f32 = 3e-5;

    #[test]
    fn outputs_are_right_for_every_chunk_length_and_number_of_groups() {
        let Some(device) = gpu() else { return };
        for sizes in SIZES {
            for routes in ROUTES {
                let groups = sizes.1;
                let expected = values(by_group(arguments(&cpu(), sizes, routes), routes, groups));
                // Chunks of one step, chunks that end inside a row or with it, and one chunk.
                for chunk in [1, 5, 7, 16, 41, 1000] {
                    for converts in [false, true] {
                        let (x, projections, dt_weight, dt_bias, a_logs, d) = arguments(&device, sizes, routes);
                        let y = <Dispatch as SplitScanOps>::split_scan(
                            x.into_dispatch(),
                            projections.into_dispatch(),
                            dt_weight.into_dispatch(),
                            dt_bias.into_dispatch(),
                            a_logs.into_dispatch(),
                            d.into_dispatch(),
                            routes.to_vec(),
                            groups,
                            chunk,
                            converts,
                        );
                        let what = format!("channels, groups, rank, state {sizes:?}, {routes:?}, chunks of {chunk}, converts {converts}");
                        assert_close_values(&what, &values(Tensor::<4>::from_dispatch(y)), &expected, TOLERANCE);
                    }
                }
            }
        }
    }

    #[test]
    fn gradients_are_right_for_every_number_of_routes_and_groups() {
        let Some(device) = gpu() else { return };
        for sizes in SIZES {
            for routes in ROUTES {
                let groups = sizes.1;
                let ([batch, height, width], channels) = (IMAGES, sizes.0);
                let grad = |device: &Device| random_tensor([batch, height, width, channels], 7, device);
                let tracked = cpu().autodiff();
                let (x, projections, dt_weight, dt_bias, a_logs, d) = arguments(&tracked, sizes, routes);
                let x = x.detach().require_grad();
                let y = by_group((x.clone(), projections, dt_weight, dt_bias, a_logs, d), routes, groups);
                let gradients = (y * grad(&tracked)).sum().backward();
                let expected = values(x.grad(&gradients).expect("the loss depends on the input"));
                let (x, projections, dt_weight, dt_bias, a_logs, d) = arguments(&device, sizes, routes);
                let dx = <Dispatch as SplitScanOps>::input_gradient(
                    grad(&device).into_dispatch(),
                    x.into_dispatch(),
                    projections.into_dispatch(),
                    dt_weight.into_dispatch(),
                    dt_bias.into_dispatch(),
                    a_logs.into_dispatch(),
                    d.into_dispatch(),
                    routes.to_vec(),
                    groups,
                );
                let what = format!("channels, groups, rank, state {sizes:?}, {routes:?}");
                assert_close_values(&what, &values(Tensor::<4>::from_dispatch(dx)), &expected, TOLERANCE);
            }
        }
    }
}
