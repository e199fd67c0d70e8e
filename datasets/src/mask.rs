//! Masks of instances in compact form: COCO's run-length encoding and polygons, and their way through the transforms.
//!
//! The mask arithmetic is hotcoco's, which follows pycocotools bit for bit. A mask stays in the form of its annotation until somebody needs
//! its pixels; then only the window that holds them is made.

use std::sync::Arc;

use hotcoco::mask as codec;
use hotcoco::primitives::sim::mask_iou_flat;

use crate::sample::BitMask;
use crate::transforms::nearest_positions;

/// A mask that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// A polygon is a list of x and y in turn, of at least three points.
    #[error("polygon {index} has {count} numbers; it needs x and y of at least three points")]
    Polygon {
        /// Which of the polygons, counted from 0.
        index: usize,
        /// Its numbers.
        count: usize,
    },
    /// A coordinate is no number.
    #[error("polygon {index} has a coordinate that is no finite number")]
    Coordinate {
        /// Which of the polygons, counted from 0.
        index: usize,
    },
    /// The runs do not cover the image.
    #[error("its runs cover {total} pixels, the mask of {}x{} (width x height) has {}", size[1], size[0], size[0] * size[1])]
    Length {
        /// Sum of the runs.
        total: u64,
        /// `[height, width]`.
        size: [usize; 2],
    },
    /// The compressed runs cannot be read, or the size is beyond what runs can count.
    #[error("{0}")]
    Encoding(String),
    /// Masks of different sizes cannot be put together.
    #[error("masks of different sizes, {first:?} and {second:?} (height, width)")]
    Sizes {
        /// One size.
        first: [usize; 2],
        /// Another.
        second: [usize; 2],
    },
}

/// Run-length encoded mask: lengths of runs down the columns, of zeros and ones in turn, beginning with zeros (COCO's uncompressed RLE).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rle {
    /// `[height, width]`
    pub size: [usize; 2],
    /// Lengths of the runs.
    pub counts: Vec<u32>,
}

fn encoding(error: hotcoco::Error) -> MaskError {
    MaskError::Encoding(error.to_string())
}

/// Sides beyond `u32` cannot be counted by runs; they become the largest side, which hotcoco refuses.
fn sides(size: [usize; 2]) -> [u32; 2] {
    size.map(|side| u32::try_from(side).unwrap_or(u32::MAX))
}

fn check_polygons(polygons: &[Vec<f64>]) -> Result<(), MaskError> {
    for (index, polygon) in polygons.iter().enumerate() {
        if polygon.len() < 6 || polygon.len() % 2 == 1 {
            return Err(MaskError::Polygon { index, count: polygon.len() });
        }
        if polygon.iter().any(|value| !value.is_finite()) {
            return Err(MaskError::Coordinate { index });
        }
    }
    Ok(())
}

impl Rle {
    fn to_codec(&self) -> hotcoco::types::Rle {
        let [h, w] = sides(self.size);
        hotcoco::types::Rle { h, w, counts: self.counts.clone() }
    }

    fn from_codec(rle: hotcoco::types::Rle) -> Self {
        Self { size: [rle.h as usize, rle.w as usize], counts: rle.counts }
    }

    /// The union of polygons, each `x, y` in turn in pixels, on an image of `[height, width]` pixels (pycocotools' `frPyObjects` and
    /// `merge`).
    ///
    /// # Errors
    /// When a polygon has fewer than three points or half a point, or a coordinate is no number.
    pub fn from_polygons(polygons: &[Vec<f64>], size: [usize; 2]) -> Result<Self, MaskError> {
        check_polygons(polygons)?;
        let [h, w] = sides(size);
        codec::fr_polys(polygons, h, w).map(Self::from_codec).map_err(encoding)
    }

    /// A box `[x, y, width, height]` as pycocotools fills it.
    ///
    /// # Errors
    /// When the image is too large for runs to count.
    pub fn from_box(bbox: [f64; 4], size: [usize; 2]) -> Result<Self, MaskError> {
        let [h, w] = sides(size);
        codec::fr_bbox(&bbox, h, w).map(Self::from_codec).map_err(encoding)
    }

