//! Every number of a configuration has a range, which is checked when the configuration is read.
//!
//! The tests walk over all numbers of complete configurations, so that a new key cannot be forgotten: one that accepts an absurd value
//! fails here, and so does one that no configuration of these tests has.

use std::collections::BTreeSet;

use complete::{Uper, at, for_every_number, refusal};
use schemars::SchemaGenerator;
use serde_json::json;
use toml::Value;
use vmamba_recipes::Configured;
use vmamba_recipes::config;
use vmamba_recipes::detection::{AnyDetector, Detection, DetectionConfig};
use vmamba_recipes::segmentation::SegmentationConfig;

mod complete;

/// Settings that may have any value of their type.
const ANY: [&str; 2] = ["train.seed", "data.source.seed"];

/// Settings that may be 0, with what 0 means.
const ZERO: [(&str, &str); 42] = [
    ("train.pictures", "no picture"),
    ("train.ema", "the newest weights"),
    ("train.optimizer.weight_decay", "none"),
    ("train.optimizer.algorithm.betas", "no memory"),
    ("train.optimizer.algorithm.momentum", "no memory"),
    ("train.schedule.warmup_iterations", "none"),
    ("train.schedule.warmup_factor", "from 0"),
    ("train.schedule.decay.power", "constant"),
    ("train.schedule.decay.min_lr", "down to 0"),
    ("train.schedule.decay.factor", "the end of the training"),
    ("data.train.flip", "never"),
    ("data.train.crop.probability", "never"),
    ("data.train.normalize.mean", "none"),
    ("data.test.normalize.mean", "none"),
    ("data.train.photometric.brightness_delta", "none"),
    ("data.train.photometric.contrast", "grey"),
    ("data.train.photometric.saturation", "grey"),
    ("data.train.photometric.hue_delta", "none"),
    ("data.train.photometric.swap", "never"),
    ("model.head.dropout", "none"),
    ("model.auxiliary.dropout", "none"),
    ("model.auxiliary.in_index", "the finest level"),
    ("model.auxiliary.loss_weight", "no influence"),
    ("model.backbone.drop_path_rate", "none"),
    ("model.backbone.ssm_drop_rate", "none"),
    ("model.backbone.mlp_drop_rate", "none"),
    ("model.backbone.ssm_ratio", "no SS2D branch"),
    ("model.backbone.ssm_conv", "no convolution"),
    ("model.backbone.mlp_ratio", "no MLP"),
    ("model.backbone.imgsize", "unused without posembed"),
    ("model.backbone.out_indices", "the first stage"),
    ("model.backbone.layer_scale_init_value", "no layer scale"),
    ("model.backbone.layer_scale", "branches start at 0"),
    ("model.backbone.eta", "branches start at 0"),
    ("model.heads.mask_head.num_convs", "no convolution"),
    ("model.heads.rpn.allowed_border", "no reach beyond the image"),
    ("coder.target_means", "none"),
    ("assigner.minimum", "any overlap"),
    ("assigner.ignore_crowd", "any overlap"),
    ("nms_threshold", "no overlap"),
    ("min_size", "any size"),
    ("model.heads.test.", "every score, overlap or pixel"),
];

/// Settings that may be -1, with what -1 means.
const MINUS_ONE: [(&str, &str); 6] = [
    ("data.train.normalize.mean", "a shift"),
    ("data.test.normalize.mean", "a shift"),
    ("coder.target_means", "a shift"),
    ("model.backbone.ssm_conv", "no convolution"),
    ("model.backbone.layer_scale", "inverted branches"),
    ("model.backbone.eta", "inverted branches"),
];

/// -1 keeps every box, as in mmdetection.
const KEEP_ALL: &str = "min_size";

/// The keys that accept `value`.
fn accepting(value: f64) -> BTreeSet<String> {
    let mut accepted = BTreeSet::new();
    for_every_number(|config, place, key| {
        let mut changed = config.clone();
        let number = at(&mut changed, place);
        *number = match number {
            Value::Integer(_) => Value::Integer(value as i64),
            _ => Value::Float(value),
        };
        if refusal(&changed).is_none() {
            accepted.insert(key.to_owned());
        }
    });
    accepted
}

fn is_listed(key: &str, listed: &[(&str, &str)]) -> bool {
    listed.iter().any(|(name, _)| key.ends_with(name) || (name.ends_with('.') && key.contains(name)))
}

#[test]
fn no_setting_accepts_an_absurdly_large_value() {
    let accepted: Vec<String> = accepting(1e11).into_iter().filter(|key| !ANY.contains(&key.as_str())).collect();
    assert!(accepted.is_empty(), "accept 1e11: {accepted:?}");
}

