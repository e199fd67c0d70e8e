//! Keys of a ConvNeXt's parameters.

use std::borrow::Cow;

/// The key in the official repository, for classifiers and detectors, of the parameter at `path` in a [`Convnext`](super::Convnext) or
/// [`ConvnextClassifier`](super::ConvnextClassifier).
///
/// ```
/// use vmamba::baselines::convnext::key;
/// assert_eq!(key("trunk.stem.conv.weight"), "downsample_layers.0.0.weight");
/// assert_eq!(key("trunk.stages.2.downsample.conv.weight"), "downsample_layers.2.1.weight");
/// assert_eq!(key("trunk.stages.2.blocks.8.pwconv1.bias"), "stages.2.8.pwconv1.bias");
/// assert_eq!(key("outnorm.3.weight"), "norm3.weight");
/// ```
pub fn key(path: &str) -> String {
    let path = path.strip_prefix("trunk.").unwrap_or(path);
    match *path.split('.').collect::<Vec<_>>() {
        // Module 0 is the first: the norm before a convolution, or the convolution of the stem.
        ["stem", "conv", name] => format!("downsample_layers.0.0.{name}"),
        ["stem", "norm", name] => format!("downsample_layers.0.1.{name}"),
        ["stages", stage, "downsample", "norm", name] => format!("downsample_layers.{stage}.0.{name}"),
        ["stages", stage, "downsample", "conv", name] => format!("downsample_layers.{stage}.1.{name}"),
        ["stages", stage, "blocks", block, ref rest @ ..] => format!("stages.{stage}.{block}.{}", rest.join(".")),
        ["outnorm", stage, name] => format!("norm{stage}.{name}"),
        _ => path.to_owned(),
    }
}

/// The official key for a key of timm, torchvision or mmpretrain.
///
/// In a classifier of mmpretrain, `backbone.norm3` is the norm before the head. In its detectors, whose keys come here without `backbone.`,
/// `norm3` is the norm of the last level.
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    let (key, classifier) = match key.strip_prefix("backbone.") {
        Some(key) => (key, true),
        None => (key, false),
    };
    let renamed = match *key.split('.').collect::<Vec<_>>() {
        // timm
        ["stem", index, name] => format!("downsample_layers.0.{index}.{name}"),
        ["stages", stage, "downsample", index, name] => format!("downsample_layers.{stage}.{index}.{name}"),
        ["stages", stage, "blocks", block, ref rest @ ..] => format!("stages.{stage}.{block}.{}", block_key(rest)),
        ["head", "norm", name] => format!("norm.{name}"),
        ["head", "fc", name] => format!("head.{name}"),
        // torchvision: the stem, then stages and downsamplings in turn
        ["features", "0", index, name] => format!("downsample_layers.0.{index}.{name}"),
        ["features", index, first, ref rest @ ..] => {
            let Ok(index) = index.parse::<usize>() else {
                return Some(key.into());
            };
            match (index % 2, rest) {
                (0, [name]) => format!("downsample_layers.{}.{first}.{name}", index / 2),
                _ => format!("stages.{}.{first}.{}", index / 2, block_key(rest)),
            }
        }
        ["classifier", "0", name] => format!("norm.{name}"),
        ["classifier", "2", name] => format!("head.{name}"),
        // mmpretrain
        ["stages", stage, block, ref rest @ ..] => format!("stages.{stage}.{block}.{}", block_key(rest)),
        ["norm3", name] if classifier => format!("norm.{name}"),
        _ => return Some(key.into()),
    };
    Some(renamed.into())
}

/// The official name of a parameter in a block for the name in timm (`conv_dw`, `mlp.fc1`), torchvision (`block.0`) or mmpretrain
/// (`depthwise_conv`).
fn block_key(names: &[&str]) -> String {
    let (module, name) = match *names {
        ["layer_scale"] => return "gamma".to_owned(),
        ["conv_dw" | "depthwise_conv", name] | ["block", "0", name] => ("dwconv", name),
        ["block", "2", name] => ("norm", name),
        ["mlp", "fc1", name] | ["pointwise_conv1", name] | ["block", "3", name] => ("pwconv1", name),
        ["mlp", "fc2", name] | ["pointwise_conv2", name] | ["block", "5", name] => ("pwconv2", name),
        _ => return names.join("."),
    };
    format!("{module}.{name}")
}
