//! Samples, and the two contracts of a data set.
//!
//! Training, evaluation, checks and pictures use nothing but these traits. To train on a data set of your own, from a database or from
//! memory, implement one of them:
//!
//! ```
//! use std::sync::Arc;
//!
//! use image::RgbImage;
//! use vision_datasets::DataError;
//! use vision_datasets::coco::{EvalConfig, IouType, evaluate, to_results};
//! use vision_datasets::loader::{DetectionLoader, LoaderConfig};
//! use vision_datasets::sample::{DetectionDataset, DetectionSample};
//! use vision_datasets::transforms::DetectionTrainPipeline;
//! use vmamba_types::{ClassList, Detection, Instance};
//!
//! /// White squares on black.
//! struct Squares(ClassList);
//!
//! impl DetectionDataset for Squares {
//!     fn len(&self) -> usize {
//!         3
//!     }
//!
//!     fn get(&self, index: usize) -> Result<DetectionSample, DataError> {
//!         let left = 10 * index as u32;
//!         let white = |x| if (left..left + 20).contains(&x) { 255 } else { 0 };
//!         let image = RgbImage::from_fn(64, 48, |x, y| image::Rgb([if y < 20 { white(x) } else { 0 }; 3]));
//!         let square = Instance::new([left as f32, 0.0, left as f32 + 20.0, 20.0], 0);
//!         Ok(DetectionSample::new(image, vec![square], format!("square {index}"), index as i64))
//!     }
//!
//!     fn classes(&self) -> &ClassList {
//!         &self.0
//!     }
//! }
//!
//! let data: Arc<dyn DetectionDataset> = Arc::new(Squares(ClassList::named(["square"])));
//!
//! // Training batches without end, resized, flipped and normalised.
//! let mut batches = DetectionLoader::new(Arc::clone(&data), DetectionTrainPipeline::coco(), LoaderConfig::new(2), 0);
//! let batch = batches.next().expect("the loader never ends")?;
//! assert_eq!((batch.names.len(), batch.size), (2, [800, 1088]));
//!
//! // Evaluation: the ground truth is read from the samples. These detections are the ground truth itself.
//! let found = (0..data.len()).map(|index| {
//!     let sample = data.get(index)?;
//!     let found = sample.instances.iter().map(|i| Detection { bbox: i.bbox, score: 1.0, category: i.category, mask: None });
//!     Ok((sample.image_id, found.collect()))
//! });
//! let found = found.collect::<Result<Vec<_>, DataError>>()?;
//! let truth = data.truth()?;
//! let report = evaluate(&truth, &to_results(&truth, &found)?, &EvalConfig::new(IouType::Bbox))?;
//! assert!(report.stats[0] > 0.999, "AP {}", report.stats[0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use vmamba_types::words::counted;
use vmamba_types::{ClassList, Instance, LabelMap};

use crate::error::DataError;
use crate::ground_truth::{GroundTruth, ImageEntry};

/// An image with its objects.
#[derive(Clone, Debug)]
pub struct DetectionSample {
    /// The image, 8 bits a channel.
    pub image: RgbImage,
    /// Its objects and crowd regions, in pixels of the image.
    pub instances: Vec<Instance>,
    /// Its name in messages and file names.
    pub name: String,
    /// Its id in annotations and results; unique in the data set, and at least 0.
    pub image_id: i64,
    /// `[height, width]` before any transform.
    pub original_size: [usize; 2],
}

impl DetectionSample {
    /// A sample before any transform.
    pub fn new(image: RgbImage, instances: Vec<Instance>, name: impl Into<String>, image_id: i64) -> Self {
        let original_size = size_of(&image);
        Self { image, instances, name: name.into(), image_id, original_size }
    }

