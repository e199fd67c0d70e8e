//! Top-1 and top-5 accuracy.

use serde::Serialize;
use vision_datasets::imagenet::ImageClass;

/// The figures of a classifier on a data set. Accuracies are shares of 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassificationReport {
    /// Top-1 accuracy.
    pub top1: f64,
    /// Top-5 accuracy.
    pub top5: f64,
    /// Top-1 accuracy averaged over the classes that have images.
    pub mean_class_top1: f64,
    /// Number of classified images.
    pub images: usize,
    /// Images per second, including reading.
    pub images_per_second: f64,
    /// Images that could not be read.
    pub skipped: Vec<Skipped>,
    /// The accuracy of every class.
    pub classes: Vec<ClassAccuracy>,
}

/// An image that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The file and why it cannot be read.
    pub reason: String,
}

/// Accuracy on the images of a class; `None` for a class without images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// Name of the class's folder.
    pub folder: String,
    /// Readable name.
    pub name: String,
    /// Number of classified images.
    pub images: usize,
    /// Top-1 accuracy.
    pub top1: Option<f64>,
    /// Top-5 accuracy.
    pub top5: Option<f64>,
}

/// Correct predictions of every class.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    /// Number of images, of top-1 hits and of top-5 hits.
    classes: Vec<[usize; 3]>,
}

impl Counts {
    pub(super) fn new(num_classes: usize) -> Self {
        Self { classes: vec![[0; 3]; num_classes] }
    }

    /// Counts a batch of logits `[labels.len(), num_classes]`. Ties rank the lower class index first.
    ///
    /// # Errors
    /// The position in the batch of the first image whose logits are not finite; it and the images after it are not counted.
    pub(super) fn add(&mut self, logits: &[f32], labels: &[usize]) -> Result<(), usize> {
        for (place, (row, label)) in logits.chunks_exact(self.classes.len().max(1)).zip(labels).enumerate() {
            if row.iter().any(|logit| !logit.is_finite()) {
                return Err(place);
            }
            let (Some(own), Some(counts)) = (row.get(*label), self.classes.get_mut(*label)) else { return Err(place) };
            let better = row.iter().enumerate().filter(|(class, logit)| *logit > own || (*logit == own && class < label)).count();
            for (count, counted) in counts.iter_mut().zip([true, better == 0, better < 5]) {
                *count += usize::from(counted);
            }
        }
        Ok(())
    }

    /// Top-1 and top-5 accuracy over all images.
    pub(super) fn accuracy(&self) -> [f64; 2] {
        let total = self.classes.iter().fold([0; 3], |sum, counts| [0, 1, 2].map(|column| sum[column] + counts[column]));
        [1, 2].map(|column| total[column] as f64 / total[0] as f64)
    }

    pub(super) fn report(&self, classes: &[ImageClass], skipped: Vec<Skipped>, seconds: f64) -> ClassificationReport {
        let share = |right: usize, images: usize| (images > 0).then(|| right as f64 / images as f64);
        let classes: Vec<ClassAccuracy> = classes
            .iter()
            .zip(&self.classes)
            .map(|(class, [images, first, five])| ClassAccuracy {
                folder: class.folder.clone(),
                name: class.name.clone(),
                images: *images,
                top1: share(*first, *images),
                top5: share(*five, *images),
            })
            .collect();
        let of_classes: Vec<f64> = classes.iter().filter_map(|class| class.top1).collect();
        let images = classes.iter().map(|class| class.images).sum();
        let [top1, top5] = self.accuracy();
        ClassificationReport {
            top1,
            top5,
            mean_class_top1: of_classes.iter().sum::<f64>() / of_classes.len() as f64,
            images,
            images_per_second: images as f64 / seconds,
            skipped,
            classes,
        }
    }
}

impl ClassificationReport {
    /// Top-1, top-5 and mean class accuracy in one line, in percent.
    pub fn summary(&self) -> String {
        let [top1, top5, mean] = [self.top1, self.top5, self.mean_class_top1].map(|share| share * 100.0);
        format!("top-1 {top1:.3}  top-5 {top5:.3}  mean of classes {mean:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted_with_equal_logits_in_order_of_the_classes() {
        let mut counts = Counts::new(6);
        let row = [5.0, 4.0, 4.0, 3.0, 2.0, 1.0];
        let all: Vec<f32> = row.iter().copied().cycle().take(6 * 6).collect();
        counts.add(&all, &[0, 1, 2, 3, 4, 5]).unwrap();
        assert_eq!(counts.classes, [[1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 0]]);
        let mut equal = Counts::new(6);
        equal.add(&[0.0; 12], &[0, 5]).unwrap();
        assert_eq!(equal.accuracy(), [0.5, 0.5], "a constant output is no answer to the last class");
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        let mut counts = Counts::new(2);
        assert_eq!(counts.add(&[1.0, 0.0, f32::NAN, 1.0], &[0, 1]), Err(1));
        assert_eq!(counts.add(&[1.0, 0.0], &[2]), Err(0), "no such class");
    }

    #[test]
    fn classes_without_images_have_no_accuracy_and_do_not_count() {
        let class = |name: &str| ImageClass { folder: name.to_owned(), name: name.to_owned() };
        let mut counts = Counts::new(2);
        counts.add(&[0.0, 1.0, 1.0, 0.0], &[1, 1]).unwrap();
        let report = counts.report(&[class("a"), class("b")], Vec::new(), 2.0);
        assert_eq!((report.top1, report.mean_class_top1, report.images, report.images_per_second), (0.5, 0.5, 2, 1.0));
        assert_eq!((report.classes[0].top1, report.classes[1].top1), (None, Some(0.5)));
    }
}
