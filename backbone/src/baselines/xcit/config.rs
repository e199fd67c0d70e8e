//! Options of an XCiT, its sizes and its cost.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{FREQUENCIES, Xcit, XcitClassifier};
use crate::complexity::{Complexity, OpKind, product};
use crate::layers::{ConvConfig, DeconvPyramid};
use crate::limits::{MAX_CHANNELS, MAX_DEPTH, require_blocks, require_rate, require_ratio, require_whole};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Stride of the patches, in pixels of the image.
pub(super) const PATCH: usize = 16;

/// Options of an XCiT; the default is [`XcitConfig::small_12`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct XcitConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Channels of every position. A multiple of 8, for the four convolutions of the patch embedding.
    pub embed_dim: usize,
    /// Number of blocks with cross-covariance attention.
    pub depth: usize,
    /// Attention heads of every block; they share the channels evenly.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    pub mlp_ratio: f64,
    /// Number of blocks with class attention, which only the classifier has.
    pub cls_attn_layers: usize,
    /// Initial value of the layer scale of all branches.
    pub eta: f64,
    /// Whether the second norm of a class attention block normalises all tokens or only the class token.
    pub tokens_norm: bool,
    /// Stochastic depth of every block. Class attention blocks have none.
    pub drop_path_rate: f64,
    /// Blocks after which the four levels of the backbone are taken, ascending.
    pub out_indices: Vec<usize>,
}

impl Default for XcitConfig {
    fn default() -> Self {
        Self::small_12()
    }
}

impl XcitConfig {
    /// XCiT-S12/16.
    pub fn small_12() -> Self {
        Self {
            in_chans: 3,
            embed_dim: 384,
            depth: 12,
            num_heads: 8,
            mlp_ratio: 4.0,
            cls_attn_layers: 2,
            eta: 1.0,
            tokens_norm: true,
            drop_path_rate: 0.05,
            out_indices: vec![3, 5, 7, 11],
        }
    }

    /// XCiT-S24/16.
    pub fn small_24() -> Self {
        Self { depth: 24, eta: 1e-5, drop_path_rate: 0.1, out_indices: vec![7, 11, 15, 23], ..Self::small_12() }
    }

    /// XCiT-M24/16.
    pub fn medium_24() -> Self {
        Self { embed_dim: 512, drop_path_rate: 0.15, ..Self::small_24() }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let divides = |part: usize, whole: usize| part > 0 && whole > 0 && whole.is_multiple_of(part);
        require_whole("in_chans", self.in_chans, MAX_CHANNELS)?;
        require_whole("embed_dim", self.embed_dim, MAX_CHANNELS)?;
        require(divides(8, self.embed_dim), "embed_dim", "a positive multiple of 8", &self.embed_dim)?;
        require_whole("depth", self.depth, MAX_DEPTH)?;
        require(divides(self.num_heads, self.embed_dim), "num_heads", "a divisor of embed_dim", &self.num_heads)?;
        require_ratio("mlp_ratio", self.mlp_ratio, self.embed_dim)?;
        require_whole("cls_attn_layers", self.cls_attn_layers, MAX_DEPTH)?;
        require(self.eta.abs() <= 1e3, "eta", "a number from -1000 to 1000", &self.eta)?;
        require_rate("drop_path_rate", self.drop_path_rate)
    }

