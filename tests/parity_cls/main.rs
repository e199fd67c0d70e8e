//! The evaluation transform of classifiers against Pillow and torchvision: bicubic resizing and the centre crop, bit by bit.

use image::{Rgb, RgbImage};
use serde_json::Value;
use sha2::{Digest, Sha256};
use vision_datasets::transforms::{ClassificationPipeline, Window, resize_bicubic};

const FIXTURE: &str = include_str!("resize.json");

/// The formula of `generate.py`.
fn picture([width, height]: [usize; 2]) -> RgbImage {
    let pixel = |x: u32, y: u32| {
        let chess = if (x / 5 + y / 7) % 2 == 1 { 255 } else { 0 };
        Rgb([((x * x * 7 + y * 13) % 256) as u8, ((x * 31 + y * y * 3 + x * y) % 251) as u8, chess])
    };
    RgbImage::from_fn(width as u32, height as u32, pixel)
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a number") as usize
}

fn pair(value: &Value) -> [usize; 2] {
    [number(&value[0]), number(&value[1])]
}

fn cases(name: &str) -> Vec<Value> {
    let mut fixture: Value = serde_json::from_str(FIXTURE).expect("JSON");
    match fixture[name].take() {
        Value::Array(cases) if !cases.is_empty() => cases,
        _ => panic!("the fixture has no {name}"),
    }
}

/// The picture is that of a case.
fn compare(image: &RgbImage, case: &Value) {
    assert_eq!([image.height() as usize, image.width() as usize], pair(&case["size"]), "{case}");
    let step = (image.width() as usize * image.height() as usize / 31).max(1);
    let own = image.pixels().step_by(step).flat_map(|pixel| pixel.0);
    let expected = case["pixels"].as_array().expect("pixels");
    let off = own.zip(expected).map(|(own, expected)| usize::from(own).abs_diff(number(expected))).max();
    assert_eq!(off, Some(0), "levels off: {case}");
    let hash: String = Sha256::digest(image.as_raw()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(case["sha256"], hash.as_str(), "{case}");
}

#[test]
fn bicubic_resizing_is_pillows_bit_by_bit() {
    for case in cases("resize") {
        let size = pair(&case["size"]);
        compare(&resize_bicubic(&picture(pair(&case["source"])), size, Window::whole(size)), &case);
    }
}

#[test]
fn the_evaluation_transform_is_torchvisions_bit_by_bit() {
    for case in cases("evaluate") {
        compare(&ClassificationPipeline::new(number(&case["side"])).crop(&picture(pair(&case["source"]))), &case);
    }
}

#[test]
fn the_shorter_side_before_the_crop_is_that_of_the_published_protocol() {
    let sides = [(224, 256), (256, 292), (288, 329), (384, 438), (512, 585), (640, 731), (768, 877), (1024, 1170)];
    for (size, side) in sides {
        assert_eq!(ClassificationPipeline::new(size).resized_side(), side, "{size}");
    }
}
