//! Options of a Swin Transformer, its sizes and its cost.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::windows::Geometry;
use super::{Swin, SwinClassifier, SwinTrunk};
use crate::complexity::{Complexity, OpKind, product};
use crate::family::Family;
use crate::layers::{ChannelNorm, ConvConfig, Dense};
use crate::limits::{MAX_CHANNELS, MAX_KERNEL, MAX_SIDE, require_depths, require_rate, require_ratio, require_stages, require_whole};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Options of a [`Swin`](super::Swin); the default is [`SwinConfig::tiny`]. The official options have their official names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SwinConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Side of a patch in pixels; the stride of the first stage.
    pub patch_size: usize,
    /// Channels of the first stage, doubled from stage to stage.
    pub embed_dim: usize,
    /// Blocks of each stage; its length is the number of stages.
    pub depths: Vec<usize>,
    /// Attention heads of each stage.
    pub num_heads: Vec<usize>,
    /// Size of the windows.
    pub window_size: WindowSize,
    /// Side of the windows for which the bias tables are stored. For windows of another size, the tables are resampled bicubically.
    pub table_window: usize,
    /// What to do when a window is larger than the map.
    pub small_maps: SmallMaps,
    /// Hidden width of the MLP over the block width.
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether a norm follows the patch embedding.
    pub patch_norm: bool,
    /// Stochastic depth of the last block; it rises linearly from 0 over all blocks.
    pub drop_path_rate: f64,
    /// Stages whose features the backbone returns, ascending.
    pub out_indices: Vec<usize>,
}

/// Size of the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "WindowNumberOrWord", into = "WindowNumberOrWord")]
pub enum WindowSize {
    /// This many positions in height and width, for every image.
    Fixed(usize),
    /// The image's height and width over the stride of the last stage (32), rounded up, so the number of windows does not depend on the image
    /// size. The VMamba paper evaluates Swin-T like this at sizes that it was not trained for.
    Scaled,
}

/// What to do when a window is larger than the map. For a map of exactly the window's size, both give one window without shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SmallMaps {
    /// Pads the map to one window, without shift, as torchvision does. The detectors pad too but still shift; their images are never that
    /// small.
    Pad,
    /// Shrinks the window to the map, per axis, and resamples the bias, as the official classifier and timm do.
    Shrink,
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a number of positions or \"scaled\"")]
enum WindowNumberOrWord {
    /// Positions in height and width, for every image.
    Number(usize),
    /// The image's height and width over the stride of the last stage (32), rounded up.
    Word(#[cfg_attr(feature = "schema", schemars(extend("const" = "scaled")))] String),
}

impl TryFrom<WindowNumberOrWord> for WindowSize {
    type Error = String;

    fn try_from(value: WindowNumberOrWord) -> Result<Self, String> {
        match value {
            WindowNumberOrWord::Number(side) => Ok(Self::Fixed(side)),
            WindowNumberOrWord::Word(word) if word == "scaled" => Ok(Self::Scaled),
            WindowNumberOrWord::Word(word) => Err(format!("window_size is a number or `scaled`, not `{word}`")),
        }
    }
}

impl From<WindowSize> for WindowNumberOrWord {
    fn from(value: WindowSize) -> Self {
        match value {
            WindowSize::Fixed(side) => Self::Number(side),
            WindowSize::Scaled => Self::Word("scaled".to_owned()),
        }
    }
}

impl Default for SwinConfig {
    fn default() -> Self {
        Self::tiny()
    }
}

impl SwinConfig {
    /// Swin-T.
    pub fn tiny() -> Self {
        Self {
            in_chans: 3,
            patch_size: 4,
            embed_dim: 96,
            depths: vec![2, 2, 6, 2],
            num_heads: vec![3, 6, 12, 24],
            window_size: WindowSize::Fixed(7),
            table_window: 7,
            small_maps: SmallMaps::Pad,
            mlp_ratio: 4.0,
            qkv_bias: true,
            patch_norm: true,
            drop_path_rate: 0.2,
            out_indices: vec![0, 1, 2, 3],
        }
    }

    /// Swin-S.
    pub fn small() -> Self {
        Self { depths: vec![2, 2, 18, 2], drop_path_rate: 0.3, ..Self::tiny() }
    }