    /// Checks the objects: class indices below `classes`, finite boxes, masks of the size of the image.
    ///
    /// # Errors
    /// Names the sample and the first invalid object.
    pub fn validate(&self, classes: usize) -> Result<(), DataError> {
        let size = size_of(&self.image);
        for (index, instance) in self.instances.iter().enumerate() {
            let fail = |message: String| Err(DataError::sample(&self.name, format!("object {index}: {message}")));
            if instance.category >= classes {
                return fail(format!("class index {} is outside the {classes} classes", instance.category));
            }
            if instance.bbox.iter().any(|side| !side.is_finite()) {
                return fail(format!("the box {:?} is not finite", instance.bbox));
            }
            let [x0, y0, x1, y1] = instance.bbox;
            if x1 < x0 || y1 < y0 {
                return fail(format!("the box {:?} has a negative side; boxes are x0, y0, x1, y1", instance.bbox));
            }
            if let Some(mask) = instance.mask.as_ref().map(vmamba_types::InstanceMask::size).filter(|mask| *mask != size) {
                return fail(format!(
                    "the mask is {}x{} pixels, but the image is {}x{} (width x height)",
                    mask[1], mask[0], size[1], size[0]
                ));
            }
        }
        Ok(())
    }
}

/// An image with a label for every pixel.
#[derive(Clone, Debug)]
pub struct SegmentationSample {
    /// The image, 8 bits a channel.
    pub image: RgbImage,
    /// Its labels, of the size of the image.
    pub labels: LabelMap,
    /// Its name in messages and file names.
    pub name: String,
    /// `[height, width]` before any transform.
    pub original_size: [usize; 2],
}

impl SegmentationSample {
    /// A sample before any transform.
    pub fn new(image: RgbImage, labels: LabelMap, name: impl Into<String>) -> Self {
        let original_size = size_of(&image);
        Self { image, labels, name: name.into(), original_size }
    }

    /// Checks that image and labels have the same size, and that every label is below `classes` or ignored.
    ///
    /// # Errors
    /// Names the sample and the first invalid pixel.
    pub fn validate(&self, classes: usize) -> Result<(), DataError> {
        let ([height, width], [label_height, label_width]) = (size_of(&self.image), self.labels.size());
        if [height, width] != [label_height, label_width] {
            let message = format!("the image is {width}x{height} pixels, but its labels are {label_width}x{label_height} (width x height)");
            return Err(DataError::sample(&self.name, message));
        }
        match self.labels.first_outside(classes) {
            None => Ok(()),
            Some(([row, column], label)) => {
                let message = format!("label {label} at column {column}, row {row} is outside the {classes} classes");
                Err(DataError::sample(&self.name, message))
            }
        }
    }
}

/// `[height, width]`.
fn size_of(image: &RgbImage) -> [usize; 2] {
    [image.height() as usize, image.width() as usize]
}

