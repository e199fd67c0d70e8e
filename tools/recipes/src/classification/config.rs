//! The model of a classifier.

use std::path::Path;

use anyhow::{Context, Result};
use vmamba::zoo::BackboneConfig;

/// The backbone that `--model` names: a published model, or a TOML file (its name ends with `.toml`) with the options of one, as in the table
/// `model.backbone` of training configurations.
///
/// # Errors
/// When there is no such model or file, or an option is invalid.
pub fn model_config(model: &str) -> Result<BackboneConfig> {
    if Path::new(model).extension().is_none_or(|ending| ending != "toml") {
        return Ok(BackboneConfig::named(model)?);
    }
    let text = vmamba_files::read_text(Path::new(model)).with_context(|| format!("cannot read {model}"))?;
    toml::from_str(&text).map_err(|error| anyhow::anyhow!("{model}: {}", error.message()))
}
