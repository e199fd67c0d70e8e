//! Instance masks on their way through the transforms.
//!
//! A mask keeps the form of its annotation until its pixels are needed, and the pixels are then made only for the window that holds the
//! object. Rasterising every mask of a COCO image at full size would cost more time and memory than decoding the photo.

use std::sync::Arc;

use crate::{MaskError, Rle, Segmentation};

/// Source positions of OpenCV's `INTER_NEAREST` along an axis that is resized from `old` to `new` pixels. It takes the floor of the
/// scaled position, not the nearest centre.
pub fn nearest_positions(old: usize, new: usize) -> Vec<usize> {
    let scale = 1.0 / (new as f64 / old as f64);
    (0..new).map(|index| ((index as f64 * scale) as usize).min(old.saturating_sub(1))).collect()
}

/// A transform of the image that the mask must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Resized([usize; 2]),
    Flipped,
    Cropped { top: usize, left: usize, size: [usize; 2] },
}

/// The mask of an instance: the annotation and the transforms that the image went through since. Cloning it is cheap.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceMask {
    source: Arc<Segmentation>,
    original: [usize; 2],
    steps: Vec<Step>,
}

impl InstanceMask {
    /// The mask of an object in an image file of `size` = `[height, width]`.
    ///
    /// # Errors
    /// When a polygon is invalid, or the runs do not cover the image.
    pub fn new(source: Segmentation, size: [usize; 2]) -> Result<Self, MaskError> {
        // Checked here, while the caller still knows the annotation and can name it.
        source.validate(size)?;
        Ok(Self { source: Arc::new(source), original: size, steps: Vec::new() })
    }

    /// The mask of an object in an image file of the size of `rle`, for runs that are known to cover the image, such as those of
    /// [`Rle::from_bits`]. Surplus runs are cut, missing ones are zeros.
    pub fn from_rle(rle: Rle) -> Self {
        Self { original: rle.size, source: Arc::new(Segmentation::Rle(rle)), steps: Vec::new() }
    }

    /// `[height, width]` of the transformed image.
    pub fn size(&self) -> [usize; 2] {
        self.steps.iter().fold(self.original, |size, step| match step {
            Step::Resized(size) | Step::Cropped { size, .. } => *size,
            Step::Flipped => size,
        })
    }

    /// Follows a resize of the image to `[height, width]`, by OpenCV's nearest neighbour.
    #[must_use]
    pub fn resized(self, size: [usize; 2]) -> Self {
        self.with(Step::Resized(size))
    }

    /// Follows a horizontal flip of the image.
    #[must_use]
    pub fn flipped(self) -> Self {
        self.with(Step::Flipped)
    }

    /// Follows a crop of the image: `size` = `[height, width]` from row `top` and column `left`.
    #[must_use]
    pub fn cropped(self, top: usize, left: usize, size: [usize; 2]) -> Self {
        self.with(Step::Cropped { top, left, size })
    }

    fn with(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The pixels of the transformed mask, in the window that holds the object.
    pub fn patch(&self) -> MaskPatch {
        // `new` has validated the annotation, so rasterising it cannot fail.
        let rle = self.source.to_rle(self.original).unwrap_or_else(|_| Rle { size: self.original, counts: Vec::new() });
        self.steps.iter().fold(MaskPatch::of(&rle), |patch, step| match *step {
            Step::Resized(size) => patch.resized(size),
            Step::Flipped => patch.flipped(),
            Step::Cropped { top, left, size } => patch.cropped(top, left, size),
        })
    }

    /// The runs of the transformed mask.
    pub fn rle(&self) -> Rle {
        if self.steps.is_empty()
            && let Ok(rle) = self.source.to_rle(self.original)
        {
            return rle;
        }
        self.patch().rle()
    }
}

/// A mask inside a window of its image; pixels outside the window are not in the mask.
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
    /// 0 or 1; `height * width` values, row-major.
    pub bits: Vec<u8>,
}

impl MaskPatch {
    /// Decodes the runs of a mask inside its tight window.
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

    /// Gathers a new canvas: its row `y` is row `rows[y]` of this canvas and its column `x` is column `columns[x]`; `None` is outside.
    fn gathered(&self, canvas: [usize; 2], rows: &[Option<usize>], columns: &[Option<usize>]) -> Self {
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
        self.gathered(size, &places(0), &places(1))
    }

    fn cropped(&self, top: usize, left: usize, size: [usize; 2]) -> Self {
        let places = |begin: usize, length: usize, limit: usize| -> Vec<Option<usize>> {
            (begin..begin + length).map(|at| Some(at).filter(|at| *at < limit)).collect()
        };
        self.gathered(size, &places(top, size[0], self.canvas[0]), &places(left, size[1], self.canvas[1]))
    }

    fn flipped(mut self) -> Self {
        self.left = (self.canvas[1] - self.left).saturating_sub(self.width);
        if self.width > 0 {
            self.bits.chunks_exact_mut(self.width).for_each(<[u8]>::reverse);
        }
        self
    }

    /// Encodes the mask over the whole canvas.
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
    use crate::BitMask;

    /// Applies the steps to every pixel of the image.
    fn whole(bits: &BitMask, steps: &[Step]) -> BitMask {
        steps.iter().fold(bits.clone(), |map, step| {
            let [height, width] = map.size();
            let at = |y: usize, x: usize| y < height && x < width && map.as_slice()[y * width + x];
            let gather = |size: [usize; 2], from: &dyn Fn(usize, usize) -> (usize, usize)| {
                let places = (0..size[0]).flat_map(|y| (0..size[1]).map(move |x| (y, x)));
                let bits = places.map(|(y, x)| from(y, x)).map(|(y, x)| at(y, x)).collect();
                BitMask::new(size[0], size[1], bits)
            };
            match *step {
                Step::Resized(size) => {
                    let scaled =
                        |index: usize, axis: usize| (index as f64 * (1.0 / (size[axis] as f64 / [height, width][axis] as f64))) as usize;
                    gather(size, &|y, x| (scaled(y, 0).min(height - 1), scaled(x, 1).min(width - 1)))
                }
                Step::Flipped => gather([height, width], &|y, x| (y, width - 1 - x)),
                Step::Cropped { top, left, size } => gather(size, &|y, x| (top + y, left + x)),
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
        fn a_patch_equals_the_whole_mask_after_any_transforms(
            (height, width, bits) in (1_usize..20, 1_usize..20)
                .prop_flat_map(|(h, w)| (Just(h), Just(w), prop::collection::vec(prop::bool::weighted(0.2), h * w))),
            steps in prop::collection::vec(step(), 0..4),
        ) {
            let bits = BitMask::new(height, width, bits);
            let mut mask = InstanceMask::new(Segmentation::Rle(Rle::from_bits(&bits)), [height, width]).unwrap();
            mask.steps.clone_from(&steps);
            let expected = whole(&bits, &steps);
            prop_assert_eq!(mask.size(), expected.size());
            prop_assert_eq!(mask.rle().to_bits(), expected);
        }
    }

    #[test]
    fn an_annotation_that_does_not_fit_the_image_is_refused() {
        let short = Rle { size: [20, 30], counts: vec![100, 20] };
        let new = |size| InstanceMask::new(Segmentation::Rle(short.clone()), size).unwrap_err();
        assert_eq!(new([20, 30]), MaskError::Length { total: 120, size: [20, 30] });
        assert_eq!(new([20, 31]), MaskError::Size { found: [20, 30], expected: [20, 31] });
    }
}
