//! Photometric distortion against mmsegmentation, mmdetection and OpenCV: every colour through HSV, pixels of given draws, and the
//! distribution of brightness, saturation and hue over 2000 draws. The numbers are `photometric.json`, written by `generate.py`.

use std::path::Path;

use image::{Rgb, RgbImage};
use rand::SeedableRng;
use serde_json::Value;
use sha2::{Digest, Sha256};
use vision_datasets::sample::DetectionSample;
use vision_datasets::transforms::{
    DetectionPhotometricConfig, DetectionTrainPipeline, Distortion, Normalize, PhotometricConfig, TransformRng, hsv,
};

/// Two samples of one distribution differ more in one of a hundred tests.
const SMALLEST_P: f64 = 0.01;

/// Rounding of float32 HSV of levels up to 400, in levels; OpenCV's vectorised code orders the operations differently.
const FLOAT_LEVELS: f64 = 1e-3;

fn reference() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity_photometric/photometric.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("photometric.json")).expect("JSON")
}

/// The hash of an image conversion over `count` images, in which every pair of the second and third channel occurs with one first channel.
fn hash_of_all(count: u8, columns: u32, convert: fn(&mut RgbImage)) -> String {
    let mut hash = Sha256::new();
    for first in 0..=count {
        let mut image = RgbImage::from_fn(columns, 65536 / columns, |x, y| {
            let [_, _, second, third] = (y * columns + x).to_be_bytes();
            Rgb([first, second, third])
        });
        convert(&mut image);
        hash.update(image.as_raw());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn all_colours_become_opencvs_hsv() {
    assert_eq!(hash_of_all(255, 256, hsv::rgb_to_hsv), reference()["all_colours"]["rgb_to_hsv"]);
}

#[test]
fn whole_blocks_of_32_columns_become_opencvs_rgb() {
    assert_eq!(hash_of_all(179, 256, hsv::hsv_to_rgb), reference()["all_colours"]["hsv_to_rgb_whole_blocks"]);
}

#[test]
fn the_last_columns_of_a_row_become_opencvs_rgb_too() {
    assert_eq!(hash_of_all(179, 16, hsv::hsv_to_rgb), reference()["all_colours"]["hsv_to_rgb_rest"]);
    // A row of a block and a rest: the same colour is truncated in one and rounded in the other.
    let mut row = RgbImage::from_pixel(33, 1, Rgb([10, 100, 31]));
    hsv::hsv_to_rgb(&mut row);
    let (truncated, rounded) = (row.get_pixel(31, 0).0, row.get_pixel(32, 0).0);
    assert!(truncated != rounded && (0..3).all(|c| rounded[c] - truncated[c] <= 1), "{truncated:?} {rounded:?}");
}

/// The formula of `dark_photo` in generate.py.
fn dark_photo() -> RgbImage {
    RgbImage::from_fn(100, 40, |x, y| {
        Rgb([18 + (x * x * 7 + y * 13) % 41, 14 + (x * 31 + y * y * 3) % 37, 9 + (x * y + 5 * x) % 29].map(|level| level as u8))
    })
}

/// Means of brightness, saturation and hue: `statistics` in generate.py.
fn statistics(pixels: impl ExactSizeIterator<Item = [f64; 3]>) -> [f64; 3] {
    let count = pixels.len() as f64;
    let mut sums = [0.0; 3];
    for [r, g, b] in pixels {
        let (high, low) = (r.max(g).max(b), r.min(g).min(b));
        let spread = high - low;
        let hue = if spread < 1e-3 {
            0.0
        } else if high == r {
            60.0 * (g - b) / spread
        } else if high == g {
            60.0 * (b - r) / spread + 120.0
        } else {
            60.0 * (r - g) / spread + 240.0
        };
        for (sum, value) in sums.iter_mut().zip([high, 255.0 * spread / high.max(1.0), hue.rem_euclid(360.0)]) {
            *sum += value;
        }
    }
    sums.map(|sum| sum / count)
}

/// The probability that two samples of one distribution differ at least so much (two-sample Kolmogorov-Smirnov, asymptotic), and the
/// largest difference of the empirical distributions.
fn kolmogorov_smirnov(mut a: Vec<f64>, mut b: Vec<f64>) -> (f64, f64) {
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let share = |sorted: &[f64], at: f64| sorted.partition_point(|value| *value <= at) as f64 / sorted.len() as f64;
    let distance = a.iter().chain(&b).map(|at| (share(&a, *at) - share(&b, *at)).abs()).fold(0.0, f64::max);
    let (n, m) = (a.len() as f64, b.len() as f64);
    let x = distance * (n * m / (n + m)).sqrt();
    let term = |k: i32| 2.0 * (-1.0_f64).powi(k - 1) * (-2.0 * f64::from(k * k) * x * x).exp();
    let p = if x < 0.2 { 1.0 } else { (1..100).map(term).sum::<f64>().clamp(0.0, 1.0) };
    (p, distance)
}

/// Compares 2000 draws, each with a generator of its own seed, with the draws of the reference.
fn check_draws(name: &str, draw: impl Fn(&mut TransformRng) -> [f64; 3]) {
    let draws: Vec<[f64; 3]> = (0..2000).map(|seed| draw(&mut TransformRng::seed_from_u64(seed))).collect();
    for (at, statistic) in ["brightness", "saturation", "hue"].into_iter().enumerate() {
        let expected = reference()[name][statistic].as_array().expect("draws").iter().map(|v| v.as_f64().expect("a number")).collect();
        // The reference is stored with three digits; equal draws must stay equal.
        let own = draws.iter().map(|draw| (draw[at] * 1e3).round() / 1e3).collect();
        let (p, distance) = kolmogorov_smirnov(own, expected);
        println!("{name} {statistic:<10} p {p:.3}, distance {distance:.4}");
        assert!(p > SMALLEST_P, "{name}: {statistic} has another distribution: p = {p}, distance {distance}");
    }
}

#[test]
fn distortions_of_segmentors_have_mmsegmentations_distribution() {
    check_draws("mmsegmentation", |rng| {
        let mut photo = dark_photo();
        PhotometricConfig::default().apply(&mut photo, rng);
        statistics(photo.pixels().map(|pixel| pixel.0.map(f64::from)))
    });
}

/// Levels instead of normalised values.
const LEVELS: Normalize = Normalize { mean: [0.0; 3], std: [1.0; 3] };

#[test]
fn distortions_of_detectors_have_mmdetections_distribution() {
    let pipeline = DetectionTrainPipeline {
        scales: vec![[100, 40]],
        flip: 0.0,
        photometric: Some(DetectionPhotometricConfig::default()),
        normalize: LEVELS,
        ..DetectionTrainPipeline::coco()
    };
    check_draws("mmdetection", |rng| {
        let sample =
            DetectionSample { image: dark_photo(), instances: Vec::new(), name: "dark".into(), image_id: 0, original_size: [40, 100] };
        let input = pipeline.apply(sample, rng).normalized(&pipeline.normalize, [0, 0]);
        let plane = input.size[0] * input.size[1];
        assert_eq!(input.size, [40, 100]);
        statistics((0..plane).map(|at| [0, 1, 2].map(|channel| f64::from(input.values[channel * plane + at]))))
    });
}

#[test]
fn pixels_of_detectors_are_mmdetections_for_equal_draws() {
    let reference = reference();
    let cases = reference["mmdetection_pixels"].as_array().expect("cases");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let number = |at: usize| case["case"][at].as_f64().expect("a number") as f32;
        let distortion = Distortion {
            brightness: number(0),
            contrast: number(1),
            contrast_first: number(2) == 1.0,
            saturation: number(3),
            hue: number(4),
            channels: std::array::from_fn(|c| case["case"][5][c].as_u64().expect("a channel") as usize),
        };
        let photo = dark_photo();
        let own = photo.pixels().take(12).flat_map(|pixel| distortion.pixel(pixel.0.map(|level| level.wrapping_mul(4))));
        let expected = case["pixels"].as_array().expect("pixels").iter().map(|v| v.as_f64().expect("a level"));
        for (own, expected) in own.zip(expected) {
            assert!((f64::from(own) - expected).abs() <= FLOAT_LEVELS, "{own} instead of {expected}: {distortion:?}");
        }
    }
}
