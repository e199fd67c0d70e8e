//! Keys of a Swin's parameters.

use std::borrow::Cow;

use crate::checkpoint::{StateDict, StateTensor};

/// The key in the official repository (`layers.0.blocks.1.attn.qkv.weight`, `layers.0.downsample.reduction.weight`) of the parameter at `path`
/// in a [`Swin`](super::Swin) or [`SwinClassifier`](super::SwinClassifier). The backbone's norms are `norm0` … `norm3`, as in the official
/// detectors.
///
/// ```
/// assert_eq!(vmamba::baselines::swin::key("trunk.layers.0.downsample.norm.bias"), "layers.0.downsample.norm.bias");
/// assert_eq!(vmamba::baselines::swin::key("norms.2.weight"), "norm2.weight");
/// ```
pub fn key(path: &str) -> String {
    match path.strip_prefix("norms.") {
        Some(rest) => format!("norm{rest}"),
        None => path.strip_prefix("trunk.").unwrap_or(path).to_owned(),
    }
}

/// The official key for a key of torchvision (`features.1.0.attn.qkv.weight`); `None` for tables that the model computes itself.
///
/// For timm and OpenMMLab a translation of single keys is not enough: timm puts a patch merging into the stage after it, so its
/// `layers.1.downsample` is the official `layers.0.downsample`, and OpenMMLab's merging has another order of channels. [`official_state`]
/// converts such files; without it they do not load.
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    if key.ends_with("relative_position_index") || key.ends_with("attn_mask") {
        return None;
    }
    if let Some(rest) = key.strip_prefix("head.fc.") {
        return Some(format!("head.{rest}").into());
    }
    Some(torchvision(key).map_or(Cow::Borrowed(key), Cow::Owned))
}

/// In torchvision, the stem, the stages and the mergings are one sequence.
fn torchvision(key: &str) -> Option<String> {
    let (index, rest) = key.strip_prefix("features.")?.split_once('.')?;
    let index: usize = index.parse().ok()?;
    let (first, parameter) = rest.split_once('.')?;
    Some(match (index, first) {
        (0, "0") => format!("patch_embed.proj.{parameter}"),
        (0, "2") => format!("patch_embed.norm.{parameter}"),
        (0, _) => return None,
        _ if index.is_multiple_of(2) => format!("layers.{}.downsample.{rest}", index / 2 - 1),
        _ => {
            let parameter = [("mlp.0.", "mlp.fc1."), ("mlp.3.", "mlp.fc2.")]
                .into_iter()
                .find_map(|(theirs, official)| parameter.strip_prefix(theirs).map(|name| format!("{official}{name}")))
                .unwrap_or_else(|| parameter.to_owned());
            format!("layers.{}.blocks.{first}.{parameter}", index / 2)
        }
    })
}

/// Converts a file to the official keys and order of channels. Call it before [`load_into`](crate::checkpoint::load_into). It converts
/// * files of timm 1.x (`layers.1.downsample`, `head.fc`); older timm files number stages as the official ones do;
/// * files of mmdetection and mmsegmentation (`backbone.stages.0.blocks.0.attn.w_msa.qkv`), which keep their prefix for
///   [`LoadOptions::strip_prefix`](crate::checkpoint::LoadOptions::strip_prefix);
/// * classifiers of mmpretrain, which lose their prefix; their `norm3` is the official `norm`.
///
/// Other files stay as they are, and so do other tensors, such as those of a detector's heads.
pub fn official_state(state: StateDict) -> StateDict {
    let has = |part: &str| state.iter().any(|(key, _)| key.contains(part));
    let mmlab = has(".attn.w_msa.");
    if !mmlab && (has("layers.0.downsample.") || !has("layers.1.downsample.")) {
        return state;
    }
    let classifier = state.iter().any(|(key, _)| key.starts_with("head.fc."));
    let mut official = StateDict::new();
    for (key, tensor) in state.iter() {
        if mmlab {
            let (key, tensor) = from_mmlab(key, tensor, classifier);
            official.insert(key, tensor);
        } else {
            official.insert(from_timm(key), tensor.clone());
        }
    }
    official
}

fn from_timm(key: &str) -> String {
    let merging = || {
        let (stage, rest) = key.strip_prefix("layers.")?.split_once(".downsample.")?;
        Some(format!("layers.{}.downsample.{rest}", stage.parse::<usize>().ok()?.checked_sub(1)?))
    };
    merging().unwrap_or_else(|| key.to_owned())
}