    /// Encodes pixels.
    pub fn from_bits(bits: &BitMask) -> Self {
        let [height, width] = bits.size();
        let bits = bits.as_slice();
        Self::from_columns([height, width], (0..width).flat_map(|x| (0..height).map(move |y| bits[y * width + x])))
    }

    /// Encodes pixels that come column by column.
    fn from_columns(size: [usize; 2], pixels: impl Iterator<Item = bool>) -> Self {
        let (mut counts, mut run, mut current) = (Vec::new(), 0_u32, false);
        for bit in pixels {
            if bit != current {
                counts.push(std::mem::take(&mut run));
                current = bit;
            }
            run += 1;
        }
        counts.push(run);
        Self { size, counts }
    }

    /// Its pixels.
    pub fn to_bits(&self) -> BitMask {
        let [height, width] = self.size;
        let mut bits = vec![false; height * width];
        for (column, rows) in self.column_runs() {
            for y in rows {
                bits[y * width + column] = true;
            }
        }
        BitMask::new(height, width, bits)
    }

    /// Column and rows of every piece of a run of ones; nothing beyond the image.
    fn column_runs(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let [height, width] = self.size;
        let mut position = 0_usize;
        self.counts
            .iter()
            .enumerate()
            .filter_map(move |(index, count)| {
                let begin = position;
                position = position.saturating_add(*count as usize).min(height * width);
                (index % 2 == 1 && position > begin).then_some(begin..position)
            })
            .flat_map(move |run| {
                (run.start / height..=(run.end - 1) / height).map(move |column| {
                    let first = run.start.max(column * height) - column * height;
                    (column, first..run.end.min((column + 1) * height) - column * height)
                })
            })
    }

    /// Number of its pixels.
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|count| u64::from(*count)).sum()
    }

    /// The box `[x, y, width, height]` around its pixels; zeros when there is none.
    pub fn bbox(&self) -> [f64; 4] {
        codec::to_bbox(&self.to_codec())
    }

    /// COCO's compressed form.
    pub fn to_compressed(&self) -> String {
        codec::rle_to_string(&self.to_codec())
    }

    /// From COCO's compressed form.
    ///
    /// # Errors
    /// When the text is none, or its runs do not cover the image.
    pub fn from_compressed(text: &str, size: [usize; 2]) -> Result<Self, MaskError> {
        let [h, w] = sides(size);
        let rle = codec::rle_from_string(text, h, w).map(Self::from_codec).map_err(encoding)?;
        rle.validate()?;
        Ok(rle)
    }

    /// Checks that the runs cover the image exactly.
    ///
    /// # Errors
    /// When they do not.
    pub fn validate(&self) -> Result<(), MaskError> {
        let total = self.counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        let pixels = self.size[0] as u64 * self.size[1] as u64;
        if total == pixels { Ok(()) } else { Err(MaskError::Length { total, size: self.size }) }
    }

    /// The union of masks, or their intersection.
    ///
    /// # Errors
    /// When their sizes differ.
    pub fn merge(masks: &[Self], intersect: bool) -> Result<Self, MaskError> {
        if let Some((first, other)) = masks.first().and_then(|a| Some((a, masks.iter().find(|b| b.size != a.size)?))) {
            return Err(MaskError::Sizes { first: first.size, second: other.size });
        }
        let masks: Vec<_> = masks.iter().map(Self::to_codec).collect();
        codec::merge(&masks, intersect).map(Self::from_codec).map_err(encoding)
    }

    /// Intersection over union of every detection with every true mask, row by row; with a crowd, over the area of the detection.
    pub fn iou(detections: &[Self], truth: &[Self], crowd: &[bool]) -> Vec<f64> {
        let all = |masks: &[Self]| masks.iter().map(Self::to_codec).collect::<Vec<_>>();
        mask_iou_flat(&all(detections), &all(truth), crowd)
    }
}

