//! Class lists without a header: one class a line.

use std::collections::BTreeSet;

use super::lines::{Line, is_numeric};
use super::{Problem, Row, first_synonym};

/// Characters that separate columns, or a number from its name.
const SEPARATORS: [char; 6] = [',', ';', ':', '\t', '=', '|'];

/// The rows of a list of class names.
pub(super) fn in_names(lines: &[Line]) -> Result<Vec<Row>, Problem> {
    let numbered = numbered(lines)?;
    let mut rows = Vec::new();
    for (line, number, text) in numbered {
        let name = text.trim();
        check_name(name, number.is_some()).map_err(|message| Problem::new(line, message))?;
        rows.push(Row { line, number, folder: None, name: name.to_owned(), colour: None });
    }
    Ok(rows)
}

/// The rows of a list of folders, each with a readable name behind it.
pub(super) fn of_folders(lines: &[Line], is_folder: &dyn Fn(&str) -> bool) -> Result<Vec<Row>, Problem> {
    // A folder may be called by a number, too.
    let has_number = |line: &Line| {
        let begins_with_folder = is_folder(&folder_and_name(line.text, is_folder).0);
        !begins_with_folder && hard_number(line.text).is_some_and(|(_, rest)| is_folder(&folder_and_name(rest, is_folder).0))
    };
    let numbered = lines.iter().any(has_number);
    let row = |line: &Line| {
        let (number, text) = match hard_number(line.text) {
            Some((number, rest)) if numbered => (Some(number), rest),
            None if numbered => return Err(Problem::new(line.number, UNNUMBERED)),
            _ => (None, line.text),
        };
        let (folder, name) = folder_and_name(text, is_folder);
        Ok(Row { line: line.number, number, folder: Some(folder), name, colour: None })
    };
    lines.iter().map(row).collect()
}

/// The name of a folder and the readable name behind it.
fn folder_and_name(text: &str, is_folder: &dyn Fn(&str) -> bool) -> (String, String) {
    let text = text.trim();
    let (folder, name) = match text.split_once('\t') {
        _ if is_folder(text) => (text, text),
        Some((folder, name)) => (folder.trim(), name.trim()),
        None => text.split_once(char::is_whitespace).map_or((text, text), |(folder, name)| (folder, name.trim())),
    };
    (folder.to_owned(), name.to_owned())
}

const UNNUMBERED: &str = "other lines begin with the number of their class, this one does not";

/// The number of a line, the number of its class if it has one, and the rest of its text.
type Numbered<'a> = (usize, Option<usize>, &'a str);

/// The lines with their class numbers, if they have them: `0: ground`, `0,ground`, `0 ground`.
fn numbered<'a>(lines: &[Line<'a>]) -> Result<Vec<Numbered<'a>>, Problem> {
    if lines.iter().any(|line| hard_number(line.text).is_some()) {
        return lines
            .iter()
            .map(|line| {
                let (number, rest) =
                    hard_number(line.text).or_else(|| soft_number(line.text)).ok_or_else(|| Problem::new(line.number, UNNUMBERED))?;
                Ok((line.number, Some(number), rest))
            })
            .collect();
    }
    // A number before a space may be a part of the name: `2 door car`. It is a class number if all lines together count the classes.
    let soft: Vec<_> = lines.iter().filter_map(|line| soft_number(line.text).map(|(number, rest)| (line.number, number, rest))).collect();
    let numbers: BTreeSet<usize> = soft.iter().map(|(_, number, _)| *number).collect();
    let names: BTreeSet<&str> = soft.iter().map(|(_, _, rest)| rest.trim()).collect();
    let counts = |first: usize| numbers.iter().copied().eq(first..first + lines.len());
    if soft.len() == lines.len() && names.len() == lines.len() && (counts(0) || counts(1)) {
        return Ok(soft.into_iter().map(|(line, number, rest)| (line, Some(number), rest)).collect());
    }
    Ok(lines.iter().map(|line| (line.number, None, line.text)).collect())
}

/// A number at the beginning of a line, and what comes after it.
fn leading_number(text: &str) -> Option<(usize, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, rest))
}

/// A number that a separator divides from the name.
fn hard_number(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = leading_number(text)?;
    let close = rest.trim_start_matches(' ');
    let name = close.strip_prefix(SEPARATORS).or_else(|| [". ", ") ", " - "].iter().find_map(|mark| rest.strip_prefix(mark)))?;
    Some((number, name))
}

/// A number that spaces divide from the name.
fn soft_number(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = leading_number(text)?;
    rest.starts_with(' ').then_some((number, rest))
}

/// Refuses what is no name: columns without a header, and lines of other formats.
fn check_name(name: &str, numbered: bool) -> Result<(), String> {
    if name.is_empty() {
        return Err("the class has no name".to_owned());
    }
    let parts: Vec<&str> = name.split(SEPARATORS).collect();
    let numbers = name.split_whitespace().filter(|word| is_numeric(word)).count();
    let columns = name.contains('\t') || (parts.len() > 1 && parts.iter().any(|part| is_numeric(part))) || numbers >= 3;
    if columns || (numbered && is_numeric(name)) {
        return Err(format!("`{name}` has several columns, but no header names them; begin the file with one such as `Idx,Name,R,G,B`"));
    }
    if name == "__ignore__" {
        return Err(
            "`__ignore__` is labelme's name for pixels without a class, not a class; remove the line (255 is the ignored label)".into()
        );
    }
    let starts_well = first_synonym(name).starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '(');
    if !starts_well || name.ends_with(':') || name.ends_with(['{', '[', ',']) {
        return Err(format!("`{name}` is no name of a class; expected one name a line, or a table with a header such as `Idx,Name,R,G,B`"));
    }
    Ok(())
}
