//! Prediction: whole images, sliding windows, test-time augmentation (mmsegmentation's `EncoderDecoder.inference` and `SegTTAModel`).
//!
//! Logits are resized twice, first to the network's input and then to the original image, as mmsegmentation does; the label map is the
//! argmax after that.

use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use vision_ops::{argmax_resized, resize_bilinear, softmax_channels};
use vmamba::FeaturePyramid;

use crate::model::UperNet;

pub use vision_ops::argmax_channels as label_map;

/// How an image goes through the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InferenceMode {
    /// At once.
    #[default]
    Whole,
    /// In overlapping windows whose logits are averaged; `[height, width]` in pixels of the network's input.
    Slide {
        /// Size of a window; smaller images are one window of their size.
        crop: [usize; 2],
        /// Distance between windows; the last ones are shifted back to the border.
        stride: [usize; 2],
    },
}

/// One view of an image for test-time augmentation.
#[derive(Debug, Clone)]
pub struct View {
    /// The network's input, `[1, 3, height, width]`.
    pub input: Tensor<4>,
    /// Whether it was flipped horizontally, so that the logits are flipped back.
    pub flipped: bool,
}

/// Logits `[batch, classes, height, width]` at the size of `input: [batch, 3, height, width]`.
///
/// # Panics
/// When a crop or stride is 0.
pub fn logits<P: FeaturePyramid>(model: &UperNet<P>, input: Tensor<4>, mode: InferenceMode) -> Tensor<4> {
    let [_, _, height, width] = input.dims();
    match mode {
        InferenceMode::Whole => resize_bilinear(model.forward(input), [height, width], false),
        InferenceMode::Slide { crop, stride } => slide(model, input, crop, stride),
    }
}

/// The class of every pixel at the original size, in raster order: the argmax of [`predict`], without holding the logits at that size.
/// For one image.
///
/// # Panics
/// As [`logits`], or when there is not exactly one image.
pub fn predict_labels<P: FeaturePyramid>(model: &UperNet<P>, view: View, mode: InferenceMode, original: [usize; 2]) -> Vec<u32> {
    argmax_resized(view_logits(model, view, mode), original)
}

/// Logits at the original size: `original` is `[height, width]` of the image before it was resized for the network.
pub fn predict<P: FeaturePyramid>(model: &UperNet<P>, view: View, mode: InferenceMode, original: [usize; 2]) -> Tensor<4> {
    resize_bilinear(view_logits(model, view, mode), original, false)
}

/// Logits at the size of the view, flipped back.
fn view_logits<P: FeaturePyramid>(model: &UperNet<P>, view: View, mode: InferenceMode) -> Tensor<4> {
    let logits = logits(model, view.input, mode);
    if view.flipped { logits.flip([3]) } else { logits }
}

/// Mean over the views of the softmax of their logits at the original size, `[1, classes, height, width]`; `None` without views.
pub fn predict_augmented<P: FeaturePyramid>(
    model: &UperNet<P>,
    views: impl IntoIterator<Item = View>,
    mode: InferenceMode,
    original: [usize; 2],
) -> Option<Tensor<4>> {
    let mut count = 0;
    let sum = views.into_iter().fold(None, |sum: Option<Tensor<4>>, view| {
        count += 1;
        let probabilities = softmax_channels(predict(model, view, mode, original));
        Some(match sum {
            Some(sum) => sum + probabilities,
            None => probabilities,
        })
    })?;
    Some(sum / count as f64)
}

fn slide<P: FeaturePyramid>(model: &UperNet<P>, input: Tensor<4>, crop: [usize; 2], stride: [usize; 2]) -> Tensor<4> {
    let [batch, channels, height, width] = input.dims();
    let (rows, columns) = (windows(height, crop[0], stride[0]), windows(width, crop[1], stride[1]));
    let mut sum: Option<Tensor<4>> = None;
    for (top, bottom) in &rows {
        for (left, right) in &columns {
            let window = input.clone().slice([0..batch, 0..channels, *top..*bottom, *left..*right]);
            let logits = resize_bilinear(model.forward(window), [bottom - top, right - left], false);
            let classes = logits.dims()[1];
            let region = [0..batch, 0..classes, *top..*bottom, *left..*right];
            let so_far = sum.take().unwrap_or_else(|| Tensor::zeros([batch, classes, height, width], &logits.device()));
            let own = so_far.clone().slice(region.clone()) + logits;
            sum = Some(so_far.slice_assign(region, own));
        }
    }
    let times = |windows: &[(usize, usize)], at: usize| windows.iter().filter(|(start, end)| (*start..*end).contains(&at)).count();
    let (by_row, by_column): (Vec<_>, Vec<_>) =
        ((0..height).map(|y| times(&rows, y)).collect(), (0..width).map(|x| times(&columns, x)).collect());
    let counts: Vec<f32> = by_row.iter().flat_map(|row| by_column.iter().map(move |column| (row * column) as f32)).collect();
    let counts = Tensor::<4>::from_data(TensorData::new(counts, [1, 1, height, width]), &input.device());
    // At least one window covers every pixel, so there is a sum.
    sum.map_or_else(|| Tensor::zeros([batch, 1, height, width], &input.device()), |sum| sum / counts)
}

/// Start and end of the windows along an axis.
fn windows(extent: usize, crop: usize, stride: usize) -> Vec<(usize, usize)> {
    assert!(crop > 0 && stride > 0, "slide inference: crop and stride must be at least 1");
    let count = extent.saturating_sub(crop).div_ceil(stride) + 1;
    (0..count)
        .map(|index| {
            let end = (index * stride + crop).min(extent);
            (end.saturating_sub(crop), end)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::windows;

    #[test]
    fn windows_cover_the_axis_and_end_at_its_border() {
        assert_eq!(windows(87, 48, 32), [(0, 48), (32, 80), (39, 87)]);
        assert_eq!(windows(48, 48, 32), [(0, 48)]);
        assert_eq!(windows(30, 48, 32), [(0, 30)]);
        assert_eq!(windows(49, 48, 32), [(0, 48), (1, 49)]);
    }
}
