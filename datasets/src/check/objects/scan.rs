//! The facts of a detection data set, collected object by object, and the rules about boxes and masks.

use std::fmt;

use super::super::EXAMPLES;
use super::rules::{CORNERS, DEGENERATE, MASK_DIFFERS, NO_AREA, NO_MASK, OUTSIDE_BOX, OUTSIDE_WHOLLY, Problems};
use crate::coco::CocoOptions;
use crate::coco::usage::{Usage, Useless, useless};

/// COCO's bounds between small, medium and large objects, in pixels of area.
const AREAS: [f64; 2] = [32.0 * 32.0, 96.0 * 96.0];
/// A box fits its mask when it overlaps the extent of the mask by at least this IoU.
const SAME_BOX: f64 = 0.8;

/// The extent of a mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Extent {
    /// The object has no mask.
    NoMask,
    /// The mask is broken or empty.
    Unknown,
    /// The tight box `[x0, y0, x1, y1]` around the mask.
    Box([f64; 4]),
}

/// An object with a readable box.
pub(super) struct Object<'a> {
    /// Its name in examples.
    pub(super) place: &'a dyn fmt::Display,
    /// Its id.
    pub(super) id: i64,
    /// `[x, y, width, height]` in pixels.
    pub(super) bbox: [f64; 4],
    pub(super) extent: Extent,
    pub(super) crowd: bool,
    /// Annotated area in pixels.
    pub(super) area: f64,
    /// `[height, width]` of its image.
    pub(super) size: [usize; 2],
}

/// What was collected so far.
pub(super) struct Scan {
    pub(super) problems: Problems,
    corners: Corners,
    pub(super) crowds: usize,
    pub(super) without_mask: usize,
    /// Small, medium and large objects.
    pub(super) sizes: [usize; 3],
    /// Boxes `[x0, y0, x1, y1]` with the `[height, width]` of their image.
    pub(super) boxes: Vec<([f32; 4], [u32; 2])>,
    /// What training does with the objects.
    pub(super) usage: Usage,
}

impl Scan {
    pub(super) fn new() -> Self {
        Self {
            problems: Problems::default(),
            corners: Corners::default(),
            crowds: 0,
            without_mask: 0,
            sizes: [0; 3],
            boxes: Vec::new(),
            usage: Usage::new(&CocoOptions::train()),
        }
    }

    /// Judges the box of an object and its mask.
    pub(super) fn add(&mut self, object: &Object<'_>) {
        let Object { place, id, bbox: [x, y, w, h], extent, crowd, area, size } = *object;
        let [height, width] = size.map(|side| side as f64);
        self.corners.count(object);
        self.usage.add(id, object.bbox, area, crowd, size);
        match useless(object.bbox, area, size) {
            Some(Useless::Narrow) => self.problems.add(DEGENERATE, format_args!("{place}: {w} x {h}")),
            Some(Useless::Outside) => self.problems.add(OUTSIDE_WHOLLY, place),
            Some(Useless::Area) => self.problems.add(NO_AREA, place),
            None if x < -1.0 || y < -1.0 || x + w > width + 1.0 || y + h > height + 1.0 => self.problems.add(OUTSIDE_BOX, place),
            None => (),
        }
        let corners = [x, y, x + w, y + h];
        if let Extent::Box(extent) = extent
            && !crowd
            && overlap(corners, extent) < SAME_BOX
        {
            // The IoU of a small object falls fast, so differences of up to two pixels always pass.
            let close = corners.iter().zip(extent).all(|(a, b)| (a - b).abs() <= 2.0);
            if !close {
                self.problems.add(MASK_DIFFERS, place);
            }
        }
        if !crowd && w >= 1.0 && h >= 1.0 {
            self.sizes[AREAS.iter().filter(|limit| area >= **limit).count()] += 1;
            self.boxes.push((corners.map(|side| side as f32), size.map(|side| u32::try_from(side).unwrap_or(u32::MAX))));
        }
    }

    /// Adds the problems that only the whole set shows.
    pub(super) fn finish(&mut self) {
        if self.corners.is_convincing() {
            // The other complaints about boxes follow from this one.
            [DEGENERATE, OUTSIDE_BOX, OUTSIDE_WHOLLY, MASK_DIFFERS].into_iter().for_each(|rule| self.problems.remove(rule));
            self.problems.set(CORNERS, self.corners.found, std::mem::take(&mut self.corners.examples));
        }
        self.problems.add_many(NO_MASK, self.without_mask);
    }
}

/// Intersection over union of boxes `[x0, y0, x1, y1]`.
fn overlap(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |r: [f64; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let inner = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    inner / (area(a) + area(b) - inner).max(1e-9)
}

/// Whether the boxes are two corners instead of a corner and a size.
#[derive(Default)]
struct Corners {
    judged: usize,
    found: usize,
    examples: Vec<String>,
}

impl Corners {
    fn count(&mut self, object: &Object<'_>) {
        let ([a, b, c, d], [height, width]) = (object.bbox, object.size.map(|side| side as f64));
        self.judged += 1;
        let possible = c > a && d > b && c <= width + 1.0 && d <= height + 1.0;
        let better = match object.extent {
            Extent::Box(extent) => overlap([a, b, c, d], extent) > overlap([a, b, a + c, b + d], extent) + 0.2,
            Extent::NoMask | Extent::Unknown => a + c > width + 1.0 || b + d > height + 1.0,
        };
        if possible && better {
            self.found += 1;
            if self.examples.len() < EXAMPLES {
                self.examples.push(object.place.to_string());
            }
        }
    }

    /// A few such boxes are errors of their own; a quarter of all is a misunderstanding of the format.
    fn is_convincing(&self) -> bool {
        self.found > 0 && self.found * 4 >= self.judged
    }
}
