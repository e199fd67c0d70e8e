//! Maps the class layers of a head (its last, class-specific layers) when training starts from a checkpoint with other classes.

use super::state_dict::StateDict;

/// A layer with one or more rows for every class, the first dimension of its weight and bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassLayer {
    /// Prefix of its keys, with the dot at the end.
    pub prefix: String,
    /// Rows of a class: 4 for the coordinates of a box.
    pub rows: usize,
    /// Rows after the rows of the classes: 1 for the background class.
    pub rest: usize,
}

impl ClassLayer {
    /// A layer with one row a class.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), rows: 1, rest: 0 }
    }
}

/// Compares the classes of a checkpoint with the classes of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClassRows {
    /// The file does not name its classes. The class layers are loaded if the number of classes agrees.
    #[default]
    Unknown,
    /// Both have the same classes in the same order.
    Same,
    /// Class `k` of the model is class `of[k]` of the file.
    Mapped(Vec<usize>),
    /// The classes differ, so the class layers are not loaded.
    Other {
        /// Number of classes of the file.
        classes: usize,
        /// How they differ.
        reason: String,
    },
}

impl ClassRows {
    /// Puts the rows of the class layers of a file in the order of the model, or removes the layers. A layer that all classes share is not
    /// changed. Returns the removed keys, or `None` if the file has no class layer.
    pub fn apply(&self, state: &mut StateDict, layers: &[ClassLayer]) -> Option<Vec<String>> {
        let of_layers = |key: &&str| layers.iter().any(|layer| key.starts_with(&layer.prefix));
        let keys: Vec<String> = state.keys().filter(of_layers).map(str::to_owned).collect();
        let mut removed = Vec::new();
        for key in &keys {
            let Some(layer) = layers.iter().find(|layer| key.starts_with(&layer.prefix)) else { continue };
            let rows = |classes: usize| layer.rows * classes + layer.rest;
            let Some(tensor) = state.get_mut(key) else { continue };
            let Some(height) = tensor.shape.first().copied().filter(|height| *height > 0) else { continue };
            let width = tensor.data.len() / height;
            match self {
                Self::Mapped(of) if height == rows(of.len()) => {
                    let class = |class: &usize| class * layer.rows..(class + 1) * layer.rows;
                    let order = of.iter().flat_map(class).chain(of.len() * layer.rows..height);
                    let row = |row: usize| tensor.data.get(row * width..(row + 1) * width).unwrap_or_default();
                    tensor.data = order.flat_map(row).copied().collect();
                }
                Self::Other { classes, .. } if height == rows(*classes) => removed.push(key.clone()),
                _ => (),
            }
        }
        for key in &removed {
            state.remove(key);
        }
        (!keys.is_empty()).then_some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::StateTensor;
    use super::*;

    fn state() -> StateDict {
        let tensor = |shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            StateTensor { shape: shape.to_vec(), data: (0..count).map(|value| value as f32).collect() }
        };
        [
            ("cls.weight", &[4, 2][..]),
            ("cls.bias", &[4]),
            ("reg.bias", &[12]),
            ("shared.bias", &[4]),
            ("mask.weight", &[3, 1, 1, 1]),
            ("fpn.bias", &[3]),
        ]
        .map(|(key, shape)| (key.to_owned(), tensor(shape)))
        .into_iter()
        .collect()
    }

    fn layers() -> Vec<ClassLayer> {
        let boxes = |prefix: &str| ClassLayer { rows: 4, ..ClassLayer::new(prefix) };
        vec![ClassLayer { rest: 1, ..ClassLayer::new("cls.") }, boxes("reg."), boxes("shared."), ClassLayer::new("mask.")]
    }

    #[test]
    fn rows_are_put_in_the_order_of_the_model_and_the_background_stays_last() {
        let mut mapped = state();
        assert_eq!(ClassRows::Mapped(vec![2, 0, 1]).apply(&mut mapped, &layers()), Some(Vec::new()));
        let data = |key: &str| mapped.get(key).unwrap().data.clone();
        assert_eq!(data("cls.weight"), [4.0, 5.0, 0.0, 1.0, 2.0, 3.0, 6.0, 7.0]);
        assert_eq!(data("cls.bias"), [2.0, 0.0, 1.0, 3.0]);
        assert_eq!(data("reg.bias"), [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        // One box for all classes.
        assert_eq!(data("shared.bias"), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!((data("mask.weight"), data("fpn.bias")), (vec![2.0, 0.0, 1.0], vec![0.0, 1.0, 2.0]));
    }

    #[test]
    fn layers_of_other_classes_are_removed_and_all_others_stay() {
        let mut other = state();
        let removed = ClassRows::Other { classes: 3, reason: String::new() }.apply(&mut other, &layers());
        assert_eq!(removed.unwrap(), ["cls.bias", "cls.weight", "mask.weight", "reg.bias"]);
        assert_eq!(other.keys().collect::<Vec<_>>(), ["fpn.bias", "shared.bias"]);
        for rows in [ClassRows::Same, ClassRows::Unknown] {
            let mut same = state();
            assert_eq!(rows.apply(&mut same, &layers()), Some(Vec::new()));
            assert_eq!(same, state());
        }
        assert_eq!(ClassRows::Same.apply(&mut StateDict::new(), &layers()), None);
    }
}
