//! The reference of all configuration keys, `docs/configuration.md`, from the JSON schemas of the configuration types.
//!
//! A table of a configuration is a Rust struct or enum: its fields are the keys, its doc comments the meanings, and its serde attributes the
//! names and defaults. [`configuration_markdown`] writes a section for each of these types, so that a new field changes the page. What no
//! table can say stands before them, in `configuration_intro.md`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};
use vmamba::zoo::BackboneConfig;
use vmamba_train::TrainConfig;

use crate::detection::DetectionConfig;
use crate::segmentation::SegmentationConfig;

/// The text above the tables.
const INTRO: &str = include_str!("configuration_intro.md");

/// Defaults with more characters are printed below their table.
const LONGEST_CELL: usize = 72;

/// The text of `docs/configuration.md`. `ranges` holds what a key must be, by its path without the indices of lists, such as
/// `train.optimizer.lr`.
pub fn configuration_markdown(ranges: &BTreeMap<String, String>) -> String {
    let mut generator = SchemaGenerator::default();
    let chapters = [
        Chapter::of::<DetectionConfig>("Detection", "", &mut generator),
        Chapter::of::<SegmentationConfig>("Segmentation", "", &mut generator),
        Chapter::of::<TrainConfig>("Training", "train", &mut generator),
        Chapter::of::<BackboneConfig>("Backbones", "model.backbone", &mut generator),
    ];
    Page::new(INTRO, chapters.to_vec(), generator.take_definitions(true)).render(ranges)
}

/// A part of the page: a type and the types of its fields that no other chapter begins with.
#[derive(Clone)]
struct Chapter {
    title: &'static str,
    /// The path of the type in a configuration.
    path: &'static str,
    /// The type.
    root: Value,
}

impl Chapter {
    fn of<T: JsonSchema>(title: &'static str, path: &'static str, generator: &mut SchemaGenerator) -> Self {
        Self { title, path, root: generator.subschema_for::<T>().to_value() }
    }
}

/// The section of a type.
struct Section {
    /// Name of the type among the definitions.
    name: String,
    chapter: usize,
    /// Where the type stands in a configuration; the title is the first.
    paths: Vec<String>,
    /// The variant of the table around it, for a title that is not unique.
    variant: String,
    title: String,
    anchor: String,
}

struct Page {
    intro: &'static str,
    chapters: Vec<Chapter>,
    /// The types by name.
    types: Map<String, Value>,
    /// In the order of the page.
    sections: Vec<Section>,
}

impl Page {
    fn new(intro: &'static str, chapters: Vec<Chapter>, types: Map<String, Value>) -> Self {
        let mut page = Self { intro, chapters, types, sections: Vec::new() };
        for (index, chapter) in page.chapters.clone().into_iter().enumerate() {
            page.collect(&chapter.root, index, chapter.path, "");
        }
        page.sections.sort_by_key(|section| section.chapter);
        page.name_sections();
        page
    }