fn from_mmlab(key: &str, tensor: &StateTensor, classifier: bool) -> (String, StateTensor) {
    let (prefix, rest) = match key.strip_prefix("backbone.") {
        Some(rest) => (if classifier { "" } else { "backbone." }, rest),
        None => ("", key),
    };
    let is_ours = ["stages.", "patch_embed.", "norm3."].iter().any(|start| rest.starts_with(start));
    if !is_ours {
        return (key.to_owned(), tensor.clone());
    }
    const PARTS: [(&str, &str); 5] = [
        ("patch_embed.projection.", "patch_embed.proj."),
        (".attn.w_msa.", ".attn."),
        (".ffn.layers.0.0.", ".mlp.fc1."),
        (".ffn.layers.1.", ".mlp.fc2."),
        ("stages.", "layers."),
    ];
    let mut renamed = PARTS.iter().fold(rest.to_owned(), |key, (theirs, official)| key.replacen(theirs, official, 1));
    if classifier && renamed.starts_with("norm3.") {
        renamed = renamed.replacen("norm3.", "norm.", 1);
    }
    let tensor = if renamed.contains(".downsample.") { merged_as_official(tensor) } else { tensor.clone() };
    (format!("{prefix}{renamed}"), tensor)
}

/// Reorders the merged channels, which are the last axis of the norm and of the reduction. OpenMMLab merges with `unfold`: channels first,
/// then the four neighbours row by row. The official order is neighbours first, column by column, then channels.
fn merged_as_official(tensor: &StateTensor) -> StateTensor {
    let merged = tensor.shape.last().copied().unwrap_or(0);
    if merged == 0 || !merged.is_multiple_of(4) {
        return tensor.clone();
    }
    let channels = merged / 4;
    // For every place in the official order, the place in OpenMMLab's.
    let places: Vec<usize> = [0, 2, 1, 3].iter().flat_map(|neighbour| (0..channels).map(move |channel| 4 * channel + neighbour)).collect();
    let order = |row: &[f32]| places.iter().filter_map(|place| row.get(*place).copied()).collect::<Vec<f32>>();
    StateTensor { shape: tensor.shape.clone(), data: tensor.data.chunks_exact(merged).flat_map(order).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_torchvision_are_known() {
        for (theirs, official) in [
            ("features.0.0.weight", "patch_embed.proj.weight"),
            ("features.0.2.bias", "patch_embed.norm.bias"),
            ("features.1.1.attn.relative_position_bias_table", "layers.0.blocks.1.attn.relative_position_bias_table"),
            ("features.2.reduction.weight", "layers.0.downsample.reduction.weight"),
            ("features.7.1.mlp.3.bias", "layers.3.blocks.1.mlp.fc2.bias"),
            ("head.weight", "head.weight"),
            ("layers.1.downsample.norm.weight", "layers.1.downsample.norm.weight"),
        ] {
            assert_eq!(rename(theirs).as_deref(), Some(official));
        }
        assert_eq!(rename("features.1.0.attn.relative_position_index"), None);
        assert_eq!(rename("layers.0.blocks.1.attn_mask"), None);
    }

    #[test]
    fn prefixes_of_detectors_stay_and_heads_are_left_alone() {
        let tensor = StateTensor { shape: vec![1], data: vec![0.0] };
        let mut state = StateDict::new();
        for key in ["backbone.stages.0.blocks.0.attn.w_msa.qkv.bias", "backbone.norm3.bias", "rpn_head.stages.weight"] {
            state.insert(key, tensor.clone());
        }
        let official = official_state(state);
        let keys: Vec<&str> = official.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["backbone.layers.0.blocks.0.attn.qkv.bias", "backbone.norm3.bias", "rpn_head.stages.weight"]);
    }

    #[test]
    fn a_classifier_of_openmmlab_has_no_backbone_and_one_norm() {
        let mut state = StateDict::new();
        for key in ["backbone.stages.0.blocks.0.attn.w_msa.qkv.bias", "backbone.norm3.bias", "head.fc.bias"] {
            state.insert(key, StateTensor { shape: vec![1], data: vec![0.0] });
        }
        state.insert("backbone.stages.0.downsample.norm.bias", StateTensor { shape: vec![8], data: (0..8_u8).map(f32::from).collect() });
        let official = official_state(state);
        let keys: Vec<_> = official.iter().filter_map(|(key, _)| rename(key)).collect();
        assert_eq!(keys, ["head.bias", "layers.0.blocks.0.attn.qkv.bias", "layers.0.downsample.norm.bias", "norm.bias"]);
        // Two channels with four neighbours each, row by row, to four neighbours with two channels each, down before right.
        assert_eq!(official.get("layers.0.downsample.norm.bias").unwrap().data, [0.0, 4.0, 2.0, 6.0, 1.0, 5.0, 3.0, 7.0]);
    }
}
