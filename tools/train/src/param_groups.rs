//! Weight decay and learning rate of a parameter, chosen by its official key.

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// Which parameters have no weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecayRule {
    /// The official detection and segmentation recipe, Swin's too: names that contain `absolute_pos_embed`,
    /// `relative_position_bias_table` or `norm`. By accident of naming, the norms of stem and downsampling, the heads' batch norms and all
    /// biases are decayed.
    #[default]
    VmambaSubstring,
    /// mmsegmentation's recipe of vision transformers: names that contain `pos_embed`, `cls_token` or `norm`.
    VitSubstring,
    /// What the recipe means: one-dimensional parameters, biases, position tables, `A_logs` and `Ds` are not decayed. For a ConvNeXt the
    /// rule of its authors.
    ByDimension,
    /// None: all parameters are decayed, as mmdetection and mmsegmentation do where a recipe says nothing.
    Everything,
}

impl DecayRule {
    /// Whether the parameter of this official key and shape is decayed.
    pub fn decays(self, key: &str, shape: &[usize]) -> bool {
        let without = |parts: [&str; 3]| !parts.iter().any(|part| key.contains(part));
        match self {
            Self::VmambaSubstring => without(["absolute_pos_embed", "relative_position_bias_table", "norm"]),
            Self::VitSubstring => without(["pos_embed", "cls_token", "norm"]),
            Self::ByDimension => {
                let exempt = key.ends_with("bias") || key.ends_with("pos_embed") || key.ends_with("A_logs") || key.ends_with("Ds");
                shape.len() > 1 && !exempt
            }
            Self::Everything => true,
        }
    }
}

/// Learning rates that fall from the heads to the stem, as the authors of ConvNeXt train detectors and segmentors (mmdetection's
/// `LearningRateDecayOptimizerConstructor`).
///
/// [`LayerOrder::Block`] and [`LayerOrder::Stage`] go by ConvNeXt's names, `downsample_layers` and `stages`; of another backbone all
/// parameters would have the full learning rate, which [`LayerDecay::acts_on`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerDecay {
    /// The factor from one layer to the one below it.
    pub rate: f64,
    /// Layers of the backbone: 6 for ConvNeXt-T, 12 for the larger ones.
    pub layers: u32,
    /// What is a layer.
    pub by: LayerOrder,
}

/// What [`LayerDecay`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerOrder {
    /// Three blocks of the third stage are a layer (`layer_wise`).
    Block,
    /// A stage is a layer, and everything that downsamples lies below the first (`stage_wise`).
    Stage,
    /// Only what is ahead of the first block of a network without stages is slower, by the rate to the power of all layers. So is the
    /// official Vim's segmentor trained: its code looks for `blocks`, and its layers are called `layers`.
    Stem,
}

impl LayerDecay {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(self) -> Result<(), TrainError> {
        if !(self.rate > 0.0 && self.rate <= 1.0) {
            return Err(TrainError::config("optimizer.layer_decay.rate", format!(" must be in (0, 1], got {}", self.rate)));
        }
        if self.layers == 0 {
            return Err(TrainError::config("optimizer.layer_decay.layers", " must be at least 1"));
        }
        Ok(())
    }

    /// The learning rate of the parameter of this official key over that of the heads.
    pub fn lr_scale(self, key: &str) -> f64 {
        let above = self.layers + 1;
        self.rate.powf(f64::from(above.saturating_sub(self.layer(key).unwrap_or(above))))
    }

    /// Whether the parameter belongs to a layer with a learning rate of its own.
    pub fn acts_on(self, key: &str) -> bool {
        self.layer(key).is_some()
    }

