//! Configuration of UperNet; the defaults are those of the published ADE20K models.

use burn::prelude::*;
use serde::{Deserialize, Serialize};
use vmamba::ConfigError;
use vmamba::zoo::{Backbone, BackboneConfig};

use crate::model::UperNet;

/// UperNet on a VMamba backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UperNetConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Classes, the ignored label not counted.
    pub num_classes: usize,
    /// The decode head.
    #[serde(default)]
    pub head: UperHeadConfig,
    /// The auxiliary head that helps training; absent to train without.
    #[serde(default = "FcnHeadConfig::some")]
    pub auxiliary: Option<FcnHeadConfig>,
}

/// The decode head (mmsegmentation's `UPerHead`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UperHeadConfig {
    /// Channels of every internal map.
    pub channels: usize,
    /// Sides of the pooled maps.
    pub pool_scales: Vec<usize>,
    /// Probability of dropping a channel before the classifier, in training.
    pub dropout: f64,
}

/// The auxiliary head (mmsegmentation's `FCNHead`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FcnHeadConfig {
    /// Which level of the pyramid it sees, 0 the finest.
    pub in_index: usize,
    /// Channels of its convolutions.
    pub channels: usize,
    /// Number of 3x3 convolutions.
    pub num_convs: usize,
    /// Probability of dropping a channel before the classifier, in training.
    pub dropout: f64,
    /// Weight of its loss in the total.
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

/// An image size to ask for the number of levels with, which does not depend on it.
const ANY_IMAGE: [usize; 2] = [224, 224];

/// What is wrong with a [`UperNetConfig`].
#[derive(Debug, thiserror::Error)]
pub enum UperNetConfigError {
    /// The backbone's configuration.
    #[error("backbone: {0}")]
    Backbone(#[from] ConfigError),
    /// A number that must be positive is 0.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A probability outside [0, 1).
    #[error("{field} must be in [0, 1), got {value}")]
    Probability {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// The auxiliary head looks at a level that does not exist.
    #[error("auxiliary.in_index is {index}, but the backbone has {levels} levels (0 to {})", levels - 1)]
    Level {
        /// The level asked for.
        index: usize,
        /// Levels of the backbone.
        levels: usize,
    },
}

impl UperNetConfig {
    /// The published head and auxiliary head for `num_classes` classes.
    pub fn new(backbone: impl Into<BackboneConfig>, num_classes: usize) -> Self {
        Self { backbone: backbone.into(), num_classes, head: UperHeadConfig::default(), auxiliary: FcnHeadConfig::some() }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self) -> Result<(), UperNetConfigError> {
        self.backbone.validate()?;
        let positive = |field, value: usize| if value == 0 { Err(UperNetConfigError::Zero(field)) } else { Ok(()) };
        let probability = |field, value: f64| {
            if (0.0..1.0).contains(&value) { Ok(()) } else { Err(UperNetConfigError::Probability { field, value }) }
        };
        positive("num_classes", self.num_classes)?;
        positive("head.channels", self.head.channels)?;
        positive("head.pool_scales", self.head.pool_scales.iter().copied().min().unwrap_or(0))?;
        probability("head.dropout", self.head.dropout)?;
        if let Some(auxiliary) = &self.auxiliary {
            positive("auxiliary.channels", auxiliary.channels)?;
            positive("auxiliary.num_convs", auxiliary.num_convs)?;
            probability("auxiliary.dropout", auxiliary.dropout)?;
            let levels = self.backbone.levels(ANY_IMAGE).len();
            if auxiliary.in_index >= levels {
                return Err(UperNetConfigError::Level { index: auxiliary.in_index, levels });
            }
        }
        Ok(())
    }

    /// Builds the model with random weights on `device`.
    ///
    /// # Errors
    /// As [`UperNetConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<UperNet<Backbone>, UperNetConfigError> {
        self.validate()?;
        let backbone = self.backbone.try_init(device)?;
        Ok(UperNet::new(backbone, self.num_classes, &self.head, self.auxiliary.as_ref(), device))
    }

    /// As [`UperNetConfig::try_init`].
    ///
    /// # Panics
    /// When the configuration is not valid.
    pub fn init(&self, device: &Device) -> UperNet<Backbone> {
        match self.try_init(device) {
            Ok(model) => model,
            Err(error) => panic!("{error}"),
        }
    }
}
