//! DeiT against timm, and its backbone against timm's blocks with mmsegmentation's neck written out.

use burn::prelude::*;
use vmamba::FeaturePyramid;
use vmamba::baselines::{DeitConfig, deit};
use vmamba::layers::TableResize;

use crate::{Case, Keys, levels, output};

const KEYS: Keys = Keys { key: deit::key, rename: deit::rename };

fn check_classifier(name: &str, config: &DeitConfig, num_classes: usize) {
    let case = Case::read(name);
    let config = DeitConfig { drop_path_rate: 0.0, ..config.clone() };
    let model = case.load(config.try_init_classifier(num_classes, &tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| vec![output("logits", model.forward(x))]);
}

fn check_backbone(name: &str, config: &DeitConfig) {
    let case = Case::read(name);
    let config = DeitConfig { drop_path_rate: 0.0, ..config.clone() };
    let model = case.load(config.try_init(&tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| levels(model.forward_features(x)));
}

#[test]
fn deit_small_computes_what_timm_computes_at_every_image_size() {
    check_classifier("deit_small", &DeitConfig::small(), 100);
}

#[test]
fn deit_base_computes_what_timm_computes() {
    check_classifier("deit_base", &DeitConfig::base(), 1000);
}

#[test]
fn antialiased_positions_are_those_of_timm() {
    let config = DeitConfig { position_resize: TableResize::BicubicAntialiased, ..DeitConfig::small() };
    check_classifier("deit_small_antialiased", &config, 100);
}

#[test]
fn the_pyramid_of_deit_is_that_of_the_multi_level_neck() {
    check_backbone("deit_tiny_mln", &DeitConfig { neck_channels: 48, ..DeitConfig::tiny() });
    check_backbone("deit_tiny_ln_mln", &DeitConfig { neck_channels: 32, final_norm: true, ..DeitConfig::tiny() });
}

#[test]
fn levels_of_deit_have_the_promised_sizes_in_the_type_of_the_images() {
    let device = tests::device();
    let config = DeitConfig { depth: 4, out_indices: vec![0, 1, 2, 3], neck_channels: 16, ..DeitConfig::tiny() };
    let backbone = config.try_init(&device).unwrap();
    assert_eq!(backbone.strides(), [4, 8, 16, 32]);
    assert_eq!(backbone.channels(), [16; 4]);
    for dtype in [burn::tensor::DType::F32, burn::tensor::DType::BF16] {
        let features = backbone.forward_features(Tensor::<4>::ones([2, 3, 48, 80], &device).cast(dtype));
        for (feature, [height, width]) in features.into_iter().zip(config.level_sizes([48, 80])) {
            assert_eq!(feature.dims(), [2, 16, height, width]);
            assert_eq!(feature.dtype(), dtype);
            assert!(feature.into_data().iter::<f32>().all(f32::is_finite));
        }
    }
    assert_eq!(config.level_sizes([48, 80]), [[12, 20], [6, 10], [3, 5], [1, 2]]);
    let error = config.check_image([224, 230]).unwrap_err().to_string();
    assert_eq!(error, "`image`: expected height and width that 16 divides, found 224 x 230");
    config.check_image([96, 160]).unwrap();
}
