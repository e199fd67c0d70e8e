//! Label maps of semantic segmentation.

/// The label of pixels that the loss and the metrics skip (mmsegmentation's `ignore_index`).
pub const IGNORE_LABEL: u8 = 255;

/// One class index a pixel, or [`IGNORE_LABEL`]; `height * width` values, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMap {
    height: usize,
    width: usize,
    labels: Vec<u8>,
}

impl LabelMap {
    /// A label map from its values in row-major order.
    ///
    /// # Panics
    /// When `labels` does not hold `height * width` values.
    pub fn new(height: usize, width: usize, labels: Vec<u8>) -> Self {
        assert_eq!(labels.len(), height * width, "LabelMap::new: a map of {height} x {width} pixels needs one label a pixel");
        Self { height, width, labels }
    }

    /// `[height, width]`.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The labels in row-major order.
    pub fn as_slice(&self) -> &[u8] {
        &self.labels
    }

    /// The labels in row-major order.
    pub fn into_vec(self) -> Vec<u8> {
        self.labels
    }

    /// Maps label 0 to [`IGNORE_LABEL`] and lowers every other label by one, as mmsegmentation's `reduce_zero_label` does for ADE20K,
    /// whose files store class `k` as `k + 1` and use 0 for "other objects". [`IGNORE_LABEL`] stays as it is.
    #[must_use]
    pub fn reduce_zero_label(mut self) -> Self {
        for label in &mut self.labels {
            *label = match *label {
                0 | IGNORE_LABEL => IGNORE_LABEL,
                other => other - 1,
            };
        }
        self
    }

    /// Undoes [`LabelMap::reduce_zero_label`], for files that are read with it: raises every class by one and writes ignored pixels as 0.
    #[must_use]
    pub fn restore_zero_label(mut self) -> Self {
        for label in &mut self.labels {
            *label = label.wrapping_add(1);
        }
        self
    }

    /// The `[row, column]` and the value of the first label that is neither [`IGNORE_LABEL`] nor below `classes`; `None` when all labels
    /// are valid.
    pub fn first_outside(&self, classes: usize) -> Option<([usize; 2], u8)> {
        // The largest label decides, and finding it compiles to vector instructions; a search for the position does not.
        let largest = self.labels.iter().map(|label| if *label == IGNORE_LABEL { 0 } else { *label }).max()?;
        if usize::from(largest) < classes {
            return None;
        }
        let outside = |label: &u8| *label != IGNORE_LABEL && usize::from(*label) >= classes;
        let at = self.labels.iter().position(outside)?;
        Some(([at / self.width, at % self.width], self.labels[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reducing_the_zero_label_ignores_0_and_lowers_the_others() {
        let map = LabelMap::new(1, 5, vec![0, 1, 150, 254, 255]).reduce_zero_label();
        assert_eq!(map.as_slice(), [255, 0, 149, 253, 255]);
    }

    #[test]
    fn restoring_the_zero_label_undoes_reducing_it() {
        let classes: Vec<u8> = (0..254).chain([IGNORE_LABEL]).collect();
        let map = LabelMap::new(1, 255, classes.clone()).restore_zero_label();
        assert_eq!((map.as_slice()[0], map.as_slice()[149], map.as_slice()[254]), (1, 150, 0));
        assert_eq!(map.reduce_zero_label().as_slice(), classes);
    }

    #[test]
    fn the_first_label_outside_the_classes_is_found() {
        let map = LabelMap::new(2, 3, vec![0, 255, 1, 2, 3, 9]);
        assert_eq!(map.first_outside(10), None);
        assert_eq!(map.first_outside(3), Some(([1, 1], 3)));
        assert_eq!(LabelMap::new(1, 2, vec![255, 255]).first_outside(0), None);
        assert_eq!(LabelMap::new(1, 2, vec![255, 0]).first_outside(0), Some(([0, 1], 0)));
        assert_eq!(LabelMap::new(0, 0, Vec::new()).first_outside(1), None);
    }
}
