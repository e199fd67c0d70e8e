//! Options of a Vim, its sizes and its cost.

use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use super::{Vim, VimClassifier, rename};
use crate::checkpoint::StateDict;
use crate::complexity::{Complexity, OpKind, product};
use crate::layers::{ConvConfig, DeconvPyramid, TableResize};
use crate::limits::{MAX_CHANNELS, MAX_DEPTH, MAX_KERNEL, MAX_SIDE, require_blocks, require_rate, require_whole};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Options of a Vim; the default is [`VimConfig::small`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct VimConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Pixels from one patch to the next. Patches overlap when it is less than `patch_size`.
    pub stride: usize,
    /// Side in pixels of the square image that the position table is made for. For images of other sizes, the table is resized bicubically.
    pub image_size: usize,
    /// Channels of every token.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// State size N of the scan.
    pub d_state: usize,
    /// Tokens that the causal convolution before the scan sees.
    pub d_conv: usize,
    /// Inner width of a block over `embed_dim`.
    pub expand: usize,
    /// Stochastic depth of the last block; it rises linearly from 0.
    pub drop_path_rate: f64,
    /// Blocks whose branches become the four levels of the backbone, ascending.
    pub out_indices: Vec<usize>,
    /// Whether the backbone applies rotary positions before every block. The official classifiers do not.
    pub rotary_positions: bool,
}

impl Default for VimConfig {
    fn default() -> Self {
        Self::small()
    }
}

impl VimConfig {
    /// Vim-Ti (`vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2`).
    pub fn tiny() -> Self {
        Self::of_width(192, 0.0)
    }

    /// Vim-S (`vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2`).
    pub fn small() -> Self {
        Self::of_width(384, 0.05)
    }

    /// Vim-B (`vim_base_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_middle_cls_token_div2`).
    pub fn base() -> Self {
        Self::of_width(768, 0.1)
    }

    /// This model with a patch every 8 pixels, as in the fine-tuned Vim-Ti+ and Vim-S+.
    #[must_use]
    pub fn stride8(self) -> Self {
        Self { stride: 8, drop_path_rate: 0.0, ..self }
    }

