//! The list of this crate's operations.

/// Declares [`Operation`], its names and the list of all.
macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $name:ident,)+) => {
        /// A public operation of this crate, for code that handles each of them: tables, checks against a device, benchmarks.
        ///
        /// A `match` over it stops compiling when an operation is added, and a test of this crate fails when a public function is missing
        /// here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $($(#[$doc])* #[doc = concat!("[`crate::", stringify!($name), "()`]")] $variant,)+
        }

        impl Operation {
            /// Every operation.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name of the public function.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)+
                }
            }
        }
    };
}

operations! {
    SelectiveScan = selective_scan,
    SelectiveScan2d = selective_scan_2d,
    CrossScan = cross_scan,
    CrossMerge = cross_merge,
    Gelu = gelu,
    Silu = silu,
    Softplus = softplus,
    ChannelNorm = channel_norm,
    BatchNorm = batch_norm,
    Linear = linear,
    LinearFused = linear_fused,
    Mlp = mlp,
    Matmul = matmul,
    Conv2d = conv2d,
    Conv2dFused = conv2d_fused,
    DepthwiseConv2d = depthwise_conv2d,
    DepthwiseConv2dFused = depthwise_conv2d_fused,
    ResizeBilinear = resize_bilinear,
    SoftmaxChannels = softmax_channels,
    CrossEntropyMap = cross_entropy_map,
    RoiAlign = roi_align,
    ArgmaxChannels = argmax_channels,
    ArgmaxResized = argmax_resized,
    BatchedNmsOn = batched_nms_on,
    BatchedNms = batched_nms,
    Nms = nms,
    PasteMask = paste_mask,
}

impl Operation {
    /// Whether the operation takes tensors and returns a tensor that has a gradient. The others return labels, box indices or runs.
    pub const fn is_differentiable(self) -> bool {
        match self {
            Self::SelectiveScan
            | Self::SelectiveScan2d
            | Self::CrossScan
            | Self::CrossMerge
            | Self::Gelu
            | Self::Silu
            | Self::Softplus
            | Self::ChannelNorm
            | Self::BatchNorm
            | Self::Linear
            | Self::LinearFused
            | Self::Mlp
            | Self::Matmul
            | Self::Conv2d
            | Self::Conv2dFused
            | Self::DepthwiseConv2d
            | Self::DepthwiseConv2dFused
            | Self::ResizeBilinear
            | Self::SoftmaxChannels
            | Self::CrossEntropyMap
            | Self::RoiAlign => true,
            Self::ArgmaxChannels | Self::ArgmaxResized | Self::BatchedNmsOn | Self::BatchedNms | Self::Nms | Self::PasteMask => false,
        }
    }

    /// Whether the operation runs on the host whatever the device: it takes and returns plain numbers.
    pub const fn is_host_only(self) -> bool {
        matches!(self, Self::BatchedNms | Self::Nms | Self::PasteMask)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Public functions that are settings or queries, not operations.
    const SETTINGS: [&str; 4] = ["float32_products", "has_tf32", "keeps_float32", "set_float32_products"];

    /// The functions among the `pub use` lines of `lib.rs`; names in lower case are functions.
    fn public_functions() -> BTreeSet<&'static str> {
        let mut functions = BTreeSet::new();
        for exported in include_str!("lib.rs").split("pub use ").skip(1) {
            let items = exported.split(';').next().unwrap();
            let (_, items) = items.split_once("::").unwrap();
            let items = items.trim_matches(['{', '}']).split(',').map(str::trim).filter(|item| !item.is_empty());
            functions.extend(items.filter(|item| item.starts_with(|first: char| first.is_ascii_lowercase())));
        }
        functions
    }

    #[test]
    fn every_public_function_is_an_operation_or_a_setting() {
        let listed: BTreeSet<&str> = Operation::ALL.iter().map(|operation| operation.name()).chain(SETTINGS).collect();
        assert_eq!(listed.len(), Operation::ALL.len() + SETTINGS.len(), "a name is listed twice");
        assert_eq!(public_functions(), listed, "`Operation` (catalogue.rs) and the `pub use` lines of lib.rs differ");
    }

    #[test]
    fn lib_rs_makes_functions_public_only_by_pub_use() {
        let declared = include_str!("lib.rs")
            .lines()
            .filter(|line| ["pub fn ", "pub mod ", "pub const fn "].iter().any(|start| line.starts_with(start)));
        assert_eq!(declared.collect::<Vec<_>>(), [""; 0], "declare each operation in its folder and re-export it");
    }

    #[test]
    fn host_only_operations_have_no_gradient() {
        assert!(Operation::ALL.iter().all(|operation| !(operation.is_host_only() && operation.is_differentiable())));
    }
}
