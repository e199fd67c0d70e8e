//! The Markdown pages agree with the repository: quoted code is in the file that it names, links and named files exist, and the table of
//! crates in `ARCHITECTURE.md` is that of the manifests. Also rules of that page that a search can check: libraries do not print, programs
//! print with macros that cannot panic, one file sets the panic hook, and one crate opens and writes files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The largest number of lines of the README, so that it stays a first page.
const README_LINES: usize = 180;
/// Folders of the repository; a path in a page that begins with one of them must exist.
const FOLDERS: [&str; 8] = [".ci", "backbone", "configs", "datasets", "docs", "heads", "tests", "tools"];
/// The line in a block of code that stands for lines left out.
const LEFT_OUT: &str = "// …";
/// Indentations that a quotation may lack, in spaces.
const INDENTS: [usize; 5] = [0, 4, 8, 12, 16];

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("the package is a folder of the repository").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder with this extension, sorted. Build outputs, runs, data and hidden folders are left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !(name.starts_with('.') || name.starts_with("target") || ["checkpoints", "data", "runs"].contains(&name.as_str())) {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A fenced block of code.
struct Block {
    language: String,
    /// Number of its first line, from 1.
    line: usize,
    /// The file of the marker `<!-- from: FILE -->` before it.
    from: Option<String>,
    code: Vec<String>,
}

/// A page, taken apart.
struct Page {
    path: PathBuf,
    /// Lines outside of blocks of code, with their numbers.
    prose: Vec<(usize, String)>,
    blocks: Vec<Block>,
}

impl Page {
    fn read(path: &Path) -> Self {
        let mut page = Self { path: path.to_owned(), prose: Vec::new(), blocks: Vec::new() };
        let (mut from, mut open) = (None, None::<Block>);
        for (index, line) in read(path).lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (open.take(), fence) {
                (None, Some(language)) => {
                    open = Some(Block { language: language.trim().to_owned(), line: index + 1, from: from.take(), code: Vec::new() });
                }
                (Some(block), Some(_)) => page.blocks.push(block),
                (Some(mut block), None) => {
                    block.code.push(line.to_owned());
                    open = Some(block);
                }
                (None, None) => {
                    let marker = line.trim().strip_prefix("<!-- from:").and_then(|rest| rest.strip_suffix("-->"));
                    if let Some(file) = marker {
                        from = Some(file.trim().to_owned());
                    } else if !line.trim().is_empty() {
                        assert!(from.is_none(), "{}:{}: a marker must stand before a block of code", path.display(), index + 1);
                    }
                    page.prose.push((index + 1, line.to_owned()));
                }
            }
        }
        assert!(open.is_none() && from.is_none(), "{}: the last block of code does not end", path.display());
        page
    }

    fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path.strip_prefix(root()).unwrap_or(&self.path).display())
    }

    /// The ids of the headings, as GitHub makes them: a repeated heading gets a number.
    fn anchors(&self) -> BTreeSet<String> {
        let heading = |(_, line): &(usize, String)| {
            let text = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>())
        };
        let mut seen = BTreeMap::new();
        let numbered = |id: String| {
            let count = seen.entry(id.clone()).and_modify(|count| *count += 1).or_insert(0_usize);
            if *count == 0 { id } else { format!("{id}-{count}") }
        };
        self.prose.iter().filter_map(heading).map(numbered).collect()
    }
}

/// All pages. The introduction of docs/configuration.md is checked as a part of that page, whose headings it refers to.
fn pages() -> Vec<Page> {
    let pages = files(&root(), "md").into_iter().filter(|path| !path.ends_with("tools/recipes/src/configuration_intro.md"));
    pages.map(|path| Page::read(&path)).collect()
}

/// The code spans of a line, without their backticks.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The line without its code spans.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The targets of the links and pictures in a line.
fn links(line: &str) -> Vec<String> {
    let line = without_code(line);
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// Whether a word is a path from the root of the repository.
fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-'));
    plain && word.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder))
}

/// The pieces of a quotation between the lines that are left out.
fn pieces(code: &[String]) -> Vec<Vec<&str>> {
    let split = code.split(|line| line.trim() == LEFT_OUT);
    let trimmed = split.map(|piece| {
        let begin = piece.iter().position(|line| !line.trim().is_empty()).unwrap_or(piece.len());
        let end = piece.iter().rposition(|line| !line.trim().is_empty()).map_or(begin, |last| last + 1);
        piece[begin..end].iter().map(String::as_str).collect::<Vec<_>>()
    });
    trimmed.filter(|piece| !piece.is_empty()).collect()
}

