//! Weight decay and learning rate of every parameter, chosen by its key.
//!
//! An optimizer asks a backbone's [`ParameterGroups`] two questions about a key such as `backbone.layers.2.blocks.0.norm.weight`:
//! * does weight decay shrink this parameter ([`ParameterGroups::decays`])?
//! * which share of the learning rate does it get ([`ParameterGroups::lr_scale`])? With layer-wise decay, layers near the stem learn more
//!   slowly than the heads.
//!
//! Every model of this crate answers through [`BackboneConfig`](crate::zoo::BackboneConfig). For a backbone of your own, implement the trait
//! on its configuration; two methods are enough for layer-wise learning rates:
//!
//! ```
//! use vmamba::{LayerGrouping, ParameterGroups, Place};
//!
//! /// A stem and four blocks, with parameters called `stem.*` and `blocks.0.*` to `blocks.3.*`.
//! struct MyConfig;
//!
//! impl ParameterGroups for MyConfig {
//!     fn depths(&self) -> Vec<usize> {
//!         vec![4]
//!     }
//!
//!     fn place_of(&self, key: &str) -> Option<Place> {
//!         match *key.split('.').collect::<Vec<_>>() {
//!             ["stem", ..] => Some(Place::Stem),
//!             ["blocks", block, ..] => Place::block(0, block),
//!             _ => None,
//!         }
//!     }
//! }
//!
//! // Five steps below the heads, and three.
//! assert_eq!(MyConfig.lr_scale("backbone.stem.weight", 0.5, LayerGrouping::Block), 0.5_f64.powi(5));
//! assert_eq!(MyConfig.lr_scale("backbone.blocks.1.weight", 0.5, LayerGrouping::Block), 0.5_f64.powi(3));
//! assert_eq!(MyConfig.lr_scale("decode_head.conv_seg.weight", 0.5, LayerGrouping::Block), 1.0);
//! ```

use serde::{Deserialize, Serialize};

/// Which parameters have no weight decay, as a training configuration chooses it.
///
/// In TOML: `"published"`, `"by-dimension"`, `"everything"`, or `{ except = ["pos_embed", "norm"] }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DecayRule {
    /// The rule of the recipe that the backbone's authors published, see [`ParameterGroups::decay_exceptions`].
    #[default]
    Published,
    /// One-dimensional parameters, biases, position tables (keys that end in `pos_embed`) and VMamba's `A_logs` and `Ds` are not decayed. Most
    /// recipes intend this.
    ByDimension,
    /// All parameters are decayed: the default of mmdetection and mmsegmentation.
    Everything,
    /// Parameters whose key contains one of these texts are not decayed.
    Except(Vec<String>),
}

/// The parameters that a published recipe does not decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecayExceptions {
    /// None: all parameters are decayed.
    None,
    /// Parameters whose key contains one of these texts, in heads too (OpenMMLab's `custom_keys`).
    Containing(&'static [&'static str]),
    /// See [`DecayRule::ByDimension`].
    ByDimension,
}

/// The exceptions in the recipe of Swin's detectors and segmentors, which VMamba's use as well. The texts miss the norms of VMamba's stem
/// and downsampling, whose keys are numbers, the batch norms of the heads (`bn`), and all biases outside of norms; all of these are decayed.
pub const SWIN_EXCEPTIONS: DecayExceptions = DecayExceptions::Containing(&["absolute_pos_embed", "relative_position_bias_table", "norm"]);

/// The exceptions in mmsegmentation's recipe of vision transformers.
pub const VIT_EXCEPTIONS: DecayExceptions = DecayExceptions::Containing(&["pos_embed", "cls_token", "norm"]);

/// What counts as one layer when learning rates fall from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LayerGrouping {
    /// Every block is a layer (`layer_wise`). In a ConvNeXt, every stage is a layer, except that the third has one for every three blocks.
    Block,
    /// Every stage is a layer, and all downsampling belongs to the layer of the stem (`stage_wise`).
    Stage,
    /// Only the stem learns more slowly, at its rate under `block`; the blocks learn at the full rate. The published segmentor of Vim is
    /// trained like this: its code looks for `blocks`, but its layers are called `layers`.
    Stem,
}

/// Where in a backbone a parameter belongs. Stages and blocks count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the first block: patch embedding, position table, class token.
    Stem,
    /// A residual block.
    Block {
        /// The stage; 0 in a network of one resolution.
        stage: usize,
        /// The block in its stage.
        block: usize,
    },
    /// The downsampling that follows a stage.
    Downsample {
        /// The stage before it.
        behind: usize,
    },
}

