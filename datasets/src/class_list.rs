//! Class list files.

use std::path::Path;

use vmamba_types::{ClassList, IGNORE_LABEL};

use crate::error::DataError;

/// Reads a class list in one of two layouts:
///
/// * a table with a header that has a column `Name` and optionally `R`, `G` and `B`, separated by commas or tabs, as ADE20K's
///   `objectInfo` files;
/// * one name a line.
///
/// Of several synonyms ("building, edifice") the first is taken. Classes without colours get [generated ones](ClassList::colour).
///
/// # Errors
/// When the file cannot be read, has no class or more than 255, a line lacks a name, or a colour is not a number from 0 to 255.
pub fn read_class_list(path: &Path) -> Result<ClassList, DataError> {
    let text = std::fs::read_to_string(path).map_err(|reason| match reason.kind() {
        std::io::ErrorKind::InvalidData => DataError::layout(path, "the class list is not UTF-8 text"),
        _ => DataError::io(path, reason),
    })?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let Some((first_number, first)) = lines.next() else { return Err(DataError::layout(path, "the class list is empty")) };
    let separator = if first.contains('\t') { '\t' } else { ',' };
    let header: Vec<String> = first.split(separator).map(|field| field.trim().to_lowercase()).collect();
    let column = |name: &str| header.iter().position(|field| field == name);
    let classes = match column("name") {
        Some(name) => {
            let columns = Columns { count: header.len(), separator, name, colour: [column("r"), column("g"), column("b")] };
            let read = |(index, (number, line)): (usize, (usize, &str))| {
                columns.read(line, index).map_err(|message| DataError::layout(path, format!("line {}: {message}", number + 1)))
            };
            ClassList::new(lines.enumerate().map(read).collect::<Result<Vec<_>, _>>()?)
        }
        None => ClassList::named(std::iter::once((first_number, first)).chain(lines).map(|(_, line)| first_synonym(line))),
    };
    match classes.len() {
        0 => Err(DataError::layout(path, "the class list has a header but no class")),
        count if count > usize::from(IGNORE_LABEL) => Err(DataError::layout(
            path,
            format!("the class list has {count} classes, but label maps of 8 bits hold at most 255 and the ignored label"),
        )),
        _ => Ok(classes),
    }
}

/// The columns of a table of classes.
struct Columns {
    count: usize,
    separator: char,
    name: usize,
    /// Red, green and blue.
    colour: [Option<usize>; 3],
}

impl Columns {
    /// Name and colour of class `index`.
    fn read(&self, line: &str, index: usize) -> Result<(String, [u8; 3]), String> {
        // The last column takes the rest of the line, because names contain the separator ("building, edifice").
        let fields: Vec<&str> = line.splitn(self.count, self.separator).map(str::trim).collect();
        let name = fields.get(self.name).map(|name| first_synonym(name)).filter(|name| !name.is_empty()).ok_or("the class has no name")?;
        let [Some(r), Some(g), Some(b)] = self.colour else { return Ok((name.to_owned(), ClassList::colour(index))) };
        let mut colour = [0; 3];
        for (value, column) in colour.iter_mut().zip([r, g, b]) {
            let field = fields.get(column).copied().unwrap_or_default();
            *value = field.parse().map_err(|_| format!("the colour value `{field}` is not a number from 0 to 255"))?;
        }
        Ok((name.to_owned(), colour))
    }
}

/// The first of several synonyms.
fn first_synonym(names: &str) -> &str {
    names.split([',', ';']).next().unwrap_or(names).trim().trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClassList, DataError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_class_list(file.path())
    }

    #[test]
    fn class_lists_of_all_layouts_are_read() {
        let camvid = read("Idx,Name,R,G,B\n1,sky,128,128,128\n2,building,128,0,0\n").unwrap();
        assert_eq!((camvid.names, camvid.palette), (vec!["sky".into(), "building".into()], vec![[128; 3], [128, 0, 0]]));
        let ade = read("Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t5\t6\twall\n2\t0.1\t5\t6\tbuilding, edifice\n").unwrap();
        assert_eq!(ade.names, ["wall", "building"]);
        let coco = read("Idx,CocoId,IsThing,Name\n1,1,1,person\n").unwrap();
        assert_eq!(coco.names, ["person"]);
        assert_eq!(read("cat\ndog\n\n").unwrap().names, ["cat", "dog"]);
    }

    #[test]
    fn an_invalid_class_list_names_the_line() {
        for (text, part) in
            [("", "empty"), ("Idx,Name\n", "no class"), ("Idx,Name,R,G,B\n1,sky,300,0,0\n", "line 2"), ("Name,R\n,1\n", "line 2")]
        {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_text_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0xff, 0xfe, 0x00]).unwrap();
        assert!(read_class_list(file.path()).unwrap_err().to_string().contains("not UTF-8 text"));
    }
}
