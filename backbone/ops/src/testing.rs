//! Helpers of the unit tests: reproducible values, and comparisons of outputs and gradients with a reference.

use std::io::Write;
use std::sync::OnceLock;

use burn::prelude::*;
use burn::tensor::{DType, TensorData};

/// The CPU, without autodiff.
pub(crate) fn cpu() -> Device {
    Device::flex()
}

/// Reproducible pseudo-random values in [-1, 1), from a linear congruential generator.
pub(crate) fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(12345);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
        })
        .collect()
}

/// A tensor of [`random`] values.
pub(crate) fn random_tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(random(shape.iter().product(), seed), shape), device)
}

/// The values of a tensor.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Asserts that two tensors agree within `tolerance` of the largest magnitude of the second.
#[track_caller]
pub(crate) fn assert_close<const D: usize>(what: &str, actual: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
    assert_eq!(actual.dims(), expected.dims(), "{what}: shape");
    assert_close_values(what, &values(actual), &values(expected), tolerance);
}

/// Like [`assert_close`], for slices.
#[track_caller]
pub(crate) fn assert_close_values(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(1e-6_f32, |m, v| m.max(v.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance * scale, "{what}: element {i} is {a}, expected {e} (largest {scale})");
    }
}

/// Asserts that the reference of an operation accepts bf16 activations and float32 weights, returns bf16 and agrees with the operation.
#[track_caller]
pub(crate) fn assert_reference_keeps_bf16<const D: usize, const E: usize>(
    x: Tensor<D>,
    reference: impl Fn(Tensor<D>) -> Tensor<E>,
    operation: impl Fn(Tensor<D>) -> Tensor<E>,
) {
    let x = x.cast(DType::BF16);
    let (actual, expected) = (reference(x.clone()), operation(x));
    assert_eq!((actual.dtype(), expected.dtype()), (DType::BF16, DType::BF16));
    // bf16 has 8 bits of mantissa. The result is rounded to it and, where Burn's products need one type, so are the weights.
    assert_close("reference in bf16", actual, expected, 0.01);
}

/// Asserts that two functions of the same inputs have the same output and the same gradient of every input, for a loss that weights every
/// output differently. The gradients of `expected`, a reference, come from Burn's own rules. `actual` also runs on the GPU if there is one.
#[track_caller]
pub(crate) fn assert_same_gradients<const D: usize>(
    what: &str,
    inputs: &[(&[usize], Vec<f32>)],
    actual: impl Fn(&[Tensor<1>]) -> Tensor<D>,
    expected: impl Fn(&[Tensor<1>]) -> Tensor<D>,
    tolerance: f32,
) {
    let run = |f: &dyn Fn(&[Tensor<1>]) -> Tensor<D>, device: &Device| {
        let device = device.clone().autodiff();
        let leaves: Vec<Tensor<1>> =
            inputs.iter().map(|(_, v)| Tensor::from_data(TensorData::new(v.clone(), [v.len()]), &device).require_grad()).collect();
        let y = f(&leaves);
        let weight = random_tensor(y.dims(), 999, &device);
        let gradients = (y.clone() * weight).sum().backward();
        let grads: Vec<Vec<f32>> = leaves.iter().map(|leaf| leaf.grad(&gradients).map(values).unwrap_or_default()).collect();
        (values(y), grads)
    };
    let (y_expected, gradients_expected) = run(&expected, &cpu());
    for device in [Some(cpu()), gpu()].into_iter().flatten() {
        let on = if device == cpu() { "" } else { " on the GPU" };
        let (y, gradients) = run(&actual, &device);
        assert_close_values(&format!("{what}: output{on}"), &y, &y_expected, tolerance);
        for (i, (g, e)) in gradients.iter().zip(&gradients_expected).enumerate() {
            let length = inputs[i].1.len();
            assert_eq!((g.len(), e.len()), (length, length), "{what}: gradient of input {i}{on} is missing");
            assert_close_values(&format!("{what}: gradient of input {i}{on}"), g, e, tolerance);
        }
    }
}

/// The GPU to test on, if the tests are built for one and it can be opened; otherwise the reason is printed once. `VMAMBA_TEST_DEVICE`
/// (`vulkan` or `cuda`) requires one.
///
/// # Panics
/// When the required device cannot be opened: a skipped test would look like a passed one.
pub(crate) fn gpu() -> Option<Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    GPU.get_or_init(|| {
        let asked = std::env::var("VMAMBA_TEST_DEVICE").ok();
        let opened = open(asked.as_deref());
        match (opened, asked) {
            (Ok(device), _) => Some(device),
            (Err(reason), Some(asked)) => panic!("VMAMBA_TEST_DEVICE={asked}: {reason}"),
            (Err(reason), None) => {
                // The test runner hides the output of `eprintln!` when a test passes.
                let _ = writeln!(std::io::stderr(), "tests run without a GPU: {reason}");
                None
            }
        }
    })
    .clone()
}

fn open(asked: Option<&str>) -> Result<Device, String> {
    type Open = fn() -> Device;
    let candidates: Vec<(&str, Open)> = vec![
        #[cfg(feature = "cuda")]
        ("cuda", || Device::cuda(0)),
        #[cfg(feature = "vulkan")]
        ("vulkan", || Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
    ];
    let mut reason = "the tests are built without `cuda` and `vulkan`".to_owned();
    for (name, device) in candidates {
        if asked.is_some_and(|asked| asked != name) {
            continue;
        }
        let opened = std::thread::spawn(move || {
            let device = device();
            (Tensor::<1>::ones([2], &device).sum().into_scalar::<f32>() == 2.0).then_some(device)
        });
        match opened.join() {
            Ok(Some(device)) => return Ok(device),
            Ok(None) => reason = format!("the {name} device computes 1 + 1 wrongly"),
            Err(_) => reason = format!("no {name} device can be opened"),
        }
    }
    Err(reason)
}
