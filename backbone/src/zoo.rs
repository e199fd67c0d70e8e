//! Every published model under one roof: chosen by name, configured by an enum, run through one type.
//!
//! ```
//! use burn::prelude::*;
//! use vmamba::zoo::BackboneConfig;
//!
//! let config = BackboneConfig::named("vmamba_tiny_s1l8").unwrap();
//! assert_eq!(config.classifier_complexity(1000, [224, 224]).params, 30_249_064);
//! assert!(BackboneConfig::named("vmamba_tinny").is_err());
//! ```
//!
//! In configuration files a backbone is a table: `preset` names a published model, every other key changes an option of it.

use std::borrow::Cow;

use burn::module::Param;
use burn::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::baselines::{
    Convnext, ConvnextClassifier, ConvnextConfig, Deit, DeitClassifier, DeitConfig, Hivit, HivitClassifier, HivitConfig, Resnet,
    ResnetClassifier, ResnetConfig, S4ndConvnext, S4ndConvnextClassifier, S4ndConvnextConfig, Swin, SwinClassifier, SwinConfig, Vim,
    VimClassifier, VimConfig, WindowSize, Xcit, XcitClassifier, XcitConfig, convnext, deit, hivit, resnet, s4nd_convnext, swin, vim, xcit,
};
use crate::checkpoint::{LoadOptions, Rename, StateDict, current_key};
use crate::complexity::Complexity;
use crate::layers::Dense;
use crate::vmamba::{ConfigError, Preset, Vmamba, VmambaClassifier, VmambaConfig};
use crate::{Chain, FeaturePyramid, LastMap, official_key};

/// The last linear layer of a classifier.
#[derive(Clone, Debug)]
pub struct LinearHead {
    /// `[num_classes, features]`.
    pub weight: Tensor<2>,
    /// `[num_classes]`.
    pub bias: Option<Tensor<1>>,
}

impl LinearHead {
    /// `[batch, features]` to logits `[batch, num_classes]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        vision_ops::linear(features, self.weight.clone(), self.bias.clone())
    }
}

/// What a backbone gives at one level of its pyramid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Channels.
    pub channels: usize,
    /// Pixels of the image between neighbouring positions.
    pub stride: usize,
    /// Height and width.
    pub size: [usize; 2],
}

