//! The projection as one `gemm` call, and its three gradients.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::{LinearGradOps, LinearGrads, LinearOps};
use crate::flex::{contiguous, dims, tensor, values};

impl LinearOps for Flex {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, biased: bool) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let ([rows, inner], [out, _]) = (dims::<2>(&x), dims::<2>(&weight));
        let (mut y, accumulate) = if biased {
            let mut y = Vec::with_capacity(rows * out);
            for _ in 0..rows {
                y.extend_from_slice(values(&bias));
            }
            (y, true)
        } else {
            (vec![0.0; rows * out], false)
        };
        product(&mut y, values(&x), values(&weight), Sizes { rows, columns: out, inner }, Layouts { a: Rows, b: Columns }, accumulate);
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
        let mut dx = vec![0.0; rows * inner];
        let sizes = Sizes { rows, columns: inner, inner: out };
        product(&mut dx, values(&grad), values(&weight), sizes, Layouts { a: Rows, b: Rows }, false);
        let mut dweight = vec![0.0; out * inner];
        let sizes = Sizes { rows: out, columns: inner, inner: rows };
        product(&mut dweight, values(&grad), values(&x), sizes, Layouts { a: Columns, b: Rows }, false);
        let dbias = if biased {
            let mut sums = vec![0.0; out];
            for row in values(&grad).chunks_exact(out) {
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

/// The product is `[rows, inner] x [inner, columns]`.
struct Sizes {
    rows: usize,
    columns: usize,
    inner: usize,
}

/// How a factor lies in memory: as it enters the product, or transposed.
use Layout::{Columns, Rows};
#[derive(Clone, Copy)]
enum Layout {
    Rows,
    Columns,
}

struct Layouts {
    a: Layout,
    b: Layout,
}

/// Products below this many multiply-adds run on one thread: waking the others costs more.
const PARALLEL_FROM: usize = 1 << 19;

/// `y = a b` or `y += a b`.
fn product(y: &mut [f32], a: &[f32], b: &[f32], sizes: Sizes, layouts: Layouts, accumulate: bool) {
    let Sizes { rows, columns, inner } = sizes;
    assert!(y.len() == rows * columns && a.len() == rows * inner && b.len() == inner * columns, "linear: sizes do not fit");
    let strides = |layout, rows: usize, columns: usize| match layout {
        Rows => (1, columns as isize),
        Columns => (rows as isize, 1),
    };
    let (a_column, a_row) = strides(layouts.a, rows, inner);
    let (b_column, b_row) = strides(layouts.b, inner, columns);
    let parallelism = if rows * columns * inner < PARALLEL_FROM {
        gemm::Parallelism::None
    } else {
        gemm::Parallelism::Rayon(rayon::current_num_threads())
    };
    // SAFETY: the three slices hold exactly the elements that sizes and strides address (asserted above), and `y` is not aliased.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            y.as_mut_ptr(),
            1,
            columns as isize,
            accumulate,
            a.as_ptr(),
            a_column,
            a_row,
            b.as_ptr(),
            b_column,
            b_row,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}
