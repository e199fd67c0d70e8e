use burn::prelude::*;

use super::{ScanPattern, cross_merge, cross_scan};
use crate::testing::{assert_close, cpu, random_tensor};

#[test]
fn merging_a_scan_counts_every_pixel_four_times() {
    let x: Tensor<4> = random_tensor([2, 3, 4, 5], 1, &cpu());
    for pattern in [ScanPattern::Cross, ScanPattern::Unidirectional, ScanPattern::Bidirectional, ScanPattern::Rotated] {
        let merged = cross_merge(cross_scan(x.clone(), pattern).reshape([2, 4, 3, 4, 5]), pattern);
        assert_close(&format!("{pattern:?}"), merged, x.clone().reshape([2, 3, 20]) * 4.0, 1e-6);
    }
}
