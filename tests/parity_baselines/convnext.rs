//! ConvNeXt against timm's and torchvision's, by the official keys.

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use vmamba::FeaturePyramid;
use vmamba::baselines::{ConvnextConfig, convnext};

use crate::{Case, Keys, cost, levels, output};

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
fn cost_is_that_of_the_official_counting() {
    cost::check("convnext_tiny (torchvision)", |image| ConvnextConfig::tiny().classifier_complexity(1000, image));
    for (config, params, gflops) in [(ConvnextConfig::small(), 50_223_688, "8.7"), (ConvnextConfig::base(), 88_591_464, "15.4")] {
        let cost = config.classifier_complexity(1000, [224, 224]);
        assert_eq!((cost.params, format!("{:.1}", cost.flops() as f64 / 1e9).as_str()), (params, gflops));
    }
}

#[test]
fn counted_parameters_are_those_of_the_module() {
    let device = tests::device();
    for layer_scale_init_value in [0.0, 1e-6] {
        let (depths, dims) = (vec![1, 2], vec![8, 12]);
        let config = ConvnextConfig { in_chans: 1, depths, dims, layer_scale_init_value, out_indices: vec![1], ..ConvnextConfig::tiny() };
        let (backbone, classifier) = (config.try_init(&device).unwrap(), config.try_init_classifier(7, &device).unwrap());
        assert_eq!(config.complexity([64, 64]).params, backbone.num_params() as u64);
        assert_eq!(config.classifier_complexity(7, [64, 64]).params, classifier.num_params() as u64);
        let features = backbone.forward_features(Tensor::ones([1, 1, 33, 64], (&device, DType::BF16)));
        assert_eq!((features.len(), features[0].dims(), features[0].dtype()), (1, [1, 12, 4, 8], DType::BF16));
    }
}
