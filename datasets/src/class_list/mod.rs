//! Class list files: one reader for training, evaluation and checks.
//!
//! Two layouts are understood:
//!
//! * a table whose first line names its columns: the class number (`Idx`, `id`, `Pixel Value`), the name (`Name`, `label`, `class`), and the
//!   colour (`R`, `G` and `B`, or one column `color`). Columns may stand in any order; further columns such as ADE20K's `Ratio` are skipped.
//!   Where a class has an `id` and a `trainId`, as in Cityscapes, the `trainId` counts, and classes with the `trainId` 255 or -1 are left out.
//!   Commas, semicolons, tabs or colons separate the columns. The header may stand in a comment, as in CVAT's `labelmap.txt`;
//! * one name a line, with or without a number before it: `ground`, `0: ground`.
//!
//! The numbers decide the order of the classes, not the order of the lines. They run from 0 or from 1, without gaps. Empty lines and lines that
//! begin with `#` are skipped, and so are a byte order mark and carriage returns. Everything else is an error that names the line: a list
//! that is misread gives every class the name of its neighbour.

mod header;
mod lines;
mod locate;
mod names;
mod numbers;

use std::path::Path;

use vmamba_types::{ClassList, IGNORE_LABEL};

use self::header::Header;
use self::lines::{Line, lines};
use crate::error::DataError;

pub use locate::{Found, NAME_CLASS_LIST, NO_CLASS_LIST, Place, find_class_list, is_ade20k};

/// The classes of a class list file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassFile {
    /// The classes, in the order of their numbers.
    pub classes: ClassList,
    /// The number of the first class, 0 or 1; `None` when the file has no numbers.
    pub first: Option<usize>,
}

/// Reads a class list. Of several synonyms ("building, edifice") the first is taken. Classes without colours get
/// [generated ones](ClassList::colour).
///
/// # Errors
/// When the file cannot be read, is not text, has no class or more than 255, or has a line that is not understood.
pub fn read_class_list(path: &Path) -> Result<ClassFile, DataError> {
    let Rows { rows, first } = read_rows(path, &names::in_names)?;
    if rows.len() > usize::from(IGNORE_LABEL) {
        let message = format!("the class list has {} classes, but label maps of 8 bits hold at most 255 and the ignored label", rows.len());
        return Err(DataError::layout(path, message));
    }
    let mut classes = Vec::new();
    for (index, row) in rows.into_iter().enumerate() {
        let name = first_synonym(&row.name);
        if name.is_empty() {
            return Err(at_line(path, row.line, "the class has no name"));
        }
        classes.push((name.to_owned(), row.colour.unwrap_or_else(|| ClassList::colour(index))));
    }
    Ok(ClassFile { classes: ClassList::new(classes), first })
}

/// A class of a list of folders, in which every class has a folder of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FolderRow {
    pub(crate) line: usize,
    pub(crate) folder: String,
    pub(crate) name: String,
}

/// Reads a list of folders. In a table, the column `folder` (or `synset`, `wnid`) names the folder; without it, the name does. In lines without
/// a header, the name of the folder comes first, then, after a tab or space, a readable name (ImageNet's `LOC_synset_mapping.txt`).
/// `is_folder` says which names are folders, because these may contain spaces.
///
/// # Errors
/// As [`read_class_list`], without the limit on the number of classes.
pub(crate) fn read_folder_list(path: &Path, is_folder: &dyn Fn(&str) -> bool) -> Result<Vec<FolderRow>, DataError> {
    let plain = |lines: &[Line]| names::of_folders(lines, is_folder);
    let rows = read_rows(path, &plain)?.rows.into_iter();
    Ok(rows.map(|row| FolderRow { line: row.line, folder: row.folder.unwrap_or_else(|| row.name.clone()), name: row.name }).collect())
}

impl ClassFile {
    /// The classes, if their numbers fit the label files: `reduce_zero_label` ignores label 0 and makes label 1 the first class.
    ///
    /// # Errors
    /// When the list has a class 0 that `reduce_zero_label` would ignore, so that every class would get the name before its own.
    pub fn for_labels(self, path: &Path, reduce_zero_label: bool) -> Result<ClassList, DataError> {
        match (self.first, reduce_zero_label, self.classes.names.first()) {
            (Some(0), true, Some(name)) => {
                let message = format!(
                    "class 0 is \"{name}\", but reduce_zero_label ignores label 0 and makes label 1 the first class, so that every class \
                     would get the name before its own; turn reduce_zero_label off, or remove class 0 and number the classes from 1"
                );
                Err(DataError::layout(path, message))
            }
            _ => Ok(self.classes),
        }
    }
}

/// A class as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    line: usize,
    number: Option<usize>,
    folder: Option<String>,
    /// The name with all synonyms.
    name: String,
    colour: Option<[u8; 3]>,
}

/// The classes of a file in the order of their numbers.
struct Rows {
    rows: Vec<Row>,
    /// The smallest number.
    first: Option<usize>,
}

/// What is wrong with a line.
struct Problem {
    line: usize,
    message: String,
}

impl Problem {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// How the lines of a list without a header are read.
type Plain<'a> = dyn Fn(&[Line]) -> Result<Vec<Row>, Problem> + 'a;

/// Reads a table by its header, or else all lines with `plain`.
fn read_rows(path: &Path, plain: &Plain) -> Result<Rows, DataError> {
    let text = lines::read_text(path)?;
    let (comment, lines) = lines(&text);
    let problem = |Problem { line, message }| at_line(path, line, &message);
    let Some((first, rest)) = lines.split_first() else { return Err(DataError::layout(path, "the class list is empty")) };
    let rows = match Header::find(first).map_err(problem)? {
        Some(_) if rest.is_empty() => return Err(DataError::layout(path, "the class list has a header but no class")),
        Some(header) => header.rows(rest),
        // A comment is a header if it names columns that no list without a header may have.
        None => match comment.and_then(|line| Header::find(&line).ok().flatten()).filter(Header::has_colours) {
            Some(header) => header.rows(&lines),
            None => plain(&lines),
        },
    };
    let rows = rows.map_err(problem)?;
    if rows.is_empty() {
        return Err(DataError::layout(path, "every class of the list has a trainId that is ignored"));
    }
    if let Some(row) = rows.iter().find(|row| row.name.contains(|c: char| c.is_control() || c == '\u{feff}')) {
        return Err(at_line(path, row.line, "the name has a control character"));
    }
    numbers::in_order(rows).map_err(problem)
}

fn at_line(path: &Path, line: usize, message: &str) -> DataError {
    DataError::layout(path, format!("line {line}: {message}"))
}

/// The first of several synonyms.
fn first_synonym(names: &str) -> &str {
    names.split([',', ';']).next().unwrap_or(names).trim().trim_matches('"').trim()
}

#[cfg(test)]
mod tests;
