//! Configuration files: TOML with inheritance and overrides. Every key is checked.
//!
//! A file may name base files, `base = "file.toml"`, relative to itself; its own tables are merged over theirs. Overrides such as
//! `--set train.optimizer.lr=1e-4` come last. The error about an unknown key suggests the nearest known one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use include_dir::{Dir, include_dir};
use serde::Deserializer;
use serde::de::DeserializeOwned;
use toml::{Table, Value};
use vision_datasets::json::{self, sentence};

/// Deserialises a table inside of another one. The error begins with the path in the table, so that [`load`] can name the whole path.
///
/// # Errors
/// When a key or value is not valid.
pub fn at_path<T: DeserializeOwned>(table: serde_json::Map<String, serde_json::Value>) -> Result<T, String> {
    serde_path_to_error::deserialize(serde_json::Value::Object(table)).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        if path == "." { message } else { format!("{AT}{path}: {message}") }
    })
}

/// Deserialises a configuration from any format. The error is the key, and a sentence.
fn decode<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, String> {
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let mut message = error.into_inner().to_string();
        // The path inside of a table with a `kind` is in the message.
        let mut places = vec![path];
        while let Some((inner, rest)) = message.strip_prefix(AT).and_then(|rest| rest.split_once(": ")) {
            places.push(inner.to_owned());
            message = rest.to_owned();
        }
        places.retain(|part| !part.is_empty() && part != ".");
        let place = places.join(".");
        let separator = if place.is_empty() { "" } else { ": " };
        format!("{place}{separator}{}", explain(&message))
    })
}

/// The configuration in the metadata of a checkpoint. The error names the key.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    decode(json::parse::<serde_json::Value>(text)?)
}

/// Begins an error of [`at_path`].
const AT: &str = "at ";

/// A configuration in a file. [`load`] and its neighbours check it, so that no program works with a value outside its range.
pub trait Configuration: DeserializeOwned {
    /// Checks the range of every setting.
    ///
    /// # Errors
    /// Names the first setting outside its range.
    fn check(&self) -> Result<()>;
}

impl Configuration for Table {
    /// A table says nothing about its values.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Reads a configuration file with its bases, applies `overrides` (`key.path=value`) and checks every key and the
/// range of every value.
///
/// # Errors
/// When a file cannot be read or parsed, bases form a cycle, an override is malformed, or a key or value is invalid.
pub fn load<C: Configuration>(path: &Path, overrides: &[String]) -> Result<C> {
    let table = read_with_bases(path, &mut Vec::new())?;
    finish(table, overrides, &path.display().to_string())
}

/// As [`load`], from the text of a built-in configuration.
///
/// # Errors
/// As [`load`].
pub fn load_text<C: Configuration>(text: &str, overrides: &[String], name: &str) -> Result<C> {
    finish(parse_toml(text, name)?, overrides, name)
}

fn finish<C: Configuration>(mut table: Table, overrides: &[String], name: &str) -> Result<C> {
    for text in overrides {
        apply_override(&mut table, text)?;
    }
    from_table(table, name)
}

/// As [`load`], from a table.
///
/// # Errors
/// As [`load`].
pub fn from_table<C: Configuration>(table: Table, name: &str) -> Result<C> {
    refuse_not_finite(name, "", &Value::Table(table.clone()))?;
    let config: C = decode(Value::Table(task_first(table))).map_err(|error| anyhow!("{name}: {error}"))?;
    config.check().map_err(|error| anyhow!("{name}: {error:#}"))?;
    Ok(config)
}

/// Refuses `nan` and `inf`, which TOML can write. JSON, which tables with a `kind` or `preset` pass through, has no such numbers and would leave
/// an optional setting out.
fn refuse_not_finite(name: &str, path: &str, value: &Value) -> Result<()> {
    let own = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Table(table) => table.iter().try_for_each(|(key, value)| refuse_not_finite(name, &own(key), value)),
        Value::Array(items) => items.iter().try_for_each(|value| refuse_not_finite(name, path, value)),
        Value::Float(number) if !number.is_finite() => bail!("{name}: {path} must be a finite number, got {number}"),
        _ => Ok(()),
    }
}