    /// Swin-B.
    pub fn base() -> Self {
        Self { embed_dim: 128, num_heads: vec![4, 8, 16, 32], drop_path_rate: 0.5, ..Self::small() }
    }

    /// Swin-B with windows of 12, as fine-tuned at 384.
    pub fn base_384() -> Self {
        Self { window_size: WindowSize::Fixed(12), table_window: 12, ..Self::base() }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let stages = self.depths.len();
        require_whole("in_chans", self.in_chans, MAX_CHANNELS)?;
        require_whole("patch_size", self.patch_size, MAX_SIDE)?;
        require_depths(&self.depths)?;
        require_whole("embed_dim", self.embed_dim, MAX_CHANNELS >> (stages - 1))?;
        let divides = |(stage, heads): (usize, &usize)| *heads > 0 && self.dim(stage).is_multiple_of(*heads);
        require(
            self.num_heads.len() == stages && self.num_heads.iter().enumerate().all(divides),
            "num_heads",
            "one number a stage that divides the stage's channels",
            &self.num_heads,
        )?;
        let window = !matches!(self.window_size, WindowSize::Fixed(size) if !(1..=MAX_KERNEL).contains(&size));
        require(window, "window_size", &format!("`scaled` or a whole number from 1 to {MAX_KERNEL}"), &self.window_size)?;
        require_whole("table_window", self.table_window, MAX_KERNEL)?;
        require_ratio("mlp_ratio", self.mlp_ratio, self.embed_dim)?;
        require_rate("drop_path_rate", self.drop_path_rate)?;
        require_stages(&self.out_indices, stages)
    }

