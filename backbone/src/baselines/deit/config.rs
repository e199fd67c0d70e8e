//! Options of a DeiT, its sizes and its cost.

use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use super::{Deit, DeitClassifier, EPSILON, MultiLevelNeck, SCALES, Trunk, rename, scaled};
use crate::checkpoint::StateDict;
use crate::complexity::{Complexity, OpKind, product};
use crate::layers::{ChannelNorm, ConvConfig, Dense, TableResize};
use crate::limits::{MAX_CHANNELS, MAX_DEPTH, MAX_SIDE, require_blocks, require_rate, require_ratio, require_whole};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Options of a DeiT; the default is [`DeitConfig::small`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DeitConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Whether the patch embedding has a bias. In mmsegmentation 1.x it has none by default.
    pub patch_bias: bool,
    /// Side of a patch in pixels. For the backbone a multiple of 4, because a quarter of it is the stride of the finest level.
    pub patch_size: usize,
    /// Side in pixels of the square image that the position table is made for. Images of other sizes get a resized table.
    pub image_size: usize,
    /// Channels of every token.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of every block; they share the channels evenly.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    pub mlp_ratio: f64,
    /// Stochastic depth of the last block; it rises linearly from 0.
    pub drop_path_rate: f64,
    /// Resizes the position table to the grid of another image size.
    pub position_resize: TableResize,
    /// Blocks after which the four levels of the backbone are taken, ascending.
    pub out_indices: Vec<usize>,
    /// Channels of the backbone's levels.
    pub neck_channels: usize,
    /// Whether a norm follows the last block of the backbone, as in mmsegmentation's configurations with `ln` in their names.
    pub final_norm: bool,
}

impl Default for DeitConfig {
    fn default() -> Self {
        Self::small()
    }
}

impl DeitConfig {
    /// DeiT-Ti, patches of 16 pixels.
    pub fn tiny() -> Self {
        Self::of_width(192, 3)
    }

    /// DeiT-S, patches of 16 pixels.
    pub fn small() -> Self {
        Self::of_width(384, 6)
    }

    /// DeiT-B, patches of 16 pixels.
    pub fn base() -> Self {
        Self::of_width(768, 12)
    }

    fn of_width(embed_dim: usize, num_heads: usize) -> Self {
        Self {
            in_chans: 3,
            patch_bias: true,
            patch_size: 16,
            image_size: 224,
            embed_dim,
            depth: 12,
            num_heads,
            mlp_ratio: 4.0,
            drop_path_rate: 0.1,
            position_resize: TableResize::Bicubic,
            out_indices: vec![2, 5, 8, 11],
            neck_channels: embed_dim,
            final_norm: false,
        }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let divides = |part: usize, whole: usize| part > 0 && whole > 0 && whole.is_multiple_of(part);
        require_whole("in_chans", self.in_chans, MAX_CHANNELS)?;
        require_whole("patch_size", self.patch_size, MAX_SIDE)?;
        require_whole("image_size", self.image_size, MAX_SIDE)?;
        require(divides(self.patch_size, self.image_size), "image_size", "a multiple of patch_size", &self.image_size)?;
        require_whole("embed_dim", self.embed_dim, MAX_CHANNELS)?;
        require_whole("depth", self.depth, MAX_DEPTH)?;
        require(divides(self.num_heads, self.embed_dim), "num_heads", "a divisor of embed_dim", &self.num_heads)?;
        require_ratio("mlp_ratio", self.mlp_ratio, self.embed_dim)?;
        require_rate("drop_path_rate", self.drop_path_rate)
    }

