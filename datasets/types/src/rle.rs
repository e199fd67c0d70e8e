//! Run-length encoded masks and polygons (pycocotools' `mask`).
//!
//! hotcoco rasterises polygons and codes compressed runs; it follows pycocotools bit for bit.

use hotcoco::mask as codec;
use hotcoco::primitives::sim::mask_iou_flat;

use crate::BitMask;

/// Why a mask is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// A polygon lists x and y in turn, for at least three points.
    #[error("polygon {index} has {count} numbers, but needs x and y of at least three points")]
    Polygon {
        /// Index of the polygon, from 0.
        index: usize,
        /// How many numbers it has.
        count: usize,
    },
    /// A coordinate is NaN or infinite.
    #[error("polygon {index} has a coordinate that is not finite")]
    Coordinate {
        /// Index of the polygon, from 0.
        index: usize,
    },
    /// The runs do not cover the image.
    #[error("the runs cover {total} pixels, but a mask of {}x{} (width x height) has {}", size[1], size[0], size[0].saturating_mul(size[1]))]
    Length {
        /// Sum of the runs.
        total: u64,
        /// `[height, width]`.
        size: [usize; 2],
    },
    /// The compressed runs cannot be decoded, or the image is too large for runs of 32 bits.
    #[error("{0}")]
    Encoding(String),
    /// Two masks, or a mask and its image, differ in size.
    #[error("the mask is {}x{} pixels, expected {}x{} (width x height)", found[1], found[0], expected[1], expected[0])]
    Size {
        /// `[height, width]` of the mask.
        found: [usize; 2],
        /// `[height, width]` of the image or of the other mask.
        expected: [usize; 2],
    },
}

/// A run-length encoded mask (COCO's uncompressed RLE): lengths of the runs of zeros and ones in turn, beginning with zeros, down the
/// columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rle {
    /// `[height, width]`.
    pub size: [usize; 2],
    /// Lengths of the runs in pixels.
    pub counts: Vec<u32>,
}

fn encoding(error: hotcoco::Error) -> MaskError {
    MaskError::Encoding(error.to_string())
}

/// `[height, width]` for the codec. A side beyond 32 bits becomes the largest side, which the codec refuses.
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

/// The most steps of a boundary that the codec walks: a fifth of a pixel each, 8 bytes each in memory. Annotated objects have some thousands.
const MOST_STEPS: f64 = 4e6;

impl Rle {
    fn to_codec(&self) -> hotcoco::types::Rle {
        let [h, w] = sides(self.size);
        hotcoco::types::Rle { h, w, counts: self.counts.clone() }
    }

    fn from_codec(rle: hotcoco::types::Rle) -> Self {
        Self { size: [rle.h as usize, rle.w as usize], counts: rle.counts }
    }

    /// The union of polygons on an image of `size` = `[height, width]` (pycocotools' `frPyObjects` and `merge`). A polygon lists x and y
    /// in turn, in pixels.
    ///
    /// # Errors
    /// When a polygon has fewer than three points, an odd number of coordinates, or a coordinate that is not finite.
    pub fn from_polygons(polygons: &[Vec<f64>], size: [usize; 2]) -> Result<Self, MaskError> {
        check_polygons(polygons)?;
        let masks = polygons.iter().map(|polygon| Self::from_polygon(polygon, size, MOST_STEPS)).collect::<Result<Vec<_>, _>>()?;
        match <[Self; 1]>::try_from(masks) {
            Ok([only]) => Ok(only),
            Err(masks) if masks.is_empty() => {
                let [h, w] = sides(size);
                codec::fr_polys(&[], h, w).map(Self::from_codec).map_err(encoding)
            }
            Err(masks) => Self::merge(&masks, false),
        }
    }

    /// One polygon. The codec walks a boundary of up to `most` steps; a million points all over an image would take it gigabytes and minutes.
    /// For them, the places where a boundary crosses the centre of a column are computed edge by edge.
    fn from_polygon(polygon: &[f64], size: [usize; 2], most: f64) -> Result<Self, MaskError> {
        let [h, w] = sides(size);
        let (points, _) = polygon.as_chunks::<2>();
        let reach = (size[0] + size[1] + 2) as f64;
        let steps = |a: [f64; 2], b: [f64; 2]| 5.0 * (a[0] - b[0]).abs().max((a[1] - b[1]).abs()).min(reach) + 2.0;
        let whole: f64 = points.windows(2).map(|pair| steps(pair[0], pair[1])).sum();
        if whole > most { Ok(long_polygon(points, size)) } else { codec::fr_poly(polygon, h, w).map(Self::from_codec).map_err(encoding) }
    }

