//! Validation of the configurations of this crate.

use crate::anchor_generator::AnchorConfig;
use crate::assigner::MaxIouAssigner;
use crate::box_coder::BoxCoder;
use crate::box_head::{BoxHeadConfig, BoxHeadLayers, BoxLoss};
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
    /// The pyramid has fewer levels than the backbone.
    #[error("{field} is {levels}, but the backbone alone has {backbone}")]
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
    /// The same error with the path of the field inside `parent`.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        let (Self::Zero { field } | Self::Share { field, .. } | Self::Positive { field, .. } | Self::Levels { field, .. }) = &mut self;
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

impl BoxCoder {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), DetectionConfigError> {
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
        share("minimum", self.minimum)
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
        share("nms_threshold", self.nms_threshold)
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
        if let DeltaLoss::SmoothL1 { beta } = self.loss {
            positive("loss.smooth_l1.beta", &[beta])?;
        }
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
        if let BoxLoss::SmoothL1 { beta } = self.loss {
            positive("loss.smooth_l1.beta", &[beta])?;
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
