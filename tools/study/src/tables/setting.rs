//! The differences between the settings of a run and of a published row, in words.

use std::collections::BTreeSet;

use serde::Serialize;
use toml::Value;
use vmamba::zoo::BackboneConfig;

use crate::published::{DetectionRow, DetectionSetting, SegmentationRow, SegmentationSetting};
use vmamba_recipes::Init;
use vmamba_recipes::config::{Configuration, load_built_in};
use vmamba_recipes::detection::config::{CocoSource, DetectionConfig, DetectionSource};
use vmamba_recipes::segmentation::config::{FolderSource, SegmentationConfig, SegmentationSource};
use vmamba_train::TrainConfig;
use vmamba_train::precision::Precision;

use super::run::Facts;
use super::{essence, is_named, name_of};

/// The configuration of a published row. `tests/configs.rs` checks that every row of an implemented backbone has one.
fn built_in<C: Configuration>(file: &str) -> Option<C> {
    load_built_in(file).ok().flatten()
}

/// The settings in which a run of a segmentor differs from the published row.
pub fn segmentation(config: &SegmentationConfig, facts: &Facts, setting: &SegmentationSetting, row: &SegmentationRow) -> Vec<String> {
    let mut found = Differences::default();
    let recipe: Option<SegmentationConfig> = built_in(&format!("upernet/{}.toml", row.id));
    let model = recipe.as_ref().map(|recipe| &recipe.model.backbone);
    let same_backbone = found.backbone(&config.model.backbone, &row.backbone, model);
    match (config.train.iterations, config.train.epochs) {
        (Some(own), _) => found.unequal("iterations", own, setting.iterations),
        (None, Some(own)) => found.say(format!("{own} epochs instead of {} iterations", setting.iterations)),
        (None, None) => found.say("length of the run unknown"),
    }
    found.training(&config.train, facts, setting.batch, (&setting.optimizer, setting.lr), &setting.precision);
    if config.data.train.crop.size != [setting.crop; 2] {
        found.say(format!("crop {} instead of {}", sides(config.data.train.crop.size), sides([setting.crop; 2])));
    }
    found.scale("training", config.data.train.resize.as_ref().map(|resize| resize.scale), setting.scale);
    found.scale("test", config.data.test.resize, setting.test_scale);
    match (facts.slide, setting.slide) {
        (true, false) => found.say("sliding windows instead of whole images"),
        (false, true) => found.say("whole images instead of sliding windows"),
        _ => (),
    }
    match &config.data.source {
        SegmentationSource::Scenes(_) => found.say("built-in scenes instead of ADE20K"),
        SegmentationSource::Own => found.say("a dataset of another program instead of ADE20K"),
        SegmentationSource::Folder(FolderSource { root, classes: Some(_), .. }) => {
            found.say(format!("data {} instead of ADE20K", root.display()));
        }
        SegmentationSource::Folder(FolderSource { val_split, .. }) if val_split != "validation" => {
            found.say(format!("split {val_split} instead of validation"));
        }
        SegmentationSource::Folder(_) => (),
    }
    found.evaluation(facts, setting.classes, setting.validation_images);
    found.initial(&config.init, &setting.initial);
    found.options(
        config,
        recipe.as_ref(),
        &["data.train.crop.size", "data.train.resize.scale", "data.test.resize", "test.mode"],
        same_backbone,
    );
    found.0
}

/// The settings in which a run of a detector differs from the published row.
pub fn detection(config: &DetectionConfig, facts: &Facts, setting: &DetectionSetting, row: &DetectionRow) -> Vec<String> {
    let mut found = Differences::default();
    // A row that names a batch size has the recipe of the row without one.
    let name = row.batch.and_then(|batch| row.id.strip_suffix(&format!("_batch{batch}"))).unwrap_or(&row.id);
    let recipe: Option<DetectionConfig> = built_in(&format!("mask_rcnn/{name}.toml"));
    let model = recipe.as_ref().map(|recipe| recipe.model.backbone());
    let same_backbone = found.backbone(config.model.backbone(), &row.backbone, model);
    let batch = row.batch.unwrap_or(setting.batch);
    match (config.train.epochs, config.train.iterations) {
        (Some(own), _) => found.unequal("epochs", own, setting.epochs),
        (None, Some(own)) => found.say(format!("{own} iterations instead of {} epochs", setting.epochs)),
        (None, None) => found.say("length of the run unknown"),
    }
    found.training(&config.train, facts, batch, (&setting.optimizer, setting.lr), &setting.precision);
    let (own, published) = (&config.data.train.scales, &setting.scales);
    if own != published {
        found.say(format!("training scales {} instead of {}", range(own), range(published)));
    }
    match (config.data.train.crop.is_some(), setting.crop) {
        (true, false) => found.say("random crops instead of none"),
        (false, true) => found.say("no random crops"),
        _ => (),
    }
    found.scale("test", config.data.test.scale, setting.test_scale);
    match &config.data.source {
        DetectionSource::Scenes(_) => found.say("built-in scenes instead of COCO 2017"),
        DetectionSource::Own => found.say("a dataset of another program instead of COCO 2017"),
        DetectionSource::Coco(CocoSource { val_annotations, .. }) => {
            if val_annotations.file_name().and_then(|name| name.to_str()) != Some(setting.validation_annotations.as_str()) {
                found.say(format!("annotations {} instead of {}", val_annotations.display(), setting.validation_annotations));
            }
        }
    }
    found.evaluation(facts, setting.classes, setting.validation_images);
    found.initial(&config.init, &setting.initial);
    let mut said = vec!["data.train.scales", "data.test.scale"];
    if config.data.train.crop.is_some() != setting.crop {
        said.push("data.train.crop");
    }
    found.options(config, recipe.as_ref(), &said, same_backbone);
    found.0
}

