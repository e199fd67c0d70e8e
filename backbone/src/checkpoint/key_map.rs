//! Keys of older checkpoints.

use std::borrow::Cow;

/// Translates a key of the released v0 checkpoints into the current official key, as `_load_from_state_dict` in
/// `classification/models/vmamba.py` does. Other keys stay. `key` may have a prefix such as `backbone.`.
///
/// ```
/// use vmamba::checkpoint::current_key;
/// assert_eq!(current_key("layers.0.blocks.1.self_attention.A_logs"), "layers.0.blocks.1.op.A_logs");
/// assert_eq!(current_key("head.weight"), "classifier.head.weight");
/// assert_eq!(current_key("layers.0.blocks.1.norm.weight"), "layers.0.blocks.1.norm.weight");
/// ```
pub fn current_key(key: &str) -> Cow<'_, str> {
    const TOP_LEVEL: [(&str, &str); 2] = [("norm.", "classifier.norm."), ("head.", "classifier.head.")];
    const ANYWHERE: [(&str, &str); 4] = [
        ("patch_embed.proj.", "patch_embed.0."),
        ("patch_embed.norm.", "patch_embed.2."),
        (".ln_1.", ".norm."),
        (".self_attention.", ".op."),
    ];
    for (old, new) in TOP_LEVEL {
        if let Some(rest) = key.strip_prefix(old) {
            return Cow::Owned(format!("{new}{rest}"));
        }
    }
    match ANYWHERE.iter().find(|(old, _)| key.contains(old)) {
        Some((old, new)) => Cow::Owned(key.replacen(old, new, 1)),
        None => Cow::Borrowed(key),
    }
}

#[cfg(test)]
mod tests {
    use super::current_key;

    #[test]
    fn old_names_change_and_present_ones_stay() {
        for (old, new) in [
            ("patch_embed.proj.weight", "patch_embed.0.weight"),
            ("patch_embed.norm.bias", "patch_embed.2.bias"),
            ("backbone.layers.2.blocks.0.ln_1.bias", "backbone.layers.2.blocks.0.norm.bias"),
            ("norm.weight", "classifier.norm.weight"),
            ("layers.0.downsample.norm.weight", "layers.0.downsample.norm.weight"),
            ("classifier.head.bias", "classifier.head.bias"),
            ("patch_embed.0.weight", "patch_embed.0.weight"),
        ] {
            assert_eq!(current_key(old), new);
        }
    }
}
