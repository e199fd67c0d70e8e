//! Data sets whose classes have another order than those of a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmamba_types::{ClassList, IGNORE_LABEL, LabelMap};

use crate::error::DataError;
use crate::sample::{SegmentationDataset, SegmentationSample};

/// How the classes of a data set relate to those of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClassOrder {
    /// Both have the same classes in the same order.
    Same,
    /// Both have the same classes in another order: the model's index of every class of the data.
    Other(Vec<u8>),
}

impl ClassOrder {
    /// Compares the names of the classes.
    ///
    /// # Errors
    /// Says which class the other side lacks, or which name occurs twice, so that names do not tell the classes apart.
    pub fn of(model: &ClassList, data: &ClassList) -> Result<Self, String> {
        if model.names == data.names {
            return Ok(Self::Same);
        }
        let index = |classes: &ClassList| classes.names.iter().cloned().zip(0_u8..).collect::<BTreeMap<String, u8>>();
        let (of_model, of_data) = (index(model), index(data));
        let missing =
            |names: &ClassList, others: &BTreeMap<String, u8>| names.names.iter().find(|name| !others.contains_key(*name)).cloned();
        let counts = format!("the model has {} classes, the data have {}", model.len(), data.len());
        if let Some(name) = missing(data, &of_model) {
            return Err(format!("{counts}; the model does not know the class \"{name}\" of the data"));
        }
        if let Some(name) = missing(model, &of_data) {
            return Err(format!("{counts}; the data do not know the class \"{name}\" of the model"));
        }
        if of_model.len() != model.len() || of_data.len() != data.len() {
            return Err(format!("{counts} in another order, and a name occurs twice, so that names do not tell the classes apart"));
        }
        Ok(Self::Other(data.names.iter().filter_map(|name| of_model.get(name).copied()).collect()))
    }
}

/// A data set with its labels in the order of other classes.
pub struct Relabelled {
    inner: Arc<dyn SegmentationDataset>,
    classes: ClassList,
    /// The new label of every label.
    labels: Vec<u8>,
}

impl Relabelled {
    /// The data set with label `k` changed to `labels[k]`, an index into `classes`. Ignored pixels stay ignored.
    pub fn new(inner: Arc<dyn SegmentationDataset>, classes: ClassList, labels: &[u8]) -> Self {
        let labels = (0..=u8::MAX).map(|label| labels.get(usize::from(label)).copied().unwrap_or(IGNORE_LABEL)).collect();
        Self { inner, classes, labels }
    }

    fn relabel(&self, map: LabelMap) -> LabelMap {
        let [height, width] = map.size();
        let labels = map.into_vec().into_iter().map(|label| self.labels.get(usize::from(label)).copied().unwrap_or(IGNORE_LABEL));
        LabelMap::new(height, width, labels.collect())
    }
}

impl SegmentationDataset for Relabelled {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
        let sample = self.inner.get(index)?;
        sample.validate(self.inner.classes().len())?;
        let SegmentationSample { image, labels, name, .. } = sample;
        Ok(SegmentationSample::new(image, self.relabel(labels), name))
    }

    fn size(&self, index: usize) -> Result<[usize; 2], DataError> {
        self.inner.size(index)
    }

    fn labels(&self, index: usize) -> Result<LabelMap, DataError> {
        Ok(self.relabel(self.inner.labels(index)?))
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }

    fn notes(&self) -> Vec<String> {
        self.inner.notes()
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
    }
}
