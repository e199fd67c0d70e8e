//! Configuration of UperNet. The defaults are those of the published ADE20K models.

use serde::{Deserialize, Serialize};
use vmamba::ConfigError;
use vmamba::zoo::BackboneConfig;
use vmamba_types::setting::{self, SettingError};

/// UperNet on any backbone of the zoo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UperNetConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Number of classes without the ignored label.
    pub num_classes: usize,
    /// The decode head.
    #[serde(default)]
    pub head: UperHeadConfig,
    /// The head for an auxiliary loss in training; `None` trains without.
    #[serde(default = "FcnHeadConfig::some")]
    pub auxiliary: Option<FcnHeadConfig>,
}

/// The decode head (mmsegmentation's `UPerHead`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct UperHeadConfig {
    /// Channels of all maps inside the head.
    pub channels: usize,
    /// Sides of the pooled maps, in cells.
    pub pool_scales: Vec<usize>,
    /// Probability of dropping a channel before the classifier in training, in [0, 1).
    pub dropout: f64,
}

/// The auxiliary head (mmsegmentation's `FCNHead`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FcnHeadConfig {
    /// The level of the pyramid that it reads, 0 being the finest.
    pub in_index: usize,
    /// Outputs of its convolutions.
    pub channels: usize,
    /// Number of 3x3 convolutions.
    pub num_convs: usize,
    /// Probability of dropping a channel before the classifier in training, in [0, 1).
    pub dropout: f64,
    /// Factor of its loss.
    pub loss_weight: f64,
}

impl Default for UperHeadConfig {
    fn default() -> Self {
        Self { channels: 512, pool_scales: vec![1, 2, 3, 6], dropout: 0.1 }
    }
}

impl Default for FcnHeadConfig {
    fn default() -> Self {
        Self { in_index: 2, channels: 256, num_convs: 1, dropout: 0.1, loss_weight: 0.4 }
    }
}

impl FcnHeadConfig {
    fn some() -> Option<Self> {
        Some(Self::default())
    }
}

/// The image size at which [`BackboneConfig::levels`] counts the levels of a backbone; every size gives the same number.
const ANY_IMAGE: [usize; 2] = [224, 224];

/// Why an [`UperNetConfig`] is invalid.
#[derive(Debug, thiserror::Error)]
pub enum UperNetConfigError {
    /// The configuration of the backbone is invalid.
    #[error("backbone: {0}")]
    Backbone(#[from] ConfigError),
    /// Another field is outside its range.
    #[error(transparent)]
    Heads(#[from] SettingError),
}

/// Largest side of a pooled map, in cells.
const MAX_POOL_SCALE: usize = 1_024;

impl UperHeadConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("channels", self.channels, setting::CHANNELS)?;
        setting::wholes("pool_scales", &self.pool_scales, 1..=MAX_POOL_SCALE)?;
        setting::rate("dropout", self.dropout)
    }
}

impl FcnHeadConfig {
    /// Validates value ranges for a backbone with `levels` levels.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self, levels: usize) -> Result<(), SettingError> {
        let allowed = format!("a level of the backbone, from 0 to {}", levels.saturating_sub(1));
        setting::require(self.in_index < levels, "in_index", allowed, self.in_index)?;
        setting::whole("channels", self.channels, setting::CHANNELS)?;
        setting::whole("num_convs", self.num_convs, 1..=64)?;
        setting::rate("dropout", self.dropout)?;
        setting::number("loss_weight", self.loss_weight, 0.0..=1e6)
    }
}

impl UperNetConfig {
    /// The published heads for `num_classes` classes on a backbone.
    pub fn on(backbone: impl Into<BackboneConfig>, num_classes: usize) -> Self {
        Self { backbone: backbone.into(), num_classes, head: UperHeadConfig::default(), auxiliary: FcnHeadConfig::some() }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field.
    pub fn validate(&self) -> Result<(), UperNetConfigError> {
        self.backbone.validate_pyramid()?;
        setting::whole("num_classes", self.num_classes, setting::CHANNELS)?;
        self.head.validate().map_err(|error| error.within("head"))?;
        match &self.auxiliary {
            Some(auxiliary) => {
                let levels = self.backbone.levels(ANY_IMAGE).len();
                Ok(auxiliary.validate(levels).map_err(|error| error.within("auxiliary"))?)
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use vmamba::VmambaConfig;

    use super::*;

    #[test]
    fn invalid_fields_are_named_by_their_path() {
        type Break = fn(&mut FcnHeadConfig);
        let broken: [(&str, Break); 4] = [
            ("auxiliary.channels", |head| head.channels = 0),
            ("auxiliary.dropout", |head| head.dropout = 1.0),
            ("auxiliary.loss_weight", |head| head.loss_weight = f64::NAN),
            ("auxiliary.in_index", |head| head.in_index = 4),
        ];
        for (field, broken) in broken {
            let mut head = FcnHeadConfig::default();
            broken(&mut head);
            let config = UperNetConfig { auxiliary: Some(head), ..UperNetConfig::on(VmambaConfig::default(), 3) };
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        }
    }
}