/// Writes the enums and everything in which families differ by their types alone.
macro_rules! families {
    ($($(#[$doc:meta])* $family:ident($name:literal, $config:ident, $backbone:ident, $classifier:ident, $key:expr, $rename:expr);)*) => {
        /// The configuration of any model of this crate.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
        pub enum BackboneConfig {
            $($(#[$doc])* $family($config),)*
        }

        /// Any backbone, with the keys of its own reference in checkpoints, see [`key`].
        #[derive(Module, Debug)]
        pub enum Backbone {
            $($(#[$doc])* $family($backbone),)*
        }

        /// Any classifier.
        // There is one of it in a program, and Burn has no boxed modules.
        #[allow(clippy::large_enum_variant)]
        #[derive(Module, Debug)]
        pub enum Classifier {
            $($(#[$doc])* $family($classifier),)*
        }

        /// Names that `family` may have in a configuration.
        const FAMILIES: &[&str] = &[$($name),*];

        $(impl From<$config> for BackboneConfig {
            fn from(config: $config) -> Self {
                Self::$family(config)
            }
        })*

        impl BackboneConfig {
            /// The name of its family in configurations.
            pub fn family(&self) -> &'static str {
                match self {
                    $(Self::$family(_) => $name,)*
                }
            }

            /// Checks that the options fit together.
            ///
            /// # Errors
            /// The first that does not.
            pub fn validate(&self) -> Result<(), ConfigError> {
                match self {
                    $(Self::$family(config) => config.validate(),)*
                }
            }

            /// Checks that the model can take an image of `[height, width]` pixels.
            ///
            /// # Errors
            /// Says which sizes it takes.
            pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
                match self {
                    $(Self::$family(config) => config.check_image(image),)*
                }
            }

            /// The backbone with random weights on `device`.
            ///
            /// # Errors
            /// As [`BackboneConfig::validate`], and when the options make no pyramid.
            pub fn try_init(&self, device: &Device) -> Result<Backbone, ConfigError> {
                match self {
                    $(Self::$family(config) => Ok(Backbone::$family(config.try_init(device)?)),)*
                }
            }

            /// The classifier with random weights on `device`.
            ///
            /// # Errors
            /// As [`BackboneConfig::validate`].
            pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<Classifier, ConfigError> {
                Ok(match self {
                    $(Self::$family(config) => Classifier::$family(config.try_init_classifier(num_classes, device)?),)*
                })
            }

            /// Cost of the backbone for one image of `[height, width]` pixels.
            pub fn complexity(&self, image: [usize; 2]) -> Complexity {
                match self {
                    $(Self::$family(config) => config.complexity(image),)*
                }
            }

            /// Cost of the classifier for one image of `[height, width]` pixels.
            pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
                match self {
                    $(Self::$family(config) => config.classifier_complexity(num_classes, image),)*
                }
            }

            /// How files of other origin spell the keys of this family.
            pub fn rename(&self) -> Rename {
                match self {
                    $(Self::$family(_) => $rename,)*
                }
            }

            /// The same with the options of `table`.
            fn overlaid(&self, table: Map<String, Value>) -> Result<Self, String> {
                Ok(match self {
                    $(Self::$family(base) => Self::$family(overlaid(base, table)?),)*
                })
            }

            /// All options as a table.
            fn fields(&self) -> serde_json::Result<Value> {
                match self {
                    $(Self::$family(config) => serde_json::to_value(config),)*
                }
            }
        }

        impl FeaturePyramid for Backbone {
            fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
                match self {
                    $(Self::$family(backbone) => backbone.forward_features(images),)*
                }
            }

            fn channels(&self) -> Vec<usize> {
                match self {
                    $(Self::$family(backbone) => backbone.channels(),)*
                }
            }

            fn strides(&self) -> Vec<usize> {
                match self {
                    $(Self::$family(backbone) => backbone.strides(),)*
                }
            }
        }

        impl LastMap for Backbone {
            fn chain(&self, image: [usize; 2]) -> Chain<'_> {
                match self {
                    $(Self::$family(backbone) => backbone.chain(image),)*
                }
            }
        }

        impl LastMap for Classifier {
            fn chain(&self, image: [usize; 2]) -> Chain<'_> {
                match self {
                    $(Self::$family(classifier) => classifier.chain(image),)*
                }
            }
        }

        impl Classifier {
            /// `images` `[batch, in_chans, height, width]`, float32 or bf16, normalised, to logits `[batch, num_classes]`, float32.
            pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
                match self {
                    $(Self::$family(classifier) => classifier.forward(images),)*
                }
            }

            /// What goes into the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, normalised, to
            /// `[batch, features]`, float32.
            pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
                match self {
                    $(Self::$family(classifier) => classifier.features(images),)*
                }
            }

            /// The last linear layer.
            pub fn head(&self) -> LinearHead {
                let dense = |head: &Dense| LinearHead { weight: head.weight.val(), bias: head.bias.as_ref().map(Param::val) };
                match self {
                    $(Self::$family(classifier) => dense(classifier.head()),)*
                }
            }
        }

        /// The reference's key for the parameter at `path` of a [`Backbone`] or [`Classifier`], whose first name is the family's; other paths
        /// are those of a [`Vmamba`] itself.
        ///
        /// ```
        /// assert_eq!(vmamba::zoo::key("Vmamba.outnorm.2.weight"), "outnorm2.weight");
        /// assert_eq!(vmamba::zoo::key("outnorm.2.weight"), "outnorm2.weight");
        /// ```
        pub fn key(path: &str) -> String {
            match path.split_once('.') {
                $(Some((stringify!($family), path)) => $key(path),)*
                _ => official_key(path),
            }
        }
    };
}

