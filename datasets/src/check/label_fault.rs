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
    /// Every pixel is 0 or 255, and 255 is ignored: a mask of black and white.
    BinaryMask,
    /// All pixels that are not ignored have this one label, as the file has it. Every prediction of a model that knows no other class is
    /// right, so its mIoU is 100.
    OneClass(u8),
}

/// The use of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A model learns from it.
    Training,
    /// A model is validated on it.
    Validation,
}

impl LabelFault {
    /// The fault of labels of which those with a `true` in `present` occur. Of the label files when `reduce_zero_label` says how training
    /// changes them, of class indices without it.
    pub fn of(present: &[bool; 256], reduce_zero_label: bool) -> Option<Self> {
        let ignored = |label: u8| label == IGNORE_LABEL || (reduce_zero_label && label == 0);
        let mut classes = (0..=u8::MAX).filter(|label| present[usize::from(*label)] && !ignored(*label));
        let (first, second) = (classes.next(), classes.next());
        match (first, second) {
            (_, Some(_)) => None,
            // Black and white, whatever 0 means.
            (None | Some(0), _) if present[0] && present[usize::from(IGNORE_LABEL)] => Some(Self::BinaryMask),
            (None, _) => Some(Self::OnlyIgnored),
            (Some(label), _) => Some(Self::OneClass(label)),
        }
    }

    /// Whether a split with this fault is useless for its purpose. A validation on images of one class has a meaning: the model knows other
    /// classes, and may find them where they are not.
    pub fn spoils(self, purpose: Purpose) -> bool {
        match self {
            Self::OnlyIgnored | Self::BinaryMask => true,
            Self::OneClass(_) => purpose == Purpose::Training,
        }
    }

    /// What to do about it, in one sentence.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::OnlyIgnored => {
                "check whether 255, or with reduce_zero_label 0, is meant as a class, and write classes as their index from 0"
            }
            Self::BinaryMask => "write the foreground as 1 instead of 255 (background 0), and train two classes with reduce_zero_label off",
            Self::OneClass(_) => {
                "give the other pixels a class of their own, such as 0 for the background and 1 for the object, list both, and keep \
                 reduce_zero_label off where 0 is a class"
            }
        }
    }
}

impl fmt::Display for LabelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyIgnored => f.write_str("every pixel of every label map is ignored"),
            Self::BinaryMask => f.write_str("all labels are 0 or 255, but 255 means \"ignored\", so only class 0 would be learned"),
            Self::OneClass(label) => {
                write!(f, "all pixels that are not ignored have the label {label}, so there is nothing to tell it apart from")
            }
        }
    }
}

/// The fault that spoils a data set for its purpose, if it has one. Label maps are read in order until two classes have been seen, so a
/// healthy data set costs one or a few of them.
///
/// # Errors
/// When a label map cannot be read.
pub fn label_fault(dataset: &dyn SegmentationDataset, purpose: Purpose) -> Result<Option<LabelFault>, DataError> {
    let mut present = [false; 256];
    let mut fault = None;
    for index in 0..dataset.len() {
        dataset.labels(index)?.as_slice().iter().for_each(|label| present[usize::from(*label)] = true);
        fault = LabelFault::of(&present, false);
        if fault.is_none() {
            break;
        }
    }
    Ok(fault.filter(|fault| fault.spoils(purpose)))
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

    fn pixels(labels: &[Option<u8>], purpose: Purpose) -> Result<Option<LabelFault>, DataError> {
        label_fault(&Pixels(labels.to_vec(), ClassList::numbered(3)), purpose)
    }

    #[test]
    fn labels_of_fewer_than_two_classes_are_faults() {
        let fault = |labels: &[u8], purpose| pixels(&labels.iter().copied().map(Some).collect::<Vec<_>>(), purpose).unwrap();
        for purpose in [Purpose::Training, Purpose::Validation] {
            assert_eq!(fault(&[255, 255], purpose), Some(LabelFault::OnlyIgnored));
            assert_eq!(fault(&[0, 255, 0], purpose), Some(LabelFault::BinaryMask));
            assert_eq!(fault(&[255, 0, 1], purpose), None);
            assert_eq!(fault(&[2, 1], purpose), None);
        }
        for (labels, label) in [(&[0, 0][..], 0), (&[2, 255], 2)] {
            assert_eq!(fault(labels, Purpose::Training), Some(LabelFault::OneClass(label)));
            assert_eq!(fault(labels, Purpose::Validation), None);
        }
    }

    #[test]
    fn reduce_zero_label_ignores_the_label_0_of_a_file() {
        let of = |labels: &[usize]| {
            let mut present = [false; 256];
            labels.iter().for_each(|label| present[*label] = true);
            LabelFault::of(&present, true)
        };
        assert_eq!(of(&[0]), Some(LabelFault::OnlyIgnored));
        assert_eq!(of(&[0, 255]), Some(LabelFault::BinaryMask));
        assert_eq!(of(&[0, 1, 255]), Some(LabelFault::OneClass(1)));
        assert_eq!(of(&[1, 2]), None);
    }

    #[test]
    fn label_maps_behind_the_first_two_classes_are_not_read() {
        assert_eq!(pixels(&[Some(255), Some(1), Some(0), None], Purpose::Training).unwrap(), None);
        assert!(pixels(&[Some(255), Some(1), None], Purpose::Training).is_err());
    }
}
