//! Images with COCO annotations as a data set, by the rules of mmdetection's `CocoDataset`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use vmamba_types::words::{counted, sentence};
use vmamba_types::{ClassList, Instance, InstanceMask};

use super::usage::{Usage, useless};
use crate::error::{AnnotationProblem, DataError};
use crate::files::check_inputs;
use crate::ground_truth::{AnnotationEntry, CategoryEntry, GroundTruth, ImageEntry, WithoutMasks};
use crate::image_io::{ExifOrientation, PhotoHeader, read_photo};
use crate::sample::{DetectionDataset, DetectionSample};

/// How annotations become samples. The default, which is for evaluation, keeps every image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CocoOptions {
    /// Whether to leave out images without annotations and images with a side below [`CocoOptions::min_size`].
    pub filter: bool,
    /// Smallest side in pixels of an image that the filter keeps.
    pub min_size: usize,
    /// The classes in the order of a model's class indices. `None` takes the categories of the file in their order.
    pub classes: Option<ClassList>,
    /// Whether a set without objects may be opened, to write results for it.
    pub unlabelled: bool,
    /// Whether to leave out the root category that Roboflow puts before the classes: id 0, supercategory `none`, no annotations.
    pub drop_root_category: bool,
    /// What to do with the EXIF orientation of the photos. mmdetection applies it; annotations that were made without it need
    /// [`ExifOrientation::Ignored`].
    pub exif: ExifOrientation,
}

impl CocoOptions {
    /// Smallest side of a training image in mmdetection's configurations, in pixels.
    pub const MIN_SIZE: usize = 32;

    /// For training: leaves out images without annotations and images with a side below 32 pixels.
    pub fn train() -> Self {
        Self { filter: true, min_size: Self::MIN_SIZE, ..Self::default() }
    }

    /// For evaluation: keeps every image.
    pub fn evaluation() -> Self {
        Self::default()
    }

    /// Orders the classes as the model does. Annotations of other categories are left out. A category is found by its name, and by its id
    /// where several have that name.
    #[must_use]
    pub fn with_classes(self, classes: &ClassList) -> Self {
        Self { classes: Some(classes.clone()), ..self }
    }
}

/// Annotations and images that did not become samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Images without annotations.
    pub empty_images: usize,
    /// Images that are too small.
    pub small_images: usize,
    /// Annotations without area, narrower than a pixel, or outside their image.
    pub annotations: usize,
    /// Id of the first of these annotations.
    pub first_annotation: Option<i64>,
}

/// A set of images with COCO annotations.
#[derive(Clone, Debug)]
pub struct CocoDataset {
    truth: GroundTruth,
    file: PathBuf,
    folder: PathBuf,
    classes: ClassList,
    /// Indices into `truth.images` of the samples.
    kept: Vec<usize>,
    /// Indices into `truth.annotations` for every image of `truth.images`.
    of_image: Vec<Vec<usize>>,
    class_of: BTreeMap<i64, usize>,
    exif: ExifOrientation,
    dropped: Dropped,
    /// Id of Roboflow's root category, if it is a class.
    root: Option<i64>,
    /// Training annotations without a mask.
    without_masks: Option<WithoutMasks>,
}

impl CocoDataset {
    /// Opens the annotations in `file` for the images in `folder`.
    ///
    /// # Errors
    /// When the annotations are invalid, the folder is missing, a class of [`CocoOptions::classes`] is missing, no image with an object is left,
    /// or an image is an output of this process.
    pub fn open(file: &Path, folder: &Path, options: &CocoOptions) -> Result<Self, DataError> {
        if !folder.is_dir() {
            return Err(DataError::layout(folder, "no such folder; it should hold the images of the annotations"));
        }
        let data = Self::new(GroundTruth::read(file)?, file, folder, options)?;
        let images: Vec<PathBuf> = data.truth.images.iter().map(|image| folder.join(&image.file_name)).collect();
        check_inputs(images.iter().map(PathBuf::as_path))?;
        Ok(data)
    }

