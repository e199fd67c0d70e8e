//! Tables of classes, whose first line names the columns.

use super::lines::{Line, fields};
use super::{Problem, Row};

/// The separators of columns, in the order of preference. Spaces come last, because names contain them.
const SEPARATORS: [char; 5] = ['\t', ';', ',', ':', ' '];

/// The meaning of a column by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Number,
    TrainId,
    Name,
    /// `label` and `class`: the name, or the number of a table that has a column `name` too.
    Label,
    Folder,
    Red,
    Green,
    Blue,
    Colour,
    Other,
}

impl Role {
    fn of(field: &str) -> Self {
        let plain: String = field.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        match plain.as_str() {
            "idx" | "index" | "id" | "classid" | "classidx" | "classindex" | "labelid" | "labelindex" | "number" | "value"
            | "pixelvalue" => Self::Number,
            "trainid" => Self::TrainId,
            "name" | "names" | "classname" | "classnames" | "labelname" => Self::Name,
            "label" | "labels" | "class" | "classes" | "category" => Self::Label,
            "folder" | "synset" | "wnid" => Self::Folder,
            "r" | "red" => Self::Red,
            "g" | "green" => Self::Green,
            "b" | "blue" => Self::Blue,
            "color" | "colour" | "rgb" | "colorrgb" | "hex" | "hexcolor" => Self::Colour,
            _ => Self::Other,
        }
    }
}

/// Where the colours are.
#[derive(Clone, Copy, Debug)]
enum Colours {
    Absent,
    /// Columns of red, green and blue.
    Three([usize; 3]),
    /// One column, such as `#8000ff` or `128 0 255`.
    One(usize),
}

/// The columns of a table.
#[derive(Clone, Debug)]
pub(super) struct Header {
    separator: char,
    count: usize,
    number: Option<usize>,
    /// Whether the numbers are Cityscapes' `trainId`, where 255 and -1 stand for labels that are ignored.
    train_ids: bool,
    /// A column that holds the numbers if all its values are numbers.
    maybe_number: Option<usize>,
    folder: Option<usize>,
    name: usize,
    colours: Colours,
}

