//! Prediction with any [`Segmentor`]: whole images, sliding windows, test-time augmentation (mmsegmentation's `EncoderDecoder.inference` and
//! `SegTTAModel`).
//!
//! Logits are resized twice as in mmsegmentation: to the network's input, then to the original image. The label map is the argmax of the
//! result.

use std::convert::Infallible;

use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use vision_ops::{argmax_resized, resize_bilinear, softmax_channels};
use vmamba::{NotFinite, require_finite};
use vmamba_types::setting::{self, SettingError};

use crate::segmentor::Segmentor;

pub use vision_ops::argmax_channels as label_map;

/// How an image goes through the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InferenceMode {
    /// The whole image at once.
    #[default]
    Whole,
    /// Overlapping windows whose logits are averaged. Sizes are `[height, width]` in pixels of the network's input.
    Slide(SlidingWindows),
}

/// The size and the distance of windows over an image. They cover every pixel: a stride beyond the window would leave pixels between the
/// windows, whose logits would be 0/0 (mmsegmentation's `slide_inference` ends in `assert (count_mat == 0).sum() == 0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "WindowSizes")]
pub struct SlidingWindows {
    crop: [usize; 2],
    stride: [usize; 2],
}

/// Sizes of windows as a configuration has them: `[height, width]` in pixels of the network's input.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct WindowSizes {
    /// Size of a window. An image that is smaller is one window.
    crop: [usize; 2],
    /// Distance between windows, at least 1 and at most the size. The last window of a row or column is shifted back to the border.
    stride: [usize; 2],
}

impl SlidingWindows {
    /// Windows of `crop: [height, width]` pixels at a distance of `stride: [vertical, horizontal]`.
    ///
    /// # Errors
    /// When a side is 0 or beyond the limits of images, or a stride is 0 or larger than the window.
    pub fn new(crop: [usize; 2], stride: [usize; 2]) -> Result<Self, SettingError> {
        setting::size("crop", crop, setting::SIDE)?;
        let covers = stride.iter().zip(&crop).all(|(stride, crop)| (1..=*crop).contains(stride));
        setting::require(covers, "stride", format!("at least 1 and at most crop {crop:?} in both directions"), stride)?;
        Ok(Self { crop, stride })
    }

    /// Windows of `crop` pixels with a stride of two thirds of it, as in mmsegmentation's configurations (341 of 512). A side of 0 counts as 1.
    pub fn overlapping(crop: [usize; 2]) -> Self {
        let crop = crop.map(|side| side.max(1));
        Self { crop, stride: crop.map(|side| (side * 2 / 3).max(1)) }
    }

    /// `[height, width]` of a window.
    pub fn crop(&self) -> [usize; 2] {
        self.crop
    }

    /// The vertical and the horizontal distance between windows.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// Top and bottom of every row of windows over `height` pixels, and left and right of every column over `width` pixels.
    fn over(&self, [height, width]: [usize; 2]) -> [Vec<(usize, usize)>; 2] {
        [windows(height, self.crop[0], self.stride[0]), windows(width, self.crop[1], self.stride[1])]
    }
}

impl TryFrom<WindowSizes> for SlidingWindows {
    type Error = SettingError;

    fn try_from(WindowSizes { crop, stride }: WindowSizes) -> Result<Self, SettingError> {
        Self::new(crop, stride)
    }
}

/// One view of an image; test-time augmentation averages several.
#[derive(Debug, Clone)]
pub struct View {
    /// The network's input, `[1, 3, height, width]`.
    pub input: Tensor<4>,
    /// Whether the input was flipped horizontally. The logits are flipped back then.
    pub flipped: bool,
}

/// Logits `[batch, classes, height, width]` at the size of `input: [batch, 3, height, width]`.
pub fn logits<S: Segmentor + ?Sized>(model: &S, input: Tensor<4>, mode: InferenceMode) -> Tensor<4> {
    let [_, _, height, width] = input.dims();
    match mode {
        InferenceMode::Whole => resize_bilinear(model.forward(input), [height, width], false),
        InferenceMode::Slide(windows) => slide(model, input, windows),
    }
}