    fn new(mut truth: GroundTruth, file: &Path, folder: &Path, options: &CocoOptions) -> Result<Self, DataError> {
        let fail = |problem| DataError::annotation(file, "", problem);
        let counts = truth.annotations.iter().map(|annotation| annotation.category_id).collect::<BTreeSet<i64>>();
        let root = root_category(&truth.categories, |id| counts.contains(&id)).map(|root| root.id);
        truth.categories = match (&options.classes, root) {
            (Some(classes), _) => in_order(&truth.categories, classes).map_err(|message| fail(AnnotationProblem::Classes(message)))?,
            (None, None) if options.drop_root_category => return Err(fail(AnnotationProblem::NoRootCategory)),
            (None, Some(root)) if options.drop_root_category => truth.categories.into_iter().filter(|c| c.id != root).collect(),
            (None, _) => truth.categories,
        };
        if truth.categories.is_empty() {
            return Err(fail(AnnotationProblem::Classes("the list `categories` is empty".to_owned())));
        }
        let class_of: BTreeMap<i64, usize> = truth.categories.iter().enumerate().map(|(class, c)| (c.id, class)).collect();
        let place: BTreeMap<i64, usize> = truth.images.iter().enumerate().map(|(place, image)| (image.id, place)).collect();
        let mut of_image = vec![Vec::new(); truth.images.len()];
        let mut usage = Usage::new(options);
        for (index, annotation) in truth.annotations.iter().enumerate() {
            if let Some(image) = place.get(&annotation.image_id).filter(|_| class_of.contains_key(&annotation.category_id)) {
                usage.add(annotation.id, annotation.bbox, annotation.area, annotation.crowd, truth.images[*image].size);
                of_image[*image].push(index);
            }
        }
        let (mut kept, mut empty_images, mut small_images) = (Vec::new(), 0, 0);
        for (index, image) in truth.images.iter().enumerate() {
            if options.filter && of_image[index].is_empty() {
                empty_images += 1;
            } else if usage.is_small(image.size) {
                small_images += 1;
            } else {
                kept.push(index);
            }
        }
        if let Some(problem) = usage.problem().filter(|_| !options.unlabelled) {
            return Err(fail(problem));
        }
        if kept.is_empty() {
            return Err(fail(AnnotationProblem::NoImages));
        }
        let (annotations, first_annotation) = usage.useless();
        let dropped = Dropped { empty_images, small_images, annotations, first_annotation };
        let classes = ClassList::named(truth.categories.iter().map(|category| category.name.as_str()))
            .with_ids(truth.categories.iter().map(|category| category.id));
        let root = root.filter(|root| class_of.contains_key(root));
        let without_masks = truth.without_masks().filter(|_| options.filter);
        Ok(Self {
            truth,
            file: file.to_owned(),
            folder: folder.to_owned(),
            classes,
            kept,
            of_image,
            class_of,
            exif: options.exif,
            dropped,
            root,
            without_masks,
        })
    }

    /// Counts of the annotations and images that were left out; [`DetectionDataset::notes`] puts them in words.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// The place of sample `index` in `truth.images`, and its entry.
    fn image(&self, index: usize) -> Result<(usize, &ImageEntry), DataError> {
        let entry = self.kept.get(index).and_then(|place| Some((*place, self.truth.images.get(*place)?)));
        entry.ok_or(DataError::NoSuchSample { index, len: self.kept.len() })
    }

    /// The object of an annotation; `None` for one that is left out.
    fn instance(&self, annotation: &AnnotationEntry, size: [usize; 2]) -> Result<Option<Instance>, DataError> {
        let Some(&category) = self.class_of.get(&annotation.category_id).filter(|_| !is_useless(annotation, size)) else { return Ok(None) };
        let [x, y, w, h] = annotation.bbox;
        let mask = annotation.segmentation.as_ref().map(|segmentation| {
            let place = || format!("annotation {}", annotation.id);
            InstanceMask::new(segmentation.clone(), size).map_err(|error| DataError::annotation(&self.file, place(), error.into()))
        });
        let bbox = [x, y, x + w, y + h].map(|value| value as f32);
        Ok(Some(Instance { bbox, category, crowd: annotation.crowd, mask: mask.transpose()? }))
    }
}