    /// Checks that an image of `[height, width]` pixels is not empty. All sizes are padded as needed.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        if image.iter().all(|size| *size > 0) {
            return Ok(());
        }
        let expected = "height and width of at least 1 pixel".to_owned();
        Err(ConfigError::Field { field: "image", expected, found: format!("{image:?}") })
    }

    /// A backbone with random weights on `device`, drawn from the device's random generator (see `Device::seed`).
    ///
    /// # Errors
    /// As [`SwinConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<Swin, ConfigError> {
        self.validate()?;
        let norm = |stage| self.out_indices.contains(&stage).then(|| ChannelNorm::new(self.dim(stage), device));
        let norms = (0..self.num_stages()).map(norm).collect();
        Ok(Swin { trunk: SwinTrunk::new(self, device), norms })
    }

    /// A classifier with random weights on `device`. It does not use `out_indices`.
    ///
    /// # Errors
    /// As [`SwinConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<SwinClassifier, ConfigError> {
        self.validate()?;
        let width = self.dim(self.num_stages() - 1);
        Ok(SwinClassifier {
            trunk: SwinTrunk::new(self, device),
            norm: ChannelNorm::new(width, device),
            head: Dense::new(width, num_classes, true, device),
        })
    }

    /// Number of stages.
    pub fn num_stages(&self) -> usize {
        self.depths.len()
    }

    /// Channels of stage `stage`.
    pub fn dim(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    /// Stride of stage `stage`, in pixels of the image.
    pub fn stride(&self, stage: usize) -> usize {
        self.patch_size << stage
    }

    /// Hidden width of the MLP in a block of width `dim`, rounded down.
    pub fn mlp_hidden(&self, dim: usize) -> usize {
        (self.mlp_ratio * dim as f64) as usize
    }

    /// Stochastic depth of every block, from 0 to `drop_path_rate` in equal steps.
    pub fn drop_path_rates(&self) -> Vec<f64> {
        let blocks: usize = self.depths.iter().sum();
        (0..blocks).map(|block| if blocks > 1 { self.drop_path_rate * block as f64 / (blocks - 1) as f64 } else { 0.0 }).collect()
    }

    /// Height and width of every stage's feature for an image of `[height, width]` pixels; halves are rounded up.
    pub fn stage_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let first = image.map(|size| size.div_ceil(self.patch_size));
        std::iter::successors(Some(first), |size| Some(size.map(|side| side.div_ceil(2)))).take(self.num_stages()).collect()
    }

    /// Height and width of the windows for an image of `[height, width]` pixels, before [`SmallMaps`].
    pub fn window(&self, image: [usize; 2]) -> [usize; 2] {
        match self.window_size {
            WindowSize::Fixed(side) => [side; 2],
            WindowSize::Scaled => image.map(|size| size.div_ceil(self.stride(self.num_stages().saturating_sub(1)))),
        }
    }

    /// The convolution of the patch embedding.
    pub(super) fn patch_conv(&self) -> ConvConfig {
        ConvConfig { inputs: self.in_chans, outputs: self.dim(0), kernel: self.patch_size, stride: self.patch_size, padding: 0 }
    }

    /// Cost of the backbone, output norms included, for one image of `[height, width]` pixels.
    ///
    /// As in the reference, the projections of the attention include the padding. Resampling the bias tables for windows of another size is
    /// free, because the reference does it once on loading. Parameters are those of the stored tables.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        cost.level_norms(&self.levels(image));
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels, see [`SwinConfig::complexity`]. The average is counted as
    /// in torchvision; the official tool does not see timm's.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        let last = self.num_stages() - 1;
        cost.norm_and_head(self.dim(last), num_classes, self.stage_sizes(image)[last]);
        cost
    }

    fn trunk_complexity(&self, image: [usize; 2]) -> Complexity {
        let (mut cost, sizes, window) = (Complexity::default(), self.stage_sizes(image), self.window(image));
        cost.conv_layer(&self.patch_conv(), image.map(|size| size.next_multiple_of(self.patch_size)));
        if self.patch_norm {
            cost.layer_norm(self.dim(0), sizes[0]);
        }
        for (stage, (size, depth)) in sizes.iter().zip(&self.depths).enumerate() {
            let dim = self.dim(stage);
            let geometry = Geometry::new(*size, window, self.small_maps);
            for _ in 0..*depth {
                cost.layer_norm(dim, *size);
                cost.linear(OpKind::Linear, dim, 3 * dim, self.qkv_bias, geometry.padded);
                // The scores, and their products with the values.
                let [height, width] = geometry.padded;
                let window = geometry.window[0] * geometry.window[1];
                cost.add(OpKind::Matmul, product(&[2, height, width, window, dim]));
                cost.attention(self.num_heads[stage], height * width, window, dim);
                cost.add_params((2 * self.table_window - 1).pow(2) * self.num_heads[stage]);
                cost.linear(OpKind::Linear, dim, dim, true, geometry.padded);
                cost.layer_norm(dim, *size);
                cost.linear(OpKind::Linear, dim, self.mlp_hidden(dim), true, *size);
                cost.linear(OpKind::Linear, self.mlp_hidden(dim), dim, true, *size);
            }
            if let Some(next) = sizes.get(stage + 1) {
                cost.layer_norm(4 * dim, *next);
                cost.linear(OpKind::Linear, 4 * dim, self.dim(stage + 1), false, *next);
            }
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_make_no_model_are_refused_by_name() {
        type Change = fn(&mut SwinConfig);
        let changes: [(&str, Change); 10] = [
            ("in_chans", |c| c.in_chans = 0),
            ("depths", |c| c.depths = vec![]),
            ("num_heads", |c| c.num_heads = vec![3, 6, 12]),
            ("num_heads", |c| c.num_heads = vec![5, 6, 12, 24]),
            ("window_size", |c| c.window_size = WindowSize::Fixed(0)),
            ("table_window", |c| c.table_window = 0),
            ("mlp_ratio", |c| c.mlp_ratio = f64::NAN),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
            ("out_indices", |c| c.out_indices = vec![1, 0]),
            ("out_indices", |c| c.out_indices = vec![4]),
        ];
        for (field, change) in changes {
            let mut config = SwinConfig::default();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
        }
        assert!(SwinConfig::tiny().check_image([0, 32]).unwrap_err().to_string().starts_with("`image`"));
    }

    #[test]
    fn windows_are_a_number_or_a_word() {
        let read = |text: &str| serde_json::from_str::<SwinConfig>(text);
        assert_eq!(read(r#"{"window_size": 12}"#).unwrap().window([384, 384]), [12, 12]);
        let scaled = read(r#"{"window_size": "scaled"}"#).unwrap();
        assert_eq!(scaled.window([288, 650]), [9, 21]);
        assert_eq!(read(&serde_json::to_string(&scaled).unwrap()).unwrap(), scaled);
        assert!(read(r#"{"window_size": "large"}"#).is_err());
        assert!(read(r#"{"windows": 7}"#).is_err());
    }
}