    /// Adds the section of a schema's type, and those of its fields.
    fn collect(&mut self, schema: &Value, chapter: usize, path: &str, variant: &str) {
        let Some(name) = type_name(schema) else {
            for inner in branches(schema).chain(schema.get("items")) {
                self.collect(inner, chapter, path, variant);
            }
            return;
        };
        if !self.is_table(schema) {
            return;
        }
        // The root of another chapter has its section there.
        let owner = self.chapters.iter().position(|chapter| type_name(&chapter.root) == Some(name)).unwrap_or(chapter);
        if let Some(section) = self.sections.iter_mut().find(|section| section.name == name) {
            if section.chapter == chapter && !section.paths.iter().any(|known| known == path) {
                section.paths.push(path.to_owned());
            }
            return;
        }
        if owner != chapter {
            return;
        }
        self.sections.push(Section {
            name: name.to_owned(),
            chapter,
            paths: vec![path.to_owned()],
            variant: variant.to_owned(),
            title: String::new(),
            anchor: String::new(),
        });
        for form in self.forms(schema) {
            for (key, property) in &form.properties {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                self.collect(property, chapter, &path, &form.label);
                // The table of an enum's variant is part of the section of the enum, its fields are not.
                for (inner, property) in property.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    self.collect(property, chapter, &format!("{path}.{inner}"), "");
                }
            }
        }
    }

    /// Titles, and the anchors that GitHub makes of them.
    fn name_sections(&mut self) {
        let mut used = BTreeMap::<(usize, String), usize>::new();
        for section in &self.sections {
            *used.entry((section.chapter, section.paths[0].clone())).or_default() += 1;
        }
        let mut anchors = HashMap::<String, usize>::new();
        let mut anchor = |title: &str| {
            let slug = title.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
            let slug = slug.replace(' ', "-");
            let count = anchors.entry(slug.clone()).or_default();
            *count += 1;
            if *count == 1 { slug } else { format!("{slug}-{}", *count - 1) }
        };
        for heading in self.intro.lines().filter(|line| line.starts_with('#')) {
            anchor(heading.trim_start_matches('#').trim());
        }
        let mut chapter = None;
        for section in &mut self.sections {
            if chapter != Some(section.chapter) {
                chapter = Some(section.chapter);
                anchor(self.chapters[section.chapter].title);
            }
            let path = &section.paths[0];
            section.title = match (path.as_str(), used[&(section.chapter, path.clone())]) {
                ("", _) => "Top level".to_owned(),
                (_, 1) => format!("`{path}`"),
                _ => format!("`{path}` with {}", section.variant),
            };
            section.anchor = anchor(&section.title);
        }
    }

    fn render(&self, ranges: &BTreeMap<String, String>) -> String {
        let mut text = self.intro.trim_end().to_owned();
        text.push('\n');
        let mut chapter = None;
        for section in &self.sections {
            if chapter != Some(section.chapter) {
                chapter = Some(section.chapter);
                let _ = write!(text, "\n## {}\n", self.chapters[section.chapter].title);
            }
            self.render_section(&mut text, section, ranges);
        }
        text
    }

    fn render_section(&self, text: &mut String, section: &Section, ranges: &BTreeMap<String, String>) {
        let _ = write!(text, "\n### {}\n", section.title);
        let schema = &self.types[&section.name];
        if let Some(about) = description(schema) {
            let _ = write!(text, "\n{about}\n");
        }
        if section.paths.len() > 1 {
            let others: Vec<String> = section.paths[1..].iter().map(|path| format!("`{path}`")).collect();
            let _ = write!(text, "\nThe same keys: {}.\n", others.join(", "));
        }
        for form in self.forms(schema) {
            if !form.label.is_empty() {
                let about = form.description.as_ref().map(|about| format!(": {about}")).unwrap_or_default();
                let _ = write!(text, "\n**{}**{about}\n", form.label);
            }
            let range = |key: &str| {
                let mut paths = section.paths.iter().map(|path| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") });
                paths.find_map(|path| ranges.get(&path)).map(|allowed| format!("<br>Must be {}.", allowed.replace('|', "\\|")))
            };
            self.render_table(text, &form, &range);
        }
    }

    fn render_table(&self, text: &mut String, form: &Form, range: &dyn Fn(&str) -> Option<String>) {
        if form.properties.is_empty() {
            return;
        }
        text.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
        let mut below = Vec::new();
        for (key, property) in &form.properties {
            let default = match property.get("default") {
                None if form.required.contains(key) => "required".to_owned(),
                None | Some(Value::Null) => "absent".to_owned(),
                Some(default) => match self.beyond_own_defaults(default, property) {
                    None => "see the table".to_owned(),
                    Some(default) => {
                        let value = toml(&default);
                        if value.len() > LONGEST_CELL {
                            below.push((key, default));
                            "below".to_owned()
                        } else {
                            format!("`{value}`")
                        }
                    }
                },
            };
            let (of_type, meaning, range) = (self.type_text(property), self.meaning(property), range(key).unwrap_or_default());
            let _ = writeln!(text, "| `{key}` | {of_type} | {default} | {meaning}{range} |");
        }
        for (key, default) in below {
            let _ = write!(text, "\nDefault of `{key}`, where it differs from the defaults of its keys:\n\n```toml\n{key} = ");
            match default {
                Value::Array(items) => {
                    text.push_str("[\n");
                    for item in items {
                        let _ = writeln!(text, "    {},", toml(&item));
                    }
                    text.push(']');
                }
                default => text.push_str(&toml(&default)),
            }
            text.push_str("\n```\n");
        }
    }

    /// The meaning of a key: its description, and the descriptions of its values when they have no section.
    fn meaning(&self, property: &Value) -> String {
        let target = self.resolve(property);
        let mut text = description(property).or_else(|| description(target)).unwrap_or_default();
        if !self.is_table(property) {
            for value in branches(target) {
                if let Some(about) = description(value) {
                    let _ = write!(text, "<br>{}: {about}", self.type_text(value));
                }
            }
        }
        text.replace('|', "\\|")
    }

    /// The type of a value, as TOML writes it.
    fn type_text(&self, schema: &Value) -> String {
        if let Some(section) = type_name(schema).and_then(|name| self.sections.iter().find(|section| section.name == name)) {
            let units = branches(self.resolve(schema)).filter(|branch| !self.is_object(branch)).map(|branch| self.type_text(branch));
            return alternatives(&units.chain([format!("[table](#{})", section.anchor)]).collect::<Vec<_>>());
        }
        let schema = self.resolve(schema);
        if let Some(value) = schema.get("const") {
            return format!("`{}`", toml(value));
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return values.iter().map(|value| format!("`{}`", toml(value))).collect::<Vec<_>>().join(", ");
        }
        let types: Vec<String> = branches(schema).filter(|branch| !is_null(branch)).map(|branch| self.type_text(branch)).collect();
        if !types.is_empty() {
            return alternatives(&types);
        }
        let name = match schema.get("type") {
            Some(Value::Array(names)) => names.iter().find_map(|name| name.as_str().filter(|name| *name != "null")),
            name => name.and_then(Value::as_str),
        };
        if name != Some("array") {
            return name.unwrap_or("any").to_owned();
        }
        let items = schema.get("items").map_or_else(|| "any".to_owned(), |items| self.type_text(items));
        let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
        match (bound("minItems"), bound("maxItems")) {
            (Some(least), Some(most)) if least == most => format!("[{}]", vec![items; most as usize].join(", ")),
            _ if items.contains("](") => format!("list of {items}"),
            _ => format!("[{items}, …]"),
        }
    }

    /// What a default says beyond the defaults of the type's own keys; `None` for nothing.
    fn beyond_own_defaults(&self, default: &Value, schema: &Value) -> Option<Value> {
        let schema = self.resolve(schema);
        if let (Value::Array(items), Some(of_items)) = (default, schema.get("items")) {
            let beyond = |item| self.beyond_own_defaults(item, of_items).unwrap_or_else(|| Value::Object(Map::new()));
            return Some(Value::Array(items.iter().map(beyond).collect()));
        }
        if let Some(inner) = branches(schema).find(|branch| schema.get("anyOf").is_some() && type_name(branch).is_some()) {
            return self.beyond_own_defaults(default, inner);
        }
        let (Some(properties), Some(values)) = (schema.get("properties").and_then(Value::as_object), default.as_object()) else {
            return Some(default.clone());
        };
        let differing = values.iter().filter_map(|(key, value)| {
            let property = properties.get(key)?;
            let beyond = match property.get("default") {
                Some(own) => difference(value, own)?,
                None => self.beyond_own_defaults(value, property).unwrap_or_else(|| Value::Object(Map::new())),
            };
            Some((key.clone(), beyond))
        });
        let differing = Map::from_iter(differing);
        (!differing.is_empty() || properties.is_empty()).then_some(Value::Object(differing))
    }

    /// The forms of a type: one for a struct, one a variant for an enum.
    fn forms(&self, schema: &Value) -> Vec<Form> {
        let schema = self.resolve(schema);
        let variants: Vec<&Value> = branches(schema).collect();
        if variants.is_empty() {
            return vec![self.form(schema)];
        }
        let mut forms = Vec::new();
        for variant in variants {
            if !self.is_object(variant) {
                forms.push(Form { label: self.type_text(variant), description: description(variant), ..Form::default() });
                continue;
            }
            let mut form = self.form(variant);
            let tags = form.properties.iter().filter_map(|(key, property)| Some((key.clone(), property.get("const")?.clone())));
            let tags: Vec<(String, Value)> = tags.collect();
            form.properties.retain(|(_, property)| property.get("const").is_none());
            form.description = description(variant);
            form.label = match (&*tags, &*form.properties) {
                // A variant that the only key of a table names.
                ([], [(key, inner)]) => {
                    let label = match self.resolve(inner).get("properties").and_then(Value::as_object) {
                        Some(keys) => format!("{{ {} }}", keys.keys().cloned().collect::<Vec<_>>().join(", ")),
                        None => self.type_text(inner),
                    };
                    let label = format!("`{{ {key} = {label} }}`");
                    form = Form { description: form.description, ..self.form(inner) };
                    label
                }
                (tags, _) => {
                    let tags: Vec<String> = tags.iter().map(|(key, value)| format!("`{key} = {}`", toml(value))).collect();
                    tags.join(", ")
                }
            };
            forms.push(form);
        }
        forms
    }

    /// The keys of an object.
    fn form(&self, schema: &Value) -> Form {
        let mut form = Form::default();
        // A tagged variant has the tag beside the reference to its fields.
        let parts = [Some(schema), type_name(schema).and_then(|name| self.types.get(name))];
        for part in parts.into_iter().flatten() {
            let properties = part.get("properties").and_then(Value::as_object).into_iter().flatten();
            form.properties.extend(properties.map(|(key, property)| (key.clone(), property.clone())));
            let required = part.get("required").and_then(Value::as_array).into_iter().flatten();
            form.required.extend(required.filter_map(Value::as_str).map(str::to_owned));
        }
        form
    }

    /// The type that a schema refers to, or the schema itself. An optional type is the type.
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        if let Some(target) = type_name(schema).and_then(|name| self.types.get(name)) {
            return target;
        }
        let mut inner = branches(schema).filter(|branch| !is_null(branch));
        match (inner.next(), inner.next()) {
            (Some(only), None) if branches(schema).any(is_null) => self.resolve(only),
            _ => schema,
        }
    }

    /// Whether a schema's type has a section: a struct, or an enum with a variant that is a table.
    fn is_table(&self, schema: &Value) -> bool {
        let schema = self.resolve(schema);
        self.is_object(schema) || branches(schema).any(|branch| self.is_object(branch))
    }

    fn is_object(&self, schema: &Value) -> bool {
        self.resolve(schema).get("type").and_then(Value::as_str) == Some("object") || schema.get("properties").is_some()
    }
}