/// Whether training leaves out an annotation.
fn is_useless(annotation: &AnnotationEntry, size: [usize; 2]) -> bool {
    useless(annotation.bbox, annotation.area, size).is_some()
}

/// The categories of these classes, in the order of the classes.
fn in_order(categories: &[CategoryEntry], classes: &ClassList) -> Result<Vec<CategoryEntry>, String> {
    let found = |(index, name): (usize, &String)| {
        let named: Vec<&CategoryEntry> = categories.iter().filter(|category| category.name == *name).collect();
        let entry = match named[..] {
            [only] if classes.names.iter().filter(|other| *other == name).count() == 1 => Some(only),
            _ => classes.ids.get(index).and_then(|id| named.iter().find(|category| category.id == *id)).copied(),
        };
        entry.cloned().ok_or_else(|| {
            let label = classes.label(index);
            if named.is_empty() {
                let known: Vec<&str> = categories.iter().map(|category| category.name.as_str()).collect();
                return format!("the class `{label}` of the model is not among the categories ({})", known.join(", "));
            }
            let ids: Vec<String> = named.iter().map(|category| category.id.to_string()).collect();
            format!(
                "the class `{label}` of the model can be any of the categories with that name (ids {}); give them names of their own",
                ids.join(", ")
            )
        })
    };
    classes.names.iter().enumerate().map(found).collect()
}

/// The category that Roboflow puts before the classes: its id is 0, its supercategory `none`, and no annotation is of it.
pub(crate) fn root_category(categories: &[CategoryEntry], has_annotations: impl Fn(i64) -> bool) -> Option<&CategoryEntry> {
    let is_root = |c: &&CategoryEntry| c.id == 0 && c.supercategory.as_deref() == Some("none") && !has_annotations(c.id);
    categories.iter().find(is_root).filter(|_| categories.len() > 1)
}

impl DetectionDataset for CocoDataset {
    fn len(&self) -> usize {
        self.kept.len()
    }

    fn get(&self, index: usize) -> Result<DetectionSample, DataError> {
        let (place, entry) = self.image(index)?;
        let path = self.folder.join(&entry.file_name);
        let image = read_photo(&path, self.exif)?;
        let size = [image.height() as usize, image.width() as usize];
        if size != entry.size {
            let ([height, width], file) = (entry.size, self.file.display());
            let mut message = format!("the image is {}x{} pixels, but {file} says {width}x{height} (width x height)", size[1], size[0]);
            if PhotoHeader::read(&path).is_ok_and(|header| header.fits_other_reading(self.exif, entry.size)) {
                message += "; ";
                message += self.exif.remedy();
            }
            return Err(DataError::Image { path, message });
        }
        let annotations = self.of_image[place].iter().map(|annotation| &self.truth.annotations[*annotation]);
        let instances = annotations.filter_map(|annotation| self.instance(annotation, size).transpose()).collect::<Result<_, _>>()?;
        let name = Path::new(&entry.file_name).file_stem().map_or_else(|| entry.id.to_string(), |stem| stem.to_string_lossy().into_owned());
        Ok(DetectionSample::new(image, instances, name, entry.id))
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }

    fn size(&self, index: usize) -> Result<[usize; 2], DataError> {
        Ok(self.image(index)?.1.size)
    }

    fn truth(&self) -> Result<GroundTruth, DataError> {
        Ok(self.truth.clone())
    }