#[test]
fn no_setting_accepts_a_negative_number_without_a_meaning() {
    let unexplained = |key: &String| !ANY.contains(&key.as_str()) && !is_listed(key, &MINUS_ONE) && !key.ends_with(KEEP_ALL);
    let accepted: Vec<String> = accepting(-1.0).into_iter().filter(unexplained).collect();
    assert!(accepted.is_empty(), "accept -1: {accepted:?}");
}

#[test]
fn no_setting_accepts_zero_without_a_meaning() {
    let accepted = accepting(0.0);
    let unexplained: Vec<&String> = accepted.iter().filter(|key| !ANY.contains(&key.as_str()) && !is_listed(key, &ZERO)).collect();
    assert!(unexplained.is_empty(), "accept 0: {unexplained:?}");
    let stale: Vec<&str> =
        ZERO.iter().map(|(name, _)| *name).filter(|name| !accepted.iter().any(|key| is_listed(key, &[(name, "")]))).collect();
    assert!(stale.is_empty(), "refuse 0, so that they need no explanation: {stale:?}");
}

#[test]
fn no_setting_accepts_a_number_that_is_not_one() {
    for_every_number(|config, place, key| {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut changed = config.clone();
            *at(&mut changed, place) = Value::Float(value);
            assert!(refusal(&changed).is_some(), "{key} accepts {value}");
        }
    });
}

#[test]
fn every_number_of_the_schema_is_tried_by_these_tests() {
    let mut tried = BTreeSet::new();
    for_every_number(|_, place, _| {
        // The key of a list is the last part that is no index.
        tried.extend(place.iter().rev().find(|part| part.parse::<usize>().is_err()).cloned());
    });
    let mut generator = SchemaGenerator::default();
    let roots = [generator.subschema_for::<DetectionConfig>(), generator.subschema_for::<SegmentationConfig>()];
    let mut schemas: Vec<serde_json::Value> = roots.into_iter().map(schemars::Schema::to_value).collect();
    schemas.extend(generator.take_definitions(true).into_iter().map(|(_, schema)| schema));
    let mut missing = BTreeSet::new();
    for schema in &schemas {
        numeric_keys(schema, &mut |key| {
            if !tried.contains(key) {
                missing.insert(key.to_owned());
            }
        });
    }
    assert!(missing.is_empty(), "no configuration of these tests has {missing:?}");
}

