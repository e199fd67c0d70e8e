//! The image classifier.

use burn::prelude::*;
use burn::tensor::DType;

use super::Trunk;
use super::config::VmambaConfig;
use crate::last_map::last_map_of_trunk;
use crate::layers::{ChannelNorm, Dense};

/// The classifier (official `VSSM`).
#[derive(Module, Debug)]
pub struct VmambaClassifier {
    trunk: Trunk,
    classifier: ClassifierHead,
    #[module(skip)]
    config: VmambaConfig,
}

/// Norm of the last feature, average over positions, linear layer.
#[derive(Module, Debug)]
pub struct ClassifierHead {
    norm: ChannelNorm,
    head: Dense,
}

impl VmambaClassifier {
    /// Requires a valid configuration.
    pub(super) fn new(config: &VmambaConfig, num_classes: usize, device: &Device) -> Self {
        let width = config.dim(config.num_stages() - 1);
        Self {
            trunk: Trunk::new(config, device),
            classifier: ClassifierHead { norm: ChannelNorm::new(width, device), head: Dense::new(width, num_classes, true, device) },
            config: config.clone(),
        }
    }

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.classifier.head.forward(self.features(images))
    }

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        match self.trunk.forward(images).pop() {
            Some(feature) => self.classifier.pooled(feature),
            None => unreachable!("a valid configuration has at least one stage"),
        }
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.classifier.head
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &VmambaConfig {
        &self.config
    }

    /// The stem and stages.
    pub(crate) fn trunk(&self) -> &Trunk {
        &self.trunk
    }
}

last_map_of_trunk!(VmambaClassifier);

impl ClassifierHead {
    /// `[batch, height, width, channels]` to `[batch, channels]`. The average is float32, and so is everything after it.
    fn pooled(&self, feature: Tensor<4>) -> Tensor<2> {
        let [batch, _, _, channels] = feature.dims();
        self.norm.forward(feature).cast(DType::F32).mean_dim(1).mean_dim(2).reshape([batch, channels])
    }
}
