//! Tables in four formats: aligned text for the terminal, Markdown for documents, JSON rows and CSV for programs.

use std::fmt;

use serde_json::{Map, Value};
use vmamba_files::printable;

/// One cell. Numbers keep their value: JSON is exact, text is rounded.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text, aligned left.
    Text(String),
    /// An integer, aligned right.
    Integer(i64),
    /// A number with this many decimals, aligned right; NaN is `n/a` in text and `null` in JSON.
    Number(f64, usize),
    /// A number with two digits and an exponent, aligned right; NaN as in [`Cell::Number`].
    Scientific(f64),
    /// Unknown: `-` in text, `null` in JSON.
    Missing,
}

impl Cell {
    /// A share of 1 as a percentage with two decimals, in JSON too. NaN (no pixel) is `n/a`.
    pub fn percent(share: f64) -> Self {
        Self::Number(share * 100.0, 2)
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Integer(n) => Value::from(*n),
            // serde_json turns a NaN into null.
            Self::Number(n, _) | Self::Scientific(n) => Value::from(*n),
            Self::Missing => Value::Null,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Class names come from files of users.
            Self::Text(text) => f.write_str(&printable(text)),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Number(n, _) | Self::Scientific(n) if !n.is_finite() => f.write_str("n/a"),
            Self::Number(n, decimals) => write!(f, "{n:.decimals$}"),
            Self::Scientific(n) => write!(f, "{n:.1e}"),
            Self::Missing => f.write_str("-"),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Cell {
    fn from(n: usize) -> Self {
        Self::Integer(n as i64)
    }
}

impl From<u64> for Cell {
    fn from(n: u64) -> Self {
        Self::Integer(n as i64)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(cell: Option<T>) -> Self {
        cell.map_or(Self::Missing, Into::into)
    }
}

/// A table with named columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table with these columns. A name that was there before gets a number, because two columns of one name would be one in JSON.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        let mut distinct: Vec<String> = Vec::new();
        for name in columns {
            let name = name.into();
            let numbered = (2..).map(|number| format!("{name} ({number})"));
            let free = std::iter::once(name.clone()).chain(numbered).find(|name| !distinct.contains(name));
            distinct.extend(free);
        }
        Self { columns: distinct, rows: Vec::new() }
    }

    /// Adds a row. A short row is padded with [`Cell::Missing`]; cells beyond the columns are dropped.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = row.into_iter().collect();
        row.resize(self.columns.len(), Cell::Missing);
        self.rows.push(row);
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// Aligned text with a rule under the header; ends with a line break.
    pub fn text(&self) -> String {
        let widths = self.widths();
        let mut out = self.line(&widths, self.columns.iter().map(String::as_str), "  ", "");
        out.push_str(&widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>().join("  "));
        out.push('\n');
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(Cell::to_string).collect();
            out.push_str(&self.line(&widths, cells.iter().map(String::as_str), "  ", ""));
        }
        out
    }

