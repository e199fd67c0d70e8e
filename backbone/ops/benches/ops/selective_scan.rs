//! The scan of SS2D along four routes, with its step size projection, softplus and merge, for one image. It is compared with a copy of its
//! inputs, the time that memory alone takes. Burn has no scan, and the reference, a loop over pixels, is some hundred times slower.

use burn::prelude::*;
use divan::Bencher;
use vision_ops::{Route, selective_scan_2d};

use super::{Size, backward, cpu, parameter, random};

/// Size of the image and number of states.
const CASES: [(Size, usize); 4] = [([56, 56, 96], 1), ([56, 56, 96], 16), ([200, 334, 96], 1), ([200, 334, 96], 16)];
const RANK: usize = 6;

struct Inputs {
    x: Tensor<4>,
    projections: Tensor<4>,
    dt_weight: Tensor<3>,
    dt_bias: Tensor<2>,
    a_logs: Tensor<2>,
    d: Tensor<1>,
}

impl Inputs {
    fn new([height, width, channels]: Size, state: usize, gradients: bool) -> Self {
        fn make<const D: usize>(shape: [usize; D], gradients: bool) -> Tensor<D> {
            if gradients { parameter(shape) } else { random(shape, &cpu()) }
        }
        Self {
            x: make([1, height, width, channels], gradients),
            projections: make([1, height, width, 4 * (RANK + 2 * state)], gradients),
            dt_weight: make([4, channels, RANK], gradients),
            dt_bias: make([4, channels], gradients),
            a_logs: make([4 * channels, state], gradients),
            d: make([4 * channels], gradients),
        }
    }

    fn scan(&self) -> Tensor<4> {
        let Self { x, projections, dt_weight, dt_bias, a_logs, d } = self;
        selective_scan_2d(x.clone(), projections.clone(), dt_weight.clone(), dt_bias.clone(), a_logs.clone(), d.clone(), &Route::CROSS)
    }
}

#[divan::bench(args = CASES, sample_count = 11)]
fn scan_forward(bencher: Bencher, (size, state): (Size, usize)) {
    let inputs = Inputs::new(size, state, false);
    bencher.bench_local(|| inputs.scan().into_data());
}

#[divan::bench(args = CASES, sample_count = 11)]
fn scan_backward(bencher: Bencher, (size, state): (Size, usize)) {
    let inputs = Inputs::new(size, state, true);
    backward(bencher, || inputs.scan().sum());
}

/// A copy of the image and its projections.
#[divan::bench(args = CASES, sample_count = 11)]
fn copy_of_the_same_bytes(bencher: Bencher, (size, state): (Size, usize)) {
    let Inputs { x, projections, .. } = Inputs::new(size, state, false);
    let (x, projections) = (x.into_data(), projections.into_data());
    bencher.bench_local(|| (x.clone(), projections.clone()));
}
