//! Every option of the official model as a typed field.
//!
//! [`VmambaConfig`] keeps the official keyword names, so a configuration reads like the published ones. Values are enums and numbers that
//! [`VmambaConfig::validate`] checks. The official mini-language of `forward_type` (`v05_noz`, `v052dc_noz_oact`, …) parses into
//! [`ForwardType`], see `forward_type.rs`. [`OfficialConfig`] reads the keyword arguments of the official code.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::Vmamba;
use super::classifier::VmambaClassifier;
use super::forward_type::ForwardType;
use crate::layers::Activation;
use crate::limits::{MAX_CHANNELS, MAX_KERNEL, MAX_RATIO, MAX_SIDE, require_depths, require_rate, require_stages, require_whole};

/// Options of a VMamba backbone. [`Preset`](super::Preset) has the published models; the default is `vmamba_tiny_s1l8`.
///
/// Serialises with the official keyword names. Unknown names are refused, and missing ones have the default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct VmambaConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Stride of the stem, 4 in every published model. Even for `patchembed_version = "v2"`.
    pub patch_size: usize,
    /// Blocks of each stage; its length is the number of stages.
    pub depths: Vec<usize>,
    /// Channels of each stage.
    pub dims: Dims,
    /// State size N of the scan.
    pub ssm_d_state: usize,
    /// Inner width of the SS2D branch over the block width, `d_inner = floor(ssm_ratio * dim)`; 0 leaves the branch out.
    pub ssm_ratio: f64,
    /// Rank R of the step-size projection.
    pub ssm_dt_rank: DtRank,
    /// Activation inside SS2D.
    pub ssm_act_layer: Activation,
    /// Size of the square depthwise convolution before the scan; -1 (or the official 1) leaves it out. Odd.
    #[serde(with = "conv_size")]
    #[cfg_attr(feature = "schema", schemars(with = "i64"))]
    pub ssm_conv: Option<usize>,
    /// Whether the convolution before the scan has a bias.
    pub ssm_conv_bias: bool,
    /// Dropout after the output projection of SS2D.
    pub ssm_drop_rate: f64,
    /// Initialisation of the scan's parameters.
    pub ssm_init: SsmInit,
    /// The function of SS2D: scan pattern, multiplicative branch, output norm and activation.
    pub forward_type: ForwardType,
    /// Hidden width of the MLP over the block width; 0 leaves the MLP out.
    pub mlp_ratio: f64,
    /// Activation of the MLP.
    pub mlp_act_layer: Activation,
    /// Dropout of the MLP.
    pub mlp_drop_rate: f64,
    /// Gated MLP: `fc2(x * act(z))` with `(x, z)` the halves of `fc1`.
    pub gmlp: bool,
    /// Norm after each branch instead of before it.
    pub post_norm: bool,
    /// Stochastic depth of the last block; it rises linearly from 0 over all blocks.
    pub drop_path_rate: f64,
    /// Whether the stem normalises.
    pub patch_norm: bool,
    /// Name of the norm layout in official configurations.
    pub norm_layer: NormLayout,
    /// Version of the stem.
    pub patchembed_version: PatchEmbedVersion,
    /// The layer between two stages.
    pub downsample_version: DownsampleVersion,
    /// Adds a learned absolute position table after the stem.
    pub posembed: bool,
    /// Side in pixels of the square image that the position table is made for; only used with `posembed`.
    pub imgsize: usize,
    /// Stages whose features the backbone returns, ascending.
    pub out_indices: Vec<usize>,
}

/// Channels of the stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a number of channels or a list of them, one a stage")]
pub enum Dims {
    /// Channels of the first stage, doubled from stage to stage.
    Doubling(usize),
    /// Channels of every stage.
    PerStage(Vec<usize>),
}

/// Rank of the step-size projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "RankNumberOrWord", into = "RankNumberOrWord")]
pub enum DtRank {
    /// `ceil(dim / 16)`, with the block width `dim` and not the inner width.
    Auto,
    /// The same rank in every block.
    Fixed(usize),
}

/// Initialisation of `dt_projs_weight`, `dt_projs_bias`, `A_logs` and `Ds`. On ImageNet the three differ by at most 0.1 points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SsmInit {
    /// Mamba's rule: step sizes uniform in log space between 1e-3 and 0.1, `A = -[1..N]`, `D = 1`.
    V0,
    /// Normal `A_logs`, `0.1 *` normal step-size projection.
    V1,
    /// Zero `A_logs`, `0.1 *` uniform step-size projection.
    V2,
}

