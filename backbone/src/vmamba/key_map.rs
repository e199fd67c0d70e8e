//! Official state_dict keys of the parameters of our modules.

/// The official state_dict key of the parameter at `path` in a [`Vmamba`](super::Vmamba) or
/// [`VmambaClassifier`](super::VmambaClassifier).
///
/// Most names are equal. In the official code, however, the trunk is not a module, stem and downsampling are `nn.Sequential` with numbers as
/// names, and the output norms are called `outnorm0` instead of `outnorm.0`.
///
/// ```
/// assert_eq!(vmamba::official_key("trunk.patch_embed.conv2.weight"), "patch_embed.5.weight");
/// assert_eq!(vmamba::official_key("trunk.layers.0.downsample.Convolution.norm.bias"), "layers.0.downsample.3.bias");
/// assert_eq!(vmamba::official_key("outnorm.2.weight"), "outnorm2.weight");
/// ```
pub fn official_key(path: &str) -> String {
    const RENAMED: [(&str, &str); 13] = [
        ("patch_embed.conv1.", "patch_embed.0."),
        ("patch_embed.norm1.", "patch_embed.2."),
        ("patch_embed.conv2.", "patch_embed.5."),
        ("patch_embed.norm2.", "patch_embed.7."),
        ("downsample.Convolution.conv.", "downsample.1."),
        ("downsample.Convolution.norm.", "downsample.3."),
        ("downsample.Merging.", "downsample."),
        ("out_norm.LayerNorm.", "out_norm."),
        ("out_norm.DwConv3.", "out_norm.1."),
        ("out_norm.CNorm.norm.", "out_norm.0."),
        ("out_norm.CNorm.conv.", "out_norm.2."),
        ("outnorm.", "outnorm"),
        ("trunk.", ""),
    ];
    let mut key = path.to_owned();
    for (ours, official) in RENAMED {
        if let Some(start) = find_at_boundary(&key, ours) {
            key.replace_range(start..start + ours.len(), official);
        }
    }
    key
}

/// The first position of `part` in `path` at the start of a name.
fn find_at_boundary(path: &str, part: &str) -> Option<usize> {
    path.match_indices(part).map(|(start, _)| start).find(|start| *start == 0 || path.as_bytes()[*start - 1] == b'.')
}

#[cfg(test)]
mod tests {
    use super::official_key;

    #[test]
    fn official_names_stay_and_ours_are_renamed() {
        for (path, key) in [
            ("trunk.patch_embed.conv1.weight", "patch_embed.0.weight"),
            ("trunk.patch_embed.norm2.bias", "patch_embed.7.bias"),
            ("trunk.pos_embed", "pos_embed"),
            ("trunk.layers.3.blocks.0.op.A_logs", "layers.3.blocks.0.op.A_logs"),
            ("trunk.layers.3.blocks.0.op.out_norm.LayerNorm.weight", "layers.3.blocks.0.op.out_norm.weight"),
            ("trunk.layers.0.downsample.Merging.reduction.weight", "layers.0.downsample.reduction.weight"),
            ("op.out_norm.CNorm.conv.weight", "op.out_norm.2.weight"),
            ("outnorm.3.bias", "outnorm3.bias"),
            ("classifier.head.weight", "classifier.head.weight"),
        ] {
            assert_eq!(official_key(path), key);
        }
    }
}