families! {
    /// VMamba and Vanilla-VMamba.
    Vmamba("vmamba", VmambaConfig, Vmamba, VmambaClassifier, official_key, vmamba_rename);
    /// ResNet.
    Resnet("resnet", ResnetConfig, Resnet, ResnetClassifier, resnet::key, resnet::rename);
    /// Swin Transformer.
    Swin("swin", SwinConfig, Swin, SwinClassifier, swin::key, swin::rename);
    /// ConvNeXt.
    Convnext("convnext", ConvnextConfig, Convnext, ConvnextClassifier, convnext::key, convnext::rename);
    /// DeiT, as a backbone with the multi-level neck of its UperNet.
    Deit("deit", DeitConfig, Deit, DeitClassifier, deit::key, deit::rename);
    /// XCiT.
    Xcit("xcit", XcitConfig, Xcit, XcitClassifier, xcit::key, xcit::rename);
    /// S4ND-ConvNeXt.
    S4ndConvnext(
        "s4nd_convnext", S4ndConvnextConfig, S4ndConvnext, S4ndConvnextClassifier, s4nd_convnext::key, s4nd_convnext::rename
    );
    /// HiViT.
    Hivit("hivit", HivitConfig, Hivit, HivitClassifier, hivit::key, hivit::rename);
    /// Vision Mamba.
    Vim("vim", VimConfig, Vim, VimClassifier, vim::key, vim::rename);
}

/// Makes the configuration of a published model.
type Published = fn() -> BackboneConfig;

/// Published models other than VMamba's presets.
const OTHERS: &[(&str, Published)] = &[
    ("resnet50", || ResnetConfig::resnet50().into()),
    ("resnet101", || ResnetConfig::resnet101().into()),
    ("swin_tiny", || SwinConfig::tiny().into()),
    ("swin_small", || SwinConfig::small().into()),
    ("swin_base", || SwinConfig::base().into()),
    // Swin-T* of the paper's resolution study: as many windows at every size.
    ("swin_tiny_scaled", || scaled(SwinConfig::tiny())),
    ("swin_small_scaled", || scaled(SwinConfig::small())),
    ("swin_base_scaled", || scaled(SwinConfig::base())),
    ("convnext_tiny", || ConvnextConfig::tiny().into()),
    ("convnext_small", || ConvnextConfig::small().into()),
    ("convnext_base", || ConvnextConfig::base().into()),
    ("deit_tiny", || DeitConfig::tiny().into()),
    ("deit_small", || DeitConfig::small().into()),
    ("deit_base", || DeitConfig::base().into()),
    ("xcit_small_12_p16", || XcitConfig::small_12().into()),
    ("xcit_small_24_p16", || XcitConfig::small_24().into()),
    ("xcit_medium_24_p16", || XcitConfig::medium_24().into()),
    ("hivit_tiny", || HivitConfig::tiny().into()),
    ("hivit_small", || HivitConfig::small().into()),
    ("hivit_base", || HivitConfig::base().into()),
    ("vim_tiny", || VimConfig::tiny().into()),
    ("vim_small", || VimConfig::small().into()),
    ("vim_base", || VimConfig::base().into()),
    ("s4nd_convnext_tiny", || S4ndConvnextConfig::tiny().into()),
];

fn scaled(config: SwinConfig) -> BackboneConfig {
    SwinConfig { window_size: WindowSize::Scaled, ..config }.into()
}

