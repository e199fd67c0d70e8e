use super::*;

/// A model of every family.
pub(crate) const SMALLEST: [&str; 9] = [
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

#[test]
fn every_name_is_a_valid_model_that_survives_its_table() {
    for name in BackboneConfig::names() {
        let config = BackboneConfig::named(name).unwrap();
        config.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<BackboneConfig>(&text).unwrap(), config, "{name}");
        let preset: BackboneConfig = serde_json::from_value(serde_json::json!({ "preset": name })).unwrap();
        assert_eq!(preset, config, "{name}");
    }
}

#[test]
fn wrong_tables_are_refused_by_name() {
    let refuse = |table: Value| serde_json::from_value::<BackboneConfig>(table).unwrap_err().to_string();
    assert!(refuse(serde_json::json!({ "preset": "swin_giant" })).contains("swin_tiny"));
    assert!(refuse(serde_json::json!({ "family": "unet" })).contains("convnext"));
    assert!(refuse(serde_json::json!({ "preset": "swin_tiny", "family": "swin" })).contains("both"));
    assert!(refuse(serde_json::json!({ "preset": "swin_tiny", "depth": 3 })).contains("depths"));
    assert!(refuse(serde_json::json!({ "preset": "resnet50", "out_indices": [9] })).contains("out_indices"));
}

/// A file of a classifier says how many classes it has, loads into a classifier strictly, and into the backbone of its family.
#[test]
fn files_of_classifiers_load_into_classifiers_and_backbones() {
    use crate::checkpoint::{load_into, state_dict_of};
    let device = Device::flex();
    let mut families = std::collections::BTreeSet::new();
    for name in SMALLEST {
        let config = BackboneConfig::named(name).unwrap();
        families.insert(config.family());
        let file = state_dict_of(&config.try_init_classifier(7, &device).unwrap(), &key);
        assert!(file.get(config.head_key()).is_some(), "{name}: {}", config.head_key());
        assert_eq!(config.num_classes(&file), Some(7), "{name}");
        let error = config.try_init_classifier(0, &device).unwrap_err().to_string();
        assert!(error.starts_with("`num_classes`"), "{name}: {error}");
        let file = config.official_state(file);
        let other = config.try_init_classifier(7, &device).unwrap();
        let (loaded, _) = load_into(other, &key, &file, &config.load_options()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(state_dict_of(&loaded, &key) == file, "{name}");
        let backbone = config.try_init(&device).unwrap();
        let (_, report) = load_into(backbone, &key, &config.backbone_state(file), &config.classifier_file_options())
            .unwrap_or_else(|error| panic!("backbone of {name}: {error}"));
        // Nearly all keys are loaded. The others belong to the head, or to a part that only the classifier or only the backbone has.
        assert!(report.loaded.len() > 2 * (report.ignored.len() + report.allowed_missing.len()), "{name}: {report}");
    }
    assert_eq!(families, FAMILIES.iter().copied().collect(), "every family is tried");
}

#[test]
fn levels_are_those_of_the_backbones() {
    let device = Device::flex();
    for name in SMALLEST {
        let config = BackboneConfig::named(name).unwrap();
        let backbone = config.try_init(&device).unwrap();
        let levels = config.levels([64, 96]);
        let features = backbone.forward_features(Tensor::zeros([1, 3, 64, 96], &device));
        assert_eq!(backbone.channels(), levels.iter().map(|level| level.channels).collect::<Vec<_>>(), "{name}");
        assert_eq!(backbone.strides(), levels.iter().map(|level| level.stride).collect::<Vec<_>>(), "{name}");
        for (feature, level) in features.iter().zip(&levels) {
            assert_eq!(feature.dims(), [1, level.channels, level.size[0], level.size[1]], "{name}");
        }
        assert_eq!(features.len(), levels.len(), "{name}");
    }
}

#[test]
fn published_pyramids_are_padded_to_32_pixels() {
    let device = Device::flex();
    for name in SMALLEST {
        let backbone = BackboneConfig::named(name).unwrap().try_init(&device).unwrap();
        assert_eq!(backbone.size_divisor(), 32, "{name}");
    }
}

#[test]
fn a_file_gives_a_pretrained_backbone_and_a_classifier() {
    use crate::checkpoint::{Weights, save_checkpoint, state_dict_of};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swin.safetensors");
    let device = Device::flex();
    let config = BackboneConfig::named("swin_tiny").unwrap();
    let [trained, averaged] = [1, 2].map(|seed| {
        device.seed(seed);
        state_dict_of(&config.try_init_classifier(5, &device).unwrap(), &key)
    });
    save_checkpoint(&path, &trained, Some(&averaged), &Default::default(), &Default::default()).unwrap();

    let (backbone, report) = load_pretrained(config.try_init(&device).unwrap(), &config, &path).unwrap();
    let loaded = state_dict_of(&backbone, &key);
    assert_eq!(loaded.get("patch_embed.proj.weight"), averaged.get("patch_embed.proj.weight"), "what was validated");
    assert!(report.to_string().contains("of the averaged weights (`model_ema`)"), "{report}");
    assert_eq!(report.ignored, ["head.bias", "head.weight", "norm.bias", "norm.weight"]);

    let classifier = load_classifier(&config, &path, Weights::Validated, &device).unwrap();
    assert_eq!((classifier.num_classes, classifier.report.origin.unwrap().set.as_str()), (5, "model_ema"));
    assert!(state_dict_of(&classifier.model, &key) == averaged);

    let other = BackboneConfig::named("resnet50").unwrap();
    let error = load_pretrained(other.try_init(&device).unwrap(), &other, &path).unwrap_err();
    assert!(matches!(error, PretrainedError::Load { .. }) && error.to_string().contains("swin.safetensors"), "{error}");
    let error = load_classifier(&other, &path, Weights::Validated, &device).unwrap_err();
    assert!(matches!(error, PretrainedError::NoHead { .. }) && error.to_string().contains("fc.weight"), "{error}");
    let missing = load_classifier(&config, folder.path().join("none.pth"), Weights::Validated, &device).unwrap_err().to_string();
    assert!(missing.contains("none.pth"), "{missing}");
}
