//! Anchors: boxes of fixed sizes and shapes at every cell of every level (mmdetection's `AnchorGenerator`). Anchors are centred on the top
//! left corner of their cell.

use serde::{Deserialize, Serialize};

use crate::boxes::iou;

/// Sizes and shapes of the anchors. The defaults are those of the published COCO models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AnchorConfig {
    /// Sides of the square anchors, in strides of their level.
    pub scales: Vec<f32>,
    /// Aspect ratios, height over width.
    pub ratios: Vec<f32>,
}

impl Default for AnchorConfig {
    fn default() -> Self {
        Self { scales: vec![8.0], ratios: vec![0.5, 1.0, 2.0] }
    }
}

/// The anchors of all levels.
#[derive(Clone, Debug, PartialEq)]
pub struct AnchorGenerator {
    strides: Vec<usize>,
    base: Vec<Vec<[f32; 4]>>,
}

impl AnchorConfig {
    /// Anchors per cell.
    pub fn per_cell(&self) -> usize {
        self.scales.len() * self.ratios.len()
    }

    /// An anchor generator for levels of these strides, in pixels.
    pub fn init(&self, strides: &[usize]) -> AnchorGenerator {
        let base = strides.iter().map(|stride| self.base_anchors(*stride as f32)).collect();
        AnchorGenerator { strides: strides.to_vec(), base }
    }

    /// The anchors of the cell whose corner is the origin: every scale of the first ratio, then every scale of the next.
    fn base_anchors(&self, stride: f32) -> Vec<[f32; 4]> {
        let shape = |ratio: f32| {
            let height = ratio.sqrt();
            self.scales.iter().map(move |scale| {
                let (half_width, half_height) = (0.5 * (stride * (1.0 / height) * scale), 0.5 * (stride * height * scale));
                [-half_width, -half_height, half_width, half_height]
            })
        };
        self.ratios.iter().flat_map(|ratio| shape(*ratio)).collect()
    }
}

impl AnchorGenerator {
    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.strides.len()
    }

    /// Per level, the anchors `[x0, y0, x1, y1]` of the cell at the origin.
    pub fn base(&self) -> &[Vec<[f32; 4]>] {
        &self.base
    }

    /// Anchors per cell.
    pub fn per_cell(&self) -> usize {
        self.base.first().map_or(0, Vec::len)
    }

    /// Anchor `index` of a level whose maps are `width` cells wide, `[x0, y0, x1, y1]` in pixels of the network's input. Indices run along
    /// the anchors of a cell, then along the row of cells, then down the rows.
    ///
    /// # Panics
    /// When the level does not exist.
    pub fn anchor(&self, level: usize, width: usize, index: usize) -> [f32; 4] {
        let base = &self.base[level];
        let (cell, own) = (index / base.len(), index % base.len());
        let stride = self.strides[level] as f32;
        let (x, y) = ((cell % width) as f32 * stride, (cell / width) as f32 * stride);
        let [x0, y0, x1, y1] = base[own];
        [x0 + x, y0 + y, x1 + x, y1 + y]
    }

    /// All anchors of a level whose maps are `[height, width]` cells, by index.
    ///
    /// # Panics
    /// When the level does not exist.
    pub fn grid(&self, level: usize, [height, width]: [usize; 2]) -> Vec<[f32; 4]> {
        (0..height * width * self.per_cell()).map(|index| self.anchor(level, width, index)).collect()
    }

    /// For every anchor of [`AnchorGenerator::grid`], whether its cell lies inside the image. `padded` is the size `[height, width]` of the
    /// image in pixels after padding of that image alone; the batch may be larger.
    ///
    /// # Panics
    /// When the level does not exist.
    pub fn valid(&self, level: usize, [height, width]: [usize; 2], padded: [usize; 2]) -> Vec<bool> {
        let [rows, columns] = padded.map(|side| side.div_ceil(self.strides[level]));
        let per_cell = self.per_cell();
        (0..height * width).flat_map(|cell| std::iter::repeat_n(cell / width < rows && cell % width < columns, per_cell)).collect()
    }

    /// The largest IoU of `bbox` with any anchor of unbounded maps: an upper bound of the IoU that the assigner can find in training.
    pub fn best_iou(&self, bbox: [f32; 4]) -> f32 {
        let centre = [(bbox[0] + bbox[2]) * 0.5, (bbox[1] + bbox[3]) * 0.5];
        let mut best = 0.0_f32;
        for (base, stride) in self.base.iter().zip(&self.strides) {
            // Anchors are centred on multiples of the stride; on each axis the two around the centre of the box are the closest.
            let stride = *stride as f32;
            let near = centre.map(|c| [(c / stride).floor() * stride, (c / stride).floor() * stride + stride]);
            for anchor in base {
                for x in near[0] {
                    for y in near[1] {
                        best = best.max(iou(&[anchor[0] + x, anchor[1] + y, anchor[2] + x, anchor[3] + y], &bbox));
                    }
                }
            }
        }
        best
    }
}
