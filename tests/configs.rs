//! Every configuration of the repository is valid, and those of published rows are the published models.

use std::fs;
use std::path::{Path, PathBuf};

use tools::engine::config::{self, Init, SegmentationConfig};
use tools::engine::detection::config::DetectionConfig;
use tools::engine::schedule::{Decay, Unit};
use tools::engine::segmentation::model_config;
use tools::published::{detection_row, published, segmentation_row};

/// The exact counts in the official repository's comments come from an older state of its code: they are 3e-6 off what its present code
/// gives, which `parity_upernet` holds ours equal to.
const PUBLISHED_FLOPS: f64 = 1e-5;

/// Rows of the paper without such a comment are published in whole GFLOPs.
const ROUNDED_GFLOPS: f64 = 0.5;

/// All configurations of the repository that are no parts of others.
fn configs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut found = Vec::new();
    for folder in [root.clone(), root.join("upernet"), root.join("mask_rcnn"), root.join("demo")] {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        found.extend(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "toml")));
    }
    assert!(!found.is_empty());
    found
}

/// A configuration of either task.
enum Config {
    Segmentation(Box<SegmentationConfig>),
    Detection(Box<DetectionConfig>),
}

/// Reads a configuration; those with `scales` in their training pipeline are for detection.
fn read(path: &Path) -> Config {
    let table: toml::Table = config::load(path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
    let detection = table["data"]["train"].get("scales").is_some();
    if detection {
        let config: DetectionConfig = config::load(path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
        config.validate().unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
        Config::Detection(Box::new(config))
    } else {
        let config: SegmentationConfig = config::load(path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
        config.validate().unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
        Config::Segmentation(Box::new(config))
    }
}

fn named(id: &str) -> PathBuf {
    let configs = configs();
    let found = configs.into_iter().find(|path| path.file_stem().is_some_and(|stem| stem == id));
    found.unwrap_or_else(|| panic!("no configuration {id}.toml"))
}

#[test]
fn every_configuration_is_valid_and_called_like_its_file() {
    for path in configs() {
        let name = match read(&path) {
            Config::Segmentation(config) => config.name,
            Config::Detection(config) => config.name,
        };
        assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(name.as_str()));
    }
}

#[test]
fn every_published_segmentor_has_a_configuration_of_its_size_and_cost() {
    let rows = &published().expect("the table of published results").ade20k_upernet;
    for row in rows.iter().filter(|row| row.backbone.contains("vmamba")) {
        let Config::Segmentation(config) = read(&named(&row.id)) else { panic!("{}: a segmentor", row.id) };
        let SegmentationConfig { model, data, train, init, .. } = *config;
        assert_eq!(data.train.crop.size, [row.crop; 2], "{}: crop", row.id);
        assert_eq!((train.iterations, train.step_size()), (Some(160_000), 16), "{}: schedule", row.id);
        assert!(matches!(init, Init::Checkpoint(_)), "{}: published runs start from a classifier", row.id);
        let size = row.flops_input.unwrap_or([512, 2048]);
        let cost = model_config(&model, 150).complexity(size);
        if let Some(params) = row.params {
            assert_eq!(cost.params, params, "{}: parameters", row.id);
        }
        if let Some(gflops) = row.gflops {
            let own = cost.flops() as f64 / 1e9;
            let allowed = if gflops.fract() == 0.0 { ROUNDED_GFLOPS } else { PUBLISHED_FLOPS * gflops };
            assert!((own - gflops).abs() <= allowed, "{}: {own} GFLOPs, published {gflops}", row.id);
        }
    }
}

#[test]
fn every_published_detector_has_a_configuration_of_its_schedule_and_cost() {
    let rows = &published().expect("the table of published results").coco_mask_rcnn;
    for row in rows.iter().filter(|row| row.backbone.contains("vmamba") && row.batch.is_none()) {
        let Config::Detection(config) = read(&named(&row.id)) else { panic!("{}: a detector", row.id) };
        let DetectionConfig { model, data, train, init, .. } = *config;
        let (epochs, drops, crop) = if row.schedule == "3x" { (36, [27, 33], true) } else { (12, [8, 11], false) };
        assert_eq!((train.epochs, train.step_size()), (Some(epochs), 16), "{}: schedule", row.id);
        let Decay::Steps { at, unit, .. } = &train.schedule.decay else { panic!("{}: steps", row.id) };
        assert_eq!((at.as_slice(), *unit), (drops.as_slice(), Unit::Epochs), "{}: drops", row.id);
        assert_eq!(data.train.crop.is_some(), crop, "{}: crops", row.id);
        assert!(matches!(init, Init::Checkpoint(_)), "{}: published runs start from a classifier", row.id);
        let cost = model.for_classes(80).complexity(row.flops_input);
        assert_eq!(Some(cost.params), row.params, "{}: parameters", row.id);
        let own = cost.flops() as f64 / 1e9;
        assert!((own - row.gflops).abs() <= PUBLISHED_FLOPS * row.gflops, "{}: {own} GFLOPs, published {}", row.id, row.gflops);
    }
}

#[test]
fn only_published_models_claim_a_published_row() {
    for path in configs() {
        let row = match read(&path) {
            Config::Segmentation(config) => segmentation_row(&config.name).map(|row| row.is_some()),
            Config::Detection(config) => detection_row(&config.name).map(|row| row.is_some()),
        };
        let published = row.expect("the table of published results");
        let folder = path.parent().and_then(Path::file_name).is_some_and(|folder| folder == "upernet" || folder == "mask_rcnn");
        assert_eq!(published, folder, "{}", path.display());
    }
}
