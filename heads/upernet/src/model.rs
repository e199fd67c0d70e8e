//! UperNet: a backbone, the decode head, and the auxiliary head for training (mmsegmentation's `EncoderDecoder`).

use burn::prelude::*;
use vmamba::FeaturePyramid;

use crate::config::{FcnHeadConfig, UperHeadConfig};
use crate::fcn_head::FcnHead;
use crate::loss::{SegmentationLoss, loss_and_accuracy};
use crate::uper_head::UperHead;

/// A semantic segmentation model on any backbone.
#[derive(Module, Debug)]
pub struct UperNet<P> {
    /// The backbone.
    pub backbone: P,
    /// The head that predicts.
    pub decode_head: UperHead,
    /// The head that helps training.
    pub auxiliary_head: Option<FcnHead>,
}

impl<P: FeaturePyramid> UperNet<P> {
    /// Puts heads for `num_classes` classes on a backbone; see [`UperNetConfig`](crate::UperNetConfig) for VMamba.
    ///
    /// # Panics
    /// When the backbone has no level, or not the one the auxiliary head reads.
    pub fn new(backbone: P, num_classes: usize, head: &UperHeadConfig, auxiliary: Option<&FcnHeadConfig>, device: &Device) -> Self {
        let channels = backbone.channels();
        Self {
            decode_head: UperHead::new(&channels, num_classes, head, device),
            auxiliary_head: auxiliary.map(|config| FcnHead::new(&channels, num_classes, config, device)),
            backbone,
        }
    }

    /// Normalised RGB images `[batch, 3, height, width]`, float32 or bf16, to logits `[batch, classes, height / 4, width / 4]`, float32.
    /// Activations in between have the type of the images.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        self.decode_head.forward(self.backbone.forward_features(images))
    }

    /// Loss of a batch: images as for [`UperNet::forward`], `labels: [batch, height, width]` with class indices or
    /// [`IGNORE_INDEX`](crate::IGNORE_INDEX).
    pub fn loss(&self, images: Tensor<4>, labels: Tensor<3, Int>) -> SegmentationLoss {
        let features = self.backbone.forward_features(images);
        let auxiliary = self.auxiliary_head.as_ref().and_then(|head| {
            let logits = head.forward(features.get(head.in_index())?.clone());
            let (loss, accuracy) = loss_and_accuracy(logits, &labels);
            Some((loss * head.loss_weight(), accuracy))
        });
        let (decode_ce, decode_accuracy) = loss_and_accuracy(self.decode_head.forward(features), &labels);
        let (auxiliary_ce, auxiliary_accuracy) = auxiliary.unzip();
        let total = match &auxiliary_ce {
            Some(auxiliary) => decode_ce.clone() + auxiliary.clone(),
            None => decode_ce.clone(),
        };
        SegmentationLoss { total, decode_ce, decode_accuracy, auxiliary_ce, auxiliary_accuracy }
    }
}
