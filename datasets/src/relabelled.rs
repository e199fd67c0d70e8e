//! Data sets whose classes have another order than those of a model.

use std::sync::Arc;

use vmamba_types::{ClassList, IGNORE_LABEL, LabelMap};

use crate::error::DataError;
use crate::sample::{SegmentationDataset, SegmentationSample};

/// A data set with its labels in the order of other classes.
pub struct Relabelled {
    inner: Arc<dyn SegmentationDataset>,
    classes: ClassList,
    /// The new label of every label.
    labels: Vec<u8>,
}

impl Relabelled {
    /// The data set with label `k` changed to `labels[k]`, an index into `classes`. Ignored pixels stay ignored.
    pub fn new(inner: Arc<dyn SegmentationDataset>, classes: ClassList, labels: &[usize]) -> Self {
        let new = |label: u8| labels.get(usize::from(label)).and_then(|label| u8::try_from(*label).ok()).unwrap_or(IGNORE_LABEL);
        let labels = (0..=u8::MAX).map(new).collect();
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
