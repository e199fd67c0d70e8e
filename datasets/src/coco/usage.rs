//! Which annotations training uses, by mmdetection's rules, and whether any is left.

use vmamba_types::words::counted;

use super::dataset::CocoOptions;
use crate::error::AnnotationProblem;

/// Why training leaves out an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Useless {
    /// The annotated area is 0.
    Area,
    /// The box is narrower or lower than a pixel.
    Narrow,
    /// No part of the box lies in the image.
    Outside,
}

/// Why training leaves out an annotation with this box and area in an image of `[height, width]`; `None` when it is used.
pub(crate) fn useless([x, y, w, h]: [f64; 4], area: f64, [height, width]: [usize; 2]) -> Option<Useless> {
    let inside = |begin: f64, length: f64, limit: usize| (begin + length).min(limit as f64) - begin.max(0.0);
    if w < 1.0 || h < 1.0 {
        Some(Useless::Narrow)
    } else if inside(x, w, width) <= 0.0 || inside(y, h, height) <= 0.0 {
        Some(Useless::Outside)
    } else if area <= 0.0 {
        Some(Useless::Area)
    } else {
        None
    }
}

/// Counts of annotations by what training does with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    filter: bool,
    min_size: usize,
    /// Objects that are used.
    used: usize,
    crowds: usize,
    /// Annotations in images that are too small.
    small: usize,
    area: usize,
    narrow: usize,
    outside: usize,
    /// Boxes that end at 1 or before: shares of the image instead of pixels.
    shares: usize,
    /// Id of the first annotation that is left out for itself.
    first: Option<i64>,
}

impl Usage {
    /// No annotation yet.
    pub(crate) fn new(options: &CocoOptions) -> Self {
        Self { filter: options.filter, min_size: options.min_size, ..Self::default() }
    }

    /// Whether an image of `[height, width]` is left out because it is too small.
    pub(crate) fn is_small(&self, size: [usize; 2]) -> bool {
        self.filter && size.iter().any(|side| *side < self.min_size)
    }

    /// Counts an annotation.
    pub(crate) fn add(&mut self, id: i64, bbox: [f64; 4], area: f64, crowd: bool, size: [usize; 2]) {
        let useless = useless(bbox, area, size);
        if useless.is_some() {
            self.first.get_or_insert(id);
        }
        match useless {
            Some(Useless::Area) => self.area += 1,
            Some(Useless::Outside) => self.outside += 1,
            Some(Useless::Narrow) => {
                self.narrow += 1;
                self.shares += usize::from(bbox.iter().all(|side| (0.0..=1.0).contains(side)) && bbox[2] > 0.0);
            }
            None => (),
        }
        if crowd {
            self.crowds += 1;
        } else if self.is_small(size) {
            self.small += 1;
        } else {
            self.used += usize::from(useless.is_none());
        }
    }

    /// How many annotations are left out for themselves, and the id of the first.
    pub(crate) fn useless(&self) -> (usize, Option<i64>) {
        (self.area + self.narrow + self.outside, self.first)
    }

    /// The problem of a set without any object that is used.
    pub(crate) fn problem(&self) -> Option<AnnotationProblem> {
        if self.used > 0 {
            return None;
        }
        let reasons: Vec<String> = [
            (self.area, "with `area` 0"),
            (self.narrow, "with a box narrower than a pixel"),
            (self.outside, "with a box outside its image"),
            (self.crowds, "that are crowd regions"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", counted(count, "annotation", "annotations")))
        .chain(
            (self.small > 0)
                .then(|| format!("{} in images smaller than {} pixels", counted(self.small, "annotation", "annotations"), self.min_size)),
        )
        .collect();
        let mut hint = if reasons.is_empty() { String::new() } else { format!(" to learn from ({})", reasons.join(", ")) };
        if self.shares > 0 && self.shares == self.narrow {
            hint += "; the boxes are shares of the image, 0 to 1, but COCO's are pixels";
        }
        Some(AnnotationProblem::NoObjects(hint))
    }
}