impl Place {
    /// A block whose number is the text `block`; none when the text is not a number.
    pub fn block(stage: usize, block: &str) -> Option<Self> {
        Some(Self::Block { stage, block: block.parse().ok()? })
    }

    /// The place of the key `layers.<stage>.blocks.<block>.*` or `layers.<stage>.downsample.*`, where `layers` is called `stages`.
    pub(crate) fn staged(key: &str, stages: &str) -> Option<Self> {
        match *key.split('.').collect::<Vec<_>>() {
            [first, stage, "blocks", block, ..] if first == stages => Self::block(stage.parse().ok()?, block),
            [first, stage, "downsample", ..] if first == stages => Some(Self::Downsample { behind: stage.parse().ok()? }),
            _ => None,
        }
    }
}

/// What an optimizer needs to know about the parameters of a backbone. Keys may be those of the backbone or of a whole model, in which the
/// backbone's begin with `backbone.`.
///
/// The defaults suit a backbone without a published recipe: weight decay [by dimension](DecayRule::ByDimension), and one learning rate for
/// all parameters.
pub trait ParameterGroups {
    /// The parameters that the published recipe of this backbone does not decay.
    fn decay_exceptions(&self) -> DecayExceptions {
        DecayExceptions::ByDimension
    }

    /// Endings of keys. [`DecayRule::ByDimension`] does not decay the parameters whose key has one of them, whatever their dimensions.
    fn undecayed_tables(&self) -> &'static [&'static str] {
        &["pos_embed"]
    }

    /// Blocks of every stage. Empty, the default, for a backbone without layer-wise learning rates.
    fn depths(&self) -> Vec<usize> {
        Vec::new()
    }

    /// The place of the parameter with this key, which has no `backbone.` in front; none for a parameter that belongs to no layer, such as
    /// the norms on the levels of the pyramid.
    fn place_of(&self, key: &str) -> Option<Place> {
        let _ = key;
        None
    }

    /// Layers above the stem. Layer 0 is the stem, and the heads are one above the last layer.
    fn num_layers(&self, by: LayerGrouping) -> usize {
        let depths = self.depths();
        match by {
            LayerGrouping::Block | LayerGrouping::Stem => depths.iter().sum(),
            LayerGrouping::Stage => depths.len(),
        }
    }

    /// The layer, from 0 to [`ParameterGroups::num_layers`], of a place. A downsampling belongs to the last block before it.
    fn layer_at(&self, place: Place, by: LayerGrouping) -> Option<usize> {
        let blocks = |stages: usize| self.depths().iter().take(stages).sum::<usize>();
        match (by, place) {
            (_, Place::Stem) => Some(0),
            (LayerGrouping::Stem, _) => None,
            (LayerGrouping::Stage, Place::Downsample { .. }) => Some(0),
            (LayerGrouping::Stage, Place::Block { stage, .. }) => Some(stage + 1),
            (LayerGrouping::Block, Place::Downsample { behind }) => Some(blocks(behind + 1)),
            (LayerGrouping::Block, Place::Block { stage, block }) => Some(blocks(stage) + block + 1),
        }
    }

    /// The layer of the parameter with this key; none for parameters that learn at the full rate: heads, and norms of the pyramid.
    fn layer_of(&self, key: &str, by: LayerGrouping) -> Option<usize> {
        self.layer_at(self.place_of(key.strip_prefix("backbone.").unwrap_or(key))?, by)
    }

    /// The learning rate of the parameter with this key over that of the heads: `rate` to the power of the number of layers from here to the
    /// heads (mmdetection's `LearningRateDecayOptimizerConstructor`). 1 for parameters without a layer.
    fn lr_scale(&self, key: &str, rate: f64, by: LayerGrouping) -> f64 {
        let heads = self.num_layers(by) + 1;
        let steps = self.layer_of(key, by).map_or(0, |layer| heads.saturating_sub(layer));
        rate.powf(steps as f64)
    }

    /// Whether weight decay shrinks the parameter with this key and shape.
    fn decays(&self, rule: &DecayRule, key: &str, shape: &[usize]) -> bool {
        let by_dimension = || {
            let exempt = key.ends_with("bias") || self.undecayed_tables().iter().any(|table| key.ends_with(table));
            shape.len() > 1 && !exempt
        };
        match rule {
            DecayRule::Everything => true,
            DecayRule::ByDimension => by_dimension(),
            DecayRule::Except(texts) => !texts.iter().any(|text| key.contains(text.as_str())),
            DecayRule::Published => match self.decay_exceptions() {
                DecayExceptions::None => true,
                DecayExceptions::Containing(texts) => !texts.iter().any(|text| key.contains(text)),
                DecayExceptions::ByDimension => by_dimension(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