/// Moves `task` to the front: the configuration of another task is then refused for its task, not for a key that this task lacks.
fn task_first(mut table: Table) -> Table {
    let mut ordered = Table::new();
    if let Some(task) = table.remove("task") {
        ordered.insert("task".to_owned(), task);
    }
    ordered.extend(table);
    ordered
}

fn read_with_bases(path: &Path, chain: &mut Vec<PathBuf>) -> Result<Table> {
    let real = path.canonicalize().with_context(|| match chain.last() {
        Some(from) => format!("cannot read {}, the base of {}", path.display(), from.display()),
        None => format!("cannot read the configuration {}", path.display()),
    })?;
    if chain.contains(&real) {
        bail!(
            "{}: its bases lead back to itself through {}",
            real.display(),
            chain.last().map_or(String::new(), |p| p.display().to_string())
        );
    }
    let text = vmamba_files::read_text(&real).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let (bases, table) = parse(&text, path)?;
    chain.push(real.clone());
    let mut merged = Table::new();
    for base in bases {
        merge(&mut merged, read_with_bases(&real.parent().unwrap_or(Path::new(".")).join(base), chain)?);
    }
    chain.pop();
    merge(&mut merged, table);
    Ok(merged)
}

/// Parses TOML. The error names line, column and key.
fn parse_toml(text: &str, name: &str) -> Result<Table> {
    text.parse::<Table>().map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..at).unwrap_or_default();
        let (line, begin) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |end| end + 1));
        let column = before.get(begin..).unwrap_or_default().chars().count() + 1;
        let whole = text.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let key = whole.split_once('=').map_or(String::new(), |(key, _)| format!(", at `{}`", key.trim()));
        let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(" ");
        anyhow!("{name} is not TOML: line {line}, column {column}{key}: {message}")
    })
}

/// The names of the bases of a configuration file, and its own table.
fn parse(text: &str, path: &Path) -> Result<(Vec<String>, Table)> {
    let mut table = parse_toml(text, &path.display().to_string())?;
    let bases = match table.remove("base") {
        None => Vec::new(),
        Some(Value::String(base)) => vec![base],
        Some(Value::Array(bases)) => bases
            .into_iter()
            .map(|base| match base {
                Value::String(base) => Ok(base),
                other => bail!("{}: base must be file names, not {other}", path.display()),
            })
            .collect::<Result<_>>()?,
        Some(other) => bail!("{}: base must be a file name or a list of them, not {other}", path.display()),
    };
    Ok((bases, table))
}

/// The repository's folder of configurations at build time.
static BUILT_IN: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../configs");

/// As [`load`], for a `path` in the repository's folder of configurations, which is built into the program; `None` when there is no such file.
///
/// # Errors
/// As [`load`].
pub fn load_built_in<C: Configuration>(path: &str) -> Result<Option<C>> {
    fn read(path: &Path) -> Result<Option<Table>> {
        let Some(text) = BUILT_IN.get_file(path).and_then(|file| file.contents_utf8()) else { return Ok(None) };
        let (bases, table) = parse(text, path)?;
        let mut merged = Table::new();
        for base in bases {
            // The folder has no `..` in it.
            let folder = path.parent().unwrap_or(Path::new(""));
            let (folder, name) = match base.strip_prefix("../") {
                Some(name) => (folder.parent().unwrap_or(Path::new("")), name),
                None => (folder, base.as_str()),
            };
            let below = read(&folder.join(name))?;
            merge(&mut merged, below.with_context(|| format!("{}: no base {base}", path.display()))?);
        }
        merge(&mut merged, table);
        Ok(Some(merged))
    }
    read(Path::new(path))?.map(|table| finish(table, &[], path)).transpose()
}

/// Where training starts from.
const INIT: &str = "init";
/// The set of weights in that file, which another file need not have.
const INIT_WEIGHTS: &str = "init_weights";