impl BackboneConfig {
    /// Names of all published models.
    pub fn names() -> Vec<&'static str> {
        Preset::ALL.map(Preset::name).into_iter().chain(OTHERS.iter().map(|(name, _)| *name)).collect()
    }

    /// A published model by its name.
    ///
    /// # Errors
    /// [`ConfigError::Preset`] with all names.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        if let Some(preset) = Preset::ALL.into_iter().find(|preset| preset.name() == name) {
            return Ok(Self::Vmamba(preset.config()));
        }
        match OTHERS.iter().find(|(other, _)| *other == name) {
            Some((_, config)) => Ok(config()),
            None => Err(ConfigError::Preset { found: name.to_owned(), supported: Self::names().join(", ") }),
        }
    }

    /// The levels of the pyramid for an image of `[height, width]` pixels, the finest first.
    pub fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        let staged = |stages: &[usize], sizes: &[[usize; 2]], channels: &dyn Fn(usize) -> usize, stride: &dyn Fn(usize) -> usize| {
            let level = |stage: &usize| Level {
                channels: channels(*stage),
                stride: stride(*stage),
                size: sizes.get(*stage).copied().unwrap_or_default(),
            };
            stages.iter().map(level).collect()
        };
        match self {
            Self::Vmamba(config) => {
                staged(&config.out_indices, &config.stage_sizes(image), &|stage| config.dim(stage), &|stage| config.stride(stage))
            }
            Self::Resnet(config) => {
                staged(&config.out_indices, &config.stage_sizes(image), &|stage| config.channels(stage), &|stage| config.stride(stage))
            }
            Self::Swin(config) => {
                staged(&config.out_indices, &config.stage_sizes(image), &|stage| config.dim(stage), &|stage| config.stride(stage))
            }
            Self::Convnext(config) => {
                let channels = |stage: usize| config.dims.get(stage).copied().unwrap_or_default();
                staged(&config.out_indices, &config.stage_sizes(image), &channels, &|stage| config.stride(stage))
            }
            Self::Deit(config) => {
                let level = |(stride, size)| Level { channels: config.neck_channels, stride, size };
                config.strides().into_iter().zip(config.level_sizes(image)).map(level).collect()
            }
            Self::Xcit(config) => {
                let level = |(stride, size)| Level { channels: config.embed_dim, stride, size };
                config.strides().into_iter().zip(config.level_sizes(image)).map(level).collect()
            }
            Self::S4ndConvnext(config) => {
                let channels = |stage: usize| config.dims.get(stage).copied().unwrap_or_default();
                let strides = config.strides();
                let stride = |stage: usize| strides.get(stage).copied().unwrap_or_default();
                staged(&config.out_indices, &config.stage_sizes(image), &channels, &stride)
            }
            Self::Hivit(config) => {
                let level = |((channels, stride), size)| Level { channels, stride, size };
                config.channels().into_iter().zip(config.strides()).zip(config.level_sizes(image)).map(level).collect()
            }
            Self::Vim(config) => {
                let level = |(stride, size)| Level { channels: config.embed_dim, stride, size };
                config.strides().into_iter().zip(config.level_sizes(image)).map(level).collect()
            }
        }
    }

    /// Options that load this family strictly, in every spelling that is known of it.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions::new().rename(self.rename())
    }

    /// As [`BackboneConfig::load_options`], for a classifier's file into the backbone: the head of the file is of no use, and it lacks what
    /// only backbones have.
    pub fn classifier_file_options(&self) -> LoadOptions {
        let (in_classifiers, in_backbones): (&[&str], &[&str]) = match self {
            Self::Vmamba(_) => (&["classifier.", "head.", "norm."], &["outnorm"]),
            Self::Resnet(_) => (&["fc."], &[]),
            Self::Swin(_) | Self::Convnext(_) => (&["head.", "norm."], &["norm"]),
            Self::Deit(config) if config.patch_bias => (&["head.", "head_dist.", "dist_token", "norm."], &["neck.", "norm."]),
            Self::Deit(_) => (&["head.", "head_dist.", "dist_token", "norm.", "patch_embed.proj.bias"], &["neck.", "norm."]),
            Self::Xcit(_) => (&["head.", "norm.", "cls_token", "cls_attn_blocks."], &["fpn"]),
            Self::S4ndConvnext(_) => (&["head."], &[]),
            Self::Hivit(_) => (&["head.", "fc_norm."], &["fpn"]),
            Self::Vim(_) => (&["head.", "norm_f.", "cls_token"], &["fpn"]),
        };
        let options = in_classifiers.iter().fold(self.load_options(), |options, prefix| options.ignore_unexpected(*prefix));
        in_backbones.iter().fold(options, |options, prefix| options.may_be_missing(*prefix))
    }

    /// The key of the weight of a classifier's last linear layer, `[num_classes, features]`.
    pub fn head_key(&self) -> &'static str {
        match self {
            Self::Vmamba(_) => "classifier.head.weight",
            Self::Resnet(_) => "fc.weight",
            Self::Swin(_) | Self::Convnext(_) | Self::Deit(_) | Self::Xcit(_) | Self::Vim(_) | Self::Hivit(_) => "head.weight",
            Self::S4ndConvnext(_) => "head.fc.weight",
        }
    }

    /// The number of classes of a classifier's file, in every spelling that is known of this family; none when it holds no head.
    pub fn num_classes(&self, state: &StateDict) -> Option<usize> {
        let (wanted, rename) = (self.head_key(), self.rename());
        let is_head = |key: &str| key == wanted || rename(key).is_some_and(|key| key == wanted);
        let (_, head) = state.iter().find(|(key, _)| is_head(key))?;
        head.shape.first().copied()
    }

    /// What a file holds with its tensors cut and ordered as this family has them, where a spelling of the family differs in more than
    /// names: to be done before `load_into`.
    #[must_use]
    pub fn official_state(&self, state: StateDict) -> StateDict {
        match self {
            Self::Swin(_) => swin::official_state(state),
            Self::Deit(_) => deit::neck_into_backbone(state),
            Self::Xcit(_) => xcit::split_class_attention(state),
            Self::S4ndConvnext(config) => config.settle_kernels(state),
            Self::Vim(_) => vim::without_unused_norm(state),
            _ => state,
        }
    }

    /// A classifier's state for this backbone, to be used after [`BackboneConfig::official_state`]: its table of positions is resized to the
    /// image size of the configuration, where the published segmentors do so.
    #[must_use]
    pub fn backbone_state(&self, state: StateDict) -> StateDict {
        match self {
            Self::Deit(config) => config.fit_positions(state),
            Self::Vim(config) => config.fit_positions(state),
            _ => state,
        }
    }

    /// Reads the table of a configuration: `preset`, else `family`, else VMamba, and options.
    fn from_table(mut table: Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str, value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(format!("{key} must be a name, not {other}")),
        };
        let base = match (table.remove("preset"), table.remove("family")) {
            (Some(_), Some(_)) => return Err("preset and family are both set; a preset has its family".to_owned()),
            (Some(preset), None) => Self::named(&text("preset", preset)?).map_err(|error| error.to_string())?,
            (None, Some(family)) => Self::of_family(&text("family", family)?)?,
            (None, None) => Self::Vmamba(VmambaConfig::official_defaults()),
        };
        let config = base.overlaid(table)?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    /// What the options of a family are changes to.
    fn of_family(name: &str) -> Result<Self, String> {
        if name == "vmamba" {
            return Ok(Self::Vmamba(VmambaConfig::official_defaults()));
        }
        let base = OTHERS.iter().map(|(_, config)| config()).find(|config| config.family() == name);
        base.ok_or_else(|| format!("no family is called `{name}`; there are {}", FAMILIES.join(", ")))
    }
}