/// Options that [`Differences`] describes in words, or that change no result.
const SAID: [&str; 18] = [
    "name",
    "init",
    "data.source",
    "data.workers",
    "train.iterations",
    "train.epochs",
    "train.batch_size",
    "train.accumulation",
    "train.precision",
    "train.ema",
    "train.seed",
    "train.val_interval",
    "train.checkpoint_interval",
    "train.log_interval",
    "train.pictures",
    "train.non_finite",
    "train.optimizer.lr",
    "train.optimizer.algorithm.kind",
];

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn say(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }

    /// Records a backbone other than `published`, by name or by `options`. Returns whether it is the published one.
    fn backbone(&mut self, own: &BackboneConfig, published: &str, options: Option<&BackboneConfig>) -> bool {
        let same = is_named(own, published) || options.is_some_and(|options| essence(own) == essence(options));
        if !same {
            let own = name_of(own).map_or_else(|| "a backbone of its own".to_owned(), |name| format!("backbone {name}"));
            self.say(format!("{own} instead of {published}"));
        }
        same
    }

    /// Records all other options that differ from the published configuration; `said` are the options already described.
    fn options<C: Serialize>(&mut self, own: &C, published: Option<&C>, said: &[&str], same_backbone: bool) {
        let Some(published) = published else { return };
        let [Ok(own), Ok(published)] = [own, published].map(Value::try_from) else { return };
        let kind = |config: &Value| config.get("train")?.get("optimizer")?.get("algorithm")?.get("kind").cloned();
        let mut said = [SAID.as_slice(), said].concat();
        if kind(&own) != kind(&published) {
            said.push("train.optimizer.algorithm");
        }
        if !same_backbone {
            said.push("model.backbone");
        }
        self.values("", Some(&own), Some(&published), &said);
    }

    fn values(&mut self, path: &str, own: Option<&Value>, published: Option<&Value>, said: &[&str]) {
        if said.contains(&path) || own == published {
            return;
        }
        let (Some(Value::Table(own)), Some(Value::Table(published))) = (own, published) else {
            let word = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), |value| value.to_string().replace('\n', " "));
            return self.say(format!("{path} {} instead of {}", word(own), word(published)));
        };
        let keys: BTreeSet<&String> = own.keys().chain(published.keys()).collect();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.values(&path, own.get(key), published.get(key), said);
        }
    }

    fn unequal(&mut self, what: &str, own: u64, published: u64) {
        if own != published {
            self.say(format!("{own} {what} instead of {published}"));
        }
    }

    fn training(&mut self, train: &TrainConfig, facts: &Facts, batch: u64, (optimizer, lr): (&str, f64), precision: &str) {
        if let (Some(done), Some(all)) = (facts.done, facts.iterations)
            && done < all
        {
            self.say(format!("stopped after iteration {done} of {all}"));
        }
        let own = train.step_size() * facts.devices.unwrap_or(1);
        if own != batch {
            self.say(format!("batch {own} instead of {batch}"));
        }
        let own = train.optimizer.algorithm.name();
        if own != optimizer {
            self.say(format!("{own} instead of {optimizer}"));
        }
        if train.optimizer.lr != lr {
            self.say(format!("learning rate {:e} instead of {lr:e}", train.optimizer.lr));
        }
        if let Some(decay) = train.ema {
            self.say(format!("averaged weights (decay {decay}) instead of none"));
        }
        if train.precision.name() != precision {
            self.say(format!("trained in {} instead of {precision}", train.precision.name()));
        }
    }

    fn scale(&mut self, what: &str, own: Option<[usize; 2]>, published: [usize; 2]) {
        match own {
            Some(own) if own == published => (),
            Some(own) => self.say(format!("{what} scale {} instead of {}", sides(own), sides(published))),
            None => self.say(format!("{what} images of their own size instead of {}", sides(published))),
        }
    }

    fn evaluation(&mut self, facts: &Facts, classes: usize, images: usize) {
        if let Some(own) = facts.classes.filter(|own| *own != classes) {
            self.say(format!("{own} classes instead of {classes}"));
        }
        match facts.images {
            Some(own) if own == images => (),
            Some(own) => self.say(format!("{own} validation images instead of {images}")),
            None => self.say("number of validation images unknown"),
        }
        if facts.precision != Precision::Float32 {
            self.say(format!("evaluated in {} instead of float32", facts.precision.name()));
        }
    }

    fn initial(&mut self, init: &Init, published: &str) {
        if *init == Init::Random {
            self.say(format!("random initial weights instead of an {published}"));
        }
    }
}

fn sides([a, b]: [usize; 2]) -> String {
    format!("{a}x{b}")
}

/// `1333x800`, or the scales of the smallest and largest short side: `1333x480 to 1333x800`.
fn range(scales: &[[usize; 2]]) -> String {
    let of = |scale: Option<&[usize; 2]>| scale.map_or_else(|| "none".to_owned(), |scale| sides(*scale));
    let (low, high) = (scales.iter().min_by_key(|scale| scale[1]), scales.iter().max_by_key(|scale| scale[1]));
    if low == high { of(low) } else { format!("{} to {}", of(low), of(high)) }
}
