use burn::prelude::*;
use burn::tensor::TensorData;

use super::{Roi, RoiSampling, reference, roi_align};
use crate::testing::{assert_close, assert_reference_keeps_bf16, assert_same_gradients, cpu, random, random_tensor, values};

/// Float32 rounding of two summation orders over a few products.
const TOLERANCE: f32 = 2e-6;

const SIZES: [usize; 4] = [2, 19, 9, 13];

/// Boxes on both images: ordinary, tiny, empty, outside, partly outside and larger than the image.
fn rois() -> Vec<Roi> {
    let boxes = [
        [4.0, 4.0, 30.0, 20.0],
        [10.3, 7.7, 11.1, 8.2],
        [20.0, 12.0, 20.0, 12.0],
        [-80.0, -90.0, -50.0, -60.0],
        [-9.0, -7.5, 18.0, 12.0],
        [40.0, 30.0, 90.0, 70.0],
        [-100.0, -100.0, 300.0, 300.0],
        [0.0, 0.0, 52.0, 36.0],
    ];
    boxes.into_iter().enumerate().map(|(index, bbox)| Roi { image: index % 2, bbox }).collect()
}

fn samplings() -> Vec<RoiSampling> {
    let sampling = |output, sampling_ratio, aligned| RoiSampling { spatial_scale: 0.25, output, sampling_ratio, aligned };
    vec![sampling([7, 7], 0, true), sampling([3, 5], 2, true), sampling([4, 4], 0, false)]
}

/// RoIAlign by its definition, sample by sample in float64.
fn by_definition(features: &[f32], roi: &Roi, sampling: RoiSampling) -> Vec<f64> {
    let [_, channels, height, width] = SIZES;
    let (scale, offset) = (f64::from(sampling.spatial_scale), if sampling.aligned { 0.5 } else { 0.0 });
    let [x0, y0, x1, y1] = roi.bbox.map(|v| f64::from(v) * scale - offset);
    let extent = |length: f64| if sampling.aligned { length } else { length.max(1.0) };
    let [rows, columns] = sampling.output;
    let (bin_height, bin_width) = (extent(y1 - y0) / rows as f64, extent(x1 - x0) / columns as f64);
    let count = |bin: f64| if sampling.sampling_ratio > 0 { sampling.sampling_ratio } else { bin.ceil().max(0.0) as usize };
    let (grid_y, grid_x) = (count(bin_height), count(bin_width));
    let mut out = Vec::new();
    for channel in 0..channels {
        let value = |y: usize, x: usize| f64::from(features[((roi.image * channels + channel) * height + y) * width + x]);
        for row in 0..rows {
            for column in 0..columns {
                let mut sum = 0.0;
                for iy in 0..grid_y {
                    for ix in 0..grid_x {
                        let y = y0 + row as f64 * bin_height + (iy as f64 + 0.5) * bin_height / grid_y as f64;
                        let x = x0 + column as f64 * bin_width + (ix as f64 + 0.5) * bin_width / grid_x as f64;
                        if y < -1.0 || y > height as f64 || x < -1.0 || x > width as f64 {
                            continue;
                        }
                        let (y, x) = (y.clamp(0.0, height as f64 - 1.0), x.clamp(0.0, width as f64 - 1.0));
                        let (top, left) = (y as usize, x as usize);
                        let (bottom, right) = ((top + 1).min(height - 1), (left + 1).min(width - 1));
                        let (ly, lx) = (y - top as f64, x - left as f64);
                        sum += (1.0 - ly) * ((1.0 - lx) * value(top, left) + lx * value(top, right))
                            + ly * ((1.0 - lx) * value(bottom, left) + lx * value(bottom, right));
                    }
                }
                out.push(sum / (grid_y * grid_x).max(1) as f64);
            }
        }
    }
    out
}

#[test]
fn the_reference_accepts_bf16() {
    let sampling = RoiSampling { spatial_scale: 0.25, output: [3, 4], sampling_ratio: 0, aligned: true };
    assert_reference_keeps_bf16(
        random_tensor(SIZES, 1, &cpu()),
        |x| reference::roi_align(x, &rois(), sampling),
        |x| roi_align(x, &rois(), sampling),
    );
}

#[test]
fn the_kernel_and_the_reference_equal_the_definition() {
    let features = random(SIZES.iter().product(), 3);
    let tensor = Tensor::<4>::from_data(TensorData::new(features.clone(), SIZES), &cpu());
    for sampling in samplings() {
        let expected: Vec<f32> = rois().iter().flat_map(|roi| by_definition(&features, roi, sampling)).map(|v| v as f32).collect();
        let [rows, columns] = sampling.output;
        let expected = Tensor::<4>::from_data(TensorData::new(expected, [rois().len(), SIZES[1], rows, columns]), &cpu());
        assert_close("kernel", roi_align(tensor.clone(), &rois(), sampling), expected.clone(), TOLERANCE);
        assert_close("reference", reference::roi_align(tensor.clone(), &rois(), sampling), expected, TOLERANCE);
    }
}

#[test]
fn gradients_equal_those_of_the_reference() {
    for sampling in samplings() {
        let shape = [SIZES[0], SIZES[1], SIZES[2], SIZES[3]];
        assert_same_gradients(
            "roi_align",
            &[(&SIZES, random(SIZES.iter().product(), 5))],
            |leaves| roi_align(leaves[0].clone().reshape(shape), &rois(), sampling),
            |leaves| reference::roi_align(leaves[0].clone().reshape(shape), &rois(), sampling),
            // Sums over up to hundreds of bins.
            1e-5,
        );
    }
}

#[test]
fn gradients_are_right_for_one_channel_and_for_several_blocks() {
    for channels in [1, 64, 65, 130] {
        let features: Tensor<4> = random_tensor([1, channels, 6, 7], 1, &cpu());
        let rois: Vec<Roi> = (0..6).map(|i| Roi { image: 0, bbox: [i as f32, 1.0, 9.0 + 2.0 * i as f32, 17.0] }).collect();
        let sampling = RoiSampling { spatial_scale: 0.25, output: [2, 3], sampling_ratio: 0, aligned: true };
        let device = cpu().autodiff();
        let leaf = Tensor::<4>::from_data(features.clone().into_data(), &device).require_grad();
        let gradients = roi_align(leaf.clone(), &rois, sampling).sum().backward();
        let leaf_reference = Tensor::<4>::from_data(features.into_data(), &device).require_grad();
        let expected = reference::roi_align(leaf_reference.clone(), &rois, sampling).sum().backward();
        let gradient = leaf.grad(&gradients).unwrap();
        assert_close("gradient", gradient.clone(), leaf_reference.grad(&expected).unwrap(), 1e-5);
        assert!(values(gradient).iter().any(|v| *v != 0.0));
    }
}