/// Official names of the norm layout. Both are LayerNorm over channels, with equal parameters and results. The official code computes
/// `ln2d` on `[batch, channels, height, width]` and `ln` on `[batch, height, width, channels]`. The official `bn` (BatchNorm), which no
/// published model uses, is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum NormLayout {
    /// Channels last.
    #[serde(alias = "LN")]
    Ln,
    /// Channels first.
    #[serde(alias = "LN2D")]
    Ln2d,
}

/// Version of the stem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PatchEmbedVersion {
    /// One convolution with kernel and stride `patch_size`.
    V1,
    /// Two 3x3 convolutions with stride 2 (for a patch size of 4) and GELU between them.
    V2,
}

/// The layer between two stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DownsampleVersion {
    /// Swin's patch merging: four neighbours concatenated, LayerNorm, linear.
    V1,
    /// 2x2 convolution with stride 2, norm.
    V2,
    /// 3x3 convolution with stride 2, norm.
    V3,
    /// No layer: all stages have the same width and resolution.
    None,
}

/// Why a configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A `forward_type` that does not exist or is not supported.
    #[error("forward_type `{found}`: {problem}. Supported: {supported}")]
    ForwardType {
        /// The string that was given.
        found: String,
        /// The problem.
        problem: String,
        /// The supported ones.
        supported: String,
    },
    /// A field with an invalid value.
    #[error("`{field}`: expected {expected}, found {found}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// The valid values.
        expected: String,
        /// The value that was given.
        found: String,
    },
    /// No published model has this name.
    #[error("no model is called `{found}`; there are {supported}")]
    Preset {
        /// The name that was given.
        found: String,
        /// The names that exist.
        supported: String,
    },
    /// An official configuration that does not parse.
    #[error("official configuration: {0}")]
    Official(String),
}

/// [`ConfigError::Field`] unless `good`.
pub(crate) fn require<T: Serialize + ?Sized>(good: bool, field: &'static str, expected: &str, found: &T) -> Result<(), ConfigError> {
    if good {
        return Ok(());
    }
    // As a configuration has it: `8`, not `Doubling(8)`.
    let found = serde_json::to_string(found).unwrap_or_else(|_| "another value".to_owned());
    Err(ConfigError::Field { field, expected: expected.to_owned(), found })
}

impl Default for VmambaConfig {
    fn default() -> Self {
        super::Preset::VmambaTinyS1l8.config()
    }
}

