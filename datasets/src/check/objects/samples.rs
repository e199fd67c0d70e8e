//! Samples of any detection data set.

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;
use vmamba_types::Instance;

use super::super::TINY;
use super::super::scan::fingerprint;
use super::rules::{DUPLICATE_ID, FILE_SIZE, INVALID_SAMPLE, SAME_CONTENT, SAME_NAME, TINY_IMAGE, UNREADABLE};
use super::scan::{Extent, Object, Scan};
use super::{CategoryCount, ObjectCheckOptions, ObjectReport, report};
use crate::error::DataError;
use crate::sample::DetectionDataset;

/// Checks the samples of a data set, such as one of your own. Every sample is read once, in parallel.
///
/// Categories are numbered as in [`DetectionDataset::truth`]: class `k` is category `k + 1`.
pub fn check_objects(dataset: &dyn DetectionDataset, options: &ObjectCheckOptions) -> ObjectReport {
    let mut scan = Scan::new();
    let mut categories: Vec<CategoryCount> = Vec::new();
    for (name, id) in dataset.classes().names.iter().zip(1..) {
        if categories.iter().any(|category| category.name == *name) {
            scan.problems.add(SAME_NAME, name.clone());
        }
        categories.push(CategoryCount { id, name: name.clone(), annotations: 0, images: 0 });
    }
    let facts: Vec<_> = (0..dataset.len()).into_par_iter().map(|index| Facts::read(dataset, index)).collect();
    let (mut contents, mut ids) = (BTreeMap::new(), BTreeMap::new());
    let (mut objects, mut annotations) = (Vec::new(), 0);
    for (index, facts) in facts.into_iter().enumerate() {
        let Facts { name, image_id, size, content, instances, problem } = match facts {
            Ok(facts) => facts,
            Err(error) => {
                scan.problems.add(UNREADABLE, format!("sample {index}: {error}"));
                continue;
            }
        };
        if let Some(first) = contents.insert(content, name.clone()) {
            scan.problems.add(SAME_CONTENT, format!("{name} and {first}"));
        }
        if let Some(first) = ids.insert(image_id, name.clone()) {
            scan.problems.add(DUPLICATE_ID, format!("image_id {image_id} of {name} and {first}"));
        }
        if size.iter().any(|side| *side < TINY) {
            scan.problems.add(TINY_IMAGE, name.clone());
        }
        match dataset.size(index) {
            Ok(said) if said != size => {
                let ([h, w], [height, width]) = (size, said);
                scan.problems.add(FILE_SIZE, format!("{name}: {w}x{h}, the data set says {width}x{height}"));
            }
            Ok(_) => (),
            Err(error) => scan.problems.add(UNREADABLE, format!("size of sample {index}: {error}")),
        }
        objects.push(instances.iter().filter(|(instance, _)| !instance.crowd).count());
        annotations += instances.len();
        if let Some(problem) = problem {
            scan.problems.add(INVALID_SAMPLE, problem);
            continue;
        }
        for (category, count) in categories.iter_mut().enumerate() {
            let own = instances.iter().filter(|(instance, _)| instance.category == category).count();
            count.annotations += own;
            count.images += usize::from(own > 0);
        }
        for (place, (instance, mask)) in instances.iter().enumerate() {
            add(&mut scan, &format_args!("{name}, object {place}"), instance, mask.as_ref(), size);
        }
    }
    report(None, scan, categories, objects, annotations, options)
}

fn add(scan: &mut Scan, place: &dyn fmt::Display, instance: &Instance, mask: Option<&MaskFacts>, size: [usize; 2]) {
    let [x0, y0, x1, y1] = instance.bbox.map(f64::from);
    let bbox = [x0, y0, x1 - x0, y1 - y0];
    scan.crowds += usize::from(instance.crowd);
    scan.without_mask += usize::from(mask.is_none());
    let extent = match mask {
        None => Extent::NoMask,
        Some(mask) if mask.area == 0.0 => Extent::Unknown,
        Some(mask) => Extent::Box(mask.extent),
    };
    let area = mask.map_or(bbox[2] * bbox[3], |mask| mask.area);
    scan.add(&Object { place, id: 0, bbox, extent, crowd: instance.crowd, area, size });
}

/// What is kept of a sample.
struct Facts {
    name: String,
    image_id: i64,
    /// `[height, width]` of the image.
    size: [usize; 2],
    /// Fingerprint of the pixels.
    content: u64,
    instances: Vec<(Instance, Option<MaskFacts>)>,
    /// Why the sample is invalid, if it is.
    problem: Option<String>,
}

/// What is kept of a mask.
struct MaskFacts {
    area: f64,
    /// `[x0, y0, x1, y1]`.
    extent: [f64; 4],
}

impl Facts {
    fn read(dataset: &dyn DetectionDataset, index: usize) -> Result<Self, DataError> {
        let sample = dataset.get(index)?;
        let problem = sample.validate(dataset.classes().len()).err().map(|error| error.to_string());
        let (width, height) = sample.image.dimensions();
        let content = fingerprint(width, height, sample.image.as_raw());
        let facts = |instance: Instance| {
            let mask = instance.mask.as_ref().map(|mask| {
                let rle = mask.rle();
                let [x, y, w, h] = rle.bbox();
                MaskFacts { area: rle.area() as f64, extent: [x, y, x + w, y + h] }
            });
            (Instance { mask: None, ..instance }, mask)
        };
        let instances = sample.instances.into_iter().map(facts).collect();
        Ok(Self { name: sample.name, image_id: sample.image_id, size: [height as usize, width as usize], content, instances, problem })
    }
}
