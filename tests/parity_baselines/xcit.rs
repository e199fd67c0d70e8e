//! XCiT against timm, and its backbone against timm's blocks with the official detectors' pyramid behind them.

use burn::prelude::*;
use burn::tensor::DType;
use vmamba::FeaturePyramid;
use vmamba::baselines::{XcitConfig, xcit};
use vmamba::checkpoint::{LoadOptions, load_into, state_dict_of};

use crate::{Case, Keys, cost, levels, output};

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

#[test]
fn the_cost_of_xcit_is_the_official_count() {
    let device = tests::device();
    let config = XcitConfig::small_12();
    cost::check("xcit_small_12_p16_224 (timm 0.9.16)", |image| config.classifier_complexity(1000, image));
    // Parameters of UperNet with 150 classes on these backbones, of its heads at their widths, and the published figures of the classifiers.
    for (config, total, heads, figures) in [
        (XcitConfig::small_12(), 54_199_100, 30_111_020, "26M 4.9G"),
        (XcitConfig::small_24(), 75_617_180, 30_111_020, "48M 9.2G"),
        (XcitConfig::medium_24(), 112_177_196, 31_454_508, "84M 16.2G"),
    ] {
        let cost = config.complexity([512, 512]);
        assert_eq!(cost.params as usize, trainable(&config.try_init(&device).unwrap()));
        assert_eq!(cost.params as usize + heads, total);
        let classifier = config.classifier_complexity(1000, [224, 224]);
        // The official class attention makes queries of all 196 patches, too, which only the class token uses.
        let published = classifier.flops() + (config.cls_attn_layers * 196 * config.embed_dim.pow(2)) as u64;
        let published = format!("{:.0}M {:.1}G", classifier.params as f64 / 1e6, published as f64 / 1e9);
        assert_eq!(published, figures);
        assert_eq!(classifier.params as usize, trainable(&config.try_init_classifier(1000, &device).unwrap()));
    }
}

/// Parameters without the running statistics of the batch norms, which Burn counts.
fn trainable<M: Module>(model: &M) -> usize {
    let statistics: usize =
        state_dict_of(model, &xcit::key).iter().filter(|(key, _)| key.contains(".running_")).map(|(_, t)| t.data.len()).sum();
    model.num_params() - statistics
}
