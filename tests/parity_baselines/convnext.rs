//! ConvNeXt against timm's and torchvision's, by the official keys.

use burn::prelude::*;
use burn::tensor::DType;
use vmamba::FeaturePyramid;
use vmamba::baselines::{ConvnextConfig, convnext};

use crate::{Case, Keys, levels, output};

const KEYS: Keys = Keys { key: convnext::key, rename: convnext::rename };

/// Without stochastic depth, which is random.
fn deterministic(config: ConvnextConfig) -> ConvnextConfig {
    ConvnextConfig { drop_path_rate: 0.0, ..config }
}

#[test]
fn logits_and_gradients_agree() {
    for (name, config) in [("convnext_tiny", ConvnextConfig::tiny()), ("convnext_base", ConvnextConfig::base())] {
        let case = Case::read(name);
        let classifier = case.load(deterministic(config).try_init_classifier(1000, &tests::device().autodiff()).unwrap(), KEYS);
        case.check(&classifier, KEYS, |model, x| vec![output("logits", model.forward(x))]);
    }
}

#[test]
fn every_level_and_gradients_agree() {
    let backbone = deterministic(ConvnextConfig::tiny()).try_init(&tests::device().autodiff()).unwrap();
    let case = Case::read("convnext_tiny_pyramid");
    let backbone = case.load(backbone, KEYS);
    case.check(&backbone, KEYS, |model, x| levels(model.forward_features(x)));
}

#[test]
fn levels_have_the_promised_sizes_in_the_type_of_the_images() {
    let device = tests::device();
    for layer_scale_init_value in [0.0, 1e-6] {
        let (depths, dims) = (vec![1, 2], vec![8, 12]);
        let config = ConvnextConfig { in_chans: 1, depths, dims, layer_scale_init_value, out_indices: vec![1], ..ConvnextConfig::tiny() };
        let backbone = config.try_init(&device).unwrap();
        let features = backbone.forward_features(Tensor::ones([1, 1, 33, 64], (&device, DType::BF16)));
        assert_eq!((features.len(), features[0].dims(), features[0].dtype()), (1, [1, 12, 4, 8], DType::BF16));
    }
}
