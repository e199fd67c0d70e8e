//! Configurations that together have every key, and a walk over all their numbers.

use toml::Value;
use upernet::UperNet;
use vmamba::zoo::Backbone;
use vmamba_recipes::Configured;
use vmamba_recipes::config::{self, Configuration};
use vmamba_recipes::detection::{AnyDetector, Detection, DetectionConfig};
use vmamba_recipes::segmentation::{Segmentation, SegmentationConfig};

/// A model of every family.
const FAMILIES: [&str; 9] = [
    "vmamba_tiny_s1l8",
    "resnet50",
    "swin_tiny",
    "convnext_tiny",
    "deit_tiny",
    "xcit_small_12_p16",
    "s4nd_convnext_tiny",
    "vim_tiny",
    "hivit_tiny",
];

pub type Uper = Segmentation<UperNet<Backbone>>;

/// Configurations that together have every key.
fn configurations() -> Vec<Value> {
    let segmentation = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        let config: SegmentationConfig = config::load_text(Uper::DEMO, &overrides, "the demo").unwrap();
        Value::try_from(config).unwrap()
    };
    let detection = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        let config: DetectionConfig = config::load_text(Detection::<AnyDetector>::DEMO, &overrides, "the demo").unwrap();
        Value::try_from(config).unwrap()
    };
    let mut all = vec![
        segmentation(&[
            "train.ema=0.99",
            "train.checkpoint_interval=100",
            "train.optimizer.clip_norm=1.0",
            "train.optimizer.layer_decay={ rate = 0.9, by = \"stage\" }",
            "train.schedule.decay={ kind = \"steps\", at = [100], factor = 0.1 }",
            "data.train.resize={ scale = [128, 64], ratio = [0.5, 2.0] }",
            "data.train.photometric={ hue_delta = 18 }",
            "data.test.resize=[128, 64]",
            "test.mode={ slide = { crop = [64, 64], stride = [32, 32] } }",
        ]),
        segmentation(&["train.optimizer.algorithm={ kind = \"sgd\", momentum = 0.9 }"]),
        detection(&[
            "data.train.crop={ probability = 0.5, scales = [[64, 64]], size = [32, 64] }",
            "data.train.photometric={ hue_delta = 18 }",
            "data.test.scale=[128, 128]",
            "model.heads.rpn.allowed_border=0.0",
            "model.heads.rpn.assigner={ positive = 0.7, negative = 0.3, minimum = 0.3, ignore_crowd = 0.5 }",
            "model.heads.rpn.loss={ smooth_l1 = { beta = 0.1 } }",
            "model.heads.box_head.loss={ smooth_l1 = { beta = 0.1 } }",
        ]),
        detection(&["model={ kind = \"cascade_mask_rcnn\", backbone = { preset = \"vmamba_tiny_s1l8\" } }"]),
    ];
    let mut epochs = segmentation(&[]);
    let train = epochs["train"].as_table_mut().unwrap();
    train.remove("iterations");
    train.insert("epochs".to_owned(), Value::Integer(3));
    all.push(epochs);
    all.extend(FAMILIES.iter().map(|name| segmentation(&[&format!("model.backbone={{ preset = \"{name}\" }}")])));
    all
}

/// A number in a configuration: the keys and indices that lead to it.
type Place = Vec<String>;

fn numbers(value: &Value, place: &mut Place, found: &mut Vec<Place>) {
    let mut inside = |key: String, value: &Value| {
        place.push(key);
        numbers(value, place, found);
        place.pop();
    };
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| inside(key.clone(), value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| inside(index.to_string(), value)),
        Value::Integer(_) | Value::Float(_) => found.push(place.clone()),
        _ => {}
    }
}

pub fn at<'a>(value: &'a mut Value, place: &[String]) -> &'a mut Value {
    place.iter().fold(value, |value, key| match value {
        Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
        table => table.get_mut(key).unwrap(),
    })
}

/// The path of a key without the indices of lists.
fn key(place: &[String]) -> String {
    place.iter().filter(|part| part.parse::<usize>().is_err()).cloned().collect::<Vec<_>>().join(".")
}

/// Reads a configuration as a program would; returns the error.
pub fn refusal(config: &Value) -> Option<String> {
    fn read<C: Configuration>(config: &Value) -> Option<String> {
        config::from_table::<C>(config.as_table().unwrap().clone(), "demo.toml").err().map(|error| error.to_string())
    }
    match config["task"].as_str() {
        Some("detection") => read::<DetectionConfig>(config),
        _ => read::<SegmentationConfig>(config),
    }
}

/// Calls `test` with every number of every configuration: the configuration, the place, its key.
pub fn for_every_number(mut test: impl FnMut(&Value, &Place, &str)) {
    for config in configurations() {
        assert_eq!(refusal(&config), None, "the configuration itself is valid");
        let mut places = Vec::new();
        numbers(&config, &mut Vec::new(), &mut places);
        for place in places {
            let key = key(&place);
            test(&config, &place, &key);
        }
    }
}
