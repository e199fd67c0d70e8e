//! The text of a class list, line by line.

use std::path::Path;

use crate::error::DataError;

/// A line with something in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Its number in the file, from 1.
    pub(super) number: usize,
    /// Its text without spaces at the ends of the line. Tabs stay, because a column may be empty.
    pub(super) text: &'a str,
}

/// Reads a file as UTF-8 or, with a byte order mark, as UTF-16. Line ends of all systems become `\n`.
pub(super) fn read_text(path: &Path) -> Result<String, DataError> {
    let text = vmamba_files::read_text(path).map_err(|reason| match reason.kind() {
        std::io::ErrorKind::InvalidData => DataError::layout(path, "the class list is not UTF-8 text"),
        _ => DataError::io(path, reason),
    })?;
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

/// The comment before all other lines, if there is one, without its `#`; and the lines that are neither empty nor comments.
pub(super) fn lines(text: &str) -> (Option<Line<'_>>, Vec<Line<'_>>) {
    let all = text.split('\n').enumerate().map(|(index, text)| Line { number: index + 1, text: text.trim_matches(' ') });
    let mut filled = all.filter(|line| !line.text.trim().is_empty()).peekable();
    let comment = filled.peek().and_then(|line| Some(Line { text: line.text.strip_prefix('#')?.trim_start(), ..*line }));
    (comment, filled.filter(|line| !line.text.trim_start().starts_with('#')).collect())
}

/// The fields of a line. Double quotes hold a field together, as in CSV files.
pub(super) fn fields(line: &str, separator: char) -> Result<Vec<String>, String> {
    if line.matches('"').count() % 2 == 1 {
        return Err("a double quote is not closed".to_owned());
    }
    if separator == ' ' {
        return Ok(line.split_whitespace().map(str::to_owned).collect());
    }
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator as u8)
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(line.as_bytes());
    match reader.records().next() {
        Some(Ok(record)) => Ok(record.iter().map(str::to_owned).collect()),
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(Vec::new()),
    }
}

/// Whether a field holds numbers only, as columns of colours and counts do.
pub(super) fn is_numeric(field: &str) -> bool {
    let field = field.trim();
    !field.is_empty()
        && field.chars().any(|c| c.is_ascii_digit())
        && field.chars().all(|c| c.is_ascii_digit() || matches!(c, ' ' | '.' | '-' | '(' | ')' | '[' | ']'))
}
