//! Validation of the configurations of this crate.

use crate::anchor_generator::AnchorConfig;
use crate::assigner::MaxIouAssigner;
use crate::box_coder::BoxCoder;
use crate::box_head::{BoxHeadConfig, BoxHeadLayers};
use crate::fpn::FpnConfig;
use crate::losses::DeltaLoss;
use crate::mask_head::MaskHeadConfig;
use crate::postprocess::TestConfig;
use crate::roi_sampling::RoiConfig;
use crate::rpn::{ProposalConfig, RpnConfig};
use crate::sampler::RandomSampler;

/// An invalid field of a configuration.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum DetectionConfigError {
    /// A count or size is 0.
    #[error("{field} must be at least 1")]
    Zero {
        /// Path of the field, such as `heads.rpn.channels`.
        field: String,
    },
    /// A share is outside [0, 1].
    #[error("{field} must be in [0, 1], got {value}")]
    Share {
        /// Path of the field.
        field: String,
        /// Its value.
        value: f32,
    },
    /// A number or a list of numbers is not positive and finite.
    #[error("{field} must be positive and finite, got {value:?}")]
    Positive {
        /// Path of the field.
        field: String,
        /// Its value; a list without elements is invalid too.
        value: Vec<f32>,
    },
    /// A border is negative or not finite.
    #[error("{field} must be at least 0 and finite, got {value}")]
    Border {
        /// Path of the field.
        field: String,
        /// Its value.
        value: f32,
    },
    /// A number is not finite.
    #[error("{field} must be finite, got {value}")]
    NotFinite {
        /// Path of the field.
        field: String,
        /// Its value.
        value: f32,
    },
    /// The pyramid has fewer levels than the backbone.
    #[error("{field} is {levels}, but the backbone has {backbone} levels")]
    Levels {
        /// Path of the field.
        field: String,
        /// Levels of the pyramid.
        levels: usize,
        /// Levels of the backbone.
        backbone: usize,
    },
}

impl DetectionConfigError {
    /// Prefixes the path of the field with `parent`.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        let (Self::Zero { field }
        | Self::Share { field, .. }
        | Self::Positive { field, .. }
        | Self::Border { field, .. }
        | Self::NotFinite { field, .. }
        | Self::Levels { field, .. }) = &mut self;
        field.insert(0, '.');
        field.insert_str(0, parent);
        self
    }
}

fn at_least_one(field: &str, value: usize) -> Result<(), DetectionConfigError> {
    if value == 0 { Err(DetectionConfigError::Zero { field: field.to_owned() }) } else { Ok(()) }
}

fn share(field: &str, value: f32) -> Result<(), DetectionConfigError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(DetectionConfigError::Share { field: field.to_owned(), value }) }
}

fn positive(field: &str, values: &[f32]) -> Result<(), DetectionConfigError> {
    if values.is_empty() || values.iter().any(|number| !(*number > 0.0 && number.is_finite())) {
        return Err(DetectionConfigError::Positive { field: field.to_owned(), value: values.to_vec() });
    }
    Ok(())
}

fn finite(field: &str, values: &[f32]) -> Result<(), DetectionConfigError> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(DetectionConfigError::NotFinite { field: field.to_owned(), value: *value }),
        None => Ok(()),
    }
}

impl BoxCoder {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        finite("target_means", &self.target_means)?;
        positive("target_stds", &self.target_stds)
    }
}

impl AnchorConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        positive("scales", &self.scales)?;
        positive("ratios", &self.ratios)
    }
}

impl MaxIouAssigner {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        share("positive", self.positive)?;
        share("negative", self.negative)?;
        share("minimum", self.minimum)?;
        share("ignore_crowd", self.ignore_crowd.unwrap_or(0.0))
    }
}

impl RandomSampler {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        at_least_one("num", self.num)?;
        share("positive_fraction", self.positive_fraction as f32)
    }
}

impl ProposalConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        at_least_one("nms_pre", self.nms_pre)?;
        at_least_one("max_per_image", self.max_per_image)?;
        share("nms_threshold", self.nms_threshold)?;
        finite("min_size", &[self.min_size])
    }
}

impl DeltaLoss {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        match self {
            Self::L1 => Ok(()),
            Self::SmoothL1 { beta } => positive("smooth_l1.beta", &[*beta]),
        }
    }
}

impl RpnConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        at_least_one("channels", self.channels)?;
        self.coder.validate().map_err(|error| error.within("coder"))?;
        self.assigner.validate().map_err(|error| error.within("assigner"))?;
        self.sampler.validate().map_err(|error| error.within("sampler"))?;
        if let Some(border) = self.allowed_border
            && !(border >= 0.0 && border.is_finite())
        {
            return Err(DetectionConfigError::Border { field: "allowed_border".to_owned(), value: border });
        }
        self.loss.validate().map_err(|error| error.within("loss"))?;
        self.train.validate().map_err(|error| error.within("train"))?;
        self.test.validate().map_err(|error| error.within("test"))
    }
}

impl RoiConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        self.assigner.validate().map_err(|error| error.within("assigner"))?;
        self.sampler.validate().map_err(|error| error.within("sampler"))
    }
}

impl FpnConfig {
    /// Validates value ranges for a backbone with `backbone` levels.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self, backbone: usize) -> Result<(), DetectionConfigError> {
        at_least_one("channels", self.channels)?;
        if self.levels < backbone {
            return Err(DetectionConfigError::Levels { field: "levels".to_owned(), levels: self.levels, backbone });
        }
        Ok(())
    }
}

impl BoxHeadConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        at_least_one("channels", self.channels)?;
        at_least_one("roi_size", self.roi_size)?;
        if let BoxHeadLayers::Shared4Conv1Fc { channels, .. } = self.layers {
            at_least_one("layers.shared_4conv1fc.channels", channels)?;
        }
        self.coder.validate().map_err(|error| error.within("coder"))?;
        if let Some(loss) = self.loss.of_deltas() {
            loss.validate().map_err(|error| error.within("loss"))?;
        }
        positive("loss_weight", &[self.loss_weight as f32])
    }
}

impl MaskHeadConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        at_least_one("channels", self.channels)?;
        at_least_one("roi_size", self.roi_size)
    }
}

impl TestConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
        at_least_one("max_per_image", self.max_per_image)?;
        share("score_threshold", self.score_threshold)?;
        share("nms_threshold", self.nms_threshold)?;
        share("mask_threshold", self.mask_threshold)
    }
}
