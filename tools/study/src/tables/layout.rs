//! The tables as text, Markdown, CSV and JSON.

use serde_json::{Value, json};
use vmamba_report::tables::{Cell, Table};

use super::{Benchmark, Entry, Numbers, OwnLine, Section};

/// All tables as text.
pub fn text(sections: &[Section]) -> String {
    let section = |section: &Section| format!("{}\n{}{}\n", section.title, compact(section).text(), remarks(section, "  "));
    sections.iter().map(section).collect()
}

/// All tables as a Markdown document.
pub fn markdown(sections: &[Section]) -> String {
    let section = |section: &Section| format!("\n## {}\n\n{}\n{}", section.title, compact(section).markdown(), remarks(section, "* "));
    let head = "# Published results and ours\n\nFigures in percent, params in millions, FLOPs as multiply-accumulates / 1e9.\n";
    std::iter::once(head.to_owned()).chain(sections.iter().map(section)).collect()
}

/// The tables of a benchmark as one CSV: a line for each published row, run and difference, with all digits.
pub fn csv(benchmark: Benchmark, sections: &[Section]) -> String {
    let figures = benchmark.figures().iter().copied();
    let columns = ["table", "id", "model", "row", "run", "measured by"].into_iter().chain(figures);
    let mut table = Table::new(columns.chain(["params_m", "gflops", "differs", "source", "note"]));
    for section in sections.iter().filter(|section| section.benchmark == benchmark) {
        for entry in &section.entries {
            let mut push = |row: &str, run: Option<&OwnLine>, numbers: &Numbers, rest: [Option<String>; 3]| {
                let head = [section.key.as_str(), &entry.id, &entry.model, row].map(Cell::from);
                let run = [run.map(|run| run.place.clone()), run.map(|run| run.origin.clone())].map(Cell::from);
                let values = padded(numbers, benchmark).into_iter().chain([numbers.params_m, numbers.gflops]);
                let values = values.map(|value| value.map_or(Cell::Missing, |value| Cell::Number(value, 2)));
                table.push(head.into_iter().chain(run).chain(values).chain(rest.map(Cell::from)));
            };
            if let Some(published) = &entry.published {
                push("published", None, published, [None, entry.source.clone(), entry.note.clone()]);
            }
            for run in &entry.runs {
                push("run", Some(run), &run.numbers, [run.differs.as_ref().map(|differs| differs.join("; ")), None, None]);
                if entry.published.is_some() {
                    push("difference", Some(run), &run.difference, [None, None, None]);
                }
            }
        }
    }
    table.csv()
}

/// All tables as JSON.
pub fn to_json(sections: &[Section]) -> Value {
    let run = |benchmark: Benchmark, run: &OwnLine, published: bool| {
        json!({
            "run": run.place, "measured_by": run.origin, "figures": run.numbers.json(benchmark),
            "difference": published.then(|| run.difference.json(benchmark)), "differs": run.differs,
        })
    };
    let entry = |benchmark: Benchmark, entry: &Entry| {
        let published = entry.published.as_ref();
        json!({
            "id": entry.id, "model": entry.model, "published": published.map(|numbers| numbers.json(benchmark)), "source": entry.source,
            "note": entry.note, "runs": entry.runs.iter().map(|own| run(benchmark, own, published.is_some())).collect::<Vec<_>>(),
        })
    };
    let section = |section: &Section| {
        let entries: Vec<Value> = section.entries.iter().map(|own| entry(section.benchmark, own)).collect();
        json!({ "key": section.key, "title": section.title, "benchmark": section.benchmark, "rows": entries })
    };
    json!({ "tables": sections.iter().map(section).collect::<Vec<_>>() })
}

/// A row for each published result, and two for each run.
fn compact(section: &Section) -> Table {
    let figures = section.benchmark.figures().iter().copied();
    let mut table = Table::new(["model", "row"].into_iter().chain(figures).chain(["params", "GFLOPs"]));
    let mut push = |model: &str, row: String, numbers: &Numbers, digits: [[usize; 2]; 2]| {
        let [of_figures, of_costs] = digits;
        let figures = padded(numbers, section.benchmark).into_iter().map(|value| shown(value, of_figures));
        let costs = [numbers.params_m, numbers.gflops].map(|value| shown(value, of_costs));
        table.push([Cell::from(model), Cell::from(row)].into_iter().chain(figures).chain(costs));
    };
    for entry in &section.entries {
        let mut model = entry.model.as_str();
        if let Some(published) = &entry.published {
            push(model, "published".to_owned(), published, [[1, 2], [0, 1]]);
            model = "";
        }
        for run in &entry.runs {
            push(model, run.place.clone(), &run.numbers, [[2, 2], [1, 1]]);
            if entry.published.is_some() {
                push("", "difference".to_owned(), &run.difference, [[2, 2], [1, 1]]);
            }
        }
    }
    table
}

/// The figures, padded to the number of the benchmark.
fn padded(numbers: &Numbers, benchmark: Benchmark) -> Vec<Option<f64>> {
    let mut figures = numbers.figures.clone();
    figures.resize(benchmark.figures().len(), None);
    figures
}

/// A number with its own decimals, but at least `least` and at most `most`.
fn shown(value: Option<f64>, [least, most]: [usize; 2]) -> Cell {
    let Some(value) = value else { return Cell::Missing };
    let own = value.to_string().split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let decimals = own.clamp(least, most);
    // Avoids "-0.00".
    let factor = 10_f64.powi(decimals as i32);
    let rounded = (value * factor).round() / factor + 0.0;
    Cell::Number(if rounded == 0.0 { 0.0 } else { rounded }, decimals)
}

/// Lines below the table: settings, then notes, then sources.
fn remarks(section: &Section, bullet: &str) -> String {
    let mut lines = Vec::new();
    for run in section.entries.iter().flat_map(|entry| &entry.runs) {
        let differs = match run.differs.as_deref() {
            Some([]) => ": no known difference from the published setting".to_owned(),
            Some(differs) => format!(": {}", differs.join("; ")),
            None => String::new(),
        };
        lines.push(format!("{} ({}){differs}", run.place, run.origin));
    }
    lines.extend(section.entries.iter().filter_map(|entry| Some(format!("{}: {}", entry.model, entry.note.as_ref()?))));
    let mut sources: Vec<(&str, Vec<&str>)> = Vec::new();
    for entry in &section.entries {
        let Some(source) = entry.source.as_deref() else { continue };
        match sources.iter_mut().find(|(known, _)| *known == source) {
            Some((_, models)) => models.push(&entry.model),
            None => sources.push((source, vec![&entry.model])),
        }
    }
    lines.extend(sources.into_iter().map(|(source, models)| format!("source of {}: {source}", models.join(", "))));
    lines.iter().map(|line| format!("{bullet}{line}\n")).collect()
}
