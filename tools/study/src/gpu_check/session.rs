//! The report in progress: written as Markdown and JSON after every row, so that an interrupted run leaves its results.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmamba_report::eprintln;
use vmamba_report::files::write_whole;
use vmamba_report::tables::{Cell, Table};

use super::{Environment, Part};
use crate::error::{Result, StudyError};

/// The result of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// Figures, and a remark.
    Measured(Vec<Cell>, String),
    /// Figures of a check above its limit, and a remark.
    TooLarge(Vec<Cell>, String),
    /// The reason for missing figures.
    Failed(String),
}

struct Section {
    part: Part,
    notes: Vec<String>,
    table: Table,
    columns: usize,
}

/// The results so far, and the folder of the report.
pub struct Session {
    folder: PathBuf,
    started: Instant,
    limit: Option<Duration>,
    environment: Environment,
    sections: Vec<Section>,
    left_out: Vec<String>,
    targets: Option<Table>,
}

impl Session {
    /// Writes `gpu_check.md` and `gpu_check.json` into `folder`, which it creates. No row begins after `limit`.
    ///
    /// # Errors
    /// When the folder or a file cannot be written.
    pub fn new(folder: &Path, limit: Option<Duration>, environment: Environment) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|reason| StudyError::Create { path: folder.to_owned(), reason })?;
        let (sections, left_out) = (Vec::new(), Vec::new());
        let session = Self { folder: folder.to_owned(), started: Instant::now(), limit, environment, sections, left_out, targets: None };
        session.write()?;
        Ok(session)
    }

    /// Rows left out because the time was up.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The report as text, without the header.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for section in &self.sections {
            text.push_str(&format!("\n{}\n", section.part.name()));
            section.notes.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
            if !section.table.rows().is_empty() {
                text.push_str(&section.table.text());
            }
        }
        if let Some(targets) = &self.targets {
            text.push_str(&format!("\ntargets\n{}", targets.text()));
        }
        text
    }

    /// Begins a part. `columns` name a row, then its figures; the columns `status` and `note` are added.
    pub(super) fn part(&mut self, part: Part, columns: &[&str]) -> Result<()> {
        let table = Table::new(columns.iter().copied().chain(["status", "note"]));
        self.sections.push(Section { part, notes: Vec::new(), table, columns: columns.len() });
        self.write()
    }

    /// Adds a note to the current part.
    pub(super) fn note(&mut self, note: impl Into<String>) -> Result<()> {
        let note = note.into();
        if let Some(section) = self.sections.last_mut() {
            eprintln!("{}: {note}", section.part.name());
            section.notes.push(note);
        }
        self.write()
    }

    /// Whether there is time for another row; otherwise records it as left out.
    pub(super) fn begin(&mut self, row: &str) -> Result<bool> {
        let part = self.sections.last().map_or("", |section| section.part.name());
        if self.limit.is_some_and(|limit| self.started.elapsed() >= limit) {
            self.left_out.push(format!("{part}: {row}"));
            self.write()?;
            return Ok(false);
        }
        eprintln!("{part}, {} s: {row}", self.started.elapsed().as_secs());
        Ok(true)
    }

    /// Adds a row: the cells that name it, and its result.
    pub(super) fn row(&mut self, name: Vec<Cell>, outcome: Outcome) -> Result<()> {
        let Some(section) = self.sections.last_mut() else { return Ok(()) };
        let mut row = name;
        let (status, note) = match outcome {
            Outcome::Measured(cells, note) => {
                row.extend(cells);
                ("ok", note)
            }
            Outcome::TooLarge(cells, note) => {
                row.extend(cells);
                ("too large", note)
            }
            Outcome::Failed(reason) => ("failed", reason),
        };
        match (status, note.as_str()) {
            ("ok", _) => {}
            (_, "") => eprintln!("  {status}"),
            _ => eprintln!("  {status}: {note}"),
        }
        row.resize(section.columns, Cell::Missing);
        row.extend([status.into(), note.into()]);
        section.table.push(row);
        self.write()
    }

    /// Sets the table of targets.
    pub(super) fn targets(&mut self, table: Table) -> Result<()> {
        self.targets = Some(table);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let file = |name: &str, text: String| {
            let path = self.folder.join(name);
            write_whole(&path, text.as_bytes())
        };
        file("gpu_check.md", self.markdown())?;
        Ok(file("gpu_check.json", format!("{:#}\n", self.json()))?)
    }

    fn markdown(&self) -> String {
        let mut text = format!("# gpu_check\n\n{}", self.environment.table().markdown());
        if let Some(targets) = &self.targets {
            text.push_str(&format!("\n## Targets\n\n{}", targets.markdown()));
        }
        for section in &self.sections {
            text.push_str(&format!("\n## {}\n", section.part.name()));
            section.notes.iter().for_each(|note| text.push_str(&format!("\n{note}\n")));
            if !section.table.rows().is_empty() {
                text.push_str(&format!("\n{}", section.table.markdown()));
            }
        }
        if !self.left_out.is_empty() {
            text.push_str("\n## Left out, the time was up\n\n");
            self.left_out.iter().for_each(|row| text.push_str(&format!("* {row}\n")));
        }
        text
    }

    fn json(&self) -> Value {
        let part = |section: &Section| json!({ "part": section.part.name(), "notes": section.notes, "rows": section.table.json_rows() });
        json!({
            "environment": self.environment.json(),
            "parts": self.sections.iter().map(part).collect::<Vec<_>>(),
            "targets": self.targets.as_ref().map(Table::json_rows),
            "left_out": self.left_out,
        })
    }
}