/// A set of images with objects. Samples are read on demand, possibly from several threads at once.
///
/// Only [`len`](Self::len), [`get`](Self::get) and [`classes`](Self::classes) must be written; the other methods have defaults that read
/// samples.
#[expect(clippy::len_without_is_empty, reason = "the readers of this crate refuse to open an empty data set")]
pub trait DetectionDataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Reads image `index`, counted from 0.
    ///
    /// # Errors
    /// When `index` is not below [`DetectionDataset::len`], or a file is missing, damaged, or contradicts its annotations.
    fn get(&self, index: usize) -> Result<DetectionSample, DataError>;

    /// The classes; [`Instance::category`] is an index into this list.
    fn classes(&self) -> &ClassList;

    /// `[height, width]` of image `index`. The loader asks for all sizes before the first batch, to put images of similar shape
    /// together. The default reads the image; a data set that knows the sizes should return them here.
    ///
    /// # Errors
    /// As [`DetectionDataset::get`].
    fn size(&self, index: usize) -> Result<[usize; 2], DataError> {
        Ok(self.get(index)?.original_size)
    }

    /// The ground truth of all images, for the evaluator. The default reads every sample, on all threads of rayon's pool; class `k`
    /// becomes category `k + 1`, and the name of the sample the name of the file.
    ///
    /// # Errors
    /// When a sample cannot be read or is invalid, or two samples have the same `image_id`.
    fn truth(&self) -> Result<GroundTruth, DataError> {
        let read = |index| -> Result<(ImageEntry, Vec<Instance>), DataError> {
            let sample = self.get(index)?;
            sample.validate(self.classes().len())?;
            Ok((ImageEntry { id: sample.image_id, file_name: sample.name, size: sample.original_size }, sample.instances))
        };
        let images = (0..self.len()).into_par_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut truth = GroundTruth::new(self.classes());
        let mut names = BTreeMap::new();
        for (image, instances) in images {
            if let Some(first) = names.insert(image.id, image.file_name.clone()) {
                return Err(DataError::sample(image.file_name, format!("image_id {} is already that of sample `{first}`", image.id)));
            }
            truth.push(image, &instances);
        }
        Ok(truth)
    }

    /// Notes to print before a run, one sentence each, such as the samples that the reader left out. The default reads the first samples and
    /// reports when none of their objects has a mask.
    fn notes(&self) -> Vec<String> {
        const SAMPLES: usize = 8;
        let mut objects = 0;
        for index in 0..self.len().min(SAMPLES) {
            // An unreadable sample is an error where it is needed.
            let Ok(sample) = self.get(index) else { return Vec::new() };
            if sample.instances.iter().any(|instance| instance.mask.is_some()) {
                return Vec::new();
            }
            objects += sample.instances.len();
        }
        let of = format!("of the first {}", counted(self.len().min(SAMPLES), "image", "images"));
        let note = format!("no object {of} has a mask; masks are learned and compared only where objects have them");
        if objects > 0 { vec![note] } else { Vec::new() }
    }
}

/// A set of labelled images. Samples are read on demand, possibly from several threads at once.
#[expect(clippy::len_without_is_empty, reason = "the readers of this crate refuse to open an empty data set")]
pub trait SegmentationDataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Reads image `index`, counted from 0.
    ///
    /// # Errors
    /// When `index` is not below [`SegmentationDataset::len`], or a file is missing, damaged, or contradicts its partner or the class
    /// list.
    fn get(&self, index: usize) -> Result<SegmentationSample, DataError>;

    /// The classes; a label is an index into this list.
    fn classes(&self) -> &ClassList;

    /// `[height, width]` of image `index`, for an estimate of the memory. The default reads the image; a data set that knows the sizes, or
    /// reads them from headers, should return them here.
    ///
    /// # Errors
    /// As [`SegmentationDataset::get`].
    fn size(&self, index: usize) -> Result<[usize; 2], DataError> {
        Ok(self.get(index)?.original_size)
    }

    /// The labels of image `index`. Before a training, they are read until they show that a model can learn from them. The default reads the
    /// image too; a data set that can leave it out should.
    ///
    /// # Errors
    /// As [`SegmentationDataset::get`].
    fn labels(&self, index: usize) -> Result<LabelMap, DataError> {
        Ok(self.get(index)?.labels)
    }

    /// What the reader left out, one sentence each, for the log of a run. The default has nothing to report.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

impl<D: DetectionDataset + ?Sized> DetectionDataset for Arc<D> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn get(&self, index: usize) -> Result<DetectionSample, DataError> {
        (**self).get(index)
    }

    fn classes(&self) -> &ClassList {
        (**self).classes()
    }

    fn size(&self, index: usize) -> Result<[usize; 2], DataError> {
        (**self).size(index)
    }

    fn truth(&self) -> Result<GroundTruth, DataError> {
        (**self).truth()
    }

    fn notes(&self) -> Vec<String> {
        (**self).notes()
    }
}

impl<D: SegmentationDataset + ?Sized> SegmentationDataset for Arc<D> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn size(&self, index: usize) -> Result<[usize; 2], DataError> {
        (**self).size(index)
    }

    fn labels(&self, index: usize) -> Result<LabelMap, DataError> {
        (**self).labels(index)
    }

    fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
        (**self).get(index)
    }

    fn classes(&self) -> &ClassList {
        (**self).classes()
    }

    fn notes(&self) -> Vec<String> {
        (**self).notes()
    }
}
