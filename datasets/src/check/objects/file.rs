//! COCO annotation files, read by the judge of training, which reports every problem here, and their image files.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use vmamba_types::Segmentation;

use super::super::TINY;
use super::super::scan::fingerprint;
use super::rules::{
    FILE_SIZE, INVALID_FIELD, MISSING_FILE, OTHER_READING, Problems, ROOT_CATEGORY, Rule, SAME_CONTENT, SAME_NAME, TINY_IMAGE, TURNED,
    UNREADABLE,
};
use super::scan::{Extent, Object, Scan};
use super::{CategoryCount, ObjectCheckOptions, ObjectReport, report};
use crate::coco::scan::{Place, Seen, scan};
use crate::coco::{Judged, extent, root_category};
use crate::error::{AnnotationProblem, DataError};
use crate::files::check_inputs;
use crate::ground_truth::{CategoryEntry, ImageEntry};
use crate::image_io::{ExifOrientation, PhotoHeader, read_photo};

/// Checks an annotation file and its images in `folder`. The file is read entry by entry.
///
/// # Errors
/// When the file cannot be read, is not valid JSON, or lacks images or categories, or when an image is an output of this process. Every other
/// problem is a finding.
pub fn check_coco(file: &Path, folder: &Path, options: &ObjectCheckOptions) -> Result<ObjectReport, DataError> {
    let mut found = Found::new();
    scan(file, |judge, place, seen, problems| {
        for problem in problems {
            found.scan.problems.add(Rule::of(&problem), format_args!("{place}: {problem}"));
        }
        match seen {
            Seen::Image(image) => found.images.extend(image.map(|entry| Image { entry, objects: 0 })),
            Seen::Category(category) => found.categories.extend(category.map(|entry| Category { entry, annotations: 0 })),
            Seen::Annotation(annotation) => {
                let size = annotation.image_id.and_then(|id| judge.size(id)).unwrap_or_default();
                found.annotation(place, &annotation, size);
            }
        }
        ControlFlow::Continue(())
    })?;
    let Found { mut scan, images, categories, mut seen, annotations, .. } = found;
    let paths: Vec<PathBuf> = images.iter().map(|image| folder.join(&image.entry.file_name)).collect();
    check_inputs(paths.iter().map(PathBuf::as_path))?;
    for image in &images {
        let ImageEntry { file_name, size, .. } = &image.entry;
        if size.iter().any(|side| (1..TINY).contains(side)) {
            scan.problems.add(TINY_IMAGE, file_name);
        }
    }
    seen.sort_unstable();
    seen.dedup();
    let categories = count_categories(categories, &seen, options, &mut scan.problems);
    check_files(folder, &images, options.exif, &mut scan.problems);
    let objects = images.iter().map(|image| image.objects).collect();
    Ok(report(Some(file), scan, categories, objects, annotations, options))
}

/// What is kept of a file.
struct Found {
    scan: Scan,
    images: Vec<Image>,
    categories: Vec<Category>,
    /// Places in `images` by id, filled before the first annotation.
    image_of: HashMap<i64, u32>,
    /// Places in `categories` by id, filled before the first annotation.
    category_of: HashMap<i64, usize>,
    /// Category id and place of the image of every annotation.
    seen: Vec<(i64, u32)>,
    annotations: usize,
}

struct Image {
    entry: ImageEntry,
    objects: usize,
}

struct Category {
    entry: CategoryEntry,
    annotations: usize,
}

impl Found {
    fn new() -> Self {
        Self {
            scan: Scan::new(),
            images: Vec::new(),
            categories: Vec::new(),
            image_of: HashMap::new(),
            category_of: HashMap::new(),
            seen: Vec::new(),
            annotations: 0,
        }
    }

    /// Counts an annotation and judges its box and mask.
    fn annotation(&mut self, place: Place, annotation: &Judged, size: [usize; 2]) {
        if self.annotations == 0 {
            self.image_of = self.images.iter().zip(0..).map(|(image, place)| (image.entry.id, place)).collect();
            self.category_of = self.categories.iter().zip(0..).map(|(category, place)| (category.entry.id, place)).collect();
        }
        self.annotations += 1;
        let Judged { id, image_id, category_id, bbox, area, crowd, ref segmentation, has_mask } = *annotation;
        if let Some(category) = category_id.and_then(|id| self.categories.get_mut(*self.category_of.get(&id)?)) {
            category.annotations += 1;
        }
        let Some(image) = image_id.and_then(|id| self.image_of.get(&id)).copied() else { return };
        self.seen.extend(category_id.map(|category| (category, image)));
        self.scan.crowds += usize::from(crowd);
        if let Some(image) = self.images.get_mut(image as usize) {
            image.objects += usize::from(!crowd);
        }
        self.scan.without_mask += usize::from(!has_mask);
        let (Some(bbox), Some(area)) = (bbox, area) else { return };
        let extent = if has_mask { extent_of(segmentation.as_ref()) } else { Extent::NoMask };
        self.scan.add(&Object { place: &place, id: id.unwrap_or_default(), bbox, extent, crowd, area, size });
    }
}