    fn of_width(embed_dim: usize, drop_path_rate: f64) -> Self {
        Self {
            in_chans: 3,
            patch_size: 16,
            stride: 16,
            image_size: 224,
            embed_dim,
            depth: 24,
            d_state: 16,
            d_conv: 4,
            expand: 2,
            drop_path_rate,
            out_indices: vec![5, 11, 17, 23],
            rotary_positions: true,
        }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("in_chans", self.in_chans, MAX_CHANNELS),
            ("patch_size", self.patch_size, MAX_SIDE),
            ("stride", self.stride, MAX_SIDE),
            ("image_size", self.image_size, MAX_SIDE),
            ("embed_dim", self.embed_dim, MAX_CHANNELS),
            ("depth", self.depth, MAX_DEPTH),
            ("d_state", self.d_state, MAX_KERNEL),
            ("d_conv", self.d_conv, MAX_KERNEL),
            ("expand", self.expand, 64),
        ];
        for (field, value, most) in positive {
            require_whole(field, value, most)?;
        }
        require(
            self.fits(self.image_size),
            "image_size",
            &format!("{} and a multiple of {} pixels more", self.patch_size, self.stride),
            &self.image_size,
        )?;
        require_rate("drop_path_rate", self.drop_path_rate)
    }

    /// Checks that an image of `[height, width]` pixels divides into whole patches.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, [height, width]: [usize; 2]) -> Result<(), ConfigError> {
        if self.fits(height) && self.fits(width) {
            return Ok(());
        }
        let expected = format!("height and width of {} and a multiple of {} pixels more", self.patch_size, self.stride);
        Err(ConfigError::Field { field: "image", expected, found: format!("{height} x {width}") })
    }

    /// As [`VimConfig::validate`], and validates the options of the backbone.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate_pyramid(&self) -> Result<(), ConfigError> {
        self.validate()?;
        require_blocks(&self.out_indices, self.depth)?;
        require(self.stride.is_multiple_of(4), "stride", "a multiple of 4 for the backbone", &self.stride)?;
        require(self.embed_dim.is_multiple_of(4), "embed_dim", "a multiple of 4 for the backbone", &self.embed_dim)
    }

    /// A backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`VimConfig::validate`], and for options that make no pyramid.
    pub fn try_init(&self, device: &Device) -> Result<Vim, ConfigError> {
        self.validate_pyramid()?;
        Ok(Vim::new(self, device))
    }

    /// A classifier with random weights on `device`. It does not use the options of the backbone.
    ///
    /// # Errors
    /// As [`VimConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<VimClassifier, ConfigError> {
        self.validate()?;
        Ok(VimClassifier::new(self, num_classes, device))
    }

    /// Patches along height and width of an image of `[height, width]` pixels.
    pub fn grid(&self, image: [usize; 2]) -> [usize; 2] {
        image.map(|size| self.patch_conv().output_size(size))
    }

    /// Stride of every level of the backbone.
    pub fn strides(&self) -> Vec<usize> {
        DeconvPyramid::SCALES.iter().map(|[times, over]| self.stride * over / times).collect()
    }

    /// Height and width of every level of the backbone for an image of `[height, width]` pixels.
    pub fn level_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        DeconvPyramid::level_sizes(self.grid(image))
    }

    /// Converts the position table of a classifier to that of the backbone: removes the row of the class token, and resizes the others to the
    /// image size of this configuration. A table that is not a square grid with a class token stays as it is and fails to load.
    ///
    /// The row of the class token is the middle one, as in the classifiers. (The official code removes the first.)
    pub fn fit_positions(&self, mut state: StateDict) -> StateDict {
        let side = self.table_side();
        let key = state.keys().find(|key| rename(key).is_some_and(|key| key == "pos_embed")).map(str::to_owned);
        let Some(table) = key.and_then(|key| state.get_mut(&key)) else { return state };
        let [1, rows, dim] = table.shape[..] else { return state };
        let count = rows.saturating_sub(1);
        let old = count.isqrt();
        if old == 0 || old * old != count || dim == 0 {
            return state;
        }
        let (before, rest) = table.data.split_at(count / 2 * dim);
        let patches = [before, &rest[dim..]].concat();
        let patches = Tensor::from_data(TensorData::new(patches, [old, old, dim]), &Device::flex());
        table.data = TableResize::Bicubic.apply(patches, [side; 2]).into_data().iter::<f32>().collect();
        table.shape = vec![1, side * side, dim];
        state
    }

    fn fits(&self, size: usize) -> bool {
        size.checked_sub(self.patch_size).is_some_and(|rest| rest.is_multiple_of(self.stride))
    }

    pub(super) fn patch_conv(&self) -> ConvConfig {
        ConvConfig { inputs: self.in_chans, outputs: self.embed_dim, kernel: self.patch_size, stride: self.stride, padding: 0 }
    }

    /// Patches along a side of the image that the position table is made for.
    pub(super) fn table_side(&self) -> usize {
        self.patch_conv().output_size(self.image_size)
    }

    pub(super) fn d_inner(&self) -> usize {
        self.expand * self.embed_dim
    }

    /// Rank of the step-size projection.
    pub(super) fn dt_rank(&self) -> usize {
        self.embed_dim.div_ceil(16)
    }

    /// Cost of the classifier for one image of `[height, width]` pixels, as VMamba's authors counted it.
    ///
    /// They count only the scan of the fused operation: `9 L D N` per direction, and `2 L D` for the skip connection and the gate. They leave
    /// out the convolutions and the projections to step sizes, B and C in that operation, which are another 0.61 G for Vim-S at 224, and
    /// RMSNorm. The parameters are complete.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image, 1);
        // The class token, and the norm before the head.
        cost.add_params(2 * self.embed_dim);
        cost.linear(OpKind::Linear, self.embed_dim, num_classes, true, [1, 1]);
        cost
    }

    /// Cost of the backbone for one image of `[height, width]` pixels, counted like the classifier's.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image, 0);
        DeconvPyramid::add_cost(&mut cost, self.embed_dim, self.grid(image));
        cost
    }

    /// Cost of the patch embedding and the layers, for the patches and `further` more tokens.
    fn trunk_complexity(&self, image: [usize; 2], further: usize) -> Complexity {
        let (dim, inner, state, rank) = (self.embed_dim, self.d_inner(), self.d_state, self.dt_rank());
        let tokens = self.grid(image).iter().product::<usize>() + further;
        let mut cost = Complexity::default();
        cost.conv_layer(&self.patch_conv(), image);
        cost.add_params((self.table_side().pow(2) + further) * dim);
        for _ in 0..self.depth {
            cost.add_params(dim);
            cost.add_params(2 * dim * inner);
            // The official code uses a matrix product, which the tool does not count as a linear layer.
            cost.add(OpKind::Matmul, product(&[2, dim, inner, tokens]));
            cost.layer(product(&[dim, tokens]), product(&[2, inner, tokens]));
            let projections = inner * (rank + 2 * state) + (rank + 1) * inner;
            cost.add_params(2 * (inner * (self.d_conv + 1) + projections + inner * (state + 1)));
            cost.selective_scan(2 * inner, tokens, state);
            // The gate.
            cost.add(OpKind::SelectiveScan, product(&[2, tokens, inner]));
            cost.pointwise(product(&[2, tokens, inner]));
            cost.early_scan += product(&[2, tokens, inner]);
            cost.linear(OpKind::Linear, inner, dim, false, [1, tokens]);
        }
        cost
    }
}
