//! Keys of a HiViT's parameters.

use std::borrow::Cow;

/// The key in the official networks of the parameter at `path` in a [`Hivit`](super::Hivit) or [`HivitClassifier`](super::HivitClassifier).
///
/// ```
/// use vmamba::baselines::hivit;
/// assert_eq!(hivit::key("level_norms.0.weight"), "fpn1.weight");
/// assert_eq!(hivit::key("level_norms.3.weight"), "fpn4.1.weight");
/// assert_eq!(hivit::key("trunk.blocks.2.Merge.norm.weight"), "blocks.2.norm.weight");
/// assert_eq!(hivit::key("trunk.blocks.7.Attention.mixed.mlp.fc1.bias"), "blocks.7.mlp.fc1.bias");
/// ```
pub fn key(path: &str) -> String {
    let path = path.strip_prefix("trunk.").unwrap_or(path);
    match path.strip_prefix("level_norms.").and_then(|rest| rest.split_once('.')) {
        // In the official code, a pool comes before the last norm.
        Some(("3", parameter)) => return format!("fpn4.1.{parameter}"),
        Some((level, parameter)) => return format!("fpn{}.{parameter}", level.parse::<usize>().map_or(0, |level| level + 1)),
        None => (),
    }
    [".Mlp.", ".Merge.", ".Attention.", ".mixed."].iter().fold(path.to_owned(), |path, ours| path.replace(ours, "."))
}

/// The official key for a key of mmpretrain; also removes the prefix `backbone.` of detectors and segmentors. Other keys stay. `None` for the
/// tables of relative positions, which the model computes itself.
///
/// ```
/// use vmamba::baselines::hivit;
/// assert_eq!(hivit::rename("backbone.pos_embed").as_deref(), Some("absolute_pos_embed"));
/// assert_eq!(hivit::rename("blocks.7.attn.relative_position_index"), None);
/// ```
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    let key = key.strip_prefix("backbone.").unwrap_or(key);
    if key.ends_with("relative_position_index") {
        return None;
    }
    if key == "pos_embed" {
        return Some(Cow::Borrowed("absolute_pos_embed"));
    }
    Some(match key.strip_prefix("head.fc.") {
        Some(parameter) => Cow::Owned(format!("head.{parameter}")),
        None => Cow::Borrowed(key),
    })
}
