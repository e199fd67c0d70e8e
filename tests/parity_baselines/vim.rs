//! Vim against its official code.

use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use vmamba::FeaturePyramid;
use vmamba::baselines::{VimConfig, vim};

use crate::{Case, Keys, levels, output};

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
fn the_pyramid_of_vim_is_that_of_the_official_segmentor() {
    let config =
        VimConfig { image_size: 96, embed_dim: 32, depth: 6, out_indices: vec![1, 2, 4, 5], drop_path_rate: 0.0, ..VimConfig::tiny() };
    let case = Case::read("vim_pyramid");
    let model = case.load(config.try_init(&tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| levels(model.forward_features(x)));
    for wrong in [vec![1, 2, 4], vec![1, 2, 4, 6]] {
        let error = VimConfig { out_indices: wrong, ..config.clone() }.try_init(&tests::device()).unwrap_err().to_string();
        assert!(error.starts_with("`out_indices`"), "{error}");
    }
}

#[test]
fn the_levels_of_vim_have_the_promised_sizes_in_the_type_of_the_images() {
    let device = tests::device();
    let config = VimConfig { depth: 4, out_indices: vec![0, 1, 2, 3], ..VimConfig::tiny() };
    let backbone = config.try_init(&device).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let features = backbone.forward_features(Tensor::<4>::ones([2, 3, 48, 80], &device).cast(dtype));
        for (feature, [height, width]) in features.into_iter().zip(config.level_sizes([48, 80])) {
            assert_eq!((feature.dims(), feature.dtype()), ([2, 192, height, width], dtype));
        }
    }
    assert_eq!(config.level_sizes([48, 80]), [[12, 20], [6, 10], [3, 5], [1, 2]]);
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
