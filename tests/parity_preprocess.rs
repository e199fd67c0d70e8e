//! Pictures against OpenCV and mmcv: resizing bit by bit, the size rule, flips, and the whole test pipeline on a photo.

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use serde_json::Value;
use tests::{Comparison, Fixture, FixtureTensor, fixtures_root, shared_root};
use vision_datasets::image_io::read_rgb;
use vision_datasets::transforms::{Normalize, TestPipeline, fit_size, flip_image, resize_bilinear, resize_nearest, scaled_size};
use vmamba_types::LabelMap;

/// Normalised values are `(x - mean) / std` in float32 on both sides; the reference multiplies by no reciprocal, so only the last bits
/// may differ.
const NORMALIZED_TOLERANCE: f64 = 1e-6;

/// An image stored as `[height, width, channels]`.
fn interleaved(tensor: &FixtureTensor) -> RgbImage {
    let [height, width, 3] = tensor.shape[..] else { panic!("no picture: {:?}", tensor.shape) };
    RgbImage::from_raw(width as u32, height as u32, tensor.to_u8()).expect("the buffer has the picture's size")
}

fn size_in_name(name: &str) -> [usize; 2] {
    let (_, size) = name.rsplit_once('_').expect("name_<height>x<width>");
    let (height, width) = size.split_once('x').expect("<height>x<width>");
    [height.parse().expect("height"), width.parse().expect("width")]
}

#[test]
fn resizing_is_opencvs_bit_by_bit() {
    let case = Fixture::read("preprocess", "resize_small");
    let mut compared = 0;
    for name in case.keys() {
        let source = if name.starts_with("even_") { "src_even" } else { "src" };
        if name.contains("bilinear_") {
            let resized = resize_bilinear(&interleaved(case.tensor(source)), size_in_name(name));
            assert_eq!(resized.into_raw(), case.tensor(name).to_u8(), "{name}");
        } else if name.contains("nearest_") {
            let source = case.tensor(source);
            let labels = source.to_u8().into_iter().step_by(3).collect();
            let resized = resize_nearest(&LabelMap::new(source.shape[0], source.shape[1], labels), size_in_name(name));
            assert_eq!(resized.as_slice(), case.tensor(name).to_u8(), "{name}");
        } else {
            continue;
        }
        compared += 1;
    }
    println!("preprocess/resize_small: {compared} sizes, all equal");
    assert!(compared > 0, "the fixture names no resized picture");
}

#[test]
fn flipping_is_opencvs() {
    let case = Fixture::read("preprocess", "resize_small");
    assert_eq!(flip_image(&interleaved(case.tensor("src"))).into_raw(), case.tensor("flip_h").to_u8());
}

#[test]
fn sizes_are_fitted_and_scaled_as_mmcv_does() {
    let case = Fixture::read("preprocess", "resize_small");
    let cases = case.manifest["rescale_size_cases"].as_array().expect("a list of cases");
    for entry in cases {
        let number = |value: &Value| value.as_u64().expect("a whole number") as usize;
        let (size, expected) = ([number(&entry[1]), number(&entry[0])], [number(&entry[3][1]), number(&entry[3][0])]);
        let actual = match &entry[2] {
            Value::Array(limits) => fit_size(size, [number(&limits[0]), number(&limits[1])]),
            factor => scaled_size(size, factor.as_f64().expect("a factor")),
        };
        assert_eq!(actual, expected, "{entry}");
    }
    println!("preprocess/resize_small: {} sizes by mmcv's rule, all equal", cases.len());
    assert!(!cases.is_empty());
}

/// The pictures themselves are not copied into the repository.
#[test]
fn photos_go_through_the_official_test_pipelines() {
    let Some(_) = shared_root() else {
        println!("skipped: the photos lie in $VMAMBA_SHARED/fixtures, which is not set");
        return;
    };
    for name in ["image_png", "image_jpg"] {
        check_photo(name);
    }
}

fn check_photo(name: &str) {
    let case = Fixture::read("preprocess", name);
    let path = fixtures_root().join("preprocess").join(name.replace('_', "."));
    let image = read_rgb(&path).expect("the photo is readable");
    let whole = |value: &Value| value.as_u64().expect("a whole number") as usize;
    let floats = |value: &Value| std::array::from_fn(|channel| value[channel].as_f64().expect("a number") as f32);
    assert_eq!([image.height() as usize, image.width() as usize], [0, 1].map(|axis| whole(&case.manifest["image_hw"][axis])));

    let at = [0, 1].map(|axis| whole(&case.manifest["decoded_at"][axis]));
    check_levels(&format!("{name}: decoded"), case.tensor("decoded_bgr_patch"), &image, at);

    let normalize = Normalize { mean: floats(&case.manifest["mean"]), std: floats(&case.manifest["std"]) };
    for (framework, limits, multiple) in [("mmdet", [1333, 800], 32), ("mmseg", [2048, 512], 1)] {
        let info = &case.manifest["info"][framework];
        let expected = [1, 2].map(|axis| whole(&info["resized_shape"][axis]));
        let size = fit_size([image.height() as usize, image.width() as usize], limits);
        assert_eq!(size, expected, "{name} {framework}: size");
        let resized = resize_bilinear(&image, size);
        let at = [0, 1].map(|axis| whole(&info["patch_yx"][axis]));
        check_levels(&format!("{name} {framework}: resized"), case.tensor(&format!("{framework}_resized_u8_patch")), &resized, at);
        let sums = [2, 1, 0].map(|channel| resized.pixels().map(|pixel| u64::from(pixel.0[channel])).sum::<u64>());
        for (channel, sum) in sums.into_iter().enumerate() {
            assert_eq!(info["resized_sum_per_channel_bgr"][channel].as_u64(), Some(sum), "{name} {framework}: sum of channel {channel}");
        }

        let padded = size.map(|side| side.next_multiple_of(multiple));
        let input = normalize.apply(&resized, padded);
        assert_eq!(input.size, [1, 2].map(|axis| whole(&info["tensor_shape"][axis])), "{name} {framework}: padded size");
        if multiple == 1 {
            assert_eq!(TestPipeline { resize: Some(limits), normalize: normalize.clone() }.apply(&image), input);
        }
        let mut comparison = Comparison::new(format!("preprocess/{name} {framework}"));
        for (key, at) in [("patch", at), ("corner", input.size.map(|side| side - 40))] {
            let expected = case.tensor(&format!("{framework}_tensor_{key}"));
            let [channels, height, width] = expected.shape[..] else { panic!("no patch: {:?}", expected.shape) };
            let values: Vec<f64> = (0..channels * height * width)
                .map(|i| {
                    let (channel, y, x) = (i / (height * width), i / width % height, i % width);
                    f64::from(input.values[(channel * input.size[0] + at[0] + y) * input.size[1] + at[1] + x])
                })
                .collect();
            comparison.check_values(key, &expected.shape, &values, expected, NORMALIZED_TOLERANCE);
        }
        comparison.finish();
    }
}

