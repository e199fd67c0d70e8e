//! Which devices have kernels of this crate.

use burn::backend::DispatchDevice;
use burn::prelude::*;

/// Whether the tensor is on Flex, Burn's CPU backend.
pub(crate) fn is_native<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(tensor.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether the tensor is on a device with kernels: the CPU, or a GPU when the crate is built with `cuda` or `vulkan`. Operations fall back
/// to their plain-tensor reference on every other device.
pub(crate) fn has_kernel<const D: usize>(tensor: &Tensor<D>) -> bool {
    match tensor.device().inner().as_dispatch() {
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => true,
        #[allow(unreachable_patterns, reason = "which devices exist depends on Burn's features")]
        _ => false,
    }
}
