//! Vim against its official code.

use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use vmamba::baselines::{VimConfig, vim};
use vmamba::complexity::OpKind;

use crate::{Case, Keys, output};

const KEYS: Keys = Keys { key: vim::key, rename: vim::rename };

fn check(name: &str, config: &VimConfig) {
    let case = Case::read(name);
    let config = VimConfig { drop_path_rate: 0.0, ..config.clone() };
    let model = case.load(config.try_init_classifier(1000, &tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| vec![output("logits", model.forward(x))]);
}

#[test]
fn vim_small_computes_what_the_official_code_computes_at_every_image_size() {
    check("vim_small", &VimConfig::small());
}

#[test]
fn vim_tiny_with_overlapping_patches_computes_what_the_official_code_computes() {
    check("vim_tiny_stride8", &VimConfig::tiny().stride8());
}

#[test]
fn vim_takes_bf16_and_stays_near_float32() {
    let device = tests::device();
    let config = VimConfig { depth: 4, ..VimConfig::tiny() };
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
fn images_that_do_not_divide_into_patches_are_refused() {
    let config = VimConfig::tiny().stride8();
    config.check_image([104, 72]).unwrap();
    let error = config.check_image([100, 72]).unwrap_err().to_string();
    assert_eq!(error, "`image`: expected height and width of 16 and a multiple of 8 pixels more, found 100 x 72");
    assert_eq!(config.grid([104, 72]), [12, 8]);
}

#[test]
fn the_cost_of_vim_is_the_official_count() {
    let device = tests::device();
    let config = VimConfig::small();
    let cost = config.classifier_complexity(1000, [224, 224]);
    assert_eq!((cost.params, cost.flops()), (25_796_584, 5_301_500_928));
    assert_eq!(cost.params as usize, config.try_init_classifier(1000, &device).unwrap().num_params());
    let kinds: Vec<OpKind> = cost.by_op.keys().copied().collect();
    assert_eq!(kinds, [OpKind::Conv, OpKind::Linear, OpKind::Matmul, OpKind::SelectiveScan]);
    for config in [VimConfig::tiny(), VimConfig { depth: 1, ..VimConfig::base().stride8() }] {
        let cost = config.classifier_complexity(7, [224, 224]);
        assert_eq!(cost.params as usize, config.try_init_classifier(7, &device).unwrap().num_params());
    }
    // Published as 7M and 98M.
    let millions = |config: VimConfig| config.classifier_complexity(1000, [224, 224]).params as f64 / 1e6;
    assert_eq!([VimConfig::tiny(), VimConfig::base()].map(|config| millions(config).round()), [7.0, 98.0]);
}
