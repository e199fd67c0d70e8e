//! The projection as one matrix product, and its three gradients.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::matmul::{Factor, PARALLEL_FROM, Sizes, matmul};
use super::{LinearGradOps, LinearGrads, LinearOps};
use crate::flex::{contiguous, dims, tensor, values};

impl LinearOps for Flex {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, biased: bool) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let ([rows, inner], [out, _]) = (dims::<2>(&x), dims::<2>(&weight));
        let (x, weight) = (Factor::rows(values(&x), inner), Factor::columns(values(&weight), inner));
        let y = product(x, weight, biased.then(|| values(&bias)), Sizes { rows, columns: out, inner });
        tensor(y, [rows, out])
    }
}

impl LinearGradOps for Flex {
    fn project_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        biased: bool,
    ) -> LinearGrads<Self> {
        let [grad, x, weight] = [grad, x, weight].map(contiguous);
        let ([rows, inner], [out, _]) = (dims::<2>(&x), dims::<2>(&weight));
        let grads = values(&grad);
        let sizes = Sizes { rows, columns: inner, inner: out };
        let dx = product(Factor::rows(grads, out), Factor::rows(values(&weight), inner), None, sizes);
        let sizes = Sizes { rows: out, columns: inner, inner: rows };
        let dweight = product(Factor::columns(grads, out), Factor::rows(values(&x), inner), None, sizes);
        let dbias = if biased {
            let mut sums = vec![0.0; out];
            for row in grads.chunks_exact(out) {
                sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
            }
            sums
        } else {
            vec![0.0; values(&contiguous(bias.clone())).len()]
        };
        LinearGrads {
            x: tensor(dx, [rows, inner]),
            weight: tensor(dweight, [out, inner]),
            bias: tensor(dbias, bias.layout().shape().clone()),
        }
    }
}

/// `a b`, or `a b + bias`, by our kernel where the processor has the vectors for it and by the `gemm` crate elsewhere.
pub(crate) fn product(a: Factor, b: Factor, bias: Option<&[f32]>, sizes: Sizes) -> Vec<f32> {
    matmul(a, b, bias, sizes).unwrap_or_else(|| portable(a, b, bias, sizes))
}

/// The same by the `gemm` crate, which has kernels for other processors.
fn portable(a: Factor, b: Factor, bias: Option<&[f32]>, sizes: Sizes) -> Vec<f32> {
    let Sizes { rows, columns, inner } = sizes;
    let mut y = match bias {
        Some(bias) => bias.repeat(rows),
        None => vec![0.0; rows * columns],
    };
    let parallelism = if rows * columns * inner < PARALLEL_FROM {
        gemm::Parallelism::None
    } else {
        gemm::Parallelism::Rayon(rayon::current_num_threads())
    };
    assert!(y.len() == rows * columns && a.holds(rows, inner) && b.holds(inner, columns), "linear: sizes do not fit");
    // SAFETY: the three slices hold exactly the elements that sizes and strides address (asserted above), and `y` is not aliased.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            y.as_mut_ptr(),
            1,
            columns as isize,
            bias.is_some(),
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            parallelism,
        );
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Every vector unit of this processor against a sum in float64, over sizes around those of tiles, panels, tasks and depth blocks,
    /// with each factor in both layouts. Float32 rounding of a sum of `inner` products below 1 stays under 1e-7 times `inner`; the
    /// `gemm` crate is held to the same.
    #[test]
    fn products_equal_the_plain_sum_in_every_layout() {
        for (rows, columns, inner) in
            [(1, 1, 1), (9, 50, 7), (8, 48, 33), (13, 100, 64), (3, 24, 1500), (300, 33, 9), (520, 17, 40), (5, 7, 0), (0, 4, 4), (4, 0, 4)]
        {
            let sizes = Sizes { rows, columns, inner };
            let (a, b, bias) = (random(rows * inner, 1), random(inner * columns, 2), random(columns, 3));
            let turned = |values: &[f32], height: usize, width: usize| -> Vec<f32> {
                (0..height * width).map(|i| values[i % height * width + i / height]).collect()
            };
            let (a_turned, b_turned) = (turned(&a, rows, inner), turned(&b, inner, columns));
            let expected: Vec<f64> = (0..rows * columns)
                .map(|i| {
                    let (row, column) = (i / columns, i % columns);
                    (0..inner).map(|k| f64::from(a[row * inner + k]) * f64::from(b[k * columns + column])).sum::<f64>()
                })
                .collect();
            for left in [Factor::rows(&a, inner), Factor::columns(&a_turned, rows)] {
                for right in [Factor::rows(&b, columns), Factor::columns(&b_turned, inner)] {
                    for bias in [None, Some(bias.as_slice())] {
                        let mut results = crate::linear::matmul::every_unit(left, right, bias, sizes);
                        results.push(portable(left, right, bias, sizes));
                        for result in results {
                            assert_eq!(result.len(), rows * columns);
                            for (i, (value, expected)) in result.iter().zip(&expected).enumerate() {
                                let expected = expected + bias.map_or(0.0, |bias| f64::from(bias[i % columns]));
                                let error = (f64::from(*value) - expected).abs();
                                assert!(error <= 1e-7 * (inner + 8) as f64, "{rows} x {inner} x {columns}, element {i}: {error}");
                            }
                        }
                    }
                }
            }
        }
    }
}