impl VmambaConfig {
    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let stages = self.depths.len();
        let ratio = |ratio: f64| (0.0..=MAX_RATIO).contains(&ratio);
        require_whole("in_chans", self.in_chans, MAX_CHANNELS)?;
        require_depths(&self.depths)?;
        require(
            match &self.dims {
                Dims::Doubling(first) => *first > 0 && *first <= MAX_CHANNELS >> (stages - 1),
                Dims::PerStage(dims) => dims.len() == stages && dims.iter().all(|dim| (1..=MAX_CHANNELS).contains(dim)),
            },
            "dims",
            &format!("a positive number, or one a stage, with at most {MAX_CHANNELS} channels in every stage"),
            &self.dims,
        )?;
        let even = self.patchembed_version == PatchEmbedVersion::V2;
        require(
            (1..=MAX_SIDE).contains(&self.patch_size) && (!even || self.patch_size.is_multiple_of(2)),
            "patch_size",
            "a positive number, even for patchembed_version v2",
            &self.patch_size,
        )?;
        require(!even || self.dim(0) > 1, "dims", "at least 2 channels for patchembed_version v2", &self.dims)?;
        require_whole("ssm_d_state", self.ssm_d_state, MAX_KERNEL)?;
        require(ratio(self.ssm_ratio), "ssm_ratio", "a number from 0 to 64", &self.ssm_ratio)?;
        require(self.ssm_ratio == 0.0 || self.d_inner(self.dim(0)) > 0, "ssm_ratio", "at least one inner channel", &self.ssm_ratio)?;
        let rank = !matches!(self.ssm_dt_rank, DtRank::Fixed(rank) if !(1..=MAX_CHANNELS).contains(&rank));
        require(rank, "ssm_dt_rank", &format!("`auto` or a whole number from 1 to {MAX_CHANNELS}"), &self.ssm_dt_rank)?;
        let conv = self.ssm_conv.is_none_or(|size| size % 2 == 1 && size < MAX_KERNEL);
        let conv_size = self.ssm_conv.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX));
        require(conv, "ssm_conv", "an odd size below 1024, or -1 for none", &conv_size)?;
        require_rate("ssm_drop_rate", self.ssm_drop_rate)?;
        require(ratio(self.mlp_ratio), "mlp_ratio", "a number from 0 to 64", &self.mlp_ratio)?;
        require_rate("mlp_drop_rate", self.mlp_drop_rate)?;
        require_rate("drop_path_rate", self.drop_path_rate)?;
        require(
            self.downsample_version != DownsampleVersion::None || (1..stages).all(|s| self.dim(s) == self.dim(0)),
            "dims",
            "equal widths in all stages for downsample_version none",
            &self.dims,
        )?;
        require(self.imgsize <= MAX_SIDE, "imgsize", "at most 65536 pixels", &self.imgsize)?;
        require(!self.posembed || self.imgsize >= self.patch_size, "imgsize", "at least patch_size", &self.imgsize)?;
        require_stages(&self.out_indices, stages)?;
        if self.forward_type.is_vanilla() && self.ssm_ratio > 0.0 {
            // The official v0 ignores these options. Refuse other values, because they would have no effect.
            require(self.ssm_act_layer == Activation::Silu, "ssm_act_layer", "silu for forward_type v0", &self.ssm_act_layer)?;
            require(self.ssm_conv == Some(3), "ssm_conv", "3 for forward_type v0", &conv_size)?;
            require(self.ssm_conv_bias, "ssm_conv_bias", "true for forward_type v0", &self.ssm_conv_bias)?;
            require(self.ssm_init == SsmInit::V0, "ssm_init", "v0 for forward_type v0", &self.ssm_init)?;
        }
        Ok(())
    }

    /// A backbone with random weights on `device`, drawn from the device's random generator (see `Device::seed`).
    ///
    /// # Errors
    /// As [`VmambaConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<Vmamba, ConfigError> {
        self.validate()?;
        Ok(Vmamba::new(self, device))
    }

    /// As [`VmambaConfig::try_init`], for a configuration that is known to be valid.
    ///
    /// # Panics
    /// For an invalid configuration.
    pub fn init(&self, device: &Device) -> Vmamba {
        self.try_init(device).unwrap_or_else(|error| panic!("invalid VmambaConfig: {error}"))
    }

    /// A classifier with random weights on `device`. It does not use `out_indices`.
    ///
    /// # Panics
    /// For an invalid configuration.
    pub fn init_classifier(&self, num_classes: usize, device: &Device) -> VmambaClassifier {
        self.validate().unwrap_or_else(|error| panic!("invalid VmambaConfig: {error}"));
        VmambaClassifier::new(self, num_classes, device)
    }

    /// As [`VmambaConfig::init_classifier`].
    ///
    /// # Errors
    /// As [`VmambaConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<VmambaClassifier, ConfigError> {
        self.validate()?;
        Ok(VmambaClassifier::new(self, num_classes, device))
    }

    /// Checks that an image of `[height, width]` pixels has at least one position in every stage.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        if self.stage_sizes(image).iter().flatten().all(|side| *side > 0) {
            return Ok(());
        }
        let least = self.stride(self.num_stages().saturating_sub(1));
        Err(ConfigError::Field { field: "image", expected: format!("at least {least} pixels a side"), found: format!("{image:?}") })
    }

    /// Number of stages.
    pub fn num_stages(&self) -> usize {
        self.depths.len()
    }

    /// Channels of stage `stage`; 0 for a stage that does not exist.
    pub fn dim(&self, stage: usize) -> usize {
        match &self.dims {
            Dims::Doubling(first) => first << stage,
            Dims::PerStage(dims) => dims.get(stage).copied().unwrap_or(0),
        }
    }

    /// Stride of stage `stage`, in pixels of the image.
    pub fn stride(&self, stage: usize) -> usize {
        match self.downsample_version {
            DownsampleVersion::None => self.patch_size,
            _ => self.patch_size << stage,
        }
    }

    /// Inner width of SS2D in a block of width `dim`, rounded down.
    pub fn d_inner(&self, dim: usize) -> usize {
        (self.ssm_ratio * dim as f64) as usize
    }

    /// Rank of the step-size projection in a block of width `dim`.
    pub fn dt_rank(&self, dim: usize) -> usize {
        match self.ssm_dt_rank {
            DtRank::Auto => dim.div_ceil(16),
            DtRank::Fixed(rank) => rank,
        }
    }

    /// Hidden width of the MLP in a block of width `dim`, rounded down.
    pub fn mlp_hidden(&self, dim: usize) -> usize {
        (self.mlp_ratio * dim as f64) as usize
    }

    /// Stochastic depth of every block, from 0 to `drop_path_rate` in equal steps.
    pub fn drop_path_rates(&self) -> Vec<f64> {
        let blocks: usize = self.depths.iter().sum();
        (0..blocks).map(|i| if blocks > 1 { self.drop_path_rate * i as f64 / (blocks - 1) as f64 } else { 0.0 }).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a rank or \"auto\"")]