/// A mask as it was annotated, in pixels of the image file.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmentation {
    /// The union of polygons, `x, y` in turn.
    Polygons(Vec<Vec<f64>>),
    /// Runs.
    Rle(Rle),
}

impl Segmentation {
    /// Checks it against an image of `[height, width]` pixels without drawing it.
    ///
    /// # Errors
    /// When a polygon is none, or runs do not cover the image.
    pub fn validate(&self, size: [usize; 2]) -> Result<(), MaskError> {
        match self {
            Self::Polygons(polygons) => check_polygons(polygons),
            Self::Rle(rle) if rle.size != size => Err(MaskError::Sizes { first: rle.size, second: size }),
            Self::Rle(rle) => rle.validate(),
        }
    }

    /// As runs on an image of `[height, width]` pixels.
    ///
    /// # Errors
    /// When a polygon is none, or the runs are of another size.
    pub fn to_rle(&self, size: [usize; 2]) -> Result<Rle, MaskError> {
        match self {
            Self::Polygons(polygons) => Rle::from_polygons(polygons, size),
            Self::Rle(rle) => self.validate(size).map(|()| rle.clone()),
        }
    }
}

/// What happened to an image since its mask was annotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Resized([usize; 2]),
    Flipped,
    Cropped { top: usize, left: usize, size: [usize; 2] },
}

/// The mask of an instance on its way to the network: the annotation, and the transforms to be applied when its pixels are needed. Costs
/// little to copy.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceMask {
    source: Arc<Segmentation>,
    original: [usize; 2],
    steps: Vec<Step>,
}

/// The pixels of a mask inside a window of its canvas; none outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskPatch {
    /// `[height, width]` of the image.
    pub canvas: [usize; 2],
    /// First row of the window.
    pub top: usize,
    /// First column of the window.
    pub left: usize,
    /// Rows of the window.
    pub height: usize,
    /// Columns of the window.
    pub width: usize,
    /// 0 or 1, row-major, `height * width` of them.
    pub bits: Vec<u8>,
}

impl InstanceMask {
    /// The mask of an image file of `[height, width]` pixels.
    ///
    /// # Errors
    /// When the annotation is no mask of such an image.
    pub fn new(source: Segmentation, size: [usize; 2]) -> Result<Self, MaskError> {
        // Known now: later nobody could say which annotation it was.
        source.validate(size)?;
        Ok(Self { source: Arc::new(source), original: size, steps: Vec::new() })
    }

    /// The mask of a file whose runs are known to cover it.
    pub fn from_rle(rle: Rle) -> Self {
        Self { original: rle.size, source: Arc::new(Segmentation::Rle(rle)), steps: Vec::new() }
    }

    /// `[height, width]` of the image now.
    pub fn size(&self) -> [usize; 2] {
        self.steps.iter().fold(self.original, |size, step| match step {
            Step::Resized(size) | Step::Cropped { size, .. } => *size,
            Step::Flipped => size,
        })
    }

    /// After the image was resized to `[height, width]`; as OpenCV's nearest neighbour does it.
    #[must_use]
    pub fn resized(self, size: [usize; 2]) -> Self {
        self.with(Step::Resized(size))
    }

    /// After the image was mirrored left to right.
    #[must_use]
    pub fn flipped(self) -> Self {
        self.with(Step::Flipped)
    }

    /// After a part of the image was cut out: `size` from row `top` and column `left`.
    #[must_use]
    pub fn cropped(self, top: usize, left: usize, size: [usize; 2]) -> Self {
        self.with(Step::Cropped { top, left, size })
    }