    /// A filled box `[x, y, width, height]` on an image of `size` = `[height, width]` (pycocotools' `frPyObjects`).
    ///
    /// # Errors
    /// When the image is too large for runs of 32 bits.
    pub fn from_box(bbox: [f64; 4], size: [usize; 2]) -> Result<Self, MaskError> {
        let [h, w] = sides(size);
        codec::fr_bbox(&bbox, h, w).map(Self::from_codec).map_err(encoding)
    }

    /// Encodes a bit mask.
    pub fn from_bits(bits: &BitMask) -> Self {
        let [height, width] = bits.size();
        let bits = bits.as_slice();
        Self::from_columns([height, width], (0..width).flat_map(|x| (0..height).map(move |y| bits[y * width + x])))
    }

    /// Encodes pixels that come column by column.
    pub(crate) fn from_columns(size: [usize; 2], pixels: impl Iterator<Item = bool>) -> Self {
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

    /// Decodes to a bit mask. Runs beyond the image are cut.
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

    /// Column and rows of every run of ones, split at column borders and cut at the end of the image.
    pub(crate) fn column_runs(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
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

    /// Number of pixels in the mask.
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|count| u64::from(*count)).sum()
    }

    /// The tight box `[x, y, width, height]` around the mask; zeros for an empty mask.
    pub fn bbox(&self) -> [f64; 4] {
        codec::to_bbox(&self.to_codec())
    }

    /// COCO's compressed form of the runs.
    pub fn to_compressed(&self) -> String {
        codec::rle_to_string(&self.to_codec())
    }

    /// Decodes COCO's compressed form for an image of `size` = `[height, width]`.
    ///
    /// # Errors
    /// When the text cannot be decoded, or its runs do not cover the image.
    pub fn from_compressed(text: &str, size: [usize; 2]) -> Result<Self, MaskError> {
        let [h, w] = sides(size);
        let rle = codec::rle_from_string(text, h, w).map(Self::from_codec).map_err(encoding)?;
        rle.validate()?;
        Ok(rle)
    }

    /// Checks that the runs cover the image exactly.
    ///
    /// # Errors
    /// When their sum is not `height * width`.
    pub fn validate(&self) -> Result<(), MaskError> {
        let total = self.counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        let pixels = (self.size[0] as u64).saturating_mul(self.size[1] as u64);
        if total == pixels { Ok(()) } else { Err(MaskError::Length { total, size: self.size }) }
    }

    /// The union of masks, or their intersection.
    ///
    /// # Errors
    /// When the masks differ in size.
    pub fn merge(masks: &[Self], intersect: bool) -> Result<Self, MaskError> {
        if let Some((first, other)) = masks.first().and_then(|a| Some((a, masks.iter().find(|b| b.size != a.size)?))) {
            return Err(MaskError::Size { found: other.size, expected: first.size });
        }
        let masks: Vec<_> = masks.iter().map(Self::to_codec).collect();
        codec::merge(&masks, intersect).map(Self::from_codec).map_err(encoding)
    }

    /// Intersection over union of every detection with every ground truth mask, `[detections, truth]`, row-major. Against a crowd region
    /// the intersection is divided by the area of the detection alone (pycocotools' `iou`).
    pub fn iou(detections: &[Self], truth: &[Self], crowd: &[bool]) -> Vec<f64> {
        let all = |masks: &[Self]| masks.iter().map(Self::to_codec).collect::<Vec<_>>();
        mask_iou_flat(&all(detections), &all(truth), crowd)
    }
}

/// A mask in the form of its annotation, in pixels of the image file.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmentation {
    /// The union of polygons; each lists x and y in turn.
    Polygons(Vec<Vec<f64>>),
    /// Runs.
    Rle(Rle),
}

impl Segmentation {
    /// Checks the annotation against an image of `size` = `[height, width]` without rasterising it.
    ///
    /// # Errors
    /// When a polygon is invalid, or the runs do not cover the image.
    pub fn validate(&self, size: [usize; 2]) -> Result<(), MaskError> {
        match self {
            Self::Polygons(polygons) => check_polygons(polygons),
            Self::Rle(rle) if rle.size != size => Err(MaskError::Size { found: rle.size, expected: size }),
            Self::Rle(rle) => rle.validate(),
        }
    }