/// A struct, or a variant of an enum.
#[derive(Default)]
struct Form {
    /// How the variant is chosen, in Markdown; empty for a struct.
    label: String,
    description: Option<String>,
    properties: Vec<(String, Value)>,
    required: Vec<String>,
}

/// The name of the type that a schema refers to, also in `anyOf` with null.
fn type_name(schema: &Value) -> Option<&str> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return reference.strip_prefix("#/$defs/");
    }
    let optional = schema.get("anyOf").and_then(Value::as_array).filter(|branches| branches.iter().any(is_null))?;
    optional.iter().find_map(type_name)
}

/// The alternatives of a schema.
fn branches(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf"].into_iter().filter_map(|key| schema.get(key).and_then(Value::as_array)).flatten()
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

/// What `value` changes in `base`; `None` when they are equal.
fn difference(value: &Value, base: &Value) -> Option<Value> {
    if value == base {
        return None;
    }
    match (value, base) {
        // Tables of two kinds have nothing in common.
        (Value::Object(value), Value::Object(base)) if value.keys().eq(base.keys()) => {
            let changed = value.iter().filter_map(|(key, value)| Some((key.clone(), difference(value, &base[key])?)));
            Some(Value::Object(changed.collect()))
        }
        _ => Some(value.clone()),
    }
}

/// A description in one line, with the links between items of the code as plain text.
fn description(schema: &Value) -> Option<String> {
    let text = schema.get("description")?.as_str()?.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        let Some((label, behind)) = after.split_once(']') else {
            plain.push('[');
            rest = after;
            continue;
        };
        let target = behind.strip_prefix('(').and_then(|behind| behind.split_once(')')).filter(|(target, _)| !target.contains("://"));
        match target {
            Some((_, behind)) => {
                plain.push_str(label);
                rest = behind;
            }
            None if label.starts_with('`') && label.ends_with('`') => {
                plain.push_str(label);
                rest = behind;
            }
            None => {
                plain.push('[');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    Some(plain)
}

/// Alternatives in a sentence: `a, b or c`.
fn alternatives(texts: &[String]) -> String {
    match texts {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => texts.concat(),
    }
}

/// A value as TOML, in one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Null => "absent".to_owned(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            // A float32 in its own digits.
            Some(double) if f64::from(double as f32) == double => format!("{:?}", double as f32),
            _ => number.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| format!("{k} = {}", toml(v))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}