    fn with(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Its pixels now: those of the whole mask taken through all transforms, in a window.
    pub fn patch(&self) -> MaskPatch {
        // `new` excluded all that can go wrong.
        let rle = self.source.to_rle(self.original).unwrap_or_else(|_| Rle { size: self.original, counts: Vec::new() });
        self.steps.iter().fold(MaskPatch::of(&rle), |patch, step| match *step {
            Step::Resized(size) => patch.resized(size),
            Step::Flipped => patch.flipped(),
            Step::Cropped { top, left, size } => patch.cropped(top, left, size),
        })
    }

    /// The mask now, as runs.
    pub fn rle(&self) -> Rle {
        if self.steps.is_empty()
            && let Ok(rle) = self.source.to_rle(self.original)
        {
            return rle;
        }
        self.patch().rle()
    }
}

impl MaskPatch {
    /// The pixels of a run-length encoded mask.
    pub fn of(rle: &Rle) -> Self {
        let (mut top, mut bottom, mut left, mut right) = (usize::MAX, 0, usize::MAX, 0);
        for (column, rows) in rle.column_runs() {
            (top, bottom) = (top.min(rows.start), bottom.max(rows.end));
            (left, right) = (left.min(column), right.max(column + 1));
        }
        if bottom == 0 {
            return Self { canvas: rle.size, ..Self::default() };
        }
        let (height, width) = (bottom - top, right - left);
        let mut bits = vec![0; height * width];
        for (column, rows) in rle.column_runs() {
            for y in rows {
                bits[(y - top) * width + column - left] = 1;
            }
        }
        Self { canvas: rle.size, top, left, height, width, bits }
    }

    /// Rows and columns of this window, by index in the canvas.
    fn picked(&self, canvas: [usize; 2], rows: &[Option<usize>], columns: &[Option<usize>]) -> Self {
        let span = |places: &[Option<usize>], begin: usize, length: usize| -> (usize, Vec<usize>) {
            let inside = |place: &Option<usize>| place.and_then(|at| at.checked_sub(begin)).filter(|at| *at < length);
            let first = places.iter().position(|place| inside(place).is_some()).unwrap_or(0);
            (first, places.iter().skip(first).map_while(inside).collect())
        };
        let (top, rows) = span(rows, self.top, self.height);
        let (left, columns) = span(columns, self.left, self.width);
        let bits = rows.iter().flat_map(|y| columns.iter().map(move |x| self.bits[y * self.width + x])).collect();
        Self { canvas, top, left, height: rows.len(), width: columns.len(), bits }
    }

    fn resized(&self, size: [usize; 2]) -> Self {
        let places = |axis: usize| nearest_positions(self.canvas[axis], size[axis]).into_iter().map(Some).collect::<Vec<_>>();
        self.picked(size, &places(0), &places(1))
    }

    fn cropped(&self, top: usize, left: usize, size: [usize; 2]) -> Self {
        let places = |begin: usize, length: usize, limit: usize| -> Vec<Option<usize>> {
            (begin..begin + length).map(|at| Some(at).filter(|at| *at < limit)).collect()
        };
        self.picked(size, &places(top, size[0], self.canvas[0]), &places(left, size[1], self.canvas[1]))
    }

    fn flipped(mut self) -> Self {
        self.left = (self.canvas[1] - self.left).saturating_sub(self.width);
        if self.width > 0 {
            self.bits.chunks_exact_mut(self.width).for_each(<[u8]>::reverse);
        }
        self
    }

