//! Keys of an S4ND-ConvNeXt's parameters.

use std::borrow::Cow;

/// The key of the parameter at `path` in an [`S4ndConvnext`](super::S4ndConvnext) or
/// [`S4ndConvnextClassifier`](super::S4ndConvnextClassifier) in the official `convnext_timm.ConvNeXt`.
pub fn key(path: &str) -> String {
    const RENAMED: [(&str, &str); 4] = [
        ("stem.fc.", "stem.post_stem.1."),
        ("stem.norm.", "stem.post_stem.3."),
        ("downsample.Convolution.", "downsample.conv."),
        ("downsample.S4nd.", "downsample."),
    ];
    let path = path.strip_prefix("trunk.").unwrap_or(path);
    RENAMED.iter().fold(path.to_owned(), |path, (ours, official)| path.replacen(ours, official, 1))
}

/// The official key for a key of a training checkpoint, in which the network is the field `model` of another module. `None` for entries that
/// are not parameters: the length of a kernel, and roots of unity that older versions stored.
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    let key = key.strip_prefix("model.").unwrap_or(key);
    let buffer = key.contains(".kernel.") && [".l_kernel", ".omega", ".z"].iter().any(|end| key.ends_with(end));
    (!buffer).then_some(Cow::Borrowed(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_official_ones() {
        for (path, official) in [
            ("trunk.stem.stem.kernel.0.inv_dt", "stem.stem.kernel.0.inv_dt"),
            ("trunk.stem.fc.weight", "stem.post_stem.1.weight"),
            ("trunk.stem.norm.bias", "stem.post_stem.3.bias"),
            ("trunk.stages.1.downsample.Convolution.weight", "stages.1.downsample.conv.weight"),
            ("trunk.stages.1.downsample.S4nd.s4conv.D", "stages.1.downsample.s4conv.D"),
            ("trunk.stages.2.blocks.8.mlp.fc1.weight", "stages.2.blocks.8.mlp.fc1.weight"),
            ("head.norm.weight", "head.norm.weight"),
        ] {
            assert_eq!(key(path), official);
        }
        assert_eq!(rename("model.stages.0.blocks.0.gamma").as_deref(), Some("stages.0.blocks.0.gamma"));
        assert_eq!(rename("stages.0.blocks.0.conv_dw.kernel.1.l_kernel"), None);
    }
}
