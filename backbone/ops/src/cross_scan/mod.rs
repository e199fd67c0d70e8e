//! Cross-scan and cross-merge with copies: the routes made visible, for tests, figures and ablations.
//!
//! The model itself uses [`selective_scan_2d`](crate::selective_scan_2d), which walks the routes without copying.

use burn::prelude::*;

/// Which four routes an image is unfolded along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanPattern {
    /// Rows, columns, and both backwards (`scans = 0`): the paper's cross-scan.
    Cross,
    /// Rows, four times (`scans = 1`).
    Unidirectional,
    /// Rows twice, rows backwards twice (`scans = 2`).
    Bidirectional,
    /// Rows of the image turned counter-clockwise by 0, 90, 180 and 270 degrees (`scans = 3`).
    Rotated,
}

/// Unfolds `x: [batch, channels, height, width]` into four sequences, `[batch, 4, channels, height * width]`
/// (`cross_scan_fn` of the official code).
pub fn cross_scan(x: Tensor<4>, pattern: ScanPattern) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let flat = |t: Tensor<4>| t.reshape([batch, 1, channels, height * width]);
    let rows = flat(x.clone());
    let sequences = match pattern {
        ScanPattern::Cross => {
            let columns = flat(x.swap_dims(2, 3));
            vec![rows.clone(), columns.clone(), rows.flip([3]), columns.flip([3])]
        }
        ScanPattern::Unidirectional => vec![rows.clone(), rows.clone(), rows.clone(), rows],
        ScanPattern::Bidirectional => {
            let back = rows.clone().flip([3]);
            vec![rows.clone(), rows, back.clone(), back]
        }
        ScanPattern::Rotated => (0..4).map(|quarter| flat(rotate(x.clone(), quarter))).collect(),
    };
    Tensor::cat(sequences, 1)
}

/// Puts four output sequences back at their pixels and sums them: `ys: [batch, 4, channels, height, width]`, where height and width
/// are those of the image whatever the route, to `[batch, channels, height * width]` (`cross_merge_fn` of the official code).
pub fn cross_merge(ys: Tensor<5>, pattern: ScanPattern) -> Tensor<3> {
    let [batch, _, channels, height, width] = ys.dims();
    let length = height * width;
    let route = |k: usize| ys.clone().narrow(1, k, 1).reshape([batch, channels, length]);
    let transposed = |t: Tensor<3>| t.reshape([batch, channels, width, height]).swap_dims(2, 3).reshape([batch, channels, length]);
    match pattern {
        ScanPattern::Cross => {
            let rows = route(0) + route(2).flip([2]);
            rows + transposed(route(1) + route(3).flip([2]))
        }
        ScanPattern::Unidirectional => route(0) + route(1) + route(2) + route(3),
        ScanPattern::Bidirectional => route(0) + route(1) + (route(2) + route(3)).flip([2]),
        ScanPattern::Rotated => (0..4)
            .map(|quarter| {
                let turned = if quarter % 2 == 0 { [height, width] } else { [width, height] };
                let image = route(quarter).reshape([batch, channels, turned[0], turned[1]]);
                rotate(image, (4 - quarter) % 4).reshape([batch, channels, length])
            })
            .fold(Tensor::zeros([batch, channels, length], (&ys.device(), ys.dtype())), |sum, t| sum + t),
    }
}

/// Turns the image counter-clockwise by quarters of a turn, as `torch.rot90` over the last two axes.
fn rotate(x: Tensor<4>, quarters: usize) -> Tensor<4> {
    match quarters {
        0 => x,
        1 => x.swap_dims(2, 3).flip([2]),
        2 => x.flip([2, 3]),
        _ => x.swap_dims(2, 3).flip([3]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpu, random_tensor};

    #[test]
    fn merging_a_scan_counts_every_pixel_four_times() {
        let x: Tensor<4> = random_tensor([2, 3, 4, 5], 1, &cpu());
        for pattern in [ScanPattern::Cross, ScanPattern::Unidirectional, ScanPattern::Bidirectional, ScanPattern::Rotated] {
            let merged = cross_merge(cross_scan(x.clone(), pattern).reshape([2, 4, 3, 4, 5]), pattern);
            assert_close(&format!("{pattern:?}"), merged, x.clone().reshape([2, 3, 20]) * 4.0, 1e-6);
        }
    }
}