    /// As runs over the whole canvas.
    pub fn rle(&self) -> Rle {
        let inside = |y: usize, x: usize| match (y.checked_sub(self.top), x.checked_sub(self.left)) {
            (Some(y), Some(x)) if y < self.height && x < self.width => self.bits[y * self.width + x] != 0,
            _ => false,
        };
        let [height, width] = self.canvas;
        Rle::from_columns(self.canvas, (0..width).flat_map(|x| (0..height).map(move |y| inside(y, x))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sample::LabelMap;
    use crate::transforms::{flip_labels, resize_nearest};

    /// The same transforms on all pixels.
    fn slow(bits: &BitMask, steps: &[Step]) -> LabelMap {
        let [height, width] = bits.size();
        let start = LabelMap::new(height, width, bits.as_slice().iter().map(|bit| u8::from(*bit)).collect());
        steps.iter().fold(start, |map, step| match *step {
            Step::Resized(size) => resize_nearest(&map, size),
            Step::Flipped => flip_labels(&map),
            Step::Cropped { top, left, size } => {
                let [height, width] = map.size();
                let at = |y: usize, x: usize| if y < height && x < width { map.as_slice()[y * width + x] } else { 0 };
                let all = (top..top + size[0]).flat_map(|y| (left..left + size[1]).map(move |x| (y, x)));
                LabelMap::new(size[0], size[1], all.map(|(y, x)| at(y, x)).collect())
            }
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1_usize..40, 1_usize..40).prop_map(|(h, w)| Step::Resized([h, w])),
            Just(Step::Flipped),
            (0_usize..12, 0_usize..12, 1_usize..20, 1_usize..20).prop_map(|(top, left, h, w)| Step::Cropped { top, left, size: [h, w] }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_window_holds_what_the_whole_mask_would(
            (height, width, bits) in (1_usize..20, 1_usize..20)
                .prop_flat_map(|(h, w)| (Just(h), Just(w), prop::collection::vec(prop::bool::weighted(0.2), h * w))),
            steps in prop::collection::vec(step(), 0..4),
        ) {
            let bits = BitMask::new(height, width, bits);
            let mut mask = InstanceMask::new(Segmentation::Rle(Rle::from_bits(&bits)), [height, width]).unwrap();
            mask.steps.clone_from(&steps);
            let expected = slow(&bits, &steps);
            prop_assert_eq!(mask.size(), expected.size());
            let rle = mask.rle();
            let actual: Vec<u8> = rle.to_bits().as_slice().iter().map(|bit| u8::from(*bit)).collect();
            prop_assert_eq!(rle.size, expected.size());
            prop_assert_eq!(actual, expected.as_slice());
        }

        #[test]
        fn runs_keep_every_pixel_and_survive_compression(
            (height, width, bits) in (1_usize..12, 1_usize..12)
                .prop_flat_map(|(h, w)| (Just(h), Just(w), prop::collection::vec(any::<bool>(), h * w))),
        ) {
            let bits = BitMask::new(height, width, bits);
            let rle = Rle::from_bits(&bits);
            rle.validate().unwrap();
            prop_assert_eq!(rle.area() as usize, bits.as_slice().iter().filter(|bit| **bit).count());
            prop_assert_eq!(&Rle::from_compressed(&rle.to_compressed(), [height, width]).unwrap(), &rle);
            prop_assert_eq!(rle.to_bits(), bits);
        }
    }

    #[test]
    fn masks_that_cannot_be_say_why() {
        let size = [20, 30];
        let polygon = |numbers: &[f64]| Rle::from_polygons(&[vec![1.0, 1.0, 9.0, 1.0, 9.0, 9.0], numbers.to_vec()], size);
        assert_eq!(polygon(&[1.0, 2.0, 3.0]), Err(MaskError::Polygon { index: 1, count: 3 }));
        assert_eq!(polygon(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), Err(MaskError::Polygon { index: 1, count: 7 }));
        assert_eq!(polygon(&[f64::NAN, 2.0, 3.0, 4.0, 5.0, 6.0]), Err(MaskError::Coordinate { index: 1 }));
        let short = Rle { size, counts: vec![100, 20] };
        assert_eq!(short.validate(), Err(MaskError::Length { total: 120, size }));
        assert!(InstanceMask::new(Segmentation::Rle(short.clone()), size).is_err());
        assert!(InstanceMask::new(Segmentation::Rle(short.clone()), [20, 31]).unwrap_err().to_string().contains("different sizes"));
        assert!(Rle::from_compressed(&short.to_compressed(), size).unwrap_err().to_string().contains("120 pixels"));
        assert!(Rle::merge(&[short, Rle { size: [2, 2], counts: vec![4] }], false).is_err());
    }
}
