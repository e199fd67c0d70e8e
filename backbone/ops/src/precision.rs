//! bf16 activations, and the precision of float32 products on GPUs.
//!
//! Every operation takes float32 or bf16 activations and returns their type. Weights, biases, norm parameters and the parameters of the
//! scan are float32 in either case. An operation converts them where it uses them, so their gradients are float32. Matrix products and
//! convolutions of bf16 activations on GPUs multiply bf16; the other kernels compute in float32.
//!
//! The CPU kernels compute only in float32: activations are cast to float32, and the result is rounded to bf16 once, at the end of the
//! operation. Tensor cores multiply bf16 by bf16, so weights of products and convolutions are rounded to bf16 on the CPU too. That gives
//! the numbers of bf16, but not its speed.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::prelude::*;
use burn::tensor::DType;

use crate::device::is_native;

/// Whether float32 products may round their operands to TF32.
static TF32: AtomicBool = AtomicBool::new(false);

/// How GPUs multiply float32 matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float32Products {
    /// In float32.
    Exact,
    /// On tensor cores if the GPU has them, with operands rounded to TF32 (10 bits of mantissa): several times as fast, with relative
    /// errors near 1e-3.
    Tf32,
}

/// Sets how GPUs multiply float32, for the whole program, in matrix products and convolutions (`torch.set_float32_matmul_precision`). The
/// CPU and bf16 products are not affected.
pub fn set_float32_products(products: Float32Products) {
    TF32.store(products == Float32Products::Tf32, Ordering::Relaxed);
}

/// The current setting of [`set_float32_products`].
pub fn float32_products() -> Float32Products {
    if TF32.load(Ordering::Relaxed) { Float32Products::Tf32 } else { Float32Products::Exact }
}

/// Whether a device has TF32.
pub fn has_tf32(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    if let burn::backend::DispatchDevice::Cube(device) = device.clone().inner().as_dispatch() {
        use cubecl::prelude::Scalar;
        return device.client().properties().supports_type(cubecl::tf32::elem_type_native());
    }
    let _ = device;
    false
}

/// Whether float32 products on this device must stay exact although it has TF32. If so, use [`matmul`](crate::matmul()): Burn's own product
/// may round its operands to TF32.
pub fn keeps_float32(device: &Device) -> bool {
    float32_products() == Float32Products::Exact && has_tf32(device)
}

/// Whether `x` is on the CPU and not float32, the only type of the CPU kernels.
pub(crate) fn is_narrow<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() != DType::F32 && is_native(x)
}

/// Casts `x` to float32; a no-op for float32 tensors.
pub(crate) fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(DType::F32)
}

/// Rounds the weight of a product to the type of its activations, as tensor cores would, and casts it back to float32.
pub(crate) fn rounded<const D: usize>(weight: Tensor<D>, dtype: DType) -> Tensor<D> {
    widened(weight.cast(dtype))
}

