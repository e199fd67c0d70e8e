//! Keys of a Vim's parameters.

use std::borrow::Cow;

use crate::checkpoint::StateDict;
use crate::layers::deconv_pyramid_key;

/// The key in the official `VisionMamba`, or its `VisionMambaSeg`, of the parameter at `path` in a [`VimClassifier`](super::VimClassifier) or
/// [`Vim`](super::Vim).
///
/// ```
/// use vmamba::baselines::vim;
/// assert_eq!(vim::key("pyramid.fpn1.second.bias"), "fpn1.3.bias");
/// assert_eq!(vim::key("layers.3.mixer.forwards.conv1d.weight"), "layers.3.mixer.conv1d.weight");
/// assert_eq!(vim::key("layers.3.mixer.backwards.conv1d.weight"), "layers.3.mixer.conv1d_b.weight");
/// assert_eq!(vim::key("layers.3.mixer.backwards.A_log"), "layers.3.mixer.A_b_log");
/// ```
pub fn key(path: &str) -> String {
    if let Some(key) = deconv_pyramid_key(path) {
        return key;
    }
    if let Some((before, rest)) = path.split_once(".backwards.") {
        let parameter = match rest.split_once('.') {
            Some((layer, parameter)) => format!("{layer}_b.{parameter}"),
            None if rest == "A_log" => "A_b_log".to_owned(),
            None => format!("{rest}_b"),
        };
        return format!("{before}.{parameter}");
    }
    path.replace(".forwards.", ".")
}

/// Removes the prefix `backbone.` of detectors and segmentors. Other keys stay, because there is no other implementation. `None` for the tables
/// of rotary positions (`rope.*`), which the model computes itself.
///
/// ```
/// use vmamba::baselines::vim;
/// assert_eq!(vim::rename("backbone.norm_f.weight").as_deref(), Some("norm_f.weight"));
/// ```
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    let key = key.strip_prefix("backbone.").unwrap_or(key);
    (!key.starts_with("rope.")).then_some(Cow::Borrowed(key))
}

/// Removes the last norm from the file of an official segmentor, which has it but does not use it. Other files stay as they are.
pub fn without_unused_norm(mut state: StateDict) -> StateDict {
    if state.keys().any(|key| key.starts_with("decode_head.")) {
        state.remove("backbone.norm_f.weight");
    }
    state
}
