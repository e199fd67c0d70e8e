//! What the GPU kernels share: CubeCL buffers, elementary functions, matrix products and epilogues.
//!
//! * `tensor.rs`: tensors as kernels see them, and launch sizes.
//! * `math.rs`: elementary functions of float32 vectors.
//! * `matmul.rs`: Burn's matrix products and convolutions, exact in float32 unless TF32 is allowed.
//! * `epilogue.rs`: scale, bias, residual and activation in one pass.

pub(crate) mod epilogue;
pub(crate) mod math;
pub(crate) mod matmul;
mod tensor;

pub(crate) use tensor::{Rows, cast, contiguous, cubes, element, empty, float32, upload, vector_size};