/// The class of every pixel of one image at the original size `[height, width]`, row-major: the argmax of [`predict`], without storing the
/// logits at that size.
///
/// # Panics
/// When there is not exactly one image.
///
/// # Errors
/// When a logit is not finite. NaN would look like class 0.
pub fn predict_labels<S: Segmentor + ?Sized>(
    model: &S,
    view: View,
    mode: InferenceMode,
    original: [usize; 2],
) -> Result<Vec<u32>, NotFinite> {
    let [_, _, height, width] = view.input.dims();
    match mode {
        // Without a resize, a row is labelled as soon as no window will change it. The logits of all rows would take 7 GB for 150 classes
        // and 12 megapixels.
        InferenceMode::Slide(windows) if [height, width] == original => {
            let mut labels = Vec::with_capacity(height * width);
            slide_rows(model, &view.input, windows, &mut |logits| {
                labels.extend(label_map(checked(logits, view.flipped)?));
                Ok(())
            })?;
            Ok(labels)
        }
        InferenceMode::Whole if [height, width] == original && !view.flipped => {
            Ok(argmax_resized(checked(model.forward(view.input), false)?, original))
        }
        _ => Ok(argmax_resized(view_logits(model, view, mode)?, original)),
    }
}

/// Logits `[batch, classes, height, width]` at the size `original: [height, width]` that the image had before it was resized for the
/// network.
///
/// # Errors
/// When a logit is not finite.
pub fn predict<S: Segmentor + ?Sized>(model: &S, view: View, mode: InferenceMode, original: [usize; 2]) -> Result<Tensor<4>, NotFinite> {
    Ok(resize_bilinear(view_logits(model, view, mode)?, original, false))
}

/// Logits at the size of the view, flipped back.
fn view_logits<S: Segmentor + ?Sized>(model: &S, view: View, mode: InferenceMode) -> Result<Tensor<4>, NotFinite> {
    let [_, _, height, width] = view.input.dims();
    match mode {
        // A resize of finite values is finite, so that the smaller map is checked.
        InferenceMode::Whole => {
            let output = model.forward(view.input);
            require_finite("the logits", &output)?;
            let logits = resize_bilinear(output, [height, width], false);
            Ok(if view.flipped { logits.flip([3]) } else { logits })
        }
        InferenceMode::Slide(windows) => checked(slide(model, view.input, windows), view.flipped),
    }
}

/// Finite logits, flipped back.
fn checked(logits: Tensor<4>, flipped: bool) -> Result<Tensor<4>, NotFinite> {
    require_finite("the logits", &logits)?;
    Ok(if flipped { logits.flip([3]) } else { logits })
}

/// The softmax of the logits at the original size, averaged over the views, `[batch, classes, height, width]`; `None` without views.
///
/// # Errors
/// When a logit is not finite.
pub fn predict_augmented<S: Segmentor + ?Sized>(
    model: &S,
    views: impl IntoIterator<Item = View>,
    mode: InferenceMode,
    original: [usize; 2],
) -> Result<Option<Tensor<4>>, NotFinite> {
    let (mut count, mut sum) = (0, None::<Tensor<4>>);
    for view in views {
        count += 1;
        let probabilities = softmax_channels(predict(model, view, mode, original)?);
        sum = Some(match sum {
            Some(sum) => sum + probabilities,
            None => probabilities,
        });
    }
    Ok(sum.map(|sum| sum / count as f64))
}

/// Rows that [`slide_rows`] hands over at a time.
const ROWS: usize = 64;

fn slide<S: Segmentor + ?Sized>(model: &S, input: Tensor<4>, windows: SlidingWindows) -> Tensor<4> {
    let mut rows = Vec::new();
    let Ok(()) = slide_rows::<S, Infallible>(model, &input, windows, &mut |logits| {
        rows.push(logits);
        Ok(())
    });
    Tensor::cat(rows, 2)
}

