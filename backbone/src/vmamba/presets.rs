//! The published models under their official names.

use std::fmt;
use std::str::FromStr;

use super::config::{ConfigError, Dims, DownsampleVersion, DtRank, NormLayout, PatchEmbedVersion, SsmInit, VmambaConfig};
use super::forward_type::ForwardType;
use crate::layers::Activation;

/// A published model. `sXlY` in a name means `ssm_ratio` X and Y blocks in the third stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// `vmamba_tiny_s1l8`, 30 M parameters.
    VmambaTinyS1l8,
    /// `vmamba_tiny_s2l5`, 31 M.
    VmambaTinyS2l5,
    /// `vmamba_small_s2l15`, 50 M.
    VmambaSmallS2l15,
    /// `vmamba_small_s1l20`, 49 M.
    VmambaSmallS1l20,
    /// `vmamba_base_s2l15`, 89 M.
    VmambaBaseS2l15,
    /// `vmamba_base_s1l20`, 87 M.
    VmambaBaseS1l20,
    /// `vanilla_vmamba_tiny`, 23 M.
    VanillaVmambaTiny,
    /// `vanilla_vmamba_small`, 44 M.
    VanillaVmambaSmall,
    /// `vanilla_vmamba_base`, 76 M.
    VanillaVmambaBase,
}

impl Preset {
    /// All presets, in the order of the official README.
    pub const ALL: [Self; 9] = [
        Self::VanillaVmambaTiny,
        Self::VanillaVmambaSmall,
        Self::VanillaVmambaBase,
        Self::VmambaTinyS2l5,
        Self::VmambaSmallS2l15,
        Self::VmambaBaseS2l15,
        Self::VmambaTinyS1l8,
        Self::VmambaSmallS1l20,
        Self::VmambaBaseS1l20,
    ];

    /// The official name.
    pub fn name(self) -> &'static str {
        match self {
            Self::VmambaTinyS1l8 => "vmamba_tiny_s1l8",
            Self::VmambaTinyS2l5 => "vmamba_tiny_s2l5",
            Self::VmambaSmallS2l15 => "vmamba_small_s2l15",
            Self::VmambaSmallS1l20 => "vmamba_small_s1l20",
            Self::VmambaBaseS2l15 => "vmamba_base_s2l15",
            Self::VmambaBaseS1l20 => "vmamba_base_s1l20",
            Self::VanillaVmambaTiny => "vanilla_vmamba_tiny",
            Self::VanillaVmambaSmall => "vanilla_vmamba_small",
            Self::VanillaVmambaBase => "vanilla_vmamba_base",
        }
    }

    /// The configuration, with the stochastic depth of ImageNet training. For `vanilla_vmamba_base` that is the paper's 0.6, with which the
    /// published checkpoint was trained, although the official configuration file has 0.5.
    pub fn config(self) -> VmambaConfig {
        match self {
            Self::VmambaTinyS1l8 => vmamba(96, 8, 1.0, 0.2),
            Self::VmambaTinyS2l5 => vmamba(96, 5, 2.0, 0.2),
            Self::VmambaSmallS2l15 => vmamba(96, 15, 2.0, 0.3),
            Self::VmambaSmallS1l20 => vmamba(96, 20, 1.0, 0.3),
            Self::VmambaBaseS2l15 => vmamba(128, 15, 2.0, 0.6),
            Self::VmambaBaseS1l20 => vmamba(128, 20, 1.0, 0.5),
            Self::VanillaVmambaTiny => vanilla(96, 9, 0.2),
            Self::VanillaVmambaSmall => vanilla(96, 27, 0.3),
            Self::VanillaVmambaBase => vanilla(128, 27, 0.6),
        }
    }
}

impl VmambaConfig {
    /// The configuration of a published model.
    pub fn preset(preset: Preset) -> Self {
        preset.config()
    }
}

fn vmamba(dim: usize, third_stage: usize, ssm_ratio: f64, drop_path_rate: f64) -> VmambaConfig {
    VmambaConfig {
        in_chans: 3,
        patch_size: 4,
        depths: vec![2, 2, third_stage, 2],
        dims: Dims::Doubling(dim),
        ssm_d_state: 1,
        ssm_ratio,
        ssm_dt_rank: DtRank::Auto,
        ssm_act_layer: Activation::Silu,
        ssm_conv: Some(3),
        ssm_conv_bias: false,
        ssm_drop_rate: 0.0,
        ssm_init: SsmInit::V0,
        forward_type: ForwardType::V05_NOZ,
        mlp_ratio: 4.0,
        mlp_act_layer: Activation::Gelu,
        mlp_drop_rate: 0.0,
        gmlp: false,
        post_norm: false,
        drop_path_rate,
        patch_norm: true,
        norm_layer: NormLayout::Ln2d,
        patchembed_version: PatchEmbedVersion::V2,
        downsample_version: DownsampleVersion::V3,
        posembed: false,
        imgsize: 224,
        out_indices: vec![0, 1, 2, 3],
    }
}

fn vanilla(dim: usize, third_stage: usize, drop_path_rate: f64) -> VmambaConfig {
    VmambaConfig {
        ssm_d_state: 16,
        ssm_conv_bias: true,
        forward_type: ForwardType::VANILLA,
        mlp_ratio: 0.0,
        norm_layer: NormLayout::Ln,
        patchembed_version: PatchEmbedVersion::V1,
        downsample_version: DownsampleVersion::V1,
        ..vmamba(dim, third_stage, 2.0, drop_path_rate)
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| ConfigError::Preset { found: name.to_owned(), supported: Self::ALL.map(Self::name).join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_is_found_by_its_name() {
        for preset in Preset::ALL {
            preset.config().validate().unwrap();
            assert_eq!(preset.name().parse::<Preset>().unwrap(), preset);
        }
        assert!("vmamba_tiny".parse::<Preset>().unwrap_err().to_string().contains("vmamba_tiny_s1l8"));
    }

    #[test]
    fn a_config_survives_json_and_an_unknown_key_is_refused() {
        for preset in Preset::ALL {
            let config = preset.config();
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<VmambaConfig>(&text).unwrap(), config);
        }
        let error = serde_json::from_str::<VmambaConfig>(r#"{"depth": [1]}"#).unwrap_err().to_string();
        assert!(error.contains("depths"), "{error}");
    }

    #[test]
    fn stochastic_depth_rises_linearly_over_all_blocks() {
        let rates = Preset::VmambaTinyS1l8.config().drop_path_rates();
        assert_eq!(rates.len(), 14);
        assert_eq!((rates[0], rates[13]), (0.0, 0.2));
        assert!((rates[1] - 0.2 / 13.0).abs() < 1e-12);
    }
}
