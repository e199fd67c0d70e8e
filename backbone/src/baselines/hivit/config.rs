//! Options of a HiViT, its sizes and its cost.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Hivit, HivitClassifier, LAST, MERGED};
use crate::complexity::{Complexity, OpKind, product};
use crate::family::Family;
use crate::layers::ConvConfig;
use crate::limits::{MAX_CHANNELS, MAX_SIDE, require_depths, require_rate, require_ratio, require_whole};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Options of a HiViT; the default is [`HivitConfig::tiny`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HivitConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Side in pixels of a token of the last stage. A multiple of 4, because a quarter of it is the stride of the first stage.
    pub patch_size: usize,
    /// Side in pixels of the square image that the position tables are made for. For images of other sizes, the tables are resized bicubically.
    pub image_size: usize,
    /// Channels of the last stage; the second has half of them, the first a quarter.
    pub embed_dim: usize,
    /// Blocks of the three stages. A block of the first two stages is two MLPs.
    pub depths: [usize; 3],
    /// Attention heads of the last stage's blocks; they share the channels evenly.
    pub num_heads: usize,
    /// Hidden width of the MLPs of the first two stages over their channels.
    pub stem_mlp_ratio: f64,
    /// Hidden width of the last stage's MLPs over its channels.
    pub mlp_ratio: f64,
    /// Adds a learned position table before the last stage.
    pub absolute_positions: bool,
    /// Adds learned relative position biases to the attention scores.
    pub relative_positions: bool,
    /// Whether the stem normalises.
    pub patch_norm: bool,
    /// Epsilon of every norm: 1e-6 in the official repository, 1e-5 in mmpretrain.
    pub norm_epsilon: f64,
    /// Whether the classifier has a norm after the average. mmpretrain's does not.
    pub final_norm: bool,
    /// Whether the levels of the backbone have a norm, as in the official detector but not in the segmentor.
    pub level_norms: bool,
    /// Stochastic depth of the last block; it rises linearly from 0 over all blocks, where every MLP counts as one.
    pub drop_path_rate: f64,
}

impl Default for HivitConfig {
    fn default() -> Self {
        Self::tiny()
    }
}

impl HivitConfig {
    /// HiViT-T.
    pub fn tiny() -> Self {
        Self {
            in_chans: 3,
            patch_size: 16,
            image_size: 224,
            embed_dim: 384,
            depths: [1, 1, 10],
            num_heads: 6,
            stem_mlp_ratio: 3.0,
            mlp_ratio: 4.0,
            absolute_positions: true,
            relative_positions: true,
            patch_norm: true,
            norm_epsilon: 1e-6,
            final_norm: true,
            level_norms: true,
            drop_path_rate: 0.05,
        }
    }

    /// HiViT-S.
    pub fn small() -> Self {
        Self { depths: [2, 2, 20], drop_path_rate: 0.3, ..Self::tiny() }
    }

    /// HiViT-B.
    pub fn base() -> Self {
        Self { embed_dim: 512, num_heads: 8, drop_path_rate: 0.5, ..Self::small() }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require_whole("in_chans", self.in_chans, MAX_CHANNELS)?;
        require_whole("patch_size", self.patch_size, MAX_SIDE)?;
        require_whole("image_size", self.image_size, MAX_SIDE)?;
        require_whole("embed_dim", self.embed_dim, MAX_CHANNELS)?;
        let quarters = |size: usize| size > 0 && size.is_multiple_of(MERGED);
        require(quarters(self.patch_size), "patch_size", "a positive multiple of 4", &self.patch_size)?;
        require(
            self.image_size > 0 && self.image_size.is_multiple_of(self.patch_size),
            "image_size",
            "a positive multiple of patch_size",
            &self.image_size,
        )?;
        require(quarters(self.embed_dim), "embed_dim", "a positive multiple of 4", &self.embed_dim)?;
        require_depths(&self.depths)?;
        require(
            self.num_heads > 0 && self.embed_dim.is_multiple_of(self.num_heads),
            "num_heads",
            "a positive number that divides embed_dim",
            &self.num_heads,
        )?;
        for (field, ratio, channels) in
            [("stem_mlp_ratio", self.stem_mlp_ratio, self.dim(0)), ("mlp_ratio", self.mlp_ratio, self.embed_dim)]
        {
            require_ratio(field, ratio, channels)?;
        }
        let epsilon = self.norm_epsilon > 0.0 && self.norm_epsilon <= 1.0;
        require(epsilon, "norm_epsilon", "a number above 0 and at most 1", &self.norm_epsilon)?;
        require_rate("drop_path_rate", self.drop_path_rate)
    }

