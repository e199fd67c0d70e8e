//! HiViT against its official code.

use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use vmamba::FeaturePyramid;
use vmamba::baselines::{HivitConfig, hivit};

use crate::{Case, Keys, levels, output};

const KEYS: Keys = Keys { key: hivit::key, rename: hivit::rename };

fn check(name: &str, config: &HivitConfig, num_classes: usize) {
    let case = Case::read(name);
    let config = HivitConfig { drop_path_rate: 0.0, ..config.clone() };
    let model = case.load(config.try_init_classifier(num_classes, &tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| vec![output("logits", model.forward(x))]);
}

#[test]
fn hivit_tiny_computes_what_the_official_code_computes_at_every_image_size() {
    check("hivit_tiny", &HivitConfig::tiny(), 1000);
}

#[test]
fn hivit_as_in_mmpretrain_without_relative_positions_computes_what_the_official_code_computes() {
    let base = HivitConfig { depths: [2, 2, 3], relative_positions: false, patch_norm: false, ..HivitConfig::base() };
    check("hivit_plain", &HivitConfig { norm_epsilon: 1e-5, final_norm: false, ..base }, 10);
}

#[test]
fn the_pyramid_of_hivit_is_that_of_the_official_detector_and_segmentor() {
    let narrow = HivitConfig { embed_dim: 64, num_heads: 4, relative_positions: false, drop_path_rate: 0.0, ..HivitConfig::tiny() };
    let detector = HivitConfig { depths: [2, 2, 3], ..narrow.clone() };
    let segmentor = HivitConfig { depths: [1, 2, 2], level_norms: false, ..narrow };
    for (name, config) in [("hivit_pyramid", detector), ("hivit_pyramid_plain", segmentor)] {
        let case = Case::read(name);
        let model = case.load(config.try_init(&tests::device().autodiff()).unwrap(), KEYS);
        case.check(&model, KEYS, |model, x| levels(model.forward_features(x)));
    }
    let error = HivitConfig { depths: [2, 1, 3], ..HivitConfig::tiny() }.try_init(&tests::device()).unwrap_err().to_string();
    assert!(error.starts_with("`depths`"), "{error}");
}

#[test]
fn hivit_takes_bf16_and_stays_near_float32() {
    let device = tests::device();
    let config = HivitConfig { depths: [1, 1, 2], final_norm: false, ..HivitConfig::tiny() };
    let model = config.try_init_classifier(10, &device).unwrap();
    let images = Tensor::<4>::random([2, 3, 64, 96], Distribution::Normal(0.0, 1.0), &device);
    let narrow = model.forward(images.clone().cast(DType::BF16));
    assert_eq!((narrow.dims(), narrow.dtype()), ([2, 10], DType::F32));
    let wide = model.forward(images);
    let scale = wide.clone().abs().max().into_scalar::<f32>();
    let difference = (wide - narrow).abs().max().into_scalar::<f32>();
    // bf16 has 8 bits.
    assert!(difference < 0.03 * scale, "{difference} of {scale}");
}

#[test]
fn images_that_do_not_divide_into_tokens_are_refused() {
    let config = HivitConfig::tiny();
    config.check_image([96, 160]).unwrap();
    let error = config.check_image([96, 100]).unwrap_err().to_string();
    assert_eq!(error, "`image`: expected height and width that 16 divides, found 96 x 100");
    assert_eq!(config.stage_sizes([96, 160]), [[24, 40], [12, 20], [6, 10]]);
}