impl Header {
    /// The columns that a line names; `None` when the line is no header.
    pub(super) fn find(line: &Line) -> Result<Option<Self>, Problem> {
        for separator in SEPARATORS {
            let Ok(names) = fields(line.text, separator) else { continue };
            let word = |name: &String| name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '"'));
            let one_word = separator == ' ' && names.iter().all(word);
            if names.len() < 2 && !one_word {
                continue;
            }
            if let Some(header) = Self::of(separator, &names).map_err(|message| Problem::new(line.number, message))? {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Whether the table has colours.
    pub(super) fn has_colours(&self) -> bool {
        !matches!(self.colours, Colours::Absent)
    }

    fn of(separator: char, names: &[String]) -> Result<Option<Self>, String> {
        let roles: Vec<Role> = names.iter().map(|name| Role::of(name)).collect();
        let find = |role: Role| -> Vec<usize> { (0..roles.len()).filter(|index| roles[*index] == role).collect() };
        let quoted = |columns: &[usize]| columns.iter().map(|index| format!("`{}`", names[*index])).collect::<Vec<_>>().join(" and ");
        let one = |what: &str, columns: &[usize]| match columns {
            [] => Ok(None),
            [column] => Ok(Some(*column)),
            more => Err(format!("the columns {} could all be the {what} of a class; keep one of them", quoted(more))),
        };
        let (named, labels, folders) = (find(Role::Name), find(Role::Label), find(Role::Folder));
        let others = find(Role::Other).len();
        let known = roles.len() - others;
        let train_id = one("number", &find(Role::TrainId))?;
        let numbers = if train_id.is_some() { 1 } else { find(Role::Number).len() };
        // A class may be called `label`; a line that has nothing else of a header is a class.
        let is_header = match (named.is_empty(), separator) {
            (false, ' ') => names.len() == 1 || known >= 2,
            // `names: x` is YAML.
            (false, ':') => known >= 2,
            (false, _) => true,
            (true, ' ') => (names.len() == 1 && known == 1 && folders.len() + labels.len() == 1) || (known >= 2 && others == 0),
            (true, _) => known >= 2 && (others == 0 || numbers + find(Role::Colour).len() == 1),
        };
        if !is_header {
            return Ok(None);
        }
        let name = match one("name", &named)? {
            Some(name) => name,
            None => match (one("name", &labels)?, one("folder", &folders)?) {
                (Some(name), _) | (None, Some(name)) => name,
                (None, None) => return Err("no column has the names of the classes; expected a header such as `Idx,Name,R,G,B`".to_owned()),
            },
        };
        let colours = match [find(Role::Red), find(Role::Green), find(Role::Blue)].map(|columns| one("colour", &columns)) {
            [Ok(Some(r)), Ok(Some(g)), Ok(Some(b))] => Colours::Three([r, g, b]),
            [Ok(None), Ok(None), Ok(None)] => one("colour", &find(Role::Colour))?.map_or(Colours::Absent, Colours::One),
            _ => return Err("a colour needs one column each of `R`, `G` and `B`, or one column `color`".to_owned()),
        };
        // mmsegmentation trains on Cityscapes' `*_labelTrainIds.png`, so the other number of a class does not matter.
        let number = if train_id.is_some() { train_id } else { one("number", &find(Role::Number))? };
        let maybe_number = match (number, labels.as_slice()) {
            (None, [label]) if *label != name => Some(*label),
            _ => None,
        };
        Ok(Some(Self {
            separator,
            count: names.len(),
            number,
            train_ids: train_id.is_some(),
            maybe_number,
            folder: one("folder", &folders)?,
            name,
            colours,
        }))
    }

    /// The classes of the lines below the header.
    pub(super) fn rows(&self, lines: &[Line]) -> Result<Vec<Row>, Problem> {
        let table = lines
            .iter()
            .map(|line| Ok((line.number, self.split(line.text).map_err(|message| Problem::new(line.number, message))?)))
            .collect::<Result<Vec<_>, Problem>>()?;
        let is_number = |column: &usize| table.iter().all(|(_, fields)| fields.get(*column).is_some_and(|f| f.parse::<usize>().is_ok()));
        let number = self.number.or(self.maybe_number.filter(is_number));
        let read = |(line, fields): &(usize, Vec<String>)| self.row(*line, fields, number).map_err(|message| Problem::new(*line, message));
        let is_class = |(_, fields): &&(usize, Vec<String>)| {
            let text = number.filter(|_| self.train_ids).and_then(|column| fields.get(column));
            !text.is_some_and(|text| matches!(text.as_str(), "255" | "-1"))
        };
        table.iter().filter(is_class).map(read).collect()
    }

    /// The fields of a line. The last column takes the rest of the line when that is a name with synonyms or a colour.
    fn split(&self, line: &str) -> Result<Vec<String>, String> {
        let mut fields = fields(line, self.separator)?;
        while fields.len() > self.count && fields.last().is_some_and(String::is_empty) {
            fields.pop();
        }
        if fields.len() > self.count {
            let last = self.count - 1;
            let takes_rest = last == self.name || matches!(self.colours, Colours::One(column) if column == last);
            if !takes_rest {
                let message = "write names that contain the separator in double quotes";
                return Err(format!("the line has {} columns, the header has {}; {message}", fields.len(), self.count));
            }
            let separator = if self.separator == ' ' { " ".to_owned() } else { format!("{} ", self.separator) };
            let rest = fields.split_off(last).join(&separator);
            fields.push(rest);
        }
        Ok(fields)
    }

    fn row(&self, line: usize, fields: &[String], number: Option<usize>) -> Result<Row, String> {
        let field = |column: usize| fields.get(column).map(String::as_str).unwrap_or_default();
        let number = match number.map(field) {
            None => None,
            Some(text) => {
                Some(text.parse::<usize>().map_err(|_| format!("the number of the class, `{text}`, is not a whole number from 0 on"))?)
            }
        };
        let name = field(self.name);
        if name.is_empty() {
            return Err("the class has no name".to_owned());
        }
        let colour = match self.colours {
            Colours::Absent => None,
            Colours::Three(columns) => Some(three(columns.map(field))?),
            Colours::One(column) => Some(colour(field(column))?),
        };
        let folder = match self.folder.map(field) {
            Some("") => return Err("the class has no folder".to_owned()),
            folder => folder.map(str::to_owned),
        };
        Ok(Row { line, number, folder, name: name.to_owned(), colour })
    }
}

/// Red, green and blue as numbers.
fn three(fields: [&str; 3]) -> Result<[u8; 3], String> {
    let mut colour = [0; 3];
    for (value, field) in colour.iter_mut().zip(fields) {
        *value = field.parse().map_err(|_| format!("the colour value `{field}` is not a number from 0 to 255"))?;
    }
    Ok(colour)
}

/// A colour in one field: `#8000ff`, or three numbers in any brackets.
fn colour(field: &str) -> Result<[u8; 3], String> {
    let refuse = || format!("the colour `{field}` is neither of the form `#8000ff` nor three numbers from 0 to 255");
    if let Some(hex) = field.strip_prefix('#') {
        let value = u32::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 6 && hex.is_ascii()).ok_or_else(refuse)?;
        let [_, r, g, b] = value.to_be_bytes();
        return Ok([r, g, b]);
    }
    let numbers: Vec<&str> = field.split(|c: char| c.is_whitespace() || "()[]{},;".contains(c)).filter(|part| !part.is_empty()).collect();
    match numbers.as_slice() {
        [r, g, b] => three([r, g, b]).map_err(|_| refuse()),
        _ => Err(refuse()),
    }
}
