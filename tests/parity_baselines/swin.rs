//! Swin Transformer against torchvision and timm, and its cost against the published numbers.

use burn::prelude::*;
use tests::formula;
use vmamba::FeaturePyramid;
use vmamba::baselines::swin::{self, SmallMaps, SwinConfig, WindowSize};
use vmamba::checkpoint::{LoadOptions, StateDict, StateTensor, load_into};

use super::{Case, Keys, levels, output};

const KEYS: Keys = Keys { key: swin::key, rename: swin::rename };

fn check_classifier(name: &str, config: &SwinConfig) {
    let case = Case::read(name);
    let config = SwinConfig { drop_path_rate: 0.0, ..config.clone() };
    let model = case.load(config.try_init_classifier(1000, &tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| vec![output("logits", model.forward(x))]);
}

/// `module` with weights of the case under the keys of a file that needs [`swin::official_state`].
fn load_translated<M: Module>(case: &Case, module: M) -> M {
    let mut state = StateDict::new();
    for (key, shape) in case.shapes() {
        let data = formula::parameter(&key, &shape);
        state.insert(key, StateTensor { shape, data });
    }
    let options = LoadOptions::new().rename(swin::rename);
    let untranslated = load_into(module.clone(), &swin::key, &state, &options);
    assert!(untranslated.is_err(), "{}: a file that needs translation must not fit without", case.name);
    load_into(module, &swin::key, &swin::official_state(state), &options).unwrap().0
}

#[test]
fn swin_t_equals_torchvision() {
    check_classifier("swin_t", &SwinConfig::tiny());
}

#[test]
fn swin_s_equals_torchvision() {
    check_classifier("swin_s", &SwinConfig::small());
}

#[test]
fn swin_b_equals_torchvision() {
    check_classifier("swin_b", &SwinConfig::base());
}

#[test]
fn swin_b_with_windows_of_12_equals_timm() {
    check_classifier("swin_b_384", &SwinConfig::base_384());
}

#[test]
fn windows_that_grow_with_the_image_equal_timm_with_resampled_tables() {
    check_classifier("swin_t_scaled", &SwinConfig { window_size: WindowSize::Scaled, ..SwinConfig::tiny() });
}

#[test]
fn windows_that_shrink_to_the_map_equal_timm() {
    let window = SwinConfig { window_size: WindowSize::Fixed(4), table_window: 4, ..SwinConfig::tiny() };
    check_classifier("swin_t_shrink", &SwinConfig { small_maps: SmallMaps::Shrink, ..window });
}

#[test]
fn a_file_of_timm_fits_after_translation() {
    let case = Case::read("swin_t_timm");
    let model = load_translated(&case, SwinConfig::tiny().try_init_classifier(1000, &tests::device()).unwrap());
    case.check(&model, KEYS, |model, x| vec![output("logits", model.forward(x))]);
}

#[test]
fn pyramid_equals_torchvision_with_norms() {
    let case = Case::read("swin_t_pyramid");
    let config = SwinConfig { drop_path_rate: 0.0, ..SwinConfig::tiny() };
    let model = case.load(config.try_init(&tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| levels(model.forward_features(x)));
}

#[test]
fn a_detector_of_openmmlab_fits_after_translation() {
    let case = Case::read("swin_t_mmlab");
    let model = load_translated(&case, SwinConfig::tiny().try_init(&tests::device()).unwrap());
    case.check(&model, KEYS, |model, x| levels(model.forward_features(x)));
}

#[test]
fn bf16_stays_bf16_and_near_float32() {
    let device = tests::device();
    let config = SwinConfig { window_size: WindowSize::Scaled, ..SwinConfig::tiny() };
    let model = config.try_init(&device).unwrap();
    let images = Tensor::<4>::random([1, 3, 64, 96], burn::tensor::Distribution::Normal(0.0, 1.0), &device);
    let narrow = model.forward_features(images.clone().cast(burn::tensor::DType::BF16));
    for (wide, narrow) in model.forward_features(images).into_iter().zip(narrow) {
        assert_eq!(narrow.dtype(), burn::tensor::DType::BF16);
        let difference = (wide - narrow.cast(burn::tensor::DType::F32)).abs().mean().into_scalar::<f32>();
        // Values are normalised; bf16 has 8 bits.
        assert!(difference < 0.03, "{difference}");
    }
}
