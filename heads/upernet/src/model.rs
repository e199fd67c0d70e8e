//! UperNet: a backbone, the decode head, and the auxiliary head for training (mmsegmentation's `EncoderDecoder`).

use burn::prelude::*;
use vmamba::FeaturePyramid;
use vmamba::zoo::Backbone;

use crate::config::{FcnHeadConfig, UperHeadConfig, UperNetConfig, UperNetConfigError};
use crate::fcn_head::FcnHead;
use crate::key_map::official_key;
use crate::loss::loss_and_accuracy;
use crate::segmentor::{SegmentationLoss, Segmentor};
use crate::uper_head::UperHead;

/// A semantic segmentation model on any backbone.
#[derive(Module, Debug)]
pub struct UperNet<P> {
    /// The backbone.
    pub backbone: P,
    /// The head that predicts.
    pub decode_head: UperHead,
    /// The head for an auxiliary loss in training.
    pub auxiliary_head: Option<FcnHead>,
}

impl UperNetConfig {
    /// Builds the model with random weights on `device`.
    ///
    /// # Errors
    /// See [`UperNetConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<UperNet<Backbone>, UperNetConfigError> {
        self.validate()?;
        let backbone = self.backbone.try_init(device)?;
        Ok(UperNet::new(backbone, self.num_classes, &self.head, self.auxiliary.as_ref(), device))
    }

    /// Builds the model with random weights on `device`.
    ///
    /// # Panics
    /// When the configuration is invalid; [`UperNetConfig::try_init`] returns the error instead.
    pub fn init(&self, device: &Device) -> UperNet<Backbone> {
        match self.try_init(device) {
            Ok(model) => model,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<P: FeaturePyramid> UperNet<P> {
    /// Puts heads for `num_classes` classes on a backbone. For a backbone of the zoo see [`UperNetConfig`](crate::UperNetConfig).
    ///
    /// # Panics
    /// When the backbone has no level, or not the level that the auxiliary head reads.
    pub fn new(backbone: P, num_classes: usize, head: &UperHeadConfig, auxiliary: Option<&FcnHeadConfig>, device: &Device) -> Self {
        let channels = backbone.channels();
        Self {
            decode_head: UperHead::new(&channels, num_classes, head, device),
            auxiliary_head: auxiliary.map(|config| FcnHead::new(&channels, num_classes, config, device)),
            backbone,
        }
    }
}

impl<P: FeaturePyramid> Segmentor for UperNet<P> {
    fn num_classes(&self) -> usize {
        self.decode_head.num_classes()
    }

    /// Logits `[batch, classes, height / 4, width / 4]` with the published backbones. Activations in between have the type of the images.
    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        self.decode_head.forward(self.backbone.forward_features(images))
    }

    fn loss(&self, images: Tensor<4>, labels: Tensor<3, Int>) -> SegmentationLoss {
        let features = self.backbone.forward_features(images);
        let auxiliary = self.auxiliary_head.as_ref().and_then(|head| {
            let logits = head.forward(features.get(head.in_index())?.clone());
            let (loss, accuracy) = loss_and_accuracy(logits, &labels);
            Some((loss * head.loss_weight(), accuracy))
        });
        let decode = loss_and_accuracy(self.decode_head.forward(features), &labels);
        let (mut parts, mut accuracies) = (Vec::new(), Vec::new());
        for (head, (loss, accuracy)) in std::iter::once(("decode", decode)).chain(auxiliary.map(|auxiliary| ("aux", auxiliary))) {
            parts.push((format!("{head}.loss_ce"), loss));
            accuracies.push((format!("{head}.acc_seg"), accuracy));
        }
        SegmentationLoss::new(parts, accuracies)
    }

    fn fewest_norm_values(&self, image: [usize; 2]) -> Option<usize> {
        let of_stride = |stride: usize| image.map(|side| side.div_ceil(stride.max(1))).into_iter().product();
        let positions: Vec<usize> = self.backbone.strides().into_iter().map(of_stride).collect();
        let auxiliary = self.auxiliary_head.as_ref().filter(|head| head.trains_norm());
        let auxiliary = auxiliary.and_then(|head| positions.get(head.in_index()).copied());
        let heads = self.decode_head.fewest_norm_values(&positions).into_iter().chain(auxiliary);
        heads.chain(self.backbone.fewest_norm_values(image)).min()
    }

    fn observe(&self, images: Tensor<4>, observe: &mut dyn FnMut(&str, usize, &Tensor<4>)) {
        let features = self.backbone.forward_features(images);
        features.iter().enumerate().for_each(|(level, output)| observe("backbone", level, output));
        let logits = self.decode_head.forward_observed(features, |module, output| observe(&format!("decode_head.{module}"), 0, output));
        observe("decode_head.conv_seg", 0, &logits);
    }

    fn official_key(path: &str) -> String {
        official_key(path)
    }
}

#[cfg(test)]
mod tests {
    use vmamba::{Dims, VmambaConfig};

    use super::*;

    #[test]
    fn the_branch_of_one_pixel_gives_its_batch_norm_one_value_an_image() {
        let device = Device::flex();
        let backbone = VmambaConfig { depths: vec![1; 2], dims: Dims::Doubling(8), out_indices: vec![0, 1], ..VmambaConfig::default() };
        let mut config = UperNetConfig::on(backbone, 3);
        (config.head.channels, config.auxiliary) = (4, None);
        let fewest = |scales: &[usize], size: usize| {
            let mut config = config.clone();
            config.head.pool_scales = scales.to_vec();
            config.init(&device).fewest_norm_values([size; 2])
        };
        assert_eq!(fewest(&[1, 2, 3], 64), Some(1));
        assert_eq!(fewest(&[2, 3], 64), Some(4));
        // The coarsest level of 16 pixels has stride 8, that of 8 pixels has one position.
        assert_eq!((fewest(&[4], 16), fewest(&[4], 8)), (Some(4), Some(1)));
        assert_eq!(config.init(&device).freeze().fewest_norm_values([64; 2]), None);
    }

    #[test]
    fn modules_are_observed_in_the_order_of_the_forward_pass() {
        let device = Device::flex();
        let backbone = VmambaConfig { depths: vec![1; 2], dims: Dims::Doubling(8), out_indices: vec![0, 1], ..VmambaConfig::default() };
        let mut config = UperNetConfig::on(backbone, 3);
        (config.head.channels, config.head.pool_scales, config.auxiliary) = (4, vec![1, 2], None);
        let model = config.init(&device);
        let images = Tensor::zeros([1, 3, 32, 40], &device);
        let (mut seen, mut last) = (Vec::new(), None);
        model.observe(images.clone(), &mut |module, index, output| {
            seen.push(format!("{module} {index}"));
            last = Some(output.clone());
        });
        let head = ["psp_modules.0", "psp_modules.1", "bottleneck", "lateral_convs.0", "fpn_convs.0", "fpn_bottleneck", "conv_seg"];
        let expected: Vec<String> = ["backbone 0".to_owned(), "backbone 1".to_owned()]
            .into_iter()
            .chain(head.map(|module| format!("decode_head.{module} 0")))
            .collect();
        assert_eq!(seen, expected);
        last.unwrap().into_data().assert_eq(&model.forward(images).into_data(), true);
    }
}