/// Compares a patch of the reference (`[3, height, width]`, BGR) with the same place of a picture. Photos decode to the same levels.
fn check_levels(name: &str, patch: &FixtureTensor, image: &RgbImage, [top, left]: [usize; 2]) {
    let [3, height, width] = patch.shape[..] else { panic!("no BGR patch: {:?}", patch.shape) };
    for (i, expected) in patch.values.iter().enumerate() {
        let (channel, y, x) = (2 - i / (height * width), i / width % height, i % width);
        let Rgb(pixel) = image.get_pixel((left + x) as u32, (top + y) as u32);
        assert_eq!(f64::from(pixel[channel]), *expected, "{name}: channel {channel} at row {}, column {}", top + y, left + x);
    }
}

/// The definition in float64: centres of pixels correspond, positions outside take the border.
fn slow_bilinear(image: &RgbImage, [height, width]: [usize; 2]) -> Vec<f64> {
    let (old_width, old_height) = (image.width() as usize, image.height() as usize);
    let position = |index: usize, from: usize, to: usize| {
        let at = ((index as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
        (at.floor() as usize, (at.floor() as usize + 1).min(from - 1), at.fract())
    };
    let level = |x: usize, y: usize, channel: usize| f64::from(image.get_pixel(x as u32, y as u32).0[channel]);
    let mut values = Vec::new();
    for y in 0..height {
        let (top, bottom, down) = position(y, old_height, height);
        for x in 0..width {
            let (left, right, along) = position(x, old_width, width);
            values.extend((0..3).map(|channel| {
                let row = |y: usize| level(left, y, channel) * (1.0 - along) + level(right, y, channel) * along;
                row(top) * (1.0 - down) + row(bottom) * down
            }));
        }
    }
    values
}

/// Fixed-point weights of 11 bits, twice, and the final rounding.
const FIXED_POINT_LEVELS: f64 = 1.0;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn resizing_is_bilinear_interpolation_at_every_size(
        from in (1_usize..24, 1_usize..24),
        to in (1_usize..40, 1_usize..40),
        seed in any::<u32>(),
    ) {
        let level = |x: u32, y: u32, c: u32| (x.wrapping_mul(73) ^ y.wrapping_mul(151) ^ c.wrapping_mul(29) ^ seed).wrapping_mul(2_654_435_761) >> 24;
        let image = RgbImage::from_fn(from.1 as u32, from.0 as u32, |x, y| Rgb([0, 1, 2].map(|c| level(x, y, c) as u8)));
        let resized = resize_bilinear(&image, [to.0, to.1]);
        prop_assert_eq!([resized.height() as usize, resized.width() as usize], [to.0, to.1]);
        for (actual, expected) in resized.as_raw().iter().zip(slow_bilinear(&image, [to.0, to.1])) {
            prop_assert!((f64::from(*actual) - expected).abs() <= FIXED_POINT_LEVELS, "{} instead of {}", actual, expected);
        }
    }

    #[test]
    fn labels_are_never_mixed(from in (1_usize..24, 1_usize..24), to in (1_usize..40, 1_usize..40)) {
        let labels: Vec<u8> = (0..from.0 * from.1).map(|i| (i * 37 % 251) as u8).collect();
        let resized = resize_nearest(&LabelMap::new(from.0, from.1, labels.clone()), [to.0, to.1]);
        prop_assert_eq!(resized.size(), [to.0, to.1]);
        // Where the exact position is a whole number, OpenCV's float64 product may fall just below it, to the label before.
        let positions = |index: usize, from: usize, to: usize| {
            let exact = index * from / to;
            let rounded = exact.saturating_sub(usize::from((index * from).is_multiple_of(to)));
            [exact, rounded]
        };
        for (index, label) in resized.as_slice().iter().enumerate() {
            let (ys, xs) = (positions(index / to.1, from.0, to.0), positions(index % to.1, from.1, to.1));
            let possible = ys.iter().flat_map(|y| xs.map(|x| labels[y * from.1 + x])).collect::<Vec<_>>();
            prop_assert!(possible.contains(label), "{} at {}, {:?}", label, index, possible);
        }
    }
}
