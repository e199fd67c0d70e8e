//! ResNet against torchvision's.

use burn::module::Module;
use burn::prelude::*;
use vmamba::FeaturePyramid;
use vmamba::baselines::{ResnetConfig, resnet};
use vmamba::checkpoint::state_dict_of;
use vmamba::complexity::OpKind;

use crate::{Case, Keys, cost, levels, output};

const KEYS: Keys = Keys { key: resnet::key, rename: resnet::rename };

fn check(name: &str, config: ResnetConfig, num_classes: usize) {
    let classifier = config.try_init_classifier(num_classes, &tests::device().autodiff()).unwrap();
    let case = Case::read(name);
    let classifier = case.load(classifier, KEYS);
    case.check(&classifier, KEYS, |model, x| vec![output("logits", model.forward(x))]);
}

#[test]
fn logits_agree() {
    check("resnet50", ResnetConfig::resnet50(), 1000);
    check("resnet101", ResnetConfig::resnet101(), 1000);
}

#[test]
fn gradients_of_training_agree() {
    check("resnet_training", ResnetConfig { depths: vec![1; 4], ..ResnetConfig::resnet50() }, 10);
}

#[test]
fn every_level_and_gradients_with_stored_statistics_agree() {
    let backbone = ResnetConfig::resnet50().try_init(&tests::device().autodiff()).unwrap().norm_eval();
    let case = Case::read("resnet50_pyramid");
    let backbone = case.load(backbone, KEYS);
    case.check(&backbone, KEYS, |model, x| levels(model.forward_features(x)));
}

#[test]
fn cost_is_that_of_the_official_counting() {
    cost::check("resnet50 (torchvision)", |image| ResnetConfig::resnet50().classifier_complexity(1000, image));
    // torchvision's published 44,549,160 parameters, and 7.801 G of convolutions and linear layers.
    let cost = ResnetConfig::resnet101().classifier_complexity(1000, [224, 224]);
    assert_eq!(cost.params, 44_549_160);
    let products = cost.by_op[&OpKind::Conv] + cost.by_op[&OpKind::Linear];
    assert_eq!(format!("{:.3}", products as f64 / 1e9), "7.801");
}

#[test]
fn counted_parameters_are_those_of_the_module() {
    let device = tests::device();
    let config = ResnetConfig { in_chans: 1, width: 4, depths: vec![1, 2, 1], out_indices: vec![2] };
    let (backbone, classifier) = (config.try_init(&device).unwrap(), config.try_init_classifier(7, &device).unwrap());
    assert_eq!(config.complexity([64, 64]).params, parameters(&backbone));
    assert_eq!(config.classifier_complexity(7, [64, 64]).params, parameters(&classifier));
    assert_eq!(backbone.forward_features(Tensor::ones([1, 1, 33, 64], &device))[0].dims(), [1, 64, 3, 4]);
}

/// Values of a module without the statistics of its batch norms, which `num_params` counts.
fn parameters<M: Module>(module: &M) -> u64 {
    let state = state_dict_of(module, &resnet::key);
    state.iter().filter(|(key, _)| !key.contains("running_")).map(|(_, tensor)| tensor.data.len() as u64).sum()
}
