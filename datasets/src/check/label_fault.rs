//! Label maps that no model can learn from. Training refuses them, and the check of a data set reports them by the same judgement.

use std::fmt;

use vmamba_types::IGNORE_LABEL;

use crate::error::DataError;
use crate::sample::SegmentationDataset;

/// Why no model can learn from the labels of a data set, or be validated on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelFault {
    /// Every pixel is ignored.
    OnlyIgnored,
    /// Two classes or more, but every pixel is 0 or 255, and 255 is ignored: a mask of black and white.
    BinaryMask,
}

impl LabelFault {
    /// The fault of labels of which those with a `true` in `present` occur. Of the label files when `reduce_zero_label` says how training
    /// changes them, of class indices without it.
    pub fn of(present: &[bool; 256], classes: usize, reduce_zero_label: bool) -> Option<Self> {
        let (zero, ignored) = (present[0], present[usize::from(IGNORE_LABEL)]);
        let others = present.iter().filter(|present| **present).count() - usize::from(zero) - usize::from(ignored);
        match (zero, ignored) {
            _ if others > 0 => None,
            (true, true) if classes >= 2 || reduce_zero_label => Some(Self::BinaryMask),
            (true, false) if reduce_zero_label => Some(Self::OnlyIgnored),
            (false, true) => Some(Self::OnlyIgnored),
            _ => None,
        }
    }

    /// What to do about it, in one sentence.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::OnlyIgnored => {
                "check whether 255, or with reduce_zero_label 0, is meant as a class, and write classes as their index from 0"
            }
            Self::BinaryMask => "write the foreground as 1 instead of 255 (background 0), and train two classes with reduce_zero_label off",
        }
    }
}

impl fmt::Display for LabelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnlyIgnored => "every pixel of every label map is ignored",
            Self::BinaryMask => "all labels are 0 or 255, but 255 means \"ignored\", so only class 0 would be learned",
        })
    }
}

/// The fault of a data set, if it has one. Label maps are read in order until one shows that there is none, so a healthy data set costs one or
/// a few of them.
///
/// # Errors
/// When a label map cannot be read.
pub fn label_fault(dataset: &dyn SegmentationDataset) -> Result<Option<LabelFault>, DataError> {
    let mut present = [false; 256];
    let mut fault = None;
    for index in 0..dataset.len() {
        dataset.labels(index)?.as_slice().iter().for_each(|label| present[usize::from(*label)] = true);
        fault = LabelFault::of(&present, dataset.classes().len(), false);
        if fault.is_none() && (present[1..usize::from(IGNORE_LABEL)].contains(&true) || dataset.classes().len() < 2) {
            break;
        }
    }
    Ok(fault)
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use vmamba_types::{ClassList, LabelMap};

    use super::*;
    use crate::sample::SegmentationSample;

    /// One pixel an image. An image beyond the end of the labels cannot be read.
    struct Pixels(Vec<Option<u8>>, ClassList);

    impl SegmentationDataset for Pixels {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
            let label = self.0[index].ok_or(DataError::Empty)?;
            Ok(SegmentationSample::new(RgbImage::new(1, 1), LabelMap::new(1, 1, vec![label]), index.to_string()))
        }

        fn classes(&self) -> &ClassList {
            &self.1
        }
    }

    fn fault(labels: &[u8], classes: usize) -> Option<LabelFault> {
        label_fault(&Pixels(labels.iter().copied().map(Some).collect(), ClassList::numbered(classes))).unwrap()
    }

    #[test]
    fn labels_that_are_all_ignored_and_masks_of_0_and_255_are_faults() {
        assert_eq!(fault(&[255, 255], 2), Some(LabelFault::OnlyIgnored));
        assert_eq!(fault(&[0, 255, 0], 2), Some(LabelFault::BinaryMask));
        assert_eq!(fault(&[255, 0, 1], 2), None);
        assert_eq!(fault(&[0, 0], 2), None);
        // With one class, 255 marks pixels of which the class is unknown.
        assert_eq!(fault(&[255, 0], 1), None);
        let mut present = [false; 256];
        present[0] = true;
        assert_eq!(LabelFault::of(&present, 2, true), Some(LabelFault::OnlyIgnored));
    }

    #[test]
    fn label_maps_behind_the_first_healthy_one_are_not_read() {
        let pixels = |labels: &[Option<u8>]| label_fault(&Pixels(labels.to_vec(), ClassList::numbered(2)));
        assert_eq!(pixels(&[Some(255), Some(1), None]).unwrap(), None);
        assert!(pixels(&[Some(255), None]).is_err());
    }
}
