//! What the examples share: a small model that trains within minutes on two cores.

use vmamba::{Dims, DownsampleVersion, PatchEmbedVersion, VmambaConfig};

/// A VMamba of about half a million parameters. For real work, take a published model:
/// `BackboneConfig::named("vmamba_tiny_s1l8")`.
pub fn small_backbone() -> VmambaConfig {
    VmambaConfig {
        depths: vec![1, 1, 2, 1],
        dims: Dims::Doubling(24),
        mlp_ratio: 2.0,
        patchembed_version: PatchEmbedVersion::V2,
        downsample_version: DownsampleVersion::V3,
        drop_path_rate: 0.0,
        ..VmambaConfig::preset(vmamba::Preset::VmambaTinyS1l8)
    }
}
