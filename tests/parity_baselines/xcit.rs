//! XCiT against timm, and its backbone against timm's blocks with the official detectors' pyramid behind them.

use burn::prelude::*;
use burn::tensor::DType;
use vmamba::FeaturePyramid;
use vmamba::baselines::{XcitConfig, xcit};
use vmamba::checkpoint::{LoadOptions, load_into, state_dict_of};

use crate::{Case, Keys, levels, output};

const KEYS: Keys = Keys { key: xcit::key, rename: xcit::rename };

fn check_classifier(name: &str, config: &XcitConfig, num_classes: usize) {
    let case = Case::read(name);
    let config = XcitConfig { drop_path_rate: 0.0, ..config.clone() };
    let model = case.load(config.try_init_classifier(num_classes, &tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| vec![output("logits", model.forward(x))]);
}

#[test]
fn xcit_small_computes_what_timm_computes_at_every_image_size() {
    check_classifier("xcit_small_12", &XcitConfig::small_12(), 100);
}

#[test]
fn the_deeper_xcits_compute_what_timm_computes() {
    check_classifier("xcit_small_24", &XcitConfig::small_24(), 1000);
    check_classifier("xcit_medium_24", &XcitConfig::medium_24(), 50);
}

fn narrow() -> XcitConfig {
    XcitConfig { embed_dim: 64, num_heads: 4, drop_path_rate: 0.0, ..XcitConfig::small_12() }
}

#[test]
fn the_class_token_may_be_the_only_one_normalised() {
    let config = XcitConfig { depth: 4, tokens_norm: false, cls_attn_layers: 1, ..narrow() };
    check_classifier("xcit_cls_norm", &config, 10);
}

#[test]
fn the_pyramid_of_xcit_is_that_of_the_official_detectors() {
    let case = Case::read("xcit_pyramid");
    let config = XcitConfig { depth: 5, out_indices: vec![0, 2, 3, 4], embed_dim: 32, ..narrow() };
    let model = case.load(config.try_init(&tests::device().autodiff()).unwrap(), KEYS);
    case.check(&model, KEYS, |model, x| levels(model.forward_features(x)));
}

#[test]
fn levels_of_xcit_have_the_promised_sizes_in_the_type_of_the_images() {
    let device = tests::device();
    let config = XcitConfig { depth: 4, out_indices: vec![0, 1, 2, 3], ..narrow() };
    let backbone = config.try_init(&device).unwrap();
    assert_eq!(backbone.strides(), [4, 8, 16, 32]);
    assert_eq!(backbone.channels(), [64; 4]);
    for (dtype, image) in [(DType::F32, [48, 75]), (DType::BF16, [48, 75]), (DType::F32, [16, 33])] {
        let features = backbone.forward_features(Tensor::<4>::ones([2, 3, image[0], image[1]], &device).cast(dtype));
        for (feature, [height, width]) in features.into_iter().zip(config.level_sizes(image)) {
            assert_eq!(feature.dims(), [2, 64, height, width]);
            assert_eq!(feature.dtype(), dtype);
            assert!(feature.into_data().iter::<f32>().all(f32::is_finite));
        }
    }
    assert_eq!(config.level_sizes([48, 75]), [[12, 20], [6, 10], [3, 5], [1, 2]]);
    let classifier = config.try_init_classifier(7, &device).unwrap();
    assert_eq!(classifier.forward(Tensor::<4>::ones([2, 3, 40, 40], &device).cast(DType::BF16)).dims(), [2, 7]);
    assert!(config.check_image([0, 16]).is_err());
}

#[test]
fn class_attention_of_official_files_is_taken_apart() {
    let device = tests::device();
    let config = XcitConfig { depth: 1, ..narrow() };
    let [ours, other] = [0, 1].map(|_| config.try_init_classifier(10, &device).unwrap());
    let mut official = state_dict_of(&ours, &xcit::key);
    for block in 0..2 {
        for ending in ["weight", "bias"] {
            let [q, k, v] = ["q", "k", "v"].map(|name| official.remove(&format!("cls_attn_blocks.{block}.attn.{name}.{ending}")).unwrap());
            let mut all = q;
            all.shape[0] *= 3;
            all.data.extend(k.data.into_iter().chain(v.data));
            official.insert(format!("cls_attn_blocks.{block}.attn.qkv.{ending}"), all);
        }
    }
    let options = LoadOptions::new().rename(xcit::rename);
    assert!(load_into(other.clone(), &xcit::key, &official, &options).is_err());
    let (loaded, _) = load_into(other, &xcit::key, &xcit::split_class_attention(official), &options).unwrap();
    assert!(state_dict_of(&loaded, &xcit::key) == state_dict_of(&ours, &xcit::key));
}
