//! `docs/configuration.md` is generated from the configuration types.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use complete::{at, for_every_number, refusal};
use toml::Value;
use vmamba_recipes::configuration::configuration_markdown;

mod complete;

/// Set to `1`, it rewrites the page instead of comparing it.
const BLESS: &str = "VMAMBA_BLESS";

/// What every number must be, by the path of its key: the range in the error of a value that is far too large. Keys whose range depends on
/// the backbone are left out.
fn ranges() -> BTreeMap<String, String> {
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for_every_number(|config, place, key| {
        let mut changed = config.clone();
        let number = at(&mut changed, place);
        *number = match number {
            Value::Integer(_) => Value::Integer(100_000_000_000),
            _ => Value::Float(1e11),
        };
        let Some(error) = refusal(&changed) else { return };
        let refused = error.strip_prefix("demo.toml: ").and_then(|text| text.split_once(" must be "));
        let Some((at, allowed)) = refused.and_then(|(at, text)| Some((at, text.rsplit_once(", got ")?.0))) else { return };
        let at: Vec<&str> = at.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
        if at.join(".") == key {
            found.entry(key.to_owned()).or_default().insert(allowed.to_owned());
        }
    });
    let single = found.into_iter().filter(|(_, allowed)| allowed.len() == 1);
    single.filter_map(|(key, allowed)| Some((key, allowed.into_iter().next()?))).collect()
}

#[test]
fn the_configuration_page_gives_the_ranges_that_are_checked() {
    let ranges = ranges();
    assert_eq!(ranges["data.train.flip"], "a number from 0 to 1");
    assert_eq!(ranges["train.batch_size"], "a whole number from 1 to 65536");
    let page = configuration_markdown(&ranges);
    assert!(page.contains("Probability of a horizontal flip.<br>Must be a number from 0 to 1. |"));
    assert!(page.contains("Images of a batch on every device.<br>Must be a whole number from 1 to 65536. |"));
}

#[test]
fn the_configuration_page_describes_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let generated = configuration_markdown(&ranges());
    if std::env::var_os(BLESS).is_some_and(|value| value == "1") {
        std::fs::write(&path, &generated).unwrap();
        return;
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = page.lines().zip(generated.lines()).position(|(page, generated)| page != generated);
    let line = differing.unwrap_or_else(|| page.lines().count().min(generated.lines().count()));
    assert!(
        page == generated,
        "docs/configuration.md differs from the configuration types, first in line {}:\n  page:  {}\n  types: {}\nRewrite it with:\n  \
         {BLESS}=1 cargo test --release -p unified-features -p vmamba-recipes --test configuration",
        line + 1,
        page.lines().nth(line).unwrap_or("(end)"),
        generated.lines().nth(line).unwrap_or("(end)"),
    );
}

#[test]
fn no_key_of_the_configuration_page_lacks_a_meaning() {
    let without: Vec<String> = configuration_markdown(&BTreeMap::new())
        .lines()
        .filter(|line| line.starts_with("| `") && line.ends_with("|  |"))
        .map(str::to_owned)
        .collect();
    assert!(without.is_empty(), "keys without a doc comment:\n{}", without.join("\n"));
}