    /// The runs of the mask on an image of `size` = `[height, width]`.
    ///
    /// # Errors
    /// When a polygon is invalid, or the runs do not cover the image.
    pub fn to_rle(&self, size: [usize; 2]) -> Result<Rle, MaskError> {
        match self {
            Self::Polygons(polygons) => Rle::from_polygons(polygons, size),
            Self::Rle(rle) => self.validate(size).map(|()| rle.clone()),
        }
    }
}

/// The mask of a polygon of many points, bit for bit that of the codec (pycocotools' `rleFrPoly`), in memory of a bit a pixel.
///
/// A pixel is inside when an odd number of boundary crossings lie above it in its column. So every crossing toggles a bit, and the runs of the mask
/// lie between the bits that are set.
fn long_polygon(points: &[[f64; 2]], [height, width]: [usize; 2]) -> Rle {
    let pixels = height * width;
    let mut bits = vec![0_u64; pixels.div_ceil(64)];
    // `u` and `v` are the smaller coordinates of two neighbouring points of a boundary, in fifths of a pixel.
    let mut cross = |u: i32, v: i32| {
        if u < 2 || u % 5 != 2 || u / 5 >= width as i32 {
            return;
        }
        let row = ((f64::from(v) + 0.5) / 5.0 - 0.5).clamp(0.0, height as f64).ceil();
        let place = (u / 5) as usize * height + row as usize;
        // A crossing at the bottom belongs to the top of the next column; the last column has none.
        if let Some(word) = bits.get_mut(place / 64).filter(|_| place < pixels) {
            *word ^= 1 << (place % 64);
        }
    };
    let vertex = |[x, y]: [f64; 2]| [x, y].map(|side| (5.0 * side + 0.5).clamp(-FARTHEST, FARTHEST) as i32);
    let mut last = None::<[i32; 2]>;
    for (index, point) in points.iter().enumerate() {
        let next = points.get(index + 1).or(points.first()).copied().unwrap_or(*point);
        let edge = Edge::new(vertex(*point), vertex(next));
        let ends = edge.ends();
        // Rounding can part the end of an edge from the begin of the next.
        if let Some([u, v]) = last.filter(|last| last[0] != ends[0][0]) {
            cross(u.min(ends[0][0]), v.min(ends[0][1]));
        }
        last = Some(ends[1]);
        edge.crossings(width, &mut cross);
    }
    let (mut counts, mut begin) = (Vec::new(), 0);
    for (index, word) in bits.into_iter().enumerate() {
        let mut rest = word;
        while rest != 0 {
            let place = index * 64 + rest.trailing_zeros() as usize;
            counts.push((place - begin) as u32);
            begin = place;
            rest &= rest - 1;
        }
    }
    counts.push((pixels - begin) as u32);
    Rle { size: [height, width], counts }
}

/// The farthest coordinate of a vertex in fifths of a pixel, as in the codec.
const FARTHEST: f64 = 5.0 * (1 << 22) as f64;

/// An edge of a polygon between points in fifths of a pixel. Its boundary has a point for every step along its longer axis.
struct Edge {
    /// The end with the smaller coordinate along the longer axis.
    begin: [i32; 2],
    /// Steps along the longer axis.
    steps: i32,
    /// Change of the other coordinate in a step.
    slope: f64,
    /// Whether the longer axis is the horizontal one.
    flat: bool,
    /// Whether the polygon runs from the larger to the smaller coordinate.
    backwards: bool,
}

impl Edge {
    fn new(from: [i32; 2], to: [i32; 2]) -> Self {
        let [dx, dy] = [0, 1].map(|axis| (from[axis] - to[axis]).abs());
        let flat = dx >= dy;
        let backwards = if flat { from[0] > to[0] } else { from[1] > to[1] };
        let (begin, end) = if backwards { (to, from) } else { (from, to) };
        let steps = dx.max(dy);
        let rise = f64::from(if flat { end[1] - begin[1] } else { end[0] - begin[0] });
        Self { begin, steps, slope: if steps == 0 { 0.0 } else { rise / f64::from(steps) }, flat, backwards }
    }

    /// The point of a step. The sum is rounded as C does on this machine, which fuses it where the machine can by default.
    fn at(&self, step: i32) -> [i32; 2] {
        let rounded = |base: i32| {
            let (base, step) = (f64::from(base), f64::from(step));
            let sum = if cfg!(target_arch = "aarch64") { self.slope.mul_add(step, base) } else { base + self.slope * step };
            (sum + 0.5) as i32
        };
        let [x, y] = self.begin;
        if self.flat { [x + step, rounded(y)] } else { [rounded(x), y + step] }
    }

