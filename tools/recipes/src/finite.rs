//! Outputs of a network that are not finite: the reason, for a person.

use anyhow::{Error, anyhow};
use burn::module::Module;
use burn::prelude::*;
use vmamba::{NotFinite, is_finite};
use vmamba_train::KeyMap;
use vmamba_train::guard::{first_bad_weight, largest_weight};

/// The error of a prediction from `images` whose output is not finite. It names the first tensor of the weights that is not finite either, or
/// the image, or the largest weight.
pub(crate) fn explained<M: Module>(error: &NotFinite, model: &M, keys: KeyMap, images: &Tensor<4>) -> Error {
    let reason = if let Some(key) = first_bad_weight(model, keys) {
        format!("the weights have a NaN or an infinity, first in `{}`", key.escape_debug())
    } else if is_finite(images) {
        let largest = largest_weight(model, keys);
        let largest = largest.map(|(key, value)| format!("; the largest weight is {value:e} in `{}`", key.escape_debug()));
        format!("weights and image are finite, so that the numbers overflow within the network{}", largest.unwrap_or_default())
    } else {
        "the normalised image has a NaN or an infinity".to_owned()
    };
    anyhow!("{error}: {reason}")
}