    /// Checks that an image of `[height, width]` pixels is not empty. Sizes that 16 does not divide are rounded up.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, [height, width]: [usize; 2]) -> Result<(), ConfigError> {
        if height > 0 && width > 0 {
            return Ok(());
        }
        Err(ConfigError::Field { field: "image", expected: "at least one pixel".to_owned(), found: format!("{height} x {width}") })
    }

    /// As [`XcitConfig::validate`], and validates the options of the backbone.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate_pyramid(&self) -> Result<(), ConfigError> {
        self.validate()?;
        require_blocks(&self.out_indices, self.depth)
    }

    /// A backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`XcitConfig::validate`], and for `out_indices` that make no pyramid.
    pub fn try_init(&self, device: &Device) -> Result<Xcit, ConfigError> {
        self.validate_pyramid()?;
        Ok(Xcit::new(self, device))
    }

    /// A classifier with random weights on `device`. It does not use `out_indices`.
    ///
    /// # Errors
    /// As [`XcitConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<XcitClassifier, ConfigError> {
        self.validate()?;
        Ok(XcitClassifier::new(self, num_classes, device))
    }

    /// Stride of every level of the backbone.
    pub fn strides(&self) -> Vec<usize> {
        DeconvPyramid::SCALES.iter().map(|[times, over]| PATCH * over / times).collect()
    }

    /// Height and width of every level of the backbone for an image of `[height, width]` pixels.
    pub fn level_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        DeconvPyramid::level_sizes(self.grid(image))
    }

    fn grid(&self, image: [usize; 2]) -> [usize; 2] {
        self.patch_convs().iter().fold(image, |size, conv| size.map(|size| conv.output_size(size)))
    }

    pub(super) fn mlp_hidden(&self) -> usize {
        (self.mlp_ratio * self.embed_dim as f64) as usize
    }

    /// The four convolutions of the patch embedding, with stride 2 each.
    pub(super) fn patch_convs(&self) -> [ConvConfig; 4] {
        let widths = [self.in_chans, self.embed_dim / 8, self.embed_dim / 4, self.embed_dim / 2, self.embed_dim];
        [0, 1, 2, 3].map(|i| ConvConfig { inputs: widths[i], outputs: widths[i + 1], kernel: 3, stride: 2, padding: 1 })
    }

    /// Cost of the backbone for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let (dim, grid) = (self.embed_dim, self.grid(image));
        let mut cost = self.trunk_complexity(image);
        DeconvPyramid::add_cost(&mut cost, dim, grid);
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let (dim, hidden, grid) = (self.embed_dim, self.mlp_hidden(), self.grid(image));
        let (one, all) = ([1, 1], [1, grid[0] * grid[1] + 1]);
        let mut cost = self.trunk_complexity(image);
        cost.add_params(dim);
        for _ in 0..self.cls_attn_layers {
            cost.layer_norm(dim, all);
            for tokens in [one, all, all, one] {
                cost.linear(OpKind::Linear, dim, dim, true, tokens);
            }
            cost.add(OpKind::Matmul, product(&[2, dim, all[1]]));
            cost.layer_norm(dim, if self.tokens_norm { all } else { one });
            cost.linear(OpKind::Linear, dim, hidden, true, one);
            cost.linear(OpKind::Linear, hidden, dim, true, one);
            cost.add_params(2 * dim);
        }
        // The official count includes the norm of all tokens, although the head uses only the first.
        cost.layer_norm(dim, all);
        cost.linear(OpKind::Linear, dim, num_classes, true, one);
        cost
    }

    fn trunk_complexity(&self, image: [usize; 2]) -> Complexity {
        let (dim, hidden) = (self.embed_dim, self.mlp_hidden());
        let mut cost = Complexity::default();
        let mut grid = image;
        for conv in self.patch_convs() {
            grid = grid.map(|size| conv.output_size(size));
            cost.conv(conv.inputs, conv.outputs, [conv.kernel; 2], grid);
            cost.batch_norm(conv.outputs, grid);
        }
        cost.conv(2 * FREQUENCIES, dim, [1, 1], grid);
        cost.add_params(dim);
        for _ in 0..self.depth {
            for _ in 0..3 {
                cost.layer_norm(dim, grid);
            }
            cost.linear(OpKind::Linear, dim, 3 * dim, true, grid);
            cost.add(OpKind::Matmul, product(&[2, dim, dim / self.num_heads, grid[0], grid[1]]));
            cost.pointwise(product(&[2, dim, grid[0], grid[1]]));
            cost.add_params(self.num_heads);
            cost.linear(OpKind::Linear, dim, dim, true, grid);
            for _ in 0..2 {
                cost.depthwise(dim, 3, true, grid);
            }
            cost.batch_norm(dim, grid);
            cost.linear(OpKind::Linear, dim, hidden, true, grid);
            cost.linear(OpKind::Linear, hidden, dim, true, grid);
            cost.add_params(3 * dim);
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_make_no_model_are_refused_by_name() {
        type Change = fn(&mut XcitConfig);
        let changes: [(&str, Change); 7] = [
            ("embed_dim", |c| c.embed_dim = 100),
            ("num_heads", |c| c.num_heads = 5),
            ("depth", |c| c.depth = 0),
            ("cls_attn_layers", |c| c.cls_attn_layers = 0),
            ("mlp_ratio", |c| c.mlp_ratio = f64::INFINITY),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
            ("out_indices", |c| c.out_indices = vec![3, 5, 7, 12]),
        ];
        for (field, change) in changes {
            let mut config = XcitConfig::small_12();
            change(&mut config);
            let error = config.try_init(&Device::flex()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
        }
    }
}
