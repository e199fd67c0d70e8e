//! Keys of a DeiT's parameters.

use std::borrow::Cow;

use crate::checkpoint::StateDict;

/// The key in timm's `VisionTransformer` (and, for the neck, in mmsegmentation's `MultiLevelNeck`) of the parameter at `path` in a
/// [`Deit`](super::Deit) or [`DeitClassifier`](super::DeitClassifier).
///
/// ```
/// use vmamba::baselines::deit;
/// assert_eq!(deit::key("trunk.blocks.3.attn.qkv.weight"), "blocks.3.attn.qkv.weight");
/// assert_eq!(deit::key("neck.convs.0.bias"), "neck.convs.0.conv.bias");
/// ```
pub fn key(path: &str) -> String {
    if let Some(path) = path.strip_prefix("trunk.") {
        return path.to_owned();
    }
    match path.rsplit_once('.') {
        Some((layer, parameter)) if path.starts_with("neck.") => format!("{layer}.conv.{parameter}"),
        _ => path.to_owned(),
    }
}

/// The key in timm for a key of the `VisionTransformer` of torchvision, mmpretrain or mmsegmentation; the prefix `backbone.` of the latter two
/// is removed. Other keys stay.
///
/// ```
/// use vmamba::baselines::deit;
/// let key = deit::rename("encoder.layers.encoder_layer_3.self_attention.in_proj_weight");
/// assert_eq!(key.as_deref(), Some("blocks.3.attn.qkv.weight"));
/// ```
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    const OUTSIDE: [(&str, &str); 9] = [
        ("class_token", "cls_token"),
        ("conv_proj.", "patch_embed.proj."),
        ("patch_embed.projection.", "patch_embed.proj."),
        ("encoder.pos_embedding", "pos_embed"),
        ("encoder.ln.", "norm."),
        ("ln1.", "norm."),
        ("heads.head.", "head."),
        ("head.layers.head.", "head."),
        ("head.fc.", "head."),
    ];
    const IN_BLOCK: [(&str, &str); 14] = [
        ("ln_1.", "norm1."),
        ("ln_2.", "norm2."),
        ("ln1.", "norm1."),
        ("ln2.", "norm2."),
        ("self_attention.in_proj_", "attn.qkv."),
        ("self_attention.out_proj.", "attn.proj."),
        ("attn.attn.in_proj_", "attn.qkv."),
        ("attn.attn.out_proj.", "attn.proj."),
        ("mlp.0.", "mlp.fc1."),
        ("mlp.3.", "mlp.fc2."),
        ("mlp.linear_1.", "mlp.fc1."),
        ("mlp.linear_2.", "mlp.fc2."),
        ("ffn.layers.0.0.", "mlp.fc1."),
        ("ffn.layers.1.", "mlp.fc2."),
    ];
    let renamed = |key: &str, table: &[(&str, &str)]| {
        let found = table.iter().find_map(|(theirs, ours)| key.strip_prefix(theirs).map(|rest| format!("{ours}{rest}")));
        found.unwrap_or_else(|| key.to_owned())
    };
    let key = key.strip_prefix("backbone.").unwrap_or(key);
    let block = key.strip_prefix("encoder.layers.encoder_layer_").or_else(|| key.strip_prefix("layers."));
    Some(Cow::Owned(match block.and_then(|rest| rest.split_once('.')) {
        Some((number, parameter)) => format!("blocks.{number}.{}", renamed(parameter, &IN_BLOCK)),
        None => renamed(key, &OUTSIDE),
    }))
}

/// Moves the neck of a segmentor of mmsegmentation into the backbone, where our model has it. Other files stay as they are.
pub fn neck_into_backbone(mut state: StateDict) -> StateDict {
    if state.keys().any(|key| key.starts_with("decode_head.")) {
        let beside: Vec<String> = state.keys().filter(|key| key.starts_with("neck.")).map(str::to_owned).collect();
        for key in beside {
            if let Some(tensor) = state.remove(&key) {
                state.insert(format!("backbone.{key}"), tensor);
            }
        }
    }
    state
}
