//! Options of a ConvNeXt, its sizes and its cost.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Convnext, ConvnextClassifier, EXPANSION, KERNEL, Trunk, norm};
use crate::complexity::{Complexity, OpKind, product};
use crate::family::Family;
use crate::layers::{ConvConfig, Dense};
use crate::limits::{MAX_CHANNELS, require_depths, require_dims, require_rate, require_stages, require_whole};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Options of a ConvNeXt. The default is ConvNeXt-T.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ConvnextConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Blocks of each stage; its length is the number of stages.
    pub depths: Vec<usize>,
    /// Channels of each stage.
    pub dims: Vec<usize>,
    /// Stochastic depth of the last block; it rises linearly from 0 over all blocks.
    pub drop_path_rate: f64,
    /// Initial value of the layer scale in every block; 0 leaves it out.
    pub layer_scale_init_value: f64,
    /// Stages whose features the backbone returns, ascending.
    pub out_indices: Vec<usize>,
}

impl Default for ConvnextConfig {
    fn default() -> Self {
        Self::tiny()
    }
}

impl ConvnextConfig {
    /// ConvNeXt-T: 28.6M parameters, 4.5 GFLOPs. `drop_path_rate` is the one of ImageNet-1K training; the published detectors use 0.4.
    pub fn tiny() -> Self {
        Self {
            in_chans: 3,
            depths: vec![3, 3, 9, 3],
            dims: vec![96, 192, 384, 768],
            drop_path_rate: 0.1,
            layer_scale_init_value: 1e-6,
            out_indices: vec![0, 1, 2, 3],
        }
    }

    /// ConvNeXt-S: 50.2M parameters, 8.7 GFLOPs. The published detectors use a `drop_path_rate` of 0.6.
    pub fn small() -> Self {
        Self { depths: vec![3, 3, 27, 3], drop_path_rate: 0.4, ..Self::tiny() }
    }

    /// ConvNeXt-B: 88.6M parameters, 15.4 GFLOPs. The published detectors use a `drop_path_rate` of 0.7.
    pub fn base() -> Self {
        Self { dims: vec![128, 256, 512, 1024], drop_path_rate: 0.5, ..Self::small() }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require_whole("in_chans", self.in_chans, MAX_CHANNELS)?;
        require_depths(&self.depths)?;
        require_dims(&self.dims, self.depths.len())?;
        require_rate("drop_path_rate", self.drop_path_rate)?;
        let scale = self.layer_scale_init_value;
        require((0.0..=1e3).contains(&scale), "layer_scale_init_value", "a number from 0 to 1000", &scale)?;
        require_stages(&self.out_indices, self.depths.len())
    }

    /// Checks that the network can process images of `[height, width]` pixels. Sizes that a stride does not divide are rounded down, and the
    /// last stage needs at least one position: 32 pixels per side for four stages.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        let least = self.stride(self.depths.len().saturating_sub(1));
        require(image.iter().all(|size| *size >= least), "image", &format!("height and width of at least {least} pixels"), &image)
    }

    /// A backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`ConvnextConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<Convnext, ConfigError> {
        self.validate()?;
        let norm = |(stage, dim): (usize, &usize)| self.out_indices.contains(&stage).then(|| norm(*dim, device));
        let outnorm = self.dims.iter().enumerate().map(norm).collect();
        Ok(Convnext { trunk: Trunk::new(self, device), outnorm, config: self.clone() })
    }

    /// A classifier with random weights on `device`. It does not use `out_indices`.
    ///
    /// # Errors
    /// As [`ConvnextConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<ConvnextClassifier, ConfigError> {
        self.validate()?;
        let width = self.dim(self.dims.len() - 1);
        Ok(ConvnextClassifier {
            trunk: Trunk::new(self, device),
            norm: norm(width, device),
            head: Dense::new(width, num_classes, true, device),
            config: self.clone(),
        })
    }

    /// Channels of stage `stage`; 0 for a stage that does not exist.
    pub fn dim(&self, stage: usize) -> usize {
        self.dims.get(stage).copied().unwrap_or(0)
    }

    /// Stride of stage `stage`, in pixels of the image.
    pub fn stride(&self, stage: usize) -> usize {
        4 << stage
    }

    /// Height and width of every stage's feature for an image of `[height, width]` pixels.
    pub fn stage_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        (0..self.depths.len()).map(|stage| image.map(|size| size / self.stride(stage))).collect()
    }

    /// Stochastic depth of every block, from 0 to `drop_path_rate` in equal steps.
    pub fn drop_path_rates(&self) -> Vec<f64> {
        let steps = self.depths.iter().sum::<usize>().saturating_sub(1);
        (0..=steps).map(|step| self.drop_path_rate * step as f64 / steps.max(1) as f64).collect()
    }

    /// Cost of the backbone, output norms included, for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        cost.level_norms(&self.levels(image));
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        if let (Some([height, width]), Some(dim)) = (self.stage_sizes(image).pop(), self.dims.last()) {
            cost.add(OpKind::AdaptiveAvgPool, product(&[*dim, height, width]));
            cost.layer_norm(*dim, [1, 1]);
            cost.linear(OpKind::Linear, *dim, num_classes, true, [1, 1]);
        }
        cost
    }

    fn trunk_complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = Complexity::default();
        let mut size = cost.conv_layer(&self.stem(), image);
        cost.layer_norm(self.dim(0), size);
        for (stage, (depth, dim)) in self.depths.iter().zip(&self.dims).enumerate() {
            if let Some(conv) = self.downsample(stage) {
                cost.layer_norm(conv.inputs, size);
                size = cost.conv_layer(&conv, size);
            }
            for _ in 0..*depth {
                cost.depthwise(*dim, KERNEL, true, size);
                cost.layer_norm(*dim, size);
                cost.linear(OpKind::Linear, *dim, EXPANSION * dim, true, size);
                cost.linear(OpKind::Linear, EXPANSION * dim, *dim, true, size);
                cost.add_params(if self.layer_scale_init_value > 0.0 { *dim } else { 0 });
            }
        }
        cost
    }

    pub(super) fn stem(&self) -> ConvConfig {
        ConvConfig { inputs: self.in_chans, outputs: self.dim(0), kernel: 4, stride: 4, padding: 0 }
    }

    /// The downsampling before stage `stage`; none for the first, which follows the stem.
    pub(super) fn downsample(&self, stage: usize) -> Option<ConvConfig> {
        let before = stage.checked_sub(1)?;
        Some(ConvConfig { inputs: self.dim(before), outputs: self.dim(stage), kernel: 2, stride: 2, padding: 0 })
    }
}
