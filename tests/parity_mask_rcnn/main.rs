//! Mask R-CNN against numbers of mmdetection: its parts one by one, every stage of prediction, and a training step with its gradients.

mod model;
mod parts;

use serde_json::Value;
use tests::{Comparison, FixtureTensor, manifest};
use vision_ops::Roi;
use vmamba_detection::AnchorConfig;
use vmamba_types::{BitMask, InstanceMask, Rle};

/// Boxes and scores that come out of exponentials and sums of float32 in another order; sizes are hundreds of pixels.
const BOX_TOLERANCE: f64 = 1e-5;

/// Share of mask pixels that may fall on the other side of a threshold by the last bit of their probability.
const FLIPPED_PIXELS: f64 = 1e-3;

fn size(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no size")) as usize
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn pair(value: &Value) -> [usize; 2] {
    [size(&value[0]), size(&value[1])]
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(|v| number(v) as f32).collect()
}

/// The rows of `[n, 4]`.
fn boxes(tensor: &FixtureTensor) -> Vec<[f32; 4]> {
    tensor.to_f32().as_chunks::<4>().0.to_vec()
}

/// The rows of `[n, 5]`: image, then box.
fn rois(tensor: &FixtureTensor) -> Vec<Roi> {
    let row = |row: &[f32; 5]| Roi { image: row[0] as usize, bbox: [row[1], row[2], row[3], row[4]] };
    tensor.to_f32().as_chunks::<5>().0.iter().map(row).collect()
}

fn indices(tensor: &FixtureTensor) -> Vec<usize> {
    tensor.values.iter().map(|v| *v as usize).collect()
}

fn flat(boxes: &[[f32; 4]]) -> Vec<f64> {
    boxes.iter().flatten().map(|v| f64::from(*v)).collect()
}

fn check_boxes(comparison: &mut Comparison, name: &str, actual: &[[f32; 4]], expected: &FixtureTensor) {
    comparison.check_values(name, &[actual.len(), 4], &flat(actual), expected, BOX_TOLERANCE);
}

fn assert_equal(name: &str, actual: &[f64], expected: &FixtureTensor) {
    assert_eq!(actual.len(), expected.values.len(), "{name}: length");
    let different = actual.iter().zip(&expected.values).position(|(a, e)| a != e);
    assert!(different.is_none(), "{name}: element {different:?} differs");
}

/// A mask whose pixels are given, as an annotation would be.
fn instance_mask(bits: &[u8], [height, width]: [usize; 2]) -> InstanceMask {
    let bits = BitMask::new(height, width, bits.iter().map(|bit| *bit != 0).collect());
    InstanceMask::from_rle(Rle::from_bits(&bits))
}

fn weights_manifest() -> Value {
    manifest("maskrcnn", "weights")
}

fn anchor_config(generator: &Value) -> AnchorConfig {
    AnchorConfig { scales: numbers(&generator["scales"]), ratios: numbers(&generator["ratios"]) }
}
