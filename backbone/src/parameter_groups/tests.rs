use std::collections::BTreeSet;

use burn::prelude::*;

use super::*;
use crate::checkpoint::state_dict_of;
use crate::zoo::{self, BackboneConfig};

fn named(name: &str) -> BackboneConfig {
    BackboneConfig::named(name).unwrap()
}

#[test]
fn the_published_rule_of_vmamba_goes_by_names_and_the_intended_one_by_shapes() {
    let config = named("vmamba_tiny_s1l8");
    for (key, decays) in [
        ("backbone.layers.0.blocks.0.norm.weight", false),
        ("backbone.layers.0.blocks.0.op.out_norm.bias", false),
        ("backbone.outnorm0.weight", false),
        ("backbone.patch_embed.2.weight", true),
        ("backbone.layers.0.downsample.3.bias", true),
        ("backbone.layers.0.blocks.0.mlp.fc1.bias", true),
        ("decode_head.bottleneck.bn.weight", true),
        ("backbone.layers.0.blocks.0.op.Ds", true),
    ] {
        assert_eq!(config.decays(&DecayRule::Published, key, &[8]), decays, "{key}");
        assert_eq!(named("swin_tiny").decays(&DecayRule::Published, key, &[8]), decays, "{key}");
    }
    let intended = |key: &str, shape: &[usize]| config.decays(&DecayRule::ByDimension, key, shape);
    assert!(intended("decode_head.conv_seg.weight", &[7, 32, 1, 1]));
    assert!(!intended("backbone.patch_embed.2.weight", &[8]));
    assert!(!intended("backbone.layers.0.blocks.0.op.A_logs", &[32, 1]));
    assert!(!intended("layers.0.blocks.0.op.dt_projs_bias", &[4, 8]));
    assert!(!intended("pos_embed", &[1, 8, 7, 7]));
}

#[test]
fn position_tables_and_the_class_token_are_exempt_in_a_vision_transformer() {
    let config = named("deit_small");
    for (key, decays) in [
        ("backbone.pos_embed", false),
        ("backbone.cls_token", false),
        ("backbone.blocks.3.norm1.weight", false),
        ("backbone.blocks.3.attn.qkv.bias", true),
        ("backbone.neck.convs.0.conv.weight", true),
    ] {
        assert_eq!(config.decays(&DecayRule::Published, key, &[8]), decays, "{key}");
        assert!(config.decays(&DecayRule::Everything, key, &[8]), "{key}");
        let listed = DecayRule::Except(["pos_embed", "cls_token", "norm"].map(str::to_owned).to_vec());
        assert_eq!(named("vmamba_tiny_s1l8").decays(&listed, key, &[8]), decays, "{key}");
    }
}

#[test]
fn published_rules_of_the_other_families() {
    assert!(named("resnet50").decays(&DecayRule::Published, "backbone.layer1.0.bn1.weight", &[64]));
    for name in ["convnext_tiny", "vim_small"] {
        for (key, shape) in [("backbone.layers.0.norm.weight", &[8][..]), ("backbone.pos_embed", &[1, 4, 8]), ("head.bias", &[7])] {
            assert!(!named(name).decays(&DecayRule::Published, key, shape), "{name}: {key}");
        }
        assert!(named(name).decays(&DecayRule::Published, "backbone.layers.0.mixer.A_log", &[8, 16]), "{name}");
    }
}