    fn notes(&self) -> Vec<String> {
        let Dropped { empty_images, small_images, annotations, first_annotation } = self.dropped;
        let file = self.file.display();
        let mut notes = Vec::new();
        if let Some(first) = first_annotation {
            let what =
                sentence(annotations, "[annotation without area in its image is|annotations without area in their image are] left out");
            notes.push(format!("{file}: {what}, first {first}"));
        }
        if empty_images + small_images > 0 {
            let empty = counted(empty_images, "image", "images");
            notes.push(format!("{file}: {empty} without annotation and {small_images} tiny ones are left out of training"));
        }
        // mmdetection stops here, with `KeyError: 'mask'`; but boxes alone are worth learning too.
        if let Some(without) = self.without_masks {
            let effect = if without.count == without.all {
                "only boxes are learned, and masks that the model predicts mean nothing"
            } else {
                "masks are learned from the others only"
            };
            notes.push(format!("{file}: {without}; {effect}"));
        }
        if let Some(root) = self.root {
            let name = self.class_of.get(&root).map(|class| self.classes.label(*class)).unwrap_or_default();
            notes.push(format!(
                "{file}: category 0 `{name}` is Roboflow's root category and has no annotation; data.source.drop_root_category = true leaves it \
                 out of the classes"
            ));
        }
        let twice = |index: &usize| self.classes.names.iter().filter(|name| **name == self.classes.names[*index]).count() > 1;
        let labels: Vec<String> = (0..self.classes.len()).filter(twice).map(|index| format!("`{}`", self.classes.label(index))).collect();
        if !labels.is_empty() {
            notes.push(format!("{file}: categories share names and are told apart by id: {}", labels.join(", ")));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;

    /// A folder with images of 64x40 pixels, except `tiny`, and annotations for the four of them.
    fn open(options: &CocoOptions) -> (tempfile::TempDir, Result<CocoDataset, DataError>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("truth.json");
        let image = |id: i64, name: &str, size| ImageEntry { id, file_name: format!("{name}.png"), size };
        let images = vec![image(3, "good", [40, 64]), image(4, "empty", [40, 64]), image(5, "tiny", [20, 20]), image(9, "other", [40, 64])];
        for entry in &images {
            RgbImage::new(entry.size[1] as u32, entry.size[0] as u32).save(folder.path().join(&entry.file_name)).unwrap();
        }
        let category = CategoryEntry::new;
        let object = |id, image_id, category_id, bbox: [f64; 4]| AnnotationEntry {
            id,
            image_id,
            category_id,
            bbox,
            area: bbox[2] * bbox[3],
            crowd: false,
            segmentation: None,
        };
        let annotations = vec![
            object(1, 3, 7, [2.0, 3.0, 10.0, 8.0]),
            object(2, 3, 7, [2.0, 3.0, 0.5, 8.0]),
            object(3, 5, 7, [2.0, 3.0, 10.0, 8.0]),
            object(4, 9, 8, [1.0, 1.0, 5.0, 5.0]),
        ];
        GroundTruth { images, categories: vec![category(7, "cat"), category(8, "dog")], annotations }.write(&file).unwrap();
        let data = CocoDataset::open(&file, folder.path(), options);
        (folder, data)
    }

    #[test]
    fn training_leaves_out_what_cannot_be_learned_and_says_so() {
        let (_folder, data) = open(&CocoOptions::train());
        let data = data.unwrap();
        assert_eq!(data.dropped(), Dropped { empty_images: 1, small_images: 1, annotations: 1, first_annotation: Some(2) });
        assert_eq!((data.len(), data.get(0).unwrap().instances.len(), data.notes().len()), (2, 1, 3));
        assert!(data.notes()[2].contains("4 of 4 annotations have no mask, first annotation 1; only boxes are learned"));
        let (_folder, data) = open(&CocoOptions::evaluation());
        assert_eq!(data.unwrap().len(), 4);
    }

    #[test]
    fn the_classes_of_a_model_decide_the_class_indices() {
        let (_folder, data) = open(&CocoOptions::evaluation().with_classes(&ClassList::named(["dog", "cat"])));
        let data = data.unwrap();
        assert_eq!(data.get(0).unwrap().instances[0].category, 1);
        let (_folder, data) = open(&CocoOptions::train().with_classes(&ClassList::named(["dog"])));
        assert_eq!(data.unwrap().len(), 1);
        let (_folder, data) = open(&CocoOptions::train().with_classes(&ClassList::named(["cow"])));
        let error = data.unwrap_err().to_string();
        assert!(error.contains("truth.json: the class `cow`") && error.contains("cat, dog"), "{error}");
    }

    #[test]
    fn categories_of_one_name_are_told_apart_by_id() {
        let categories = [CategoryEntry::new(1, "cat"), CategoryEntry::new(2, "cat"), CategoryEntry::new(5, "dog")];
        let ids = |classes: &ClassList| in_order(&categories, classes).map(|found| found.iter().map(|c| c.id).collect::<Vec<_>>());
        assert_eq!(ids(&ClassList::named(["cat", "dog", "cat"]).with_ids([2, 7, 1])).unwrap(), [2, 5, 1]);
        for classes in [ClassList::named(["cat"]), ClassList::named(["cat", "cat"]).with_ids([1, 8])] {
            assert!(ids(&classes).unwrap_err().contains("can be any of the categories with that name (ids 1, 2)"));
        }
    }

    #[test]
    fn an_image_of_another_size_and_an_index_beyond_the_end_are_errors() {
        let (folder, data) = open(&CocoOptions::evaluation());
        let data = data.unwrap();
        RgbImage::new(30, 40).save(folder.path().join("good.png")).unwrap();
        let error = data.get(0).unwrap_err().to_string();
        assert!(error.contains("good.png") && error.contains("30x40") && error.contains("truth.json says 64x40"), "{error}");
        assert!(matches!(data.get(4), Err(DataError::NoSuchSample { index: 4, len: 4 })));
        assert!(data.size(4).is_err());
    }

    #[test]
    fn photos_that_are_annotated_without_their_exif_orientation_are_named_and_read_with_the_switch() {
        use crate::check::{FindingKind, ObjectCheckOptions, check_coco};
        use crate::image_io::tests::write_turned;

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("truth.json");
        // A photo of 64x40 stored pixels that is turned by a quarter, and one that is turned by half a circle.
        for (name, orientation) in [("quarter.jpg", 6), ("half.jpg", 3)] {
            write_turned(&folder.path().join(name), 64, 40, orientation);
        }
        let image = |id, name: &str| ImageEntry { id, file_name: name.into(), size: [40, 64] };
        let bbox = [2.0, 3.0, 10.0, 8.0];
        let object = |id| AnnotationEntry { id, image_id: id, category_id: 1, bbox, area: 80.0, crowd: false, segmentation: None };
        let images = vec![image(1, "quarter.jpg"), image(2, "half.jpg")];
        let truth = GroundTruth { images, categories: vec![CategoryEntry::new(1, "cat")], annotations: vec![object(1), object(2)] };
        truth.write(&file).unwrap();

        let read = |exif, index| {
            let data = CocoDataset::open(&file, folder.path(), &CocoOptions { exif, ..CocoOptions::train() }).unwrap();
            data.get(index).map(|sample| sample.original_size).map_err(|error| error.to_string())
        };
        let found = |exif, kind| {
            let report = check_coco(&file, folder.path(), &ObjectCheckOptions { exif, ..ObjectCheckOptions::default() }).unwrap();
            report.findings.iter().filter(|finding| finding.kind == kind).map(|finding| finding.examples.clone()).collect::<Vec<_>>()
        };
        let error = read(ExifOrientation::Applied, 0).unwrap_err();
        assert!(error.contains("quarter.jpg") && error.contains("data.source.ignore_exif = true"), "{error}");
        let mismatch = found(ExifOrientation::Applied, FindingKind::SizeMismatch);
        assert!(matches!(&mismatch[..], [examples] if examples[0].starts_with("quarter.jpg")), "{mismatch:?}");

        assert_eq!(read(ExifOrientation::Ignored, 0), Ok([40, 64]));
        assert!(found(ExifOrientation::Ignored, FindingKind::SizeMismatch).is_empty());
        // The size of the second photo fits either way.
        assert_eq!(read(ExifOrientation::Applied, 1), Ok([40, 64]));
        assert_eq!(found(ExifOrientation::Applied, FindingKind::TurnedPhoto), [["half.jpg"]]);
    }
}