/// Merges `top` over `base`, table by table. A table with another `kind` or `preset` replaces the table below it.
fn merge(base: &mut Table, top: Table) {
    if top.contains_key(INIT) {
        base.remove(INIT_WEIGHTS);
    }
    for (key, value) in top {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => {
                if ["kind", "preset"].iter().any(|tag| above.get(*tag).is_some_and(|own| below.get(*tag) != Some(own))) {
                    *below = above;
                } else {
                    merge(below, above);
                }
            }
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

fn apply_override(table: &mut Table, text: &str) -> Result<()> {
    let Some((path, value)) = text.split_once('=') else { bail!("--set {text}: expected key.path=value") };
    // Text that is not a TOML value is a string: `init=weights.pth` needs no quotes.
    let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let mut names: Vec<&str> = path.trim().split('.').collect();
    let Some(last) = names.pop().filter(|name| !name.is_empty()) else { bail!("--set {text}: the key is empty") };
    let mut place = table;
    for name in names {
        let next = place.entry(name).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = next else { bail!("--set {text}: `{name}` is a value, not a table") };
        place = next;
    }
    place.insert(last.to_owned(), value);
    if path.trim() == INIT {
        // The path has one name, so that `place` is the whole table.
        place.remove(INIT_WEIGHTS);
    }
    Ok(())
}

/// The differences between two configurations, one line for each key.
///
/// # Errors
/// When one of them is not TOML.
pub fn differences(recorded: &str, text: &str) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    collect_differences("", &Value::Table(recorded.parse()?), &Value::Table(text.parse()?), &mut lines);
    Ok(lines)
}

fn collect_differences(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    let (Value::Table(old_table), Value::Table(new_table)) = (old, new) else {
        if old != new {
            lines.push(format!("{path} was {old}, is {new}"));
        }
        return;
    };
    let own = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in old_table {
        match new_table.get(key) {
            Some(new) => collect_differences(&own(key), value, new, lines),
            None => lines.push(format!("{} was {value}, is not set", own(key))),
        }
    }
    for (key, value) in new_table.iter().filter(|(key, _)| !old_table.contains_key(*key)) {
        lines.push(format!("{} was not set, is {value}", own(key)));
    }
}

/// A sentence for serde's message, with the nearest valid name for an unknown one.
fn explain(message: &str) -> String {
    // The caller names the place already; TOML's errors repeat it in a line of their own. TOML's word for an object is a table.
    let message = message.trim().lines().filter(|line| !line.starts_with("in `")).collect::<Vec<_>>().join(" ");
    let message = sentence(&message).replace("an object", "a table");
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let names = quoted(&message);
    match names.split_first() {
        Some((unknown, known)) if message.starts_with("unknown") && !known.is_empty() => {
            let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
            let nearest = nearest.filter(|name| strsim::jaro_winkler(unknown, name) > 0.7);
            let hint = nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
            format!("unknown name `{unknown}`{hint} (possible: {})", known.join(", "))
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use vmamba::zoo::BackboneConfig;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Small {
        name: String,
        inner: Inner,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        learning_rate: f64,
        steps: Vec<u64>,
    }

    impl Configuration for Small {
        fn check(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bases_are_overlaid_and_overrides_come_last() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("base.toml", "name = 'a'\n[inner]\nlearning_rate = 1.0\nsteps = [1]\n");
        write("top.toml", "base = 'base.toml'\n[inner]\nsteps = [2, 3]\n");
        let overrides = ["inner.learning_rate=0.5".to_owned(), "name=some text".to_owned()];
        let config: Small = load(&folder.path().join("top.toml"), &overrides).unwrap();
        assert_eq!(config, Small { name: "some text".into(), inner: Inner { learning_rate: 0.5, steps: vec![2, 3] } });

        write("circle.toml", "base = 'circle.toml'\n");
        assert!(load::<Small>(&folder.path().join("circle.toml"), &[]).unwrap_err().to_string().contains("back to itself"));
        write("orphan.toml", "base = 'gone.toml'\n");
        let error = load::<Small>(&folder.path().join("orphan.toml"), &[]).unwrap_err().to_string();
        assert!(error.contains("gone.toml") && error.contains("orphan.toml"), "{error}");
    }

    #[test]
    fn another_start_drops_the_set_of_weights_of_the_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("base.toml", "init = 'a.pth'\ninit_weights = 'model'\n");
        write("same.toml", "base = 'base.toml'\nname = 'x'\n");
        write("other.toml", "base = 'base.toml'\ninit = 'b.pth'\n");
        let set = |name: &str, overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
            let table: Table = load(&folder.path().join(name), &overrides).unwrap();
            table.get("init_weights").and_then(Value::as_str).map(str::to_owned)
        };
        assert_eq!(set("same.toml", &[]).as_deref(), Some("model"));
        assert_eq!(set("other.toml", &[]), None);
        assert_eq!(set("base.toml", &["init=c.pth"]), None);
        assert_eq!(set("base.toml", &["init=c.pth", "init_weights=ema"]).as_deref(), Some("ema"));
    }

    #[test]
    fn a_misspelt_key_names_the_place_and_the_nearest_key() {
        let text = "name = 'a'\n[inner]\nlearning_rte = 1.0\nsteps = []\n";
        let error = load_text::<Small>(text, &[], "demo.toml").unwrap_err().to_string();
        assert!(error.contains("demo.toml") && error.contains("inner") && error.contains("did you mean `learning_rate`?"), "{error}");
        let error = load_text::<Small>("name = 1\n", &[], "demo.toml").unwrap_err().to_string();
        assert!(error.contains("name"), "{error}");
    }

    #[test]
    fn an_error_names_the_key_and_no_type_of_rust() {
        let error = |text: &str| load_text::<Small>(text, &[], "demo.toml").unwrap_err().to_string();
        let inner = |text: &str| error(&format!("name = 'a'\n[inner]\n{text}\n"));
        let whole = "expected a whole number of at least 0, found the text \"x\"";
        assert_eq!(inner("learning_rate = 1.0\nsteps = ['x']"), format!("demo.toml: inner.steps[0]: {whole}"));
        assert_eq!(inner("learning_rate = 'x'\nsteps = []"), "demo.toml: inner.learning_rate: expected a number, found the text \"x\"");
        assert_eq!(error("name = 'a'\ninner = 3\n"), "demo.toml: inner: expected a table, found the number 3");
        assert_eq!(error("name = 'a'\n"), "demo.toml: `inner` is missing");
        let error = error("name = 'a'\n[inner]\nlearning_rate = = 2\n");
        assert!(error.starts_with("demo.toml is not TOML: line 3, column 17, at `learning_rate`: "), "{error}");
        assert!(!error.contains('\n') && !error.contains('|'), "{error}");
        let stored = from_json::<Small>(r#"{"name": "a", "inner": {"learning_rate": 1.0, "steps": [-1]}}"#).unwrap_err();
        assert_eq!(stored, "inner.steps[0]: expected a whole number of at least 0, found the number -1");
        assert!(from_json::<Small>(r#"{"name": "a", "name": "b"}"#).unwrap_err().contains("the key `name` occurs twice"));
    }

    #[test]
    fn a_preset_can_be_changed_and_an_unknown_option_is_refused() {
        #[derive(Debug, Deserialize)]
        struct Holder {
            backbone: BackboneConfig,
        }

        impl Configuration for Holder {
            fn check(&self) -> Result<()> {
                Ok(())
            }
        }

        let text = "[backbone]\npreset = 'vmamba_tiny_s1l8'\ndrop_path_rate = 0.3\n";
        let BackboneConfig::Vmamba(config) = load_text::<Holder>(text, &[], "x").unwrap().backbone else { panic!("no VMamba") };
        assert_eq!(config.drop_path_rate, 0.3);
        assert_eq!(config.depths, vmamba::VmambaConfig::preset(vmamba::Preset::VmambaTinyS1l8).depths);
        let error = load_text::<Holder>("[backbone]\npreset = 'vmamba_tiny_s1l8'\nembed_dims = 96\n", &[], "x").unwrap_err().to_string();
        assert!(error.contains("embed_dims"), "{error}");
        let error = load_text::<Holder>("[backbone]\npreset = 'vmamba_huge'\n", &[], "x").unwrap_err().to_string();
        assert!(error.contains("vmamba_huge"), "{error}");
    }
}
