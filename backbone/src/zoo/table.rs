//! A backbone as a table of a configuration file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{BackboneConfig, FAMILIES};
use crate::family::Family;
use crate::vmamba::VmambaConfig;

impl TryFrom<Map<String, Value>> for BackboneConfig {
    type Error = String;

    /// Reads `preset`, else `family`, else VMamba, and the options.
    fn try_from(mut table: Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str, value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(format!("{key} must be a name, not {other}")),
        };
        let unknown = |name: &str| format!("no family is called `{name}`; there are {}", FAMILIES.join(", "));
        let base = match (table.remove("preset"), table.remove("family")) {
            (Some(_), Some(_)) => return Err("preset and family are both set; a preset has its family".to_owned()),
            (Some(preset), None) => Self::named(&text("preset", preset)?).map_err(|error| error.to_string())?,
            (None, Some(family)) => {
                let name = text("family", family)?;
                Self::of_family(&name).ok_or_else(|| unknown(&name))?
            }
            (None, None) => Self::Vmamba(VmambaConfig::table_defaults()),
        };
        let config = base.overlaid(table)?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }
}

impl From<BackboneConfig> for Map<String, Value> {
    fn from(config: BackboneConfig) -> Self {
        let mut table = Self::new();
        // A table without a family is a VMamba.
        if !matches!(config, BackboneConfig::Vmamba(_)) {
            table.insert("family".to_owned(), Value::from(config.family()));
        }
        if let Ok(Value::Object(fields)) = config.fields() {
            table.extend(fields);
        }
        table
    }
}

/// `base` with the options of `table`.
pub(super) fn overlaid<C: Serialize + for<'de> Deserialize<'de>>(base: &C, table: Map<String, Value>) -> Result<C, String> {
    let Ok(Value::Object(mut merged)) = serde_json::to_value(base) else {
        return Err("the configuration is not a table".to_owned());
    };
    merged.extend(table);
    serde_path_to_error::deserialize(Value::Object(merged)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        if path == "." || reason.starts_with("unknown field") { reason } else { format!("{path}: {reason}") }
    })
}