    /// Checks that the patch size divides an image of `[height, width]` pixels.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        if image.iter().all(|size| *size > 0 && size.is_multiple_of(self.patch_size)) {
            return Ok(());
        }
        let [height, width] = image;
        let expected = format!("height and width that {} divides", self.patch_size);
        Err(ConfigError::Field { field: "image", expected, found: format!("{height} x {width}") })
    }

    /// A backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`HivitConfig::validate`], and for depths with which the second level would not come from the second stage.
    pub fn try_init(&self, device: &Device) -> Result<Hivit, ConfigError> {
        self.validate()?;
        require(self.depths[1] >= self.depths[0], "depths", "a second stage not shorter than the first, for a backbone", &self.depths)?;
        Ok(Hivit::new(self, device))
    }

    /// A classifier with random weights on `device`.
    ///
    /// # Errors
    /// As [`HivitConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<HivitClassifier, ConfigError> {
        self.validate()?;
        Ok(HivitClassifier::new(self, num_classes, device))
    }

    /// Height and width of every stage for an image of `[height, width]` pixels.
    pub fn stage_sizes(&self, image: [usize; 2]) -> [[usize; 2]; 3] {
        let tokens = image.map(|size| size / self.patch_size);
        [4, 2, 1].map(|times| tokens.map(|size| times * size))
    }

    /// Stride of every level of the backbone.
    pub fn strides(&self) -> Vec<usize> {
        [[1, 4], [1, 2], [1, 1], [2, 1]].map(|[times, over]| self.patch_size * times / over).to_vec()
    }

    /// Channels of every level of the backbone.
    pub fn channels(&self) -> Vec<usize> {
        [0, 1, LAST, LAST].map(|stage| self.dim(stage)).to_vec()
    }

    /// Height and width of every level of the backbone for an image of `[height, width]` pixels.
    pub fn level_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let stages = self.stage_sizes(image);
        stages.into_iter().chain([stages[LAST].map(|size| (size / 2).max(1))]).collect()
    }

    /// Indices in the official list of the blocks after which the first two levels are taken.
    pub(super) fn taps(&self) -> [usize; 2] {
        [self.depths[0] - 1, self.depths[0] + self.depths[1]]
    }

    /// Channels of a stage.
    pub(super) fn dim(&self, stage: usize) -> usize {
        self.embed_dim >> (2 - stage)
    }

    pub(super) fn patch_conv(&self) -> ConvConfig {
        let side = self.patch_size / MERGED;
        ConvConfig { inputs: self.in_chans, outputs: self.dim(0), kernel: side, stride: side, padding: 0 }
    }

    /// Hidden width of a stage's MLPs, rounded down.
    pub(super) fn hidden(&self, stage: usize) -> usize {
        let ratio = if stage == LAST { self.mlp_ratio } else { self.stem_mlp_ratio };
        (ratio * self.dim(stage) as f64) as usize
    }

    /// MLPs of a stage.
    pub(super) fn mlps(&self, stage: usize) -> usize {
        if stage == LAST { self.depths[stage] } else { 2 * self.depths[stage] }
    }

    /// Tokens along a side of the image that the position tables are made for.
    pub(super) fn table_side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Cost of the backbone for one image of `[height, width]` pixels. The max pool of the last level is free.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        if self.level_norms {
            cost.level_norms(&self.levels(image));
        }
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels. The average is free, because it is not a pooling layer in the
    /// reference.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        if self.final_norm {
            cost.layer_norm(self.embed_dim, [1, 1]);
        }
        cost.linear(OpKind::Linear, self.embed_dim, num_classes, true, [1, 1]);
        cost
    }

    fn trunk_complexity(&self, image: [usize; 2]) -> Complexity {
        let (sizes, side) = (self.stage_sizes(image), self.table_side());
        let mut cost = Complexity::default();
        cost.conv_layer(&self.patch_conv(), sizes[0].map(|size| size * self.patch_size / MERGED));
        if self.patch_norm {
            cost.layer_norm(self.dim(0), sizes[0]);
        }
        for (stage, size) in sizes.into_iter().enumerate() {
            let (dim, hidden) = (self.dim(stage), self.hidden(stage));
            for _ in 0..self.mlps(stage) {
                if stage == LAST {
                    self.attention_complexity(&mut cost, size);
                }
                cost.layer_norm(dim, size);
                cost.linear(OpKind::Linear, dim, hidden, true, size);
                cost.linear(OpKind::Linear, hidden, dim, true, size);
            }
            if let Some(next) = sizes.get(stage + 1) {
                cost.layer_norm(4 * dim, *next);
                cost.linear(OpKind::Linear, 4 * dim, 2 * dim, false, *next);
            }
        }
        if self.absolute_positions {
            cost.add_params(side * side * self.embed_dim);
        }
        cost
    }

    fn attention_complexity(&self, cost: &mut Complexity, size: [usize; 2]) {
        let (dim, tokens) = (self.embed_dim, size[0] * size[1]);
        cost.layer_norm(dim, size);
        cost.linear(OpKind::Linear, dim, 3 * dim, true, size);
        cost.add(OpKind::Matmul, product(&[2, tokens, tokens, dim]));
        cost.attention(self.num_heads, tokens, tokens, dim);
        cost.linear(OpKind::Linear, dim, dim, true, size);
        if self.relative_positions {
            cost.add_params((2 * self.table_side() - 1).pow(2) * self.num_heads);
        }
    }
}