/// Calls `found` with the name of every numeric property.
fn numeric_keys(schema: &serde_json::Value, found: &mut dyn FnMut(&str)) {
    fn is_number(schema: &serde_json::Value) -> bool {
        let named = |value: &serde_json::Value| *value == json!("integer") || *value == json!("number");
        let own = match schema.get("type") {
            Some(serde_json::Value::Array(names)) => names.iter().any(named),
            Some(name) => named(name),
            None => false,
        };
        own || schema.get("items").is_some_and(is_number)
    }
    match schema {
        serde_json::Value::Object(fields) => {
            if let Some(serde_json::Value::Object(properties)) = fields.get("properties") {
                properties.iter().filter(|(_, property)| is_number(property)).for_each(|(key, _)| found(key));
            }
            fields.values().for_each(|value| numeric_keys(value, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|value| numeric_keys(value, found)),
        _ => {}
    }
}

/// Reads the demo `config` with changes, and requires an error with these parts.
fn refused(config: &str, overrides: &[&str], parts: &[&str]) {
    let owned: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let error = match config {
        "seg" => config::load_text::<SegmentationConfig>(Uper::DEMO, &owned, "demo.toml").unwrap_err(),
        _ => config::load_text::<DetectionConfig>(Detection::<AnyDetector>::DEMO, &owned, "demo.toml").unwrap_err(),
    };
    let text = format!("{error:#}");
    for part in parts.iter().chain(&["demo.toml"]) {
        assert!(text.contains(part), "{overrides:?}: {text}");
    }
}

/// The settings of issue reports: what was accepted, or panicked.
#[test]
fn settings_without_sense_are_refused_by_key_value_and_range() {
    refused("seg", &["data.test.resize=[0, 0]"], &["data.test.resize", "[0, 0]", "32 to 65536 pixels"]);
    refused("seg", &["data.train.resize={ scale = [64, 64], ratio = [-1.0, 0.5] }"], &["data.train.resize.ratio", "[-1.0, 0.5]"]);
    refused("seg", &["data.train.resize={ scale = [64, 64], ratio = [2.0, 0.5] }"], &["data.train.resize.ratio", "smaller one first"]);
    refused("seg", &["data.train.flip=7"], &["data.train.flip", "from 0 to 1", "7.0"]);
    refused("seg", &["model.backbone.in_chans=1"], &["model.backbone.in_chans", "RGB"]);
    refused("seg", &["data.source.train=0"], &["data.source.train", "from 1"]);
    refused("seg", &["data.source.val=0"], &["data.source.val", "from 1"]);
    refused("seg", &["model.backbone.out_indices=[]"], &["out_indices"]);
    refused("seg", &["model.backbone={ preset = \"deit_tiny\", out_indices = [] }"], &["model.backbone.out_indices"]);
    refused("seg", &["data.train.crop.size=[1000000, 1000000]"], &["data.train.crop.size", "65536"]);
    refused("seg", &["model.head.channels=100000000000"], &["model.head.channels", "65536"]);
    refused("seg", &["data.workers=1000000"], &["data.workers", "1024"]);
    refused("seg", &["test.mode.slide={ crop = [64, 64], stride = [64, 65] }"], &["test.mode.slide", "stride", "[64, 65]"]);
    refused("seg", &["test.mode.slide={ crop = [0, 64], stride = [0, 64] }"], &["test.mode.slide", "crop", "[0, 64]"]);
    refused("seg", &["test.tta_ratios=[0.0]"], &["test.tta_ratios"]);
    refused("det", &["data.train.scales=[[1000000, 1000000]]"], &["data.train.scales", "65536"]);
    refused("det", &["model.heads.box_head.roi_size=1000000"], &["model.heads.box_head.roi_size", "256"]);
    refused("det", &["train.batch_size=0"], &["train.batch_size"]);
    refused("seg", &["train.optimizer.algorithm={ kind = \"adamw\", eps = 0.0 }"], &["train.optimizer.algorithm.eps", "from 1e-20 to 1"]);
    refused("seg", &["data.train.crop.size=[2, 2]"], &["data.train.crop.size", "two sides of 32 to 65536"]);
    refused("seg", &["data.test.resize=[128, 1]"], &["data.test.resize", "two sides of 32 to 65536"]);
    refused("seg", &["test.mode.slide={ crop = [1, 1], stride = [1, 1] }"], &["test.mode.slide.crop", "32 to 65536"]);
    refused("seg", &["test.tta_ratios=[1.0, 0.001]"], &["test.tta_ratios", "0.05"]);
    refused("det", &["data.train.scales=[[2, 2]]"], &["data.train.scales", "32 to 65536"]);
    refused("det", &["model.heads.test.score_threshold=1.0"], &["model.heads.test.score_threshold", "below 1"]);
}

/// Settings of which each is in its range, but which contradict each other.
#[test]
fn settings_that_contradict_each_other_are_refused_with_both() {
    let steps = |at: &str| format!("train.schedule.decay={{ kind = \"steps\", at = {at}, factor = 0.1 }}");
    let folder = |split: &str| format!("data.source={{ kind = \"folder\", root = \"x\", train_split = \"{split}\" }}");
    let (unsorted, empty, all, outside) = (steps("[5, 2]"), steps("[]"), folder(""), folder("/"));
    let assigner = |positive: f64, negative: f64| {
        format!("model.heads.rpn.assigner={{ positive = {positive:?}, negative = {negative:?}, minimum = 0.0 }}")
    };
    let (crossed, zero) = (assigner(0.3, 0.7), assigner(0.0, 0.0));
    refused("seg", &[&unsorted], &["train.schedule.decay.at", "ascending order", "[5, 2]"]);
    refused("seg", &[&empty], &["train.schedule.decay.at", "[]"]);
    refused("seg", &["train.schedule.decay={ kind = \"poly\", min_lr = 1.0 }"], &["train.schedule.decay.min_lr", "optimizer.lr"]);
    refused("seg", &[&all], &["data.source.train_split", "the name of a folder"]);
    refused("seg", &[&outside], &["data.source.train_split", "\"/\""]);
    refused("det", &[&crossed], &["model.heads.rpn.assigner.negative", "at most positive (0.3)", "0.7"]);
    refused("det", &[&zero], &["model.heads.rpn.assigner.positive", "above 0"]);
    refused(
        "det",
        &["model.heads.roi.sampler={ num = 1, positive_fraction = 0.25 }"],
        &["model.heads.roi.sampler.positive_fraction", "num (1)"],
    );
}

#[test]
fn a_box_head_whose_batch_norm_could_see_one_value_is_refused() {
    let layers = "model.heads.box_head.layers.shared_4conv1fc={ channels = 8, norm = \"batch_norm\" }";
    refused("det", &[layers, "model.heads.box_head.roi_size=1"], &["model.heads.box_head.roi_size", "at least 2 with a batch norm"]);
}