/// The mean logits of all windows over `input: [batch, 3, height, width]`, from top to bottom: calls `each` with
/// `[batch, classes, rows, width]` of the next rows, as soon as no later window changes them. Logits are stored for the rows of one window.
fn slide_rows<S: Segmentor + ?Sized, E>(
    model: &S,
    input: &Tensor<4>,
    windows: SlidingWindows,
    each: &mut dyn FnMut(Tensor<4>) -> Result<(), E>,
) -> Result<(), E> {
    let [batch, channels, height, width] = input.dims();
    let [rows, columns] = windows.over([height, width]);
    let [by_row, by_column] = [times(&rows, height), times(&columns, width)];
    // The sums of the rows from `begin` on, which this window and later ones change.
    let (mut begin, mut open) = (0, None::<Tensor<4>>);
    for (index, (top, bottom)) in rows.iter().copied().enumerate() {
        for (left, right) in columns.iter().copied() {
            let window = input.clone().slice([0..batch, 0..channels, top..bottom, left..right]);
            let logits = resize_bilinear(model.forward(window), [bottom - top, right - left], false);
            let classes = logits.dims()[1];
            let sums = open.take().unwrap_or_else(|| Tensor::zeros([batch, classes, bottom - begin, width], &logits.device()));
            let region = [0..batch, 0..classes, top - begin..bottom - begin, left..right];
            let own = sums.clone().slice(region.clone()) + logits;
            open = Some(sums.slice_assign(region, own));
        }
        let next = rows.get(index + 1).copied();
        let done = next.map_or(bottom, |(top, _)| top);
        // Every row of windows has a window, so there are sums.
        let Some(sums) = open.take() else { continue };
        for from in (begin..done).step_by(ROWS) {
            let until = (from + ROWS).min(done);
            let counts: Vec<f32> = by_row[from..until].iter().flat_map(|row| by_column.iter().map(move |column| row * column)).collect();
            let counts = Tensor::<4>::from_data(TensorData::new(counts, [1, 1, until - from, width]), &input.device());
            each(sums.clone().narrow(2, from - begin, until - from) / counts)?;
        }
        open = next.filter(|_| done < bottom).map(|(_, next_bottom)| {
            let classes = sums.dims()[1];
            let kept = sums.narrow(2, done - begin, bottom - done);
            let zeros = Tensor::zeros([batch, classes, next_bottom - done, width], &kept.device());
            zeros.slice_assign([0..batch, 0..classes, 0..bottom - done, 0..width], kept)
        });
        begin = done;
    }
    Ok(())
}

/// How many windows cover each position of an axis.
fn times(windows: &[(usize, usize)], extent: usize) -> Vec<f32> {
    (0..extent).map(|at| windows.iter().filter(|(start, end)| (*start..*end).contains(&at)).count() as f32).collect()
}