/// `base` with the options of `table`.
fn overlaid<C: Serialize + for<'de> Deserialize<'de>>(base: &C, table: Map<String, Value>) -> Result<C, String> {
    let Ok(Value::Object(mut merged)) = serde_json::to_value(base) else {
        return Err("the configuration is no table".to_owned());
    };
    merged.extend(table);
    serde_path_to_error::deserialize(Value::Object(merged)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        if path == "." || reason.starts_with("unknown field") { reason } else { format!("{path}: {reason}") }
    })
}

impl TryFrom<Map<String, Value>> for BackboneConfig {
    type Error = String;

    fn try_from(table: Map<String, Value>) -> Result<Self, String> {
        Self::from_table(table)
    }
}

impl From<BackboneConfig> for Map<String, Value> {
    fn from(config: BackboneConfig) -> Self {
        let mut table = Self::new();
        // The family comes first and, where it is left out, is VMamba.
        if !matches!(config, BackboneConfig::Vmamba(_)) {
            table.insert("family".to_owned(), Value::from(config.family()));
        }
        if let Ok(Value::Object(fields)) = config.fields() {
            table.extend(fields);
        }
        table
    }
}

fn vmamba_rename(key: &str) -> Option<Cow<'_, str>> {
    Some(current_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of every family.
    const SMALLEST: [&str; 9] = [
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
            let file = config.official_state(file);
            let other = config.try_init_classifier(7, &device).unwrap();
            let (loaded, _) = load_into(other, &key, &file, &config.load_options()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(state_dict_of(&loaded, &key) == file, "{name}");
            let backbone = config.try_init(&device).unwrap();
            let (_, report) = load_into(backbone, &key, &config.backbone_state(file), &config.classifier_file_options())
                .unwrap_or_else(|error| panic!("backbone of {name}: {error}"));
            // All but heads and what only one of both has.
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
}
