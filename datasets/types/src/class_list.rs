//! Names and display colours of the classes.

use serde::{Deserialize, Serialize};

/// Names and display colours of the classes, by class index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassList {
    /// Names.
    pub names: Vec<String>,
    /// RGB colours, one for each name.
    pub palette: Vec<[u8; 3]>,
    /// Category ids of the annotations, one for each name; empty for classes that come from elsewhere. Names may repeat, ids do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<i64>,
}

impl ClassList {
    /// A list of names with colours.
    pub fn new(classes: impl IntoIterator<Item = (String, [u8; 3])>) -> Self {
        let (names, palette) = classes.into_iter().unzip();
        Self { names, palette, ids: Vec::new() }
    }

    /// A list of names with generated colours, see [`ClassList::colour`].
    pub fn named<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::new(names.into_iter().enumerate().map(|(index, name)| (name.into(), Self::colour(index))))
    }

    /// `count` classes with the names "class 0", "class 1" and so on.
    pub fn numbered(count: usize) -> Self {
        Self::named((0..count).map(|index| format!("class {index}")))
    }

    /// Sets the category ids of the annotations, one for each name.
    #[must_use]
    pub fn with_ids(self, ids: impl IntoIterator<Item = i64>) -> Self {
        Self { ids: ids.into_iter().collect(), ..self }
    }

    /// Class `index` for a person: its name, with the id or else the index where another class has the same name.
    pub fn label(&self, index: usize) -> String {
        let Some(name) = self.names.get(index) else { return format!("class {index}") };
        if self.names.iter().filter(|other| *other == name).count() < 2 {
            return name.clone();
        }
        self.ids.get(index).map_or_else(|| format!("{name} (class {index})"), |id| format!("{name} (id {id})"))
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the list has no class.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The generated colour of class `index`: PASCAL VOC's colour map, which spreads the bits of the index over the high bits of the
    /// channels, shifted by one so that class 0 is not black.
    pub fn colour(index: usize) -> [u8; 3] {
        let mut colour = [0_u8; 3];
        let mut rest = index + 1;
        for shift in (0..8).rev() {
            for channel in &mut colour {
                *channel |= ((rest & 1) as u8) << shift;
                rest >>= 1;
            }
        }
        colour
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_one_name_are_told_apart_by_id() {
        let list = ClassList::named(["cat", "dog", "cat"]);
        assert_eq!([0, 1, 2, 3].map(|index| list.label(index)), ["cat (class 0)", "dog", "cat (class 2)", "class 3"]);
        assert_eq!([0, 1, 2].map(|index| list.clone().with_ids([4, 5, 9]).label(index)), ["cat (id 4)", "dog", "cat (id 9)"]);
    }

    #[test]
    fn generated_colours_differ() {
        let palette = ClassList::numbered(150).palette;
        let different: std::collections::BTreeSet<_> = palette.iter().collect();
        assert_eq!(different.len(), 150);
    }
}
