//! What the CPU kernels share: access to tensors of Flex (Burn's CPU backend), memory, SIMD, and the matrix product.
//!
//! * `flex.rs`: a tensor's values and dimensions, and a tensor from values.
//! * `layout.rs`: conversion to row-major order, and between channels first and channels last.
//! * `in_place.rs`: elementwise functions that overwrite their input where nothing else reads it.
//! * `scratch.rs`: temporary buffers that are reused from call to call.
//! * `shared.rs`: one buffer written by many tasks.
//! * `simd.rs`: choice of the vector width at run time. `math.rs`: vectorisable elementary functions.
//! * `epilogue.rs`: scale, bias, residual and activation applied to sums in the cache.
//! * `gemm/`: the float32 matrix product.

pub(crate) mod epilogue;
mod flex;
pub(crate) mod gemm;
mod in_place;
mod layout;
pub(crate) mod math;
mod scratch;
mod shared;
pub(crate) mod simd;

pub(crate) use flex::{dims, tensor, values};
pub(crate) use in_place::map_blocks;
pub(crate) use layout::{as_channels_first, contiguous, stored_channels_last, to_channels_last};
pub(crate) use scratch::Scratch;
pub(crate) use shared::SharedMut;