#[test]
fn rules_are_words_or_a_list() {
    let read = |text: &str| serde_json::from_str::<DecayRule>(text);
    assert_eq!(read(r#""published""#).unwrap(), DecayRule::default());
    assert_eq!(read(r#""by-dimension""#).unwrap(), DecayRule::ByDimension);
    assert_eq!(read(r#""everything""#).unwrap(), DecayRule::Everything);
    assert_eq!(read(r#"{"except": ["norm"]}"#).unwrap(), DecayRule::Except(vec!["norm".to_owned()]));
    assert!(read(r#""vmamba""#).unwrap_err().to_string().contains("by-dimension"));
}

/// Numbers of the layers from `get_layer_id_for_convnext` and `get_stage_id_for_convnext` of mmdetection 3.3.0 for 12 and 6 layers; the
/// learning rate is the rate to the power of `layers + 1 - number`.
#[test]
fn learning_rates_of_convnext_fall_as_in_mmdetection() {
    let (small, tiny) = (named("convnext_small"), named("convnext_tiny"));
    assert_eq!([&tiny, &small, &named("convnext_base")].map(|config| config.num_layers(LayerGrouping::Block)), [6, 12, 12]);
    assert_eq!(small.num_layers(LayerGrouping::Stage), 12);
    for (key, block, stage) in [
        ("backbone.downsample_layers.0.0.weight", 0, 0),
        ("backbone.downsample_layers.1.1.bias", 2, 0),
        ("backbone.downsample_layers.2.0.weight", 3, 0),
        ("backbone.downsample_layers.3.0.weight", 12, 0),
        ("backbone.stages.0.2.gamma", 1, 1),
        ("backbone.stages.1.0.dwconv.weight", 2, 2),
        ("backbone.stages.2.0.norm.weight", 3, 3),
        ("backbone.stages.2.8.norm.weight", 5, 3),
        ("backbone.stages.2.26.pwconv1.bias", 11, 3),
        ("backbone.stages.3.1.pwconv2.weight", 12, 4),
        ("backbone.norm2.weight", 13, 7),
        ("neck.lateral_convs.0.conv.weight", 13, 7),
        ("decode_head.conv_seg.weight", 13, 7),
    ] {
        let scales = [small.lr_scale(key, 0.7, LayerGrouping::Block), tiny.lr_scale(key, 0.9, LayerGrouping::Stage)];
        for (found, expected) in scales.into_iter().zip([0.7_f64.powi(13 - block), 0.9_f64.powi(7 - stage)]) {
            assert!((found - expected).abs() < 1e-12, "{key}: {found}, not {expected}");
        }
        assert_eq!(small.layer_of(key, LayerGrouping::Block).is_some(), block < 13, "{key}");
    }
}

#[test]
fn only_the_stem_of_vims_published_segmentor_learns_more_slowly() {
    let config = named("vim_small");
    for (key, scale) in [
        ("backbone.pos_embed", 0.92_f64.powi(25)),
        ("backbone.patch_embed.proj.bias", 0.92_f64.powi(25)),
        ("backbone.layers.0.norm.weight", 1.0),
    ] {
        let found = config.lr_scale(key, 0.92, LayerGrouping::Stem);
        assert!((found - scale).abs() < 1e-12, "{key}: {found}");
    }
}

/// The layer of every parameter of a Swin in SimMIM's `get_swin_layer`.
#[test]
fn a_downsampling_belongs_to_the_last_block_before_it() {
    let config = named("swin_tiny");
    assert_eq!(config.num_layers(LayerGrouping::Block), 12);
    for (key, layer) in [
        ("patch_embed.norm.weight", Some(0)),
        ("layers.0.blocks.1.norm1.weight", Some(2)),
        ("layers.0.downsample.reduction.weight", Some(2)),
        ("backbone.layers.2.blocks.5.mlp.fc1.bias", Some(10)),
        ("layers.3.blocks.1.attn.qkv.weight", Some(12)),
        ("backbone.norm3.weight", None),
        ("roi_head.bbox_head.fc_cls.weight", None),
    ] {
        assert_eq!(config.layer_of(key, LayerGrouping::Block), layer, "{key}");
    }
}

/// Every family answers for its own keys, so that no model trains with layer decay that does nothing.
#[test]
fn every_layer_of_every_family_has_parameters() {
    let device = Device::flex();
    for name in zoo::tests::SMALLEST {
        let config = named(name);
        let keys: Vec<String> = state_dict_of(&config.try_init(&device).unwrap(), &zoo::key).keys().map(str::to_owned).collect();
        for by in [LayerGrouping::Block, LayerGrouping::Stage] {
            let layers: BTreeSet<usize> = keys.iter().filter_map(|key| config.layer_of(key, by)).collect();
            // The number of layers of a ConvNeXt by stage is the published one, and larger than its stages.
            let convnext_by_stage = name.starts_with("convnext") && by == LayerGrouping::Stage;
            let last = if convnext_by_stage { config.depths().len() } else { config.num_layers(by) };
            assert_eq!(layers, (0..=last).collect(), "{name} by {by:?}");
        }
        let outside: Vec<&String> = keys.iter().filter(|key| config.layer_of(key, LayerGrouping::Block).is_none()).collect();
        let known = ["outnorm", "norm", "neck.", "fpn"];
        assert!(outside.iter().all(|key| known.iter().any(|start| key.starts_with(start))), "{name}: {outside:?}");
        assert!(keys.iter().any(|key| config.layer_of(key, LayerGrouping::Stem) == Some(0)), "{name}");
    }
}