    /// Its first and its last point, in the order of the polygon.
    fn ends(&self) -> [[i32; 2]; 2] {
        let ends = [self.at(0), self.at(self.steps)];
        if self.backwards { [ends[1], ends[0]] } else { ends }
    }

    /// Calls `cross` with the smaller coordinates of the two points around every crossing of the centre of a column.
    fn crossings(&self, width: usize, cross: &mut impl FnMut(i32, i32)) {
        let [[first, _], [last, _]] = [self.at(0), self.at(self.steps)];
        let (low, high) = (first.min(last), first.max(last));
        // Columns whose centre lies between `5 column + 2` and `5 column + 3`, both of them on the edge.
        let columns = (low.max(0) + 2) / 5..=(high - 3).div_euclid(5).min(width as i32 - 1);
        for column in columns {
            let u = 5 * column + 2;
            // The step to the far side of the centre.
            let step = if self.flat { u + 1 - self.begin[0] } else { self.step_across(u, last > first) };
            cross(u, self.at(step - 1)[1].min(self.at(step)[1]));
        }
    }

    /// The first step of a steep edge that is beyond `u`: at most `u` when its columns fall, else above it.
    fn step_across(&self, u: i32, rising: bool) -> i32 {
        let beyond = |step: i32| if rising { self.at(step)[0] > u } else { self.at(step)[0] <= u };
        let guess = (f64::from(u) + 0.5 - f64::from(self.begin[0])) / self.slope;
        let mut step = (guess as i32).clamp(1, self.steps.max(1));
        while step > 1 && beyond(step - 1) {
            step -= 1;
        }
        while step < self.steps && !beyond(step) {
            step += 1;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

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

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_long_polygon_is_that_of_the_codec(
            points in prop::collection::vec((-40.0_f64..70.0, -40.0_f64..60.0), 3..40),
            whole in any::<bool>(),
            far in 1.0_f64..300.0,
        ) {
            let scale = if far < 30.0 { far } else { 1.0 };
            let points: Vec<f64> =
                points.into_iter().flat_map(|(x, y)| [x, y].map(|side| if whole { (side * scale).round() } else { side * scale })).collect();
            let size = [23, 31];
            let [h, w] = sides(size);
            let expected = Rle::from_codec(codec::fr_poly(&points, h, w).unwrap());
            prop_assert_eq!(Rle::from_polygon(&points, size, 0.0).unwrap(), expected);
        }
    }

    #[test]
    fn a_million_points_all_over_an_image_are_a_mask_in_seconds() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 31)
        };
        let polygon: Vec<f64> = (0..1_000_000).flat_map(|_| [random() * 640.0, random() * 480.0]).collect();
        let begin = std::time::Instant::now();
        let mask = Rle::from_polygons(&[polygon], [480, 640]).unwrap();
        // About half of the pixels are inside.
        assert!((100_000..200_000).contains(&mask.area()), "{}", mask.area());
        assert!(begin.elapsed() < std::time::Duration::from_secs(60), "{:?}", begin.elapsed());
    }

    #[test]
    fn an_invalid_mask_names_its_reason() {
        let size = [20, 30];
        let polygon = |numbers: &[f64]| Rle::from_polygons(&[vec![1.0, 1.0, 9.0, 1.0, 9.0, 9.0], numbers.to_vec()], size);
        assert_eq!(polygon(&[1.0, 2.0, 3.0]), Err(MaskError::Polygon { index: 1, count: 3 }));
        assert_eq!(polygon(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), Err(MaskError::Polygon { index: 1, count: 7 }));
        assert_eq!(polygon(&[f64::NAN, 2.0, 3.0, 4.0, 5.0, 6.0]), Err(MaskError::Coordinate { index: 1 }));
        let short = Rle { size, counts: vec![100, 20] };
        assert_eq!(short.validate(), Err(MaskError::Length { total: 120, size }));
        assert!(Rle::from_compressed(&short.to_compressed(), size).unwrap_err().to_string().contains("120 pixels"));
        assert!(Rle::merge(&[short, Rle { size: [2, 2], counts: vec![4] }], false).is_err());
    }

    #[test]
    fn an_empty_image_has_an_empty_mask() {
        let empty = Rle::from_bits(&BitMask::new(0, 0, Vec::new()));
        assert_eq!((empty.area(), empty.to_bits().size()), (0, [0, 0]));
    }
}
