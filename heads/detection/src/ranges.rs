//! Ranges of the configurations of this crate.

use vmamba_types::setting::{self, SettingError};

use crate::anchor_generator::AnchorConfig;
use crate::assigner::MaxIouAssigner;
use crate::box_coder::BoxCoder;
use crate::box_head::{BoxHeadConfig, BoxHeadLayers, ConvNorm};
use crate::fpn::FpnConfig;
use crate::losses::DeltaLoss;
use crate::mask_head::MaskHeadConfig;
use crate::postprocess::TestConfig;
use crate::roi_sampling::RoiConfig;
use crate::rpn::{ProposalConfig, RpnConfig};
use crate::sampler::RandomSampler;

/// Largest side of RoI features, in cells; published models have 7 and 14.
const MAX_ROI_SIZE: usize = 256;

/// Largest number of levels of a pyramid. The coarsest level of a backbone is halved from level to level, so that more would be 1 x 1.
const MAX_LEVELS: usize = 16;

/// Largest factor of a loss.
pub const MAX_LOSS_WEIGHT: f64 = 1e6;

impl BoxCoder {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        let near_zero = self.target_means.iter().all(|mean| mean.abs() <= 100.0);
        setting::require(near_zero, "target_means", "four numbers from -100 to 100", self.target_means)?;
        setting::positives("target_stds", &self.target_stds, 100.0)
    }
}

impl AnchorConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::positives("scales", &self.scales, 4_096.0)?;
        setting::positives("ratios", &self.ratios, 1_000.0)
    }
}

impl MaxIouAssigner {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        // A threshold of 0 would make every box an object, or none background.
        setting::positive("positive", self.positive, 1.0)?;
        setting::positive("negative", self.negative, 1.0)?;
        let ordered = self.negative <= self.positive;
        let allowed = format!("at most positive ({}), from which on a box is an object", self.positive);
        setting::require(ordered, "negative", allowed, self.negative)?;
        setting::share("minimum", self.minimum)?;
        setting::share("ignore_crowd", self.ignore_crowd.unwrap_or(0.0))
    }
}

impl RandomSampler {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("num", self.num, setting::BOXES)?;
        setting::share("positive_fraction", self.positive_fraction)?;
        let [num, fraction] = [self.num as f64, self.positive_fraction];
        let allowed = format!("a share of num ({}) of at least one box, without which no object is ever learned", self.num);
        setting::require(num * fraction >= 1.0, "positive_fraction", allowed, fraction)
    }
}

impl ProposalConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("nms_pre", self.nms_pre, setting::BOXES)?;
        setting::whole("max_per_image", self.max_per_image, setting::BOXES)?;
        setting::share("nms_threshold", self.nms_threshold)?;
        // mmdetection's -1 keeps every box.
        setting::number("min_size", self.min_size, -1.0..=*setting::SIDE.end() as f64)
    }
}

impl DeltaLoss {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        match self {
            Self::L1 => Ok(()),
            Self::SmoothL1 { beta } => setting::positive("smooth_l1.beta", *beta, 1e6),
        }
    }
}

impl RpnConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("channels", self.channels, setting::CHANNELS)?;
        self.coder.validate().map_err(|error| error.within("coder"))?;
        self.assigner.validate().map_err(|error| error.within("assigner"))?;
        self.sampler.validate().map_err(|error| error.within("sampler"))?;
        setting::number("allowed_border", self.allowed_border.unwrap_or(0.0), 0.0..=*setting::SIDE.end() as f64)?;
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
    pub fn validate(&self) -> Result<(), SettingError> {
        self.assigner.validate().map_err(|error| error.within("assigner"))?;
        self.sampler.validate().map_err(|error| error.within("sampler"))
    }
}

impl FpnConfig {
    /// Validates value ranges for a backbone with `backbone` levels.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self, backbone: usize) -> Result<(), SettingError> {
        setting::whole("channels", self.channels, setting::CHANNELS)?;
        let allowed = format!("a whole number from {backbone}, the levels of the backbone, to {MAX_LEVELS}");
        setting::require((backbone.max(1)..=MAX_LEVELS).contains(&self.levels), "levels", allowed, self.levels)
    }
}

impl BoxHeadConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("channels", self.channels, setting::CHANNELS)?;
        setting::whole("roi_size", self.roi_size, 1..=MAX_ROI_SIZE)?;
        if let BoxHeadLayers::Shared4Conv1Fc { channels, norm } = self.layers {
            setting::whole("layers.shared_4conv1fc.channels", channels, setting::CHANNELS)?;
            // A step may sample a single RoI, and PyTorch refuses a single value too: "Expected more than 1 value per channel when training".
            let values = norm != ConvNorm::BatchNorm || self.roi_size > 1;
            let allowed = "at least 2 with a batch norm, which would see a single value per channel in a step with one sampled RoI";
            setting::require(values, "roi_size", allowed, self.roi_size)?;
        }
        self.coder.validate().map_err(|error| error.within("coder"))?;
        if let Some(loss) = self.loss.of_deltas() {
            loss.validate().map_err(|error| error.within("loss"))?;
        }
        setting::positive("loss_weight", self.loss_weight, MAX_LOSS_WEIGHT)
    }
}

impl MaskHeadConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("num_convs", self.num_convs, 0..=64)?;
        setting::whole("channels", self.channels, setting::CHANNELS)?;
        setting::whole("roi_size", self.roi_size, 1..=MAX_ROI_SIZE)
    }
}

impl TestConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("max_per_image", self.max_per_image, setting::BOXES)?;
        // No probability is above 1.
        setting::rate("score_threshold", self.score_threshold)?;
        setting::share("nms_threshold", self.nms_threshold)?;
        setting::rate("mask_threshold", self.mask_threshold)
    }
}
