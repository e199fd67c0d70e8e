use burn::prelude::*;
use burn::tensor::TensorData;

use super::{cross_entropy_map, reference, softmax_channels};
use crate::testing::{assert_reference_keeps_bf16, assert_same_gradients, cpu, random, random_tensor};

/// Float32 rounding of two summation orders over up to 150 classes.
const TOLERANCE: f32 = 1e-5;

#[test]
fn references_accept_bf16() {
    let device = cpu();
    let x = || random_tensor([1, 7, 3, 4], 1, &device);
    assert_reference_keeps_bf16(x(), reference::softmax_channels, softmax_channels);
    let labels = Tensor::<3, Int>::ones([1, 3, 4], &device);
    assert_reference_keeps_bf16(
        x(),
        |x| reference::cross_entropy_map(x, labels.clone(), 255),
        |x| cross_entropy_map(x, labels.clone(), 255),
    );
}

#[test]
fn softmax_and_its_gradient_equal_the_reference() {
    for [batch, channels, height, width] in [[2, 150, 9, 31], [1, 3, 1, 1], [2, 1, 4, 4], [1, 7, 16, 16]] {
        let x: Vec<f32> = random(batch * channels * height * width, 1).into_iter().map(|v| v * 5.0).collect();
        assert_same_gradients(
            &format!("{batch} x {channels} x {height} x {width}"),
            &[(&[], x)],
            |t| softmax_channels(t[0].clone().reshape([batch, channels, height, width])),
            |t| reference::softmax_channels(t[0].clone().reshape([batch, channels, height, width])),
            TOLERANCE,
        );
    }
}

#[test]
fn cross_entropy_and_its_gradient_equal_the_reference() {
    for [batch, classes, height, width] in [[2, 150, 9, 31], [1, 3, 1, 2], [1, 7, 16, 17]] {
        let x: Vec<f32> = random(batch * classes * height * width, 1).into_iter().map(|v| v * 20.0).collect();
        let count = batch * height * width;
        let labels: Vec<i64> = (0..count).map(|i| if i % 5 == 1 { 255 } else { (i * 7 % classes) as i64 }).collect();
        let labels = |device: &Device| Tensor::<3, Int>::from_data(TensorData::new(labels.clone(), [batch, height, width]), device);
        assert_same_gradients(
            &format!("{batch} x {classes} x {height} x {width}"),
            &[(&[], x)],
            |t| cross_entropy_map(t[0].clone().reshape([batch, classes, height, width]), labels(&t[0].device()), 255),
            |t| reference::cross_entropy_map(t[0].clone().reshape([batch, classes, height, width]), labels(&t[0].device()), 255),
            TOLERANCE,
        );
    }
}

#[test]
#[should_panic(expected = "label 7 is neither one of the 3 classes nor the ignored label 255")]
fn a_label_outside_the_classes_is_refused() {
    let labels = Tensor::<3, Int>::from_data(TensorData::new(vec![7_i64], [1, 1, 1]), &cpu());
    cross_entropy_map(Tensor::zeros([1, 3, 1, 1], &cpu()), labels, 255);
}

#[test]
fn argmax_returns_the_largest_channel_and_the_lowest_in_ties() {
    let x = Tensor::<4>::from_floats([[[[1.0, 5.0]], [[3.0, 5.0]], [[2.0, 5.0]]]], &cpu());
    assert_eq!(super::argmax_channels(x), [1, 0]);
    let x: Tensor<4> = random_tensor([2, 5, 20, 31], 3, &cpu());
    let expected: Vec<u32> = x.clone().argmax(1).into_data().iter::<u32>().collect();
    assert_eq!(super::argmax_channels(x), expected);
}