    /// As [`DeitConfig::validate`], and validates the options of the backbone.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate_pyramid(&self) -> Result<(), ConfigError> {
        self.validate()?;
        require_blocks(&self.out_indices, self.depth)?;
        require_whole("neck_channels", self.neck_channels, MAX_CHANNELS)?;
        require(self.patch_size.is_multiple_of(4), "patch_size", "a multiple of 4 for the backbone", &self.patch_size)
    }

    /// Checks that the patch size divides an image of `[height, width]` pixels.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, [height, width]: [usize; 2]) -> Result<(), ConfigError> {
        let whole = |size: usize| size > 0 && size.is_multiple_of(self.patch_size);
        if whole(height) && whole(width) {
            return Ok(());
        }
        Err(ConfigError::Field {
            field: "image",
            expected: format!("height and width that {} divides", self.patch_size),
            found: format!("{height} x {width}"),
        })
    }

    /// A backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`DeitConfig::validate`], and for options that make no pyramid.
    pub fn try_init(&self, device: &Device) -> Result<Deit, ConfigError> {
        self.validate_pyramid()?;
        Ok(Deit {
            trunk: Trunk::new(self, device),
            norm: self.final_norm.then(|| ChannelNorm::with_epsilon(self.embed_dim, EPSILON, device)),
            neck: MultiLevelNeck::new(self, device),
            config: self.clone(),
        })
    }

    /// A classifier with random weights on `device`. It does not use the options of the backbone.
    ///
    /// # Errors
    /// As [`DeitConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<DeitClassifier, ConfigError> {
        self.validate()?;
        Ok(DeitClassifier {
            trunk: Trunk::new(self, device),
            norm: ChannelNorm::with_epsilon(self.embed_dim, EPSILON, device),
            head: Dense::new(self.embed_dim, num_classes, true, device),
            config: self.clone(),
        })
    }

    /// Stride of every level of the backbone.
    pub fn strides(&self) -> Vec<usize> {
        SCALES.iter().map(|[times, over]| self.patch_size * over / times).collect()
    }

    /// Height and width of every level of the backbone for an image of `[height, width]` pixels.
    pub fn level_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let grid = self.grid(image);
        SCALES.iter().map(|scale| grid.map(|size| scaled(size, *scale))).collect()
    }

    /// Patches along height and width; pixels that do not fill a patch are cropped.
    pub(super) fn grid(&self, image: [usize; 2]) -> [usize; 2] {
        image.map(|size| size / self.patch_size)
    }

    /// Patches along a side of the image that the position table is made for.
    pub(super) fn table_side(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub(super) fn mlp_hidden(&self) -> usize {
        (self.mlp_ratio * self.embed_dim as f64) as usize
    }

    pub(super) fn patch_conv(&self) -> ConvConfig {
        ConvConfig { inputs: self.in_chans, outputs: self.embed_dim, kernel: self.patch_size, stride: self.patch_size, padding: 0 }
    }

    /// The convolutions of a level of the neck.
    pub(super) fn neck_convs(&self) -> [ConvConfig; 2] {
        let (inputs, outputs) = (self.embed_dim, self.neck_channels);
        [
            ConvConfig { inputs, outputs, kernel: 1, stride: 1, padding: 0 },
            ConvConfig { inputs: outputs, outputs, kernel: 3, stride: 1, padding: 1 },
        ]
    }

    /// Cost of the backbone for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let grid = self.grid(image);
        let mut cost = self.trunk_complexity(grid);
        if self.final_norm {
            cost.layer_norm(self.embed_dim, [1, grid[0] * grid[1] + 1]);
        }
        for level in self.level_sizes(image) {
            let [lateral, conv] = self.neck_convs();
            cost.conv_layer(&lateral, grid);
            // The reference also counts the resize by a factor of 1.
            cost.add(OpKind::UpsampleBilinear, product(&[4, self.neck_channels, level[0], level[1]]));
            cost.pointwise(product(&[self.neck_channels, level[0], level[1]]));
            cost.conv_layer(&conv, level);
        }
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let grid = self.grid(image);
        let mut cost = self.trunk_complexity(grid);
        // The official count includes the norm of all tokens, although the head uses only the first.
        cost.layer_norm(self.embed_dim, [1, grid[0] * grid[1] + 1]);
        cost.linear(OpKind::Linear, self.embed_dim, num_classes, true, [1, 1]);
        cost
    }

    fn trunk_complexity(&self, grid: [usize; 2]) -> Complexity {
        let (dim, hidden, tokens) = (self.embed_dim, self.mlp_hidden(), grid[0] * grid[1] + 1);
        let mut cost = Complexity::default();
        let patch = self.patch_conv();
        cost.conv(patch.inputs, patch.outputs, [patch.kernel; 2], grid);
        cost.add_params(usize::from(self.patch_bias) * dim);
        cost.add_params(dim + (self.table_side().pow(2) + 1) * dim);
        for _ in 0..self.depth {
            cost.layer_norm(dim, [1, tokens]);
            cost.linear(OpKind::Linear, dim, 3 * dim, true, [1, tokens]);
            cost.add(OpKind::Matmul, product(&[2, tokens, tokens, dim]));
            cost.attention(self.num_heads, tokens, tokens, dim);
            cost.linear(OpKind::Linear, dim, dim, true, [1, tokens]);
            cost.layer_norm(dim, [1, tokens]);
            cost.linear(OpKind::Linear, dim, hidden, true, [1, tokens]);
            cost.linear(OpKind::Linear, hidden, dim, true, [1, tokens]);
        }
        cost
    }
}

impl DeitConfig {
    /// Resizes the position table of a classifier to the image size of this configuration, as mmsegmentation does when a segmentor starts from
    /// a classifier. A table that is not a square grid with a class token stays as it is and fails to load.
    pub fn fit_positions(&self, mut state: StateDict) -> StateDict {
        let side = self.table_side();
        let key = state.keys().find(|key| rename(key).is_some_and(|key| key == "pos_embed")).map(str::to_owned);
        let Some(table) = key.and_then(|key| state.get_mut(&key)) else { return state };
        let [1, rows, dim] = table.shape[..] else { return state };
        let old = rows.saturating_sub(1).isqrt();
        if old == 0 || old * old + 1 != rows || old == side || dim == 0 {
            return state;
        }
        let (class, patches) = table.data.split_at(dim);
        let patches = Tensor::from_data(TensorData::new(patches.to_vec(), [old, old, dim]), &Device::flex());
        let resized = self.position_resize.apply(patches, [side; 2]).into_data();
        table.data = class.iter().copied().chain(resized.iter::<f32>()).collect();
        table.shape = vec![1, side * side + 1, dim];
        state
    }
}
