//! Cross-scan and cross-merge as separate operations, with a copy of the image for each route, for tests, figures and ablations (the
//! official code's `cross_scan_fn` and `cross_merge_fn`).
//!
//! The model itself uses [`selective_scan_2d`](crate::selective_scan_2d()), which follows the routes without copies. Both functions are
//! permutations and sums of Burn's operations, on every device and with Burn's gradients: each is the transpose of the other. So this
//! folder has no kernels and no reference.

#[cfg(test)]
mod tests;

use burn::prelude::*;

/// The four routes along which an image is unfolded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanPattern {
    /// Rows, columns, rows backwards, columns backwards (`scans = 0`): the paper's cross-scan.
    Cross,
    /// Rows, four times (`scans = 1`).
    Unidirectional,
    /// Rows twice, rows backwards twice (`scans = 2`).
    Bidirectional,
    /// Rows of the image rotated counter-clockwise by 0, 90, 180 and 270 degrees (`scans = 3`).
    Rotated,
}

/// Unfolds `x: [batch, channels, height, width]` into four sequences, `[batch, 4, channels, height * width]`.
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

/// Sums four output sequences at their pixels: `ys: [batch, 4, channels, height, width]` to `[batch, channels, height * width]` in raster
/// order. A sequence holds the pixels in the order in which its route visits them, its last axis split into the `height` and `width` of the
/// image.
///
/// # Panics
/// When there are not four sequences.
pub fn cross_merge(ys: Tensor<5>, pattern: ScanPattern) -> Tensor<3> {
    let [batch, routes, channels, height, width] = ys.dims();
    assert_eq!(routes, 4, "cross_merge: {routes} sequences, expected one for each of the 4 routes");
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
                let rotated = if quarter % 2 == 0 { [height, width] } else { [width, height] };
                let image = route(quarter).reshape([batch, channels, rotated[0], rotated[1]]);
                rotate(image, (4 - quarter) % 4).reshape([batch, channels, length])
            })
            .fold(Tensor::zeros([batch, channels, length], (&ys.device(), ys.dtype())), |sum, t| sum + t),
    }
}

/// Rotates the image counter-clockwise by `quarters * 90` degrees, like `torch.rot90` over the last two axes.
fn rotate(x: Tensor<4>, quarters: usize) -> Tensor<4> {
    match quarters {
        0 => x,
        1 => x.swap_dims(2, 3).flip([2]),
        2 => x.flip([2, 3]),
        _ => x.swap_dims(2, 3).flip([3]),
    }
}