/// The line after the first occurrence of a piece in `file`, from line `first` on, under any common indentation.
fn find(file: &[&str], first: usize, piece: &[&str]) -> Option<usize> {
    let same = |own: &str, quoted: &str, indent: usize| {
        if quoted.is_empty() { own.is_empty() } else { own.strip_prefix(&" ".repeat(indent)) == Some(quoted) }
    };
    let begins = |start: &usize| {
        let lines = &file[*start..*start + piece.len()];
        INDENTS.iter().any(|indent| lines.iter().zip(piece).all(|(own, quoted)| same(own, quoted, *indent)))
    };
    (first..(file.len() + 1).saturating_sub(piece.len())).find(begins).map(|start| start + piece.len())
}

#[test]
fn quoted_code_is_in_the_file_that_it_names() {
    let (mut count, mut wrong) = (0, Vec::new());
    for page in pages() {
        for block in &page.blocks {
            let Some(from) = &block.from else { continue };
            let text = read(&root().join(from));
            let lines: Vec<&str> = text.lines().collect();
            let mut next = 0;
            for piece in pieces(&block.code) {
                match find(&lines, next, &piece) {
                    Some(end) => next = end,
                    None => wrong.push(format!("{}: {from} does not have, in this order:\n{}", page.place(block.line), piece.join("\n"))),
                }
            }
            assert!(!block.code.is_empty(), "{}: the quotation is empty", page.place(block.line));
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(count > 10, "only {count} quotations were found");
}

#[test]
fn rust_in_the_readme_and_in_the_pages_on_extending_is_quoted() {
    for page in pages() {
        let path = page.path.strip_prefix(root()).unwrap();
        if path == Path::new("README.md") || path.starts_with("docs/extend") {
            for block in page.blocks.iter().filter(|block| block.language.starts_with("rust")) {
                assert!(block.from.is_some(), "{}: name the file of this code, so that CI compiles it", page.place(block.line));
            }
        }
    }
}

#[test]
fn links_and_named_files_exist() {
    let root = root();
    let mut missing = Vec::new();
    for page in pages() {
        let mut need = |line: usize, path: &Path, word: &str| {
            if !path.exists() {
                missing.push(format!("{}: {word}", page.place(line)));
            }
        };
        for (line, text) in &page.prose {
            for word in code_spans(text).filter(|word| is_path(word)) {
                need(*line, &root.join(word), word);
            }
            for link in links(text).iter().filter(|link| !link.contains("://")) {
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
                need(*line, &target, link);
                if !anchor.is_empty() && target.is_file() {
                    let found = Page::read(&target).anchors().contains(anchor);
                    assert!(found, "{}: no heading of {} has the id {anchor}", page.place(*line), target.display());
                }
            }
        }
        for block in page.blocks.iter().filter(|block| block.language == "sh") {
            for (index, text) in block.code.iter().enumerate() {
                for word in text.split_whitespace().filter(|word| is_path(word)) {
                    need(block.line + 1 + index, &root.join(word), word);
                }
            }
        }
    }
    assert!(missing.is_empty(), "these files do not exist:\n{}", missing.join("\n"));
}

/// The page promises behaviour, and a promise counts as much as its test.
#[test]
fn tests_that_the_page_on_reliability_names_exist() {
    let sources: Vec<String> = FOLDERS.iter().flat_map(|folder| files(&root().join(folder), "rs")).map(|path| read(&path)).collect();
    let page = Page::read(&root().join("docs/reliability.md"));
    let is_test = |word: &&str| {
        word.matches('_').count() >= 3 && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let named: BTreeSet<&str> = page.prose.iter().flat_map(|(_, text)| code_spans(text)).filter(is_test).collect();
    assert!(named.len() > 50, "{named:?}");
    let exists = |name: &&&str| sources.iter().any(|source| source.contains(&format!("fn {name}()")));
    let missing: Vec<&&str> = named.iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "docs/reliability.md names tests that do not exist: {missing:?}");
}

#[test]
fn the_readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines, at most {README_LINES} are allowed; details belong into docs/");
}

fn manifest(folder: &Path) -> toml::Table {
    let path = folder.join("Cargo.toml");
    read(&path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_table_of_crates_is_that_of_the_manifests() {
    let workspace = manifest(&root());
    let members = workspace["workspace"]["members"].as_array().unwrap().iter().map(|member| member.as_str().unwrap().to_owned());
    let of_crate = |member: &String| {
        let manifest = manifest(&root().join(member));
        (member.clone(), manifest["package"]["name"].as_str().unwrap().to_owned(), manifest)
    };
    let crates: Vec<_> = members.collect::<Vec<_>>().iter().map(of_crate).collect();
    let own: BTreeSet<&str> = crates.iter().map(|(_, package, _)| package.as_str()).collect();

    let page = Page::read(&root().join("ARCHITECTURE.md"));
    let mut rows = BTreeSet::new();
    for (line, text) in &page.prose {
        let cells: Vec<&str> = text.trim_matches('|').split('|').collect();
        let &[folder, package, _, depends] = cells.as_slice() else { continue };
        let (Some(folder), Some(package)) = (code_spans(folder).next(), code_spans(package).next()) else { continue };
        let Some((_, name, manifest)) = crates.iter().find(|(member, ..)| member == folder) else {
            panic!("{}: {folder} is not a member of the workspace", page.place(*line));
        };
        assert_eq!(package, name, "{}: the package in {folder}", page.place(*line));
        let expected: BTreeSet<&str> = match manifest.get("dependencies").and_then(toml::Value::as_table) {
            Some(table) => table.keys().map(String::as_str).filter(|name| own.contains(name)).collect(),
            None => BTreeSet::new(),
        };
        let stated: BTreeSet<&str> = code_spans(depends).collect();
        assert_eq!(stated, expected, "{}: what {package} depends on", page.place(*line));
        rows.insert(folder);
    }
    let missing: Vec<&str> = crates.iter().map(|(member, ..)| member.as_str()).filter(|member| !rows.contains(member)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md has no row for {missing:?}");
}

/// The lines of a source file before its module of tests, without comments.
fn code_lines(path: &Path) -> Vec<String> {
    let text = read(path);
    let lines: Vec<&str> = text.lines().collect();
    // `mod tests;` stands among the declarations, and code follows it.
    let begins = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
    let end = lines.windows(2).position(begins).unwrap_or(lines.len());
    lines[..end].iter().filter(|line| !line.trim_start().starts_with("//")).map(|line| (*line).to_owned()).collect()
}

/// Whether a source file holds only tests.
fn is_test(path: &Path) -> bool {
    let names = ["tests", "tests.rs", "testing.rs", "tiny.rs"];
    path.strip_prefix(root()).unwrap().components().skip(1).any(|part| names.contains(&part.as_os_str().to_string_lossy().as_ref()))
}

#[test]
fn libraries_do_not_print() {
    let libraries = ["backbone/ops/src", "backbone/src", "heads", "datasets/src", "datasets/types/src"];
    let tools = ["tools/train/src", "tools/recipes/src", "tools/report/src"];
    let console = root().join("tools/report/src/console.rs");
    for folder in libraries.iter().chain(&tools) {
        for path in files(&root().join(folder), "rs") {
            let example = path.components().any(|part| part.as_os_str() == "examples" || part.as_os_str() == "benches");
            if example || is_test(&path) || path == console {
                continue;
            }
            for line in code_lines(&path) {
                let prints = ["print!(", "println!(", "dbg!("].iter().any(|call| line.contains(call));
                assert!(!prints, "{}: a library does not print; tell an observer instead:\n{line}", path.display());
            }
        }
    }
}

#[test]
fn one_file_sets_the_panic_hook() {
    let own = [root().join("tools/panics/src/lib.rs"), root().join("tests/docs.rs")];
    for folder in FOLDERS.iter().filter(|folder| !folder.starts_with('.')) {
        for path in files(&root().join(folder), "rs").iter().filter(|path| !own.contains(path)) {
            assert!(!read(path).contains("panic::set_hook"), "{}: use vmamba_panics", path.display());
        }
    }
}

/// The source files of libraries and programs, without tests, benchmarks and examples to copy.
fn sources() -> Vec<PathBuf> {
    let folders = FOLDERS.iter().filter(|folder| !folder.starts_with('.'));
    let all = folders.flat_map(|folder| files(&root().join(folder), "rs"));
    let left_out = |path: &PathBuf| {
        let parts: Vec<_> = path.strip_prefix(root()).unwrap().iter().map(|part| part.to_string_lossy()).collect();
        parts[0] == "tests" || ["examples", "benches", "build.rs"].iter().any(|name| parts.iter().any(|part| part == name))
    };
    all.filter(|path| !is_test(path) && !left_out(path)).collect()
}

#[test]
fn one_crate_opens_and_writes_files() {
    // Ways to open, read, write or rename a file, and writers of libraries that go around the crate.
    let calls = [
        "File::open",
        "File::create",
        "File::options",
        "OpenOptions",
        "fs::read(",
        "fs::read_to_string(",
        "fs::write(",
        "fs::rename(",
        "fs::copy(",
        "fs::hard_link(",
        "image::open(",
        "ImageReader::open(",
        "save_with_format(",
        "save_buffer",
        "NamedTempFile",
        "tempfile::Builder",
        "BitMapBackend::new(",
        "SVGBackend::new(",
    ];
    let own = root().join("datasets/files");
    let mut found = Vec::new();
    for path in sources().into_iter().filter(|path| !path.starts_with(&own)) {
        let lines = code_lines(&path);
        // `SafetensorsFile::open` is no `File::open`.
        let calls_it = |line: &str, call: &str| line.find(call).is_some_and(|at| !line[..at].ends_with(char::is_alphanumeric));
        let line = lines.iter().filter(|line| calls.iter().any(|call| calls_it(line, call)));
        found.extend(line.map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    assert!(found.is_empty(), "use vmamba_files, which refuses pipes and devices and writes files whole:\n{}", found.join("\n"));
}

#[test]
fn programs_print_with_macros_that_do_not_panic() {
    let mut found = Vec::new();
    let own = ["terminal.rs", "console.rs"].map(|file| root().join("tools/report/src").join(file));
    for path in sources() {
        let lines = code_lines(&path);
        let writes = |line: &&String| !own.contains(&path) && ["io::stdout()", "io::stderr()"].iter().any(|stream| line.contains(stream));
        found.extend(lines.iter().filter(writes).map(|line| format!("{}: {}", path.display(), line.trim())));
        let imports: Vec<&String> =
            lines.iter().filter(|line| line.starts_with("use vmamba_report::") || line.starts_with("use crate::")).collect();
        for name in ["print", "println", "eprint", "eprintln"] {
            let call = format!("{name}!(");
            let of_std = |line: &&String| {
                let at = line.find(&call);
                at.is_some_and(|at| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') && !line[..at].ends_with("vmamba_report::")
                })
            };
            let imported = imports.iter().any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name));
            if !imported {
                found.extend(lines.iter().filter(of_std).map(|line| format!("{}: {}", path.display(), line.trim())));
            }
        }
    }
    assert!(found.is_empty(), "the standard macros panic on a full disk; use those of vmamba_report:\n{}", found.join("\n"));
}

#[test]
fn json_is_read_to_its_end_in_one_place() {
    // serde_json's stream readers ignore what follows the document.
    let own = [root().join("datasets/src/json.rs"), root().join("tests/docs.rs")];
    for folder in FOLDERS.iter().filter(|folder| !folder.starts_with('.')) {
        for path in files(&root().join(folder), "rs").iter().filter(|path| !own.contains(path)) {
            let text = read(path);
            let reads = ["Deserializer::from_reader(", "serde_json::from_reader("].iter().any(|call| text.contains(call));
            assert!(!reads, "{}: use vision_datasets::json", path.display());
        }
    }
    // `serde_json` takes the last of two equal keys. These read what the toolkit itself has written, a log or a list line by line, or check keys.
    let own = [
        "datasets/src/json.rs",
        "backbone/src/checkpoint/safetensors.rs",
        "tools/report/src/metrics.rs",
        "tools/report/src/run_pictures.rs",
        "tools/study/src/gpu_check/environment.rs",
        "tools/study/src/gpu_check/fixtures.rs",
        "tools/study/src/measure/child.rs",
        "tools/study/src/measure/peers/mod.rs",
    ]
    .map(|path| root().join(path));
    for path in sources().iter().filter(|path| !own.contains(path)) {
        let text = read(path);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let reads = ["serde_json::from_str", "serde_json::from_slice"].iter().any(|call| code.contains(call));
        assert!(!reads, "{}: use vision_datasets::json", path.display());
    }
}

#[test]
fn advice_of_the_checks_names_keys_that_exist() {
    let keys = read(&root().join("docs/configuration.md"));
    let advised =
        ["datasets/src/check", "datasets/src/coco", "tools/src/data_check"].iter().flat_map(|folder| files(&root().join(folder), "rs"));
    let mut found = 0;
    for path in advised {
        for line in code_lines(&path) {
            let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
            for word in words.filter(|word| ["model.", "data.", "train.", "test.", "heads."].iter().any(|head| word.starts_with(head))) {
                // Only what stands in the text of a message.
                let quoted =
                    line.split('"').skip(1).step_by(2).any(|text| text.contains(word)) || line.trim_start().starts_with("out of the");
                let key = word.trim_end_matches('.');
                if quoted && !key.ends_with(".rs") {
                    assert!(key.split('.').count() > 2, "{}: `{key}` is no whole key", path.display());
                    let (_, name) = key.rsplit_once('.').expect("a dot");
                    assert!(keys.contains(&format!("`{name}`")), "{}: `{key}` is not in docs/configuration.md", path.display());
                    found += 1;
                }
            }
        }
    }
    assert!(found > 1, "the search finds no advice");
}