/// Start and end of each window along an axis; `stride` is at least 1.
fn windows(extent: usize, crop: usize, stride: usize) -> Vec<(usize, usize)> {
    let count = extent.saturating_sub(crop).div_ceil(stride) + 1;
    (0..count)
        .map(|index| {
            let end = (index * stride).saturating_add(crop).min(extent);
            (end.saturating_sub(crop), end)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;
    use burn::tensor::Distribution;
    use burn::tensor::activation::softmax;

    use std::cell::RefCell;
    use std::convert::Infallible;

    use super::{InferenceMode, SlidingWindows, View, label_map, logits, predict, predict_augmented, predict_labels, slide_rows, windows};
    use crate::loss::loss_and_accuracy;
    use crate::segmentor::{SegmentationLoss, Segmentor};

    /// A segmentor that judges every pixel by its own colour: logits are the three channels.
    struct ByColour;

    impl Segmentor for ByColour {
        fn num_classes(&self) -> usize {
            3
        }

        fn forward(&self, images: Tensor<4>) -> Tensor<4> {
            images
        }

        fn loss(&self, images: Tensor<4>, labels: Tensor<3, Int>) -> SegmentationLoss {
            let (loss, accuracy) = loss_and_accuracy(self.forward(images), &labels);
            SegmentationLoss::new(vec![("loss_ce".to_owned(), loss)], vec![("acc_seg".to_owned(), accuracy)])
        }

        fn observe(&self, images: Tensor<4>, observe: &mut dyn FnMut(&str, usize, &Tensor<4>)) {
            observe("colour", 0, &self.forward(images));
        }
    }

    fn image(size: [usize; 2], device: &Device) -> Tensor<4> {
        device.seed(1);
        Tensor::random([1, 3, size[0], size[1]], Distribution::Uniform(-1.0, 1.0), device)
    }

    fn assert_equal(a: Tensor<4>, b: Tensor<4>) {
        assert!((a - b).abs().max().into_scalar::<f32>() < 1e-6);
    }

    #[test]
    fn any_segmentor_predicts_whole_in_windows_and_augmented() {
        let device = Device::flex();
        let input = image([20, 30], &device);
        let view = |flipped: bool| View { input: if flipped { input.clone().flip([3]) } else { input.clone() }, flipped };
        // Behind the trait object, as for a segmentor that is chosen at run time.
        let model: &dyn Segmentor = &ByColour;
        let whole = predict(model, view(false), InferenceMode::Whole, [20, 30]).unwrap();
        assert_equal(whole.clone(), input.clone());
        assert_equal(predict(model, view(true), InferenceMode::Whole, [20, 30]).unwrap(), input.clone());
        // Every pixel is judged alone, so that windows change nothing.
        let slide = InferenceMode::Slide(SlidingWindows::new([8, 12], [5, 7]).unwrap());
        assert_equal(predict(model, view(false), slide, [20, 30]).unwrap(), input.clone());
        assert_eq!(predict_labels(model, view(true), slide, [20, 30]).unwrap(), label_map(whole));
        let mean = predict_augmented(model, [view(false), view(true)], slide, [20, 30]).unwrap().unwrap();
        assert_equal(mean, softmax(input.clone(), 1));
        assert!(predict_augmented(model, [], slide, [20, 30]).unwrap().is_none());
    }

    /// A segmentor whose logits depend on all pixels of a window. It counts its windows.
    struct ByWindow(RefCell<usize>);

    impl Segmentor for ByWindow {
        fn num_classes(&self) -> usize {
            3
        }

        fn forward(&self, images: Tensor<4>) -> Tensor<4> {
            *self.0.borrow_mut() += 1;
            let mean = images.clone().mean();
            images * mean.clone().reshape([1, 1, 1, 1]) + mean.reshape([1, 1, 1, 1])
        }

        fn loss(&self, _images: Tensor<4>, _labels: Tensor<3, Int>) -> SegmentationLoss {
            unreachable!("only predictions are tested")
        }

        fn observe(&self, _images: Tensor<4>, _observe: &mut dyn FnMut(&str, usize, &Tensor<4>)) {}
    }

    /// The mean of all windows, with the sums of the whole image in memory.
    fn slide_over_whole(model: &ByWindow, input: &Tensor<4>, sizes: SlidingWindows) -> Vec<f32> {
        let [_, _, height, width] = input.dims();
        let [rows, columns] = sizes.over([height, width]);
        let (mut sums, mut counts) = (vec![0.0_f32; 3 * height * width], vec![0.0_f32; height * width]);
        for (top, bottom) in rows {
            for (left, right) in columns.iter().copied() {
                let logits = model.forward(input.clone().slice([0..1, 0..3, top..bottom, left..right])).into_data();
                let mut logits = logits.iter::<f32>();
                for class in 0..3 {
                    for y in top..bottom {
                        for x in left..right {
                            sums[(class * height + y) * width + x] += logits.next().unwrap();
                            counts[y * width + x] += if class == 0 { 1.0 } else { 0.0 };
                        }
                    }
                }
            }
        }
        sums.iter().enumerate().map(|(at, sum)| sum / counts[at % (height * width)]).collect()
    }

    #[test]
    fn windows_in_bands_of_rows_give_the_bits_of_windows_over_the_whole_image() {
        let device = Device::flex();
        let model = ByWindow(RefCell::new(0));
        // More rows than are handed over at once; windows that overlap, that touch, and that are larger than the image.
        for (size, crop, stride) in [([150, 40], [80, 24], [50, 16]), ([37, 53], [8, 12], [8, 12]), ([20, 30], [64, 64], [64, 64])] {
            let (input, sizes) = (image(size, &device), SlidingWindows::new(crop, stride).unwrap());
            let expected = slide_over_whole(&model, &input, sizes);
            let whole = logits(&model, input.clone(), InferenceMode::Slide(sizes));
            let found: Vec<f32> = whole.clone().into_data().iter::<f32>().collect();
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&expected), "{size:?}");
            for flipped in [false, true] {
                let view = View { input: input.clone(), flipped };
                let labels = predict_labels(&model, view, InferenceMode::Slide(sizes), size).unwrap();
                assert_eq!(labels, label_map(if flipped { whole.clone().flip([3]) } else { whole.clone() }), "{size:?}");
            }
        }
    }

    #[test]
    fn rows_are_handed_over_before_the_windows_below_them_are_computed() {
        let device = Device::flex();
        let model = ByWindow(RefCell::new(0));
        let mut seen = Vec::new();
        let sizes = SlidingWindows::new([40, 30], [30, 30]).unwrap();
        slide_rows::<_, Infallible>(&model, &image([100, 30], &device), sizes, &mut |rows| {
            seen.push((*model.0.borrow(), rows.dims()[2]));
            Ok(())
        })
        .unwrap_or_else(|never| match never {});
        // Number of windows so far, and rows.
        assert_eq!(seen, [(1, 30), (2, 30), (3, 40)]);
    }

    #[test]
    fn any_segmentor_has_a_loss_of_named_parts() {
        let device = Device::flex();
        let input = image([4, 5], &device);
        let labels: Vec<i64> = label_map(input.clone()).into_iter().map(i64::from).collect();
        let labels = Tensor::<1, Int>::from_ints(labels.as_slice(), &device).reshape([1, 4, 5]);
        let loss = ByColour.loss(input, labels);
        assert_eq!(loss.accuracies.len(), 1);
        assert!((loss.accuracies[0].1 - 100.0).abs() < 1e-4, "every label is the largest logit");
        assert_eq!(loss.parts[0].0, "loss_ce");
        assert_eq!(loss.total.into_scalar::<f32>(), loss.parts[0].1.clone().into_scalar::<f32>());
    }

    #[test]
    fn windows_that_leave_pixels_uncovered_are_refused() {
        for (crop, stride) in [([8, 8], [9, 8]), ([8, 8], [8, 9]), ([0, 8], [1, 8]), ([8, 8], [0, 8]), ([0, 0], [0, 0])] {
            assert!(SlidingWindows::new(crop, stride).is_err(), "{crop:?} {stride:?}");
        }
        for windows in
            [SlidingWindows::new([8, 8], [8, 8]).unwrap(), SlidingWindows::overlapping([1, 0]), SlidingWindows::overlapping([512; 2])]
        {
            for axis in windows.over([37, 53]).into_iter().zip([37, 53]) {
                assert!((0..axis.1).all(|pixel| axis.0.iter().any(|(start, end)| (*start..*end).contains(&pixel))), "{windows:?}");
            }
        }
        assert_eq!(SlidingWindows::overlapping([512; 2]).stride(), [341; 2]);
    }

    #[test]
    fn windows_cover_the_axis_and_end_at_its_border() {
        assert_eq!(windows(87, 48, 32), [(0, 48), (32, 80), (39, 87)]);
        assert_eq!(windows(48, 48, 32), [(0, 48)]);
        assert_eq!(windows(30, 48, 32), [(0, 30)]);
        assert_eq!(windows(49, 48, 32), [(0, 48), (1, 49)]);
    }
}
