//! Compares the classes of a dataset with the classes of a model, for evaluation and for training that starts from a checkpoint.

use crate::class_list::ClassList;
use crate::words::counted;

/// The classes of a dataset compared with the classes of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClassOrder {
    /// Both have the same classes in the same order.
    Same,
    /// Both have the same classes in another order: the model's index of every class of the data.
    Other(Vec<usize>),
}

impl ClassOrder {
    /// Compares the names of the classes, and the ids of those that share a name.
    ///
    /// # Errors
    /// Says which class the other side lacks, or which name occurs twice, so that names do not tell the classes apart.
    pub fn of(model: &ClassList, data: &ClassList) -> Result<Self, String> {
        let shared = |name: &String| [model, data].iter().any(|list| list.names.iter().filter(|other| *other == name).count() > 1);
        let key = |list: &ClassList, index: usize| {
            let name = list.names.get(index)?;
            Some((name.clone(), if shared(name) { list.ids.get(index).copied() } else { None }))
        };
        let keys = |list: &ClassList| (0..list.len()).map(|index| key(list, index)).collect::<Vec<_>>();
        let (of_model, of_data) = (keys(model), keys(data));
        if of_model == of_data {
            return Ok(Self::Same);
        }
        let counts = match (model.len(), data.len()) {
            (own, other) if own == other => String::new(),
            (own, other) => format!("the model has {}, the data have {other}; ", counted(own, "class", "classes")),
        };
        let missing = |list: &ClassList, others: &ClassList| list.names.iter().position(|name| !others.names.contains(name));
        if let Some(index) = missing(data, model) {
            return Err(format!("{counts}the model does not know the class \"{}\" of the data", data.label(index)));
        }
        if let Some(index) = missing(model, data) {
            return Err(format!("{counts}the data do not know the class \"{}\" of the model", model.label(index)));
        }
        let places: Option<Vec<usize>> = of_data.iter().map(|own| of_model.iter().position(|other| other == own)).collect();
        let mut sorted = places.clone().unwrap_or_default();
        sorted.sort_unstable();
        match places {
            Some(places) if sorted.into_iter().eq(0..model.len()) => Ok(Self::Other(places)),
            _ => Err(format!("{counts}the order differs and a name occurs twice, so that names do not tell the classes apart")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_in_another_order_are_matched_by_name() {
        let list = |names: &[&str]| ClassList::named(names.iter().copied());
        let model = list(&["sky", "road", "car"]);
        assert_eq!(ClassOrder::of(&model, &model), Ok(ClassOrder::Same));
        assert_eq!(ClassOrder::of(&model, &list(&["car", "sky", "road"])), Ok(ClassOrder::Other(vec![2, 0, 1])));
        let refused = |data: &[&str]| ClassOrder::of(&model, &list(data)).unwrap_err();
        assert!(refused(&["sky", "road", "bus"]).contains("does not know the class \"bus\""));
        assert!(refused(&["sky", "road"]).contains("do not know the class \"car\""));
        assert!(refused(&["road", "sky", "car", "car"]).contains("occurs twice"));
        assert_eq!(refused(&["boat"]), "the model has 3 classes, the data have 1; the model does not know the class \"boat\" of the data");
    }

    #[test]
    fn classes_of_one_name_are_matched_by_id() {
        let model = ClassList::named(["cat", "dog", "cat"]).with_ids([1, 2, 3]);
        let data = ClassList::named(["cat", "cat", "dog"]);
        assert_eq!(ClassOrder::of(&model, &data.clone().with_ids([3, 1, 9])), Ok(ClassOrder::Other(vec![2, 0, 1])));
        assert_eq!(ClassOrder::of(&model, &model.clone()), Ok(ClassOrder::Same));
        for other in [data.clone(), data.with_ids([4, 1, 9])] {
            assert!(ClassOrder::of(&model, &other).unwrap_err().contains("occurs twice"));
        }
    }
}