enum RankNumberOrWord {
    /// The same rank in every block.
    Number(usize),
    /// `ceil(dim / 16)`, with the block width `dim`.
    Word(#[cfg_attr(feature = "schema", schemars(extend("const" = "auto")))] String),
}

impl TryFrom<RankNumberOrWord> for DtRank {
    type Error = String;

    fn try_from(value: RankNumberOrWord) -> Result<Self, String> {
        match value {
            RankNumberOrWord::Number(rank) => Ok(Self::Fixed(rank)),
            RankNumberOrWord::Word(word) if word == "auto" => Ok(Self::Auto),
            RankNumberOrWord::Word(word) => Err(format!("ssm_dt_rank is `auto` or a number, not `{word}`")),
        }
    }
}

impl From<DtRank> for RankNumberOrWord {
    fn from(value: DtRank) -> Self {
        match value {
            DtRank::Auto => Self::Word("auto".to_owned()),
            DtRank::Fixed(rank) => Self::Number(rank),
        }
    }
}

/// The official number for a convolution: a size of at most 1 means none.
mod conv_size {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(size: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(size.map_or(-1, |k| i64::try_from(k).unwrap_or(i64::MAX)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
        let size = i64::deserialize(deserializer)?;
        Ok(usize::try_from(size).ok().filter(|k| *k > 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_make_no_model_are_refused_by_name() {
        type Change = fn(&mut VmambaConfig);
        let changes: [(&str, Change); 12] = [
            ("depths", |c| c.depths = vec![]),
            ("dims", |c| c.dims = Dims::PerStage(vec![8, 16])),
            ("dims", |c| c.downsample_version = DownsampleVersion::None),
            ("patch_size", |c| c.patch_size = 3),
            ("ssm_conv", |c| c.ssm_conv = Some(4)),
            ("ssm_dt_rank", |c| c.ssm_dt_rank = DtRank::Fixed(0)),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
            ("mlp_ratio", |c| c.mlp_ratio = f64::NAN),
            ("out_indices", |c| c.out_indices = vec![1, 0]),
            ("out_indices", |c| c.out_indices = vec![4]),
            ("out_indices", |c| c.out_indices = vec![]),
            ("ssm_conv_bias", |c| c.forward_type = ForwardType::VANILLA),
        ];
        for (field, change) in changes {
            let mut config = VmambaConfig::default();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
        }
    }

    #[test]
    fn numbers_and_words_of_the_official_files_are_read() {
        let read = |text: &str| serde_json::from_str::<VmambaConfig>(text).unwrap();
        assert_eq!(read(r#"{"ssm_conv": -1}"#).ssm_conv, None);
        assert_eq!(read(r#"{"ssm_conv": 1}"#).ssm_conv, None);
        assert_eq!(read(r#"{"ssm_dt_rank": 4}"#).dt_rank(96), 4);
        assert_eq!(read(r#"{"ssm_dt_rank": "auto"}"#).dt_rank(97), 7);
        assert_eq!(read(r#"{"dims": [8, 8]}"#).dim(1), 8);
        assert!(serde_json::from_str::<VmambaConfig>(r#"{"ssm_dt_rank": "full"}"#).is_err());
    }
}
