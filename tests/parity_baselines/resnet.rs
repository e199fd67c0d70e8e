//! ResNet against torchvision's.

use burn::prelude::*;
use vmamba::FeaturePyramid;
use vmamba::baselines::{ResnetConfig, resnet};

use crate::{Case, Keys, levels, output};

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
fn levels_behind_a_stem_of_three_convolutions_agree() {
    let config = ResnetConfig { deep_stem: true, ..ResnetConfig::resnet50() };
    let case = Case::read("resnet50_deep_stem");
    let backbone = case.load(config.try_init(&tests::device()).unwrap(), KEYS);
    case.check(&backbone, KEYS, |model, x| levels(model.forward_features(x)));
}

#[test]
fn images_of_one_channel_and_odd_sizes_are_taken() {
    let config = ResnetConfig { in_chans: 1, width: 4, depths: vec![1, 2, 1], out_indices: vec![2], ..ResnetConfig::resnet50() };
    let device = tests::device();
    let backbone = config.try_init(&device).unwrap();
    assert_eq!(backbone.forward_features(Tensor::ones([1, 1, 33, 64], &device))[0].dims(), [1, 64, 3, 4]);
}