    /// A Markdown table, padded so that it is readable as plain text.
    pub fn markdown(&self) -> String {
        let escape = |text: &str| text.replace('|', "\\|");
        let head: Vec<String> = self.columns.iter().map(|c| escape(c)).collect();
        let body: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(|c| escape(&c.to_string())).collect()).collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|c| body.iter().map(|row| row[c].chars().count()).chain([head[c].chars().count(), 3]).max().unwrap_or(3))
            .collect();
        let mut out = self.line(&widths, head.iter().map(String::as_str), " | ", "| ");
        let rules =
            widths.iter().enumerate().map(|(c, &w)| if self.right(c) { format!("{}:", "-".repeat(w + 1)) } else { "-".repeat(w + 2) });
        out.push_str(&format!("|{}|\n", rules.collect::<Vec<_>>().join("|")));
        for row in &body {
            out.push_str(&self.line(&widths, row.iter().map(String::as_str), " | ", "| "));
        }
        out
    }

    /// One JSON object a row, keys in the order of the columns.
    pub fn json_rows(&self) -> Value {
        let row = |cells: &Vec<Cell>| {
            Value::Object(self.columns.iter().cloned().zip(cells.iter().map(Cell::json)).collect::<Map<String, Value>>())
        };
        Value::Array(self.rows.iter().map(row).collect())
    }

    /// Comma-separated values by RFC 4180, with line feeds. Numbers have all their digits; what is not known is empty.
    pub fn csv(&self) -> String {
        let quoted = |text: &str| {
            if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
        };
        let value = |cell: &Cell| match cell {
            Cell::Text(text) => quoted(text),
            Cell::Integer(n) => n.to_string(),
            Cell::Number(n, _) | Cell::Scientific(n) if n.is_finite() => n.to_string(),
            Cell::Number(..) | Cell::Scientific(_) | Cell::Missing => String::new(),
        };
        let head = self.columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(",");
        let rows = self.rows.iter().map(|row| row.iter().map(value).collect::<Vec<_>>().join(","));
        std::iter::once(head).chain(rows).map(|line| line + "\n").collect()
    }

    /// Whether a column is aligned right: it holds a number and no text.
    fn right(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().map(|row| &row[column]);
        cells.clone().any(|c| matches!(c, Cell::Integer(_) | Cell::Number(..) | Cell::Scientific(_)))
            && !cells.any(|c| matches!(c, Cell::Text(_)))
    }

    fn widths(&self) -> Vec<usize> {
        let width = |c: usize| self.rows.iter().map(|row| row[c].to_string().chars().count()).max().unwrap_or(0);
        self.columns.iter().enumerate().map(|(c, name)| name.chars().count().max(width(c))).collect()
    }

    fn line<'a>(&self, widths: &[usize], cells: impl Iterator<Item = &'a str>, between: &str, border: &str) -> String {
        let cells: Vec<String> = cells
            .zip(widths)
            .enumerate()
            .map(|(c, (cell, &w))| if self.right(c) { format!("{cell:>w$}") } else { format!("{cell:<w$}") })
            .collect();
        let mut line = format!("{border}{}", cells.join(between));
        if border.is_empty() {
            line.truncate(line.trim_end().len());
        } else {
            line.push_str(" |");
        }
        line.push('\n');
        line
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["class", "IoU", "pixels"]);
        table.push(["sky".into(), Cell::percent(0.912_34), 120_usize.into()]);
        table.push(["a|b".into(), Cell::percent(f64::NAN), Cell::Missing]);
        table
    }

    #[test]
    fn columns_have_distinct_names() {
        let mut table = Table::new(["AP", "AP", "AP (2)", "AP"]);
        table.push([1_usize, 2, 3, 4].map(Cell::from));
        assert_eq!(table.csv(), "AP,AP (2),AP (2) (2),AP (3)\n1,2,3,4\n");
        assert_eq!(table.json_rows(), serde_json::json!([{"AP": 1, "AP (2)": 2, "AP (2) (2)": 3, "AP (3)": 4}]));
    }

    #[test]
    fn text_is_aligned_by_kind() {
        assert_eq!(sample().text(), "class    IoU  pixels\n-----  -----  ------\nsky    91.23     120\na|b      n/a       -\n");
    }

    #[test]
    fn markdown_marks_right_columns_and_escapes_bars() {
        let expected = "| class |   IoU | pixels |\n|-------|------:|-------:|\n| sky   | 91.23 |    120 |\n| a\\|b  |   n/a |      - |\n";
        assert_eq!(sample().markdown(), expected);
    }

    #[test]
    fn csv_quotes_commas_and_quotes() {
        let mut table = Table::new(["a,b", "n"]);
        table.push(["say \"x\"".into(), Cell::Number(0.1, 0)]);
        table.push([Cell::Missing, Cell::Number(f64::NAN, 1)]);
        assert_eq!(table.csv(), "\"a,b\",n\n\"say \"\"x\"\"\",0.1\n,\n");
    }

    #[test]
    fn json_keeps_full_numbers_and_has_null_for_unknown() {
        let rows = sample().json_rows();
        assert_eq!(rows[0]["IoU"].as_f64(), Some(0.912_34 * 100.0));
        assert!(rows[1]["IoU"].is_null() && rows[1]["pixels"].is_null());
    }
}