/// Applies `f` to `x` in float32 and rounds the result to the type of `x`. The casts are differentiable; for float32 this is `f(x)`.
pub(crate) fn in_float32<const D: usize, const E: usize>(x: Tensor<D>, f: impl FnOnce(Tensor<D>) -> Tensor<E>) -> Tensor<E> {
    let dtype = x.dtype();
    f(widened(x)).cast(dtype)
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;
    use burn::tensor::DType;

    use super::rounded;
    use crate::testing::{assert_close_values, cpu, random_tensor, values};
    use crate::{Fused, Operation, Pointwise, Roi, RoiSampling, Route};

    /// Float32 weights for all operations.
    struct Weights {
        matrix: Tensor<2>,
        vector: Tensor<1>,
        kernel: Tensor<4>,
        depthwise: Tensor<4>,
        projection: Tensor<2>,
        steps: Tensor<3>,
        step_bias: Tensor<2>,
        a_logs: Tensor<2>,
        skips: Tensor<1>,
    }

    const CHANNELS: usize = 8;
    /// `[batch, height, width, channels]`.
    const SHAPE: [usize; 4] = [2, 5, 6, CHANNELS];
    /// Rank of the step size. The scans have one state, except for two in `selective_scan`.
    const RANK: usize = 2;

    impl Weights {
        fn new(device: &Device) -> Self {
            Self {
                matrix: leaf([CHANNELS, CHANNELS], 1, device),
                vector: leaf([CHANNELS], 2, device),
                kernel: leaf([CHANNELS, CHANNELS, 3, 3], 3, device),
                depthwise: leaf([CHANNELS, 1, 3, 3], 4, device),
                projection: leaf([4 * (RANK + 2), CHANNELS], 5, device),
                steps: leaf([4, CHANNELS, RANK], 6, device),
                step_bias: leaf([4, CHANNELS], 7, device),
                a_logs: leaf([4 * CHANNELS, 1], 8, device),
                skips: leaf([4 * CHANNELS], 9, device),
            }
        }

        /// The gradients of the weights that have one, with their types.
        fn gradients(&self, of: &burn::tensor::Gradients) -> Vec<(DType, Vec<f32>)> {
            fn one<const D: usize>(leaf: &Tensor<D>, of: &burn::tensor::Gradients) -> Option<(DType, Vec<f32>)> {
                leaf.grad(of).map(|gradient| (gradient.dtype(), values(gradient)))
            }
            let vectors = [&self.vector, &self.skips].map(|leaf| one(leaf, of));
            let matrices = [&self.matrix, &self.projection, &self.step_bias, &self.a_logs].map(|leaf| one(leaf, of));
            let kernels = [&self.kernel, &self.depthwise].map(|leaf| one(leaf, of));
            vectors.into_iter().chain(matrices).chain(kernels).chain([one(&self.steps, of)]).flatten().collect()
        }
    }

    fn leaf<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
        // Values that are exact in bf16, because some operations round their weights.
        let values = rounded(random_tensor(shape, seed, device), DType::BF16).detach();
        if device.is_autodiff() { values.require_grad() } else { values }
    }

    type Function = fn(Tensor<4>, &Weights) -> Tensor<4>;

    /// Channels last to channels first.
    fn first(x: Tensor<4>) -> Tensor<4> {
        x.permute([0, 3, 1, 2])
    }

    fn rois() -> [Roi; 2] {
        [Roi { image: 0, bbox: [0.5, 0.0, 4.0, 3.5] }, Roi { image: 1, bbox: [1.0, 1.0, 5.5, 5.0] }]
    }

    const SAMPLING: RoiSampling = RoiSampling { spatial_scale: 1.0, output: [2, 2], sampling_ratio: 0, aligned: true };

    /// The operation on the test input, or `None` if this crate has no code for it in bf16.
    fn function(operation: Operation) -> Option<Function> {
        Some(match operation {
            Operation::Gelu => |x, _| crate::gelu(x),
            Operation::Silu => |x, _| crate::silu(x),
            Operation::Softplus => |x, _| crate::softplus(x),
            Operation::ChannelNorm => |x, w| crate::channel_norm(x, Some(w.vector.clone()), Some(w.vector.clone()), 1e-5),
            Operation::BatchNorm => |x, w| crate::batch_norm(x, w.vector.clone(), w.vector.clone(), 1e-5).output,
            Operation::Linear => |x, w| crate::linear(x, w.matrix.clone(), Some(w.vector.clone())),
            Operation::LinearFused => |x, w| {
                let fused = Fused { scale: Some(w.vector.clone()), ..Fused::bias(Some(w.vector.clone())) };
                crate::linear_fused(x.clone(), w.matrix.clone(), fused.residual(x).activation(Pointwise::Gelu))
            },
            Operation::Mlp => |x, w| {
                let layers = [(w.matrix.clone(), Some(w.vector.clone())), (w.matrix.clone(), None)];
                crate::mlp(x.clone(), layers, Pointwise::Gelu, Some(x))
            },
            Operation::Conv2d => |x, w| crate::conv2d(x, w.kernel.clone(), Some(w.vector.clone()), [2, 2], [1, 1]),
            Operation::Conv2dFused => |x, w| {
                let fused = Fused { scale: Some(w.vector.clone()), ..Fused::bias(Some(w.vector.clone())) };
                crate::conv2d_fused(x.clone(), w.kernel.clone(), fused.residual(x).activation(Pointwise::Relu), [1, 1], [1, 1])
            },
            Operation::DepthwiseConv2d => |x, w| crate::depthwise_conv2d(x, w.depthwise.clone(), Some(w.vector.clone())),
            Operation::DepthwiseConv2dFused => {
                |x, w| crate::depthwise_conv2d_fused(x, w.depthwise.clone(), Some(w.vector.clone()), Pointwise::Silu)
            }
            Operation::ResizeBilinear => |x, _| crate::resize_bilinear(first(x), [9, 4], false),
            Operation::SoftmaxChannels => |x, _| crate::softmax_channels(first(x)),
            Operation::CrossEntropyMap => |x, _| {
                let labels = Tensor::<3, Int>::ones([2, 5, 6], &x.device());
                crate::cross_entropy_map(first(x), labels, 255).reshape([2, 5, 6, 1])
            },
            Operation::RoiAlign => |x, _| crate::roi_align(first(x), &rois(), SAMPLING),
            Operation::SelectiveScan => |x, w| {
                let u: Tensor<3> = x.reshape([2, 30, CHANNELS]).swap_dims(1, 2);
                let state: Tensor<4> = u.clone().narrow(1, 0, 2).reshape([2, 1, 2, 30]);
                let a = w.matrix.clone().narrow(1, 0, 2).exp().neg();
                let vector = Some(w.vector.clone());
                let y = crate::selective_scan(u.clone(), u, a, state.clone(), state, vector.clone(), vector, true);
                y.reshape([2, CHANNELS, 5, 6])
            },
            Operation::SelectiveScan2d => |x, w| {
                let projections = crate::linear(x.clone(), w.projection.clone(), None);
                let (steps, bias) = (w.steps.clone(), w.step_bias.clone());
                crate::selective_scan_2d(x, projections, steps, bias, w.a_logs.clone(), w.skips.clone(), &Route::CROSS)
            },
            // Burn's own product and permutations, which handle bf16.
            Operation::Matmul | Operation::CrossScan | Operation::CrossMerge => return None,
            // They return no activations.
            Operation::ArgmaxChannels
            | Operation::ArgmaxResized
            | Operation::BatchedNmsOn
            | Operation::BatchedNms
            | Operation::Nms
            | Operation::PasteMask => return None,
        })
    }

    /// The operations to test in bf16, with their names.
    fn operations() -> impl Iterator<Item = (&'static str, Function)> {
        Operation::ALL.iter().filter_map(|operation| Some((operation.name(), function(*operation)?)))
    }

    /// A float32 input whose values are exact in bf16.
    fn input(device: &Device) -> Tensor<4> {
        rounded(random_tensor(SHAPE, 10, device), DType::BF16)
    }

    #[test]
    fn bf16_results_are_float32_results_rounded_once() {
        for device in [cpu(), cpu().autodiff()] {
            let weights = Weights::new(&device);
            for (name, operation) in operations() {
                // This function calls `linear` first, so it rounds twice.
                if name == "selective_scan_2d" {
                    continue;
                }
                let narrow = operation(input(&device).cast(DType::BF16), &weights);
                let wide = operation(input(&device), &weights);
                assert_eq!((narrow.dtype(), wide.dtype()), (DType::BF16, DType::F32), "{name}");
                assert_eq!(values(narrow), values(wide.cast(DType::BF16)), "{name}");
            }
        }
    }

    #[test]
    fn products_round_their_weights_to_bf16_like_tensor_cores() {
        for device in [cpu(), cpu().autodiff()] {
            // Just below the midpoint of the bf16 values 1 and 1 + 2^-7, so it rounds to 1. Unrounded, its product would round to 2.
            let weight = Tensor::<2>::from_floats([[1.0039]], &device);
            let x = Tensor::<4>::from_floats([[[[1.992_187_5]]]], &device).cast(DType::BF16);
            let identity = Tensor::<2>::ones([1, 1], &device);
            let kernel: Tensor<4> = weight.clone().reshape([1, 1, 1, 1]);
            let products = [
                crate::linear(x.clone(), weight.clone(), None),
                crate::linear_fused(x.clone(), weight.clone(), Fused::default()),
                crate::mlp(x.clone(), [(weight.clone(), None), (identity.clone(), None)], Pointwise::Identity, None),
                crate::mlp(x.clone(), [(identity, None), (weight, None)], Pointwise::Identity, None),
                crate::conv2d(x.clone(), kernel.clone(), None, [1, 1], [0, 0]),
                crate::conv2d_fused(x, kernel, Fused::default(), [1, 1], [0, 0]),
            ];
            for (number, product) in products.into_iter().enumerate() {
                assert_eq!(values(product), [1.992_187_5], "product {number}");
            }
        }
    }

    #[test]
    fn gradients_of_weights_are_float32_and_those_of_activations_bf16() {
        let device = cpu().autodiff();
        for (name, operation) in operations() {
            let run = |dtype: DType| {
                let weights = Weights::new(&device);
                let x = input(&device).cast(dtype).detach().require_grad();
                let y = operation(x.clone(), &weights).cast(DType::F32);
                let scale = random_tensor(y.dims(), 11, &device);
                let gradients = (y * scale).sum().backward();
                let of_x = x.grad(&gradients).expect("every operation differentiates its input");
                assert_eq!(of_x.dtype(), dtype, "{name}: gradient of the input");
                (values(of_x), weights.gradients(&gradients))
            };
            let ((narrow_x, narrow), (wide_x, wide)) = (run(DType::BF16), run(DType::F32));
            // The gradients of the output and of the input are rounded to 8 bits of mantissa.
            let tolerance = 0.02;
            assert_close_values(&format!("{name}: gradient of the input"), &narrow_x, &wide_x, tolerance);
            assert_eq!(narrow.len(), wide.len(), "{name}");
            for ((dtype, narrow), (_, wide)) in narrow.iter().zip(&wide) {
                assert_eq!(*dtype, DType::F32, "{name}: gradient of a weight");
                assert_close_values(&format!("{name}: gradient of a weight"), narrow, wide, tolerance);
            }
        }
    }
}