    /// The layer of a parameter, counted from the stem; none for heads and the norms of the pyramid.
    fn layer(self, key: &str) -> Option<u32> {
        let key = key.strip_prefix("backbone.")?;
        if self.by == LayerOrder::Stem {
            return ["pos_embed", "cls_token", "patch_embed."].iter().any(|name| key.starts_with(name)).then_some(0);
        }
        let mut names = key.split('.');
        let (part, stage) = (names.next()?, names.next()?.parse::<u32>().ok()?);
        let block = names.next().and_then(|name| name.parse::<u32>().ok());
        match (self.by, part, stage) {
            (LayerOrder::Stage, "downsample_layers", _) => Some(0),
            (LayerOrder::Stage, "stages", stage) => Some(stage + 1),
            (LayerOrder::Block, "downsample_layers", 0) => Some(0),
            (LayerOrder::Block, "downsample_layers", 1) => Some(2),
            (LayerOrder::Block, "downsample_layers", 2) => Some(3),
            (LayerOrder::Block, "stages", stage @ (0 | 1)) => Some(stage + 1),
            (LayerOrder::Block, "stages", 2) => Some(3 + block? / 3),
            (LayerOrder::Block, "downsample_layers" | "stages", _) => Some(self.layers),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_rule_goes_by_names_and_the_corrected_one_by_shapes() {
        let official = |key: &str| DecayRule::VmambaSubstring.decays(key, &[8]);
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
            assert_eq!(official(key), decays, "{key}");
        }
        let corrected = DecayRule::ByDimension;
        assert!(corrected.decays("decode_head.conv_seg.weight", &[7, 32, 1, 1]));
        assert!(!corrected.decays("backbone.patch_embed.2.weight", &[8]));
        assert!(!corrected.decays("backbone.layers.0.blocks.0.op.A_logs", &[32, 1]));
        assert!(!corrected.decays("backbone.layers.0.blocks.0.op.dt_projs_bias", &[4, 8]));
    }

    #[test]
    fn positions_and_the_class_token_of_a_transformer_are_exempt_by_its_rule() {
        let rule = DecayRule::VitSubstring;
        for (key, decays) in [
            ("backbone.pos_embed", false),
            ("backbone.cls_token", false),
            ("backbone.blocks.3.norm1.weight", false),
            ("backbone.blocks.3.attn.qkv.bias", true),
            ("backbone.neck.convs.0.conv.weight", true),
        ] {
            assert_eq!(rule.decays(key, &[8]), decays, "{key}");
            assert!(DecayRule::Everything.decays(key, &[8]), "{key}");
        }
    }

    /// Numbers of the layers from `get_layer_id_for_convnext` and `get_stage_id_for_convnext` of mmdetection 3.3.0 for 12 and 6 layers;
    /// the learning rate is the rate to the power of `layers + 1 - number`.
    #[test]
    fn learning_rates_fall_as_in_mmdetection() {
        let by_block = LayerDecay { rate: 0.7, layers: 12, by: LayerOrder::Block };
        let by_stage = LayerDecay { rate: 0.9, layers: 6, by: LayerOrder::Stage };
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
            assert!((by_block.lr_scale(key) - 0.7_f64.powi(13 - block)).abs() < 1e-12, "{key}: {}", by_block.lr_scale(key));
            assert!((by_stage.lr_scale(key) - 0.9_f64.powi(7 - stage)).abs() < 1e-12, "{key}: {}", by_stage.lr_scale(key));
            assert_eq!(by_block.acts_on(key), block < 13, "{key}");
        }
        let stem = LayerDecay { rate: 0.92, layers: 24, by: LayerOrder::Stem };
        for (key, scale) in [
            ("backbone.pos_embed", 0.92_f64.powi(25)),
            ("backbone.patch_embed.proj.bias", 0.92_f64.powi(25)),
            ("backbone.layers.0.norm.weight", 1.0),
        ] {
            assert!((stem.lr_scale(key) - scale).abs() < 1e-12, "{key}: {}", stem.lr_scale(key));
        }
        assert!(LayerDecay { rate: 1.5, ..by_block }.validate().unwrap_err().to_string().contains("layer_decay.rate"));
        assert!(LayerDecay { layers: 0, ..by_block }.validate().unwrap_err().to_string().contains("layer_decay.layers"));
    }
}
