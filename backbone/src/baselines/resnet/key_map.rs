//! Keys of a ResNet's parameters.

use std::borrow::Cow;

/// The key of the parameter at `path` in a [`Resnet`](super::Resnet) or [`ResnetClassifier`](super::ResnetClassifier) in torchvision, timm and
/// mmdetection; for a deep stem, in mmsegmentation.
///
/// ```
/// use vmamba::baselines::resnet::key;
/// assert_eq!(key("trunk.stem.Plain.norm.bias"), "bn1.bias");
/// assert_eq!(key("trunk.stem.Deep.2.conv.weight"), "stem.6.weight");
/// assert_eq!(key("trunk.layers.0.2.conv1.weight"), "layer1.2.conv1.weight");
/// assert_eq!(key("trunk.layers.3.0.downsample.norm.running_mean"), "layer4.0.downsample.1.running_mean");
/// ```
pub fn key(path: &str) -> String {
    let path = path.strip_prefix("trunk.").unwrap_or(path);
    if let Some(stem) = path.strip_prefix("stem.") {
        return stem_key(stem).unwrap_or_else(|| path.to_owned());
    }
    let path = path.replace("downsample.conv.", "downsample.0.").replace("downsample.norm.", "downsample.1.");
    let stage = path.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    match stage.and_then(|(stage, rest)| Some((stage.parse::<usize>().ok()?, rest))) {
        Some((stage, rest)) => format!("layer{}.{rest}", stage + 1),
        None => path,
    }
}

/// The part of [`key`] for a path after `stem.`.
fn stem_key(path: &str) -> Option<String> {
    if let Some(parameter) = path.strip_prefix("Plain.") {
        return Some(parameter.replace("conv.", "conv1.").replace("norm.", "bn1."));
    }
    // In mmsegmentation the stem is a sequence of three times convolution, norm and ReLU.
    let (number, parameter) = path.strip_prefix("Deep.")?.split_once('.')?;
    let (layer, name) = parameter.split_once('.')?;
    Some(format!("stem.{}.{name}", 3 * number.parse::<usize>().ok()? + usize::from(layer == "norm")))
}

/// The key in torchvision's classifier for a key of a classifier of mmpretrain (`backbone.`, `head.fc.`) or of the backbone in a detector of
/// torchvision (`backbone.body.`). `None` for the counters `num_batches_tracked`, which are not parameters.
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    if key.ends_with("num_batches_tracked") {
        return None;
    }
    let key = key.strip_prefix("backbone.").unwrap_or(key);
    let key = key.strip_prefix("body.").unwrap_or(key);
    // `head.fc.weight` is `fc.weight`.
    Some(key.strip_prefix("head.").filter(|rest| rest.starts_with("fc.")).unwrap_or(key).into())
}
