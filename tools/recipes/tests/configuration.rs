//! `docs/configuration.md` is generated from the configuration types.

use std::path::Path;

use vmamba_recipes::configuration::configuration_markdown;

/// Set to `1`, it rewrites the page instead of comparing it.
const BLESS: &str = "VMAMBA_BLESS";

#[test]
fn the_configuration_page_describes_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let generated = configuration_markdown();
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
    let without: Vec<String> =
        configuration_markdown().lines().filter(|line| line.starts_with("| `") && line.ends_with("|  |")).map(str::to_owned).collect();
    assert!(without.is_empty(), "keys without a doc comment:\n{}", without.join("\n"));
}