/// The extent of a mask; unknown for one that is broken or empty.
fn extent_of(segmentation: Option<&Segmentation>) -> Extent {
    match segmentation {
        None => Extent::Unknown,
        Some(Segmentation::Polygons(polygons)) => Extent::Box(extent(polygons)),
        Some(Segmentation::Rle(rle)) => {
            let [x, y, w, h] = rle.bbox();
            if w > 0.0 { Extent::Box([x, y, x + w, y + h]) } else { Extent::Unknown }
        }
    }
}

/// The categories in the order of the file, with what is wrong with them; `seen` has no pair of category and image twice.
fn count_categories(
    categories: Vec<Category>,
    seen: &[(i64, u32)],
    options: &ObjectCheckOptions,
    problems: &mut Problems,
) -> Vec<CategoryCount> {
    let counted = |id: i64| categories.iter().any(|category| category.entry.id == id && category.annotations > 0);
    let entries: Vec<CategoryEntry> = categories.iter().map(|category| category.entry.clone()).collect();
    let root = root_category(&entries, counted);
    match root {
        Some(root) if !options.drop_root_category => problems.add(ROOT_CATEGORY, format_args!("category {}: `{}`", root.id, root.name)),
        None if options.drop_root_category => problems.add(INVALID_FIELD, AnnotationProblem::NoRootCategory),
        _ => (),
    }
    let root = root.map(|root| root.id).filter(|_| options.drop_root_category);
    let mut images: HashMap<i64, usize> = HashMap::new();
    seen.iter().for_each(|(category, _)| *images.entry(*category).or_default() += 1);
    let mut counts: Vec<CategoryCount> = Vec::new();
    for Category { entry, annotations } in categories.into_iter().filter(|category| Some(category.entry.id) != root) {
        if !entry.name.is_empty() && counts.iter().any(|other| other.name == entry.name) {
            problems.add(SAME_NAME, format_args!("`{}` (id {})", entry.name, entry.id));
        }
        let images = images.get(&entry.id).copied().unwrap_or_default();
        counts.push(CategoryCount { id: entry.id, name: entry.name, annotations, images });
    }
    counts
}

/// The outcome of reading an image file.
enum FileFacts {
    Missing,
    Unreadable(String),
    /// `[height, width]` as training reads it, the header and the fingerprint of the pixels.
    Read([usize; 2], PhotoHeader, u64),
}

/// Reads every image file once, in parallel.
fn check_files(folder: &Path, images: &[Image], exif: ExifOrientation, problems: &mut Problems) {
    let named: Vec<&ImageEntry> = images.iter().map(|image| &image.entry).filter(|image| !image.file_name.is_empty()).collect();
    let read: Vec<FileFacts> = named
        .par_iter()
        .map(|image| {
            let path = folder.join(&image.file_name);
            if !path.is_file() {
                return FileFacts::Missing;
            }
            let read = || -> Result<FileFacts, DataError> {
                let (picture, header) = (read_photo(&path, exif)?, PhotoHeader::read(&path)?);
                let (width, height) = picture.dimensions();
                Ok(FileFacts::Read([height as usize, width as usize], header, fingerprint(width, height, picture.as_raw())))
            };
            read().unwrap_or_else(|error| FileFacts::Unreadable(error.to_string()))
        })
        .collect();
    let mut contents: HashMap<u64, &str> = HashMap::new();
    for (image, read) in named.into_iter().zip(read) {
        match read {
            FileFacts::Missing => problems.add(MISSING_FILE, &image.file_name),
            FileFacts::Unreadable(error) => problems.add(UNREADABLE, error),
            FileFacts::Read(size, header, content) => {
                if size != image.size && !image.size.contains(&0) {
                    let ([h, w], [height, width]) = (size, image.size);
                    let rule = if header.fits_other_reading(exif, image.size) { OTHER_READING } else { FILE_SIZE };
                    problems.add(rule, format!("{}: {w}x{h}, annotated as {width}x{height}", image.file_name));
                } else if header.is_turned_unseen() {
                    problems.add(TURNED, &image.file_name);
                }
                if let Some(first) = contents.get(&content) {
                    problems.add(SAME_CONTENT, format!("{} and {first}", image.file_name));
                } else {
                    contents.insert(content, &image.file_name);
                }
            }
        }
    }
}
