//! Reads the keyword arguments of the official `VSSM`.

use serde_json::{Map, Value};

use super::config::{ConfigError, Dims, DownsampleVersion, NormLayout, PatchEmbedVersion, SsmInit, VmambaConfig};
use super::forward_type::ForwardType;
use super::presets::Preset;
use crate::layers::Activation;

/// A model described by the official keyword arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct OfficialConfig {
    /// The backbone.
    pub config: VmambaConfig,
    /// Number of classes of the classifier, if the arguments have it.
    pub num_classes: Option<usize>,
}

impl VmambaConfig {
    /// The defaults of the official constructor, except for `forward_type`: the official default `v2` cannot run, so
    /// [`OfficialConfig::parse`] requires the argument.
    pub fn official_defaults() -> Self {
        Self {
            depths: vec![2, 2, 9, 2],
            dims: Dims::PerStage(vec![96, 192, 384, 768]),
            ssm_d_state: 16,
            ssm_ratio: 2.0,
            ssm_conv_bias: true,
            drop_path_rate: 0.1,
            norm_layer: NormLayout::Ln,
            patchembed_version: PatchEmbedVersion::V1,
            downsample_version: DownsampleVersion::V2,
            ..Preset::VmambaTinyS1l8.config()
        }
    }
}

impl OfficialConfig {
    /// Reads an object of official keyword arguments, e.g. `{"depths": [2, 2, 8, 2], "dims": 96, "forward_type": "v05_noz", …}`.
    /// Missing ones have the official defaults. `use_checkpoint`, `pretrained` and `type` do not describe the model and are ignored.
    ///
    /// # Errors
    /// [`ConfigError::Official`] for a value that is not an object, an unknown key or a value of the wrong type,
    /// [`ConfigError::ForwardType`] for a missing or unsupported `forward_type`, [`ConfigError::Field`] for invalid options.
    pub fn parse(arguments: &Value) -> Result<Self, ConfigError> {
        let official = |error: serde_json::Error| ConfigError::Official(error.to_string());
        let Value::Object(arguments) = arguments else {
            return Err(ConfigError::Official("expected an object of keyword arguments".to_owned()));
        };
        let mut arguments: Map<String, Value> = arguments.clone();
        for passed_over in ["use_checkpoint", "pretrained", "type"] {
            arguments.remove(passed_over);
        }
        let num_classes = match arguments.remove("num_classes") {
            Some(value) => Some(serde_json::from_value(value).map_err(official)?),
            None => None,
        };
        if let Some(Value::String(layout)) = arguments.get_mut("norm_layer") {
            *layout = layout.to_lowercase();
            if layout == "bn" {
                return Err(ConfigError::Field {
                    field: "norm_layer",
                    expected: "ln or ln2d (BatchNorm, which no published model uses, is not supported)".to_owned(),
                    found: "bn".to_owned(),
                });
            }
        }

        let scans = arguments.get("ssm_ratio").and_then(Value::as_f64).is_none_or(|ratio| ratio > 0.0);
        let forward_type: Option<ForwardType> = match arguments.get("forward_type") {
            Some(Value::String(text)) => Some(text.parse()?),
            None if scans => Some("v2".parse()?),
            _ => None,
        };

        let Value::Object(mut merged) = serde_json::to_value(VmambaConfig::official_defaults()).map_err(official)? else {
            return Err(ConfigError::Official("the defaults are not an object".to_owned()));
        };
        merged.extend(arguments);
        let mut config: VmambaConfig = serde_json::from_value(Value::Object(merged)).map_err(official)?;
        if forward_type.is_some_and(ForwardType::is_vanilla) {
            // The official v0 sets these options itself and ignores the arguments.
            config.ssm_act_layer = Activation::Silu;
            config.ssm_conv = Some(3);
            config.ssm_conv_bias = true;
            config.ssm_init = SsmInit::V0;
        }
        config.validate()?;
        Ok(Self { config, num_classes })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn official_arguments_give_the_preset() {
        let arguments = json!({
            "depths": [2, 2, 8, 2], "dims": 96, "drop_path_rate": 0.2, "ssm_d_state": 1, "ssm_ratio": 1.0, "ssm_dt_rank": "auto",
            "ssm_conv": 3, "ssm_conv_bias": false, "forward_type": "v05_noz", "norm_layer": "LN2D", "downsample_version": "v3",
            "patchembed_version": "v2", "num_classes": 1000, "use_checkpoint": false
        });
        let official = OfficialConfig::parse(&arguments).unwrap();
        assert_eq!(official, OfficialConfig { config: Preset::VmambaTinyS1l8.config(), num_classes: Some(1000) });
    }

    #[test]
    fn the_broken_official_default_and_misspelt_keys_are_refused() {
        let error = OfficialConfig::parse(&json!({})).unwrap_err().to_string();
        assert!(error.contains("`v0`"), "{error}");
        let error = OfficialConfig::parse(&json!({"forward_type": "v05", "embed_dims": 96})).unwrap_err().to_string();
        assert!(error.contains("embed_dims"), "{error}");
        let error = OfficialConfig::parse(&json!({"forward_type": "v05", "norm_layer": "bn"})).unwrap_err().to_string();
        assert!(error.contains("ln2d"), "{error}");
    }

    #[test]
    fn a_model_without_scan_needs_no_forward_type() {
        let official = OfficialConfig::parse(&json!({"ssm_ratio": 0.0})).unwrap();
        assert_eq!(official.config.ssm_ratio, 0.0);
    }
}
