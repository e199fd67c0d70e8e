//! The JSON schema of a backbone's table, which [`table`](super::table) reads by hand.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::BackboneConfig;
use crate::family::Family;
use crate::vmamba::VmambaConfig;

impl JsonSchema for BackboneConfig {
    fn schema_name() -> Cow<'static, str> {
        "BackboneConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A backbone. `preset` names a published model, or `family` a kind of model; without either, it is a VMamba. Every other key \
                            changes an option.",
            "anyOf": Self::schemas(generator),
        })
    }
}

/// The options of a family, after `preset` and `family`. The defaults are those of [`Family::table_defaults`].
pub(super) fn of_family<C: Family + JsonSchema>(description: &str, generator: &mut SchemaGenerator) -> Schema {
    let mut schema = C::json_schema(generator);
    let names: Vec<&str> = C::published().iter().map(|(name, _)| *name).collect();
    let mut properties = Map::from_iter([
        (
            "preset".to_owned(),
            json!({ "enum": names, "description": "A published model, whose options are the defaults of the other keys. Excludes `family`." }),
        ),
        ("family".to_owned(), json!({ "const": C::NAME, "description": "Starts from the defaults below. Excludes `preset`." })),
    ]);
    if C::NAME == VmambaConfig::NAME {
        properties["family"]["default"] = json!(C::NAME);
    }
    let defaults = serde_json::to_value(C::table_defaults()).unwrap_or_default();
    if let Some(Value::Object(options)) = schema.remove("properties") {
        properties.extend(options.into_iter().map(|(key, mut option)| {
            option["default"] = defaults[&key].clone();
            (key, option)
        }));
    }
    schema.insert("description".to_owned(), json!(description.trim()));
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema
}
