//! Images and annotations as samples, by mmdetection's `CocoDataset` rules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::annotations::{AnnotationEntry, CategoryEntry, CocoError, GroundTruth, ImageEntry, Problem};
use crate::image_io::read_rgb;
use crate::mask::InstanceMask;
use crate::sample::{ClassList, DataError, DetectionDataset, DetectionSample, Instance};

/// How a set is opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CocoOptions {
    /// Leave out images without annotation and images with a side below [`CocoOptions::min_size`]: for training. Evaluation keeps all.
    pub filter: bool,
    /// Smallest side in pixels that is kept.
    pub min_size: usize,
    /// The classes by name, where their order is given by a model; otherwise those of the file in its order.
    pub classes: Option<Vec<String>>,
}

impl CocoOptions {
    /// Smallest side of an image that is trained on, as in mmdetection's configurations.
    pub const MIN_SIZE: usize = 32;

    /// For training.
    pub fn train() -> Self {
        Self { filter: true, min_size: Self::MIN_SIZE, classes: None }
    }
}

/// What was left out on the way from annotations to samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Images without annotation.
    pub empty_images: usize,
    /// Images that are too small.
    pub small_images: usize,
    /// Annotations without area, below a pixel, or outside their image.
    pub annotations: usize,
    /// The first of these.
    pub first_annotation: Option<i64>,
}

/// A set of images with COCO annotations.
#[derive(Clone, Debug)]
pub struct CocoDataset {
    truth: GroundTruth,
    folder: PathBuf,
    classes: ClassList,
    /// Indices into `truth.images` of the images that are kept.
    kept: Vec<usize>,
    /// Indices into `truth.annotations` for every image of `truth.images`.
    of_image: Vec<Vec<usize>>,
    class_of: BTreeMap<i64, usize>,
    dropped: Dropped,
}

impl CocoDataset {
    /// Opens the annotations `file` for the images in `folder`.
    ///
    /// # Errors
    /// When the annotations are wrong, the folder is missing, a class is missing, or no image with an object is left.
    pub fn open(file: &Path, folder: &Path, options: &CocoOptions) -> Result<Self, DataError> {
        if !folder.is_dir() {
            return Err(DataError::layout(folder, "no such folder; it should hold the images of the annotations"));
        }
        Self::new(GroundTruth::read(file)?, file, folder, options)
    }

    fn new(mut truth: GroundTruth, file: &Path, folder: &Path, options: &CocoOptions) -> Result<Self, DataError> {
        let fail = |problem| CocoError { path: file.to_owned(), place: String::new(), problem };
        if let Some(names) = &options.classes {
            truth.categories = in_order(&truth.categories, names).map_err(|message| fail(Problem::Classes(message)))?;
        }
        if truth.categories.is_empty() {
            return Err(fail(Problem::Classes("there is no category".to_owned())).into());
        }
        let class_of: BTreeMap<i64, usize> = truth.categories.iter().enumerate().map(|(class, c)| (c.id, class)).collect();
        let place: BTreeMap<i64, usize> = truth.images.iter().enumerate().map(|(place, image)| (image.id, place)).collect();
        let mut of_image = vec![Vec::new(); truth.images.len()];
        let mut dropped = Dropped::default();
        for (index, annotation) in truth.annotations.iter().enumerate() {
            if let Some(image) = place.get(&annotation.image_id).filter(|_| class_of.contains_key(&annotation.category_id)) {
                if !is_usable(annotation, truth.images[*image].size) {
                    dropped.annotations += 1;
                    dropped.first_annotation.get_or_insert(annotation.id);
                }
                of_image[*image].push(index);
            }
        }
        let mut kept = Vec::new();
        for (index, image) in truth.images.iter().enumerate() {
            if options.filter && of_image[index].is_empty() {
                dropped.empty_images += 1;
            } else if options.filter && image.size.iter().any(|side| *side < options.min_size) {
                dropped.small_images += 1;
            } else {
                kept.push(index);
            }
        }
        let objects = |index: &usize| of_image[*index].iter().any(|a| !truth.annotations[*a].crowd);
        if !kept.iter().any(objects) {
            let hint = match dropped.small_images {
                0 => String::new(),
                count => format!(" ({count} images are smaller than {} pixels)", options.min_size),
            };
            return Err(fail(Problem::NoObjects(hint)).into());
        }
        let classes = ClassList::named(truth.categories.iter().map(|category| category.name.clone()));
        Ok(Self { truth, folder: folder.to_owned(), classes, kept, of_image, class_of, dropped })
    }

    /// What was left out.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    fn image(&self, index: usize) -> &ImageEntry {
        &self.truth.images[self.kept[index]]
    }
}

/// The categories of these names, in their order.
fn in_order(categories: &[CategoryEntry], names: &[String]) -> Result<Vec<CategoryEntry>, String> {
    let found = |name: &String| {
        let entry = categories.iter().find(|category| category.name == *name);
        entry.cloned().ok_or_else(|| {
            let known: Vec<&str> = categories.iter().map(|category| category.name.as_str()).collect();
            format!("the class `{name}` of the model is not among the categories ({})", known.join(", "))
        })
    };
    names.iter().map(found).collect()
}

/// Whether an annotation has an area inside its image, by mmdetection's rule.
fn is_usable(annotation: &AnnotationEntry, [height, width]: [usize; 2]) -> bool {
    let [x, y, w, h] = annotation.bbox;
    let inside = |begin: f64, length: f64, limit: usize| (begin + length).min(limit as f64) - begin.max(0.0);
    annotation.area > 0.0 && w >= 1.0 && h >= 1.0 && inside(x, w, width) > 0.0 && inside(y, h, height) > 0.0
}

impl DetectionDataset for CocoDataset {
    fn len(&self) -> usize {
        self.kept.len()
    }

    fn get(&self, index: usize) -> Result<DetectionSample, DataError> {
        let entry = self.image(index);
        let path = self.folder.join(&entry.file_name);
        let image = read_rgb(&path)?;
        let size = [image.height() as usize, image.width() as usize];
        if size != entry.size {
            let [height, width] = entry.size;
            let message = format!("the file is {}x{} pixels, its annotations say {width}x{height} (width x height)", size[1], size[0]);
            return Err(DataError::layout(&path, message));
        }
        let mut instances = Vec::new();
        for annotation in self.of_image[self.kept[index]].iter().map(|a| &self.truth.annotations[*a]) {
            let Some(&category) = self.class_of.get(&annotation.category_id).filter(|_| is_usable(annotation, size)) else { continue };
            let [x, y, w, h] = annotation.bbox;
            let mask = match &annotation.segmentation {
                Some(segmentation) => Some(
                    InstanceMask::new(segmentation.clone(), size)
                        .map_err(|error| DataError::layout(&path, format!("annotation {}: segmentation: {error}", annotation.id)))?,
                ),
                None => None,
            };
            let bbox = [x, y, x + w, y + h].map(|value| value as f32);
            instances.push(Instance { bbox, category, crowd: annotation.crowd, mask });
        }
        let name = Path::new(&entry.file_name).file_stem().map_or_else(|| entry.id.to_string(), |stem| stem.to_string_lossy().into_owned());
        Ok(DetectionSample { image, instances, name, image_id: entry.id, original_size: size })
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }

    fn size(&self, index: usize) -> [usize; 2] {
        self.image(index).size
    }

    fn truth(&self) -> Result<GroundTruth, DataError> {
        Ok(self.truth.clone())
    }
}
