use super::{paste_mask, reference};
use crate::testing::random;

/// Decodes runs to pixels, row-major.
fn pixels(runs: &[u32], [height, width]: [usize; 2]) -> Vec<bool> {
    let columns: Vec<bool> = runs.iter().enumerate().flat_map(|(i, run)| std::iter::repeat_n(i % 2 == 1, *run as usize)).collect();
    assert_eq!(columns.len(), height * width, "the runs must cover the photo");
    (0..height * width).map(|at| columns[at % width * height + at / width]).collect()
}

#[test]
fn runs_cover_the_pixels_at_or_above_the_threshold() {
    let size = [37, 53];
    for (index, bbox) in [
        [5.0, 4.0, 30.0, 33.0],
        [10.2, 7.9, 11.1, 8.3],
        [-20.0, -10.0, 20.0, 15.5],
        [40.0, 20.0, 90.0, 70.0],
        [-30.0, -30.0, 100.0, 100.0],
        [60.0, 5.0, 80.0, 20.0],
        [-40.0, -40.0, -10.0, -10.0],
    ]
    .into_iter()
    .enumerate()
    {
        for side in [28, 7, 1] {
            let mask: Vec<f32> = random(side * side, index as u64).iter().map(|v| v * 0.5 + 0.5).collect();
            let values = reference::paste_mask(&mask, side, bbox, size);
            let actual = pixels(&paste_mask(&mask, side, bbox, size, 0.5), size);
            for (at, (actual, value)) in actual.iter().zip(values).enumerate() {
                // Within rounding of the threshold either result is right.
                assert!((value - 0.5).abs() < 1e-5 || *actual == (value >= 0.5), "box {bbox:?}, pixel {at}: {actual}, value {value}");
            }
        }
    }
}

#[test]
fn runs_start_with_zeros_and_cover_the_photo_for_every_box() {
    // The whole photo, no pixel, a box of zero extent, boxes with NaN, infinite and swapped coordinates.
    assert_eq!(paste_mask(&[1.0; 4], 2, [-9.0, -9.0, 20.0, 20.0], [3, 4], 0.5), [0, 12]);
    assert_eq!(paste_mask(&[0.0; 4], 2, [0.0, 0.0, 4.0, 3.0], [3, 4], 0.5), [12]);
    for bbox in [[2.0, 1.0, 2.0, 1.0], [f32::NAN; 4], [f32::NEG_INFINITY, 0.0, f32::INFINITY, 3.0], [3.0, 2.0, 1.0, 0.0]] {
        let runs = paste_mask(&[1.0; 4], 2, bbox, [3, 4], 0.5);
        assert_eq!(runs.iter().sum::<u32>(), 12, "{bbox:?}: {runs:?}");
    }
}
