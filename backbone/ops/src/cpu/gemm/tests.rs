//! Compares every vector unit of this processor with sums in float64.
//!
//! The float32 rounding error of a sum of `inner` products below 1 stays under 1e-7 times `inner`.

use super::product::Product;
use super::{Matrix, Sizes, gemm, gemm_chain, run_on_every_unit};
use crate::epilogue::{Epilogue, Pointwise};
use crate::testing::random;

struct Case {
    sizes: Sizes,
    a: Vec<f32>,
    b: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Case {
    fn new([rows, columns, inner]: [usize; 3]) -> Self {
        let sizes = Sizes { rows, columns, inner };
        Self {
            sizes,
            a: random(rows * inner, 1),
            b: random(inner * columns, 2),
            bias: random(columns, 3),
            residual: random(rows * columns, 4),
        }
    }

    /// The product in float64.
    fn expected(&self) -> Vec<f64> {
        let Sizes { rows, columns, inner } = self.sizes;
        let sum = |row: usize, column: usize| {
            (0..inner).map(|k| f64::from(self.a[row * inner + k]) * f64::from(self.b[k * columns + column])).sum::<f64>()
        };
        (0..rows * columns).map(|i| sum(i / columns, i % columns)).collect()
    }

    #[track_caller]
    fn compare(&self, what: &str, result: &[f32], expected: impl Fn(usize) -> f64) {
        let Sizes { rows, columns, inner } = self.sizes;
        assert_eq!(result.len(), rows * columns);
        for (i, value) in result.iter().enumerate() {
            let error = (f64::from(*value) - expected(i)).abs();
            assert!(error <= 1e-7 * (inner + 8) as f64, "{what}, {rows} x {inner} x {columns}, element {i}: {error}");
        }
    }
}

/// The transposed matrix.
fn transposed(values: &[f32], height: usize, width: usize) -> Vec<f32> {
    (0..height * width).map(|i| values[i % height * width + i / height]).collect()
}

/// `[rows, columns, inner]` around the sizes of tiles, panels, tasks and depth blocks.
const SIZES: [[usize; 3]; 11] = [
    [1, 1, 1],
    [9, 50, 7],
    [8, 48, 33],
    [13, 100, 64],
    [3, 24, 1500],
    [300, 33, 9],
    [520, 17, 40],
    [515, 130, 20],
    [5, 7, 0],
    [0, 4, 4],
    [4, 0, 4],
];

#[test]
fn products_equal_float64_sums_in_every_layout() {
    for case in SIZES.map(Case::new) {
        let Sizes { rows, columns, inner } = case.sizes;
        let (a_transposed, b_transposed) = (transposed(&case.a, rows, inner), transposed(&case.b, inner, columns));
        let expected = case.expected();
        for left in [Matrix::rows(&case.a, inner), Matrix::columns(&a_transposed, rows)] {
            for right in [Matrix::rows(&case.b, columns), Matrix::columns(&b_transposed, inner)] {
                for bias in [None, Some(case.bias.as_slice())] {
                    for (unit, result) in run_on_every_unit(Product::new(left, right, Epilogue::bias(bias), case.sizes)) {
                        case.compare(unit, &result, |i| expected[i] + bias.map_or(0.0, |bias| f64::from(bias[i % columns])));
                    }
                }
            }
        }
    }
}

#[test]
fn epilogues_scale_then_add_then_activate() {
    for case in SIZES.map(Case::new) {
        let Sizes { columns, inner, .. } = case.sizes;
        let expected = case.expected();
        let scale = random(columns, 5);
        type Function = fn(f64) -> f64;
        let functions: [(Pointwise, Function); 4] = [
            (Pointwise::Identity, |x| x),
            (Pointwise::Relu, |x| x.max(0.0)),
            (Pointwise::Gelu, |x| f64::from(crate::cpu::math::gelu::<false>(x as f32))),
            (Pointwise::Silu, |x| x / (1.0 + (-x).exp())),
        ];
        for (activation, function) in functions {
            for parts in 0..8 {
                let scale = (parts & 1 > 0).then_some(scale.as_slice());
                let bias = (parts & 2 > 0).then_some(case.bias.as_slice());
                let residual = (parts & 4 > 0).then_some(case.residual.as_slice());
                let epilogue = Epilogue { scale, bias, residual, activation };
                let factors = (Matrix::rows(&case.a, inner), Matrix::rows(&case.b, columns));
                let part = |slice: Option<&[f32]>, index: usize, none: f64| slice.map_or(none, |slice| f64::from(slice[index]));
                for (unit, result) in run_on_every_unit(Product::new(factors.0, factors.1, epilogue, case.sizes)) {
                    case.compare(&format!("{unit}, {activation:?}, {parts:03b}"), &result, |i| {
                        let sum = expected[i] * part(scale, i % columns, 1.0) + part(bias, i % columns, 0.0);
                        function(sum + part(residual, i, 0.0))
                    });
                }
            }
        }
    }
}

#[test]
fn a_chain_equals_two_separate_products() {
    for (rows, inner, hidden, columns) in [(3, 5, 7, 4), (49, 20, 60, 33), (700, 24, 100, 50), (0, 3, 3, 3)] {
        let (a, b, c) = (random(rows * inner, 1), random(hidden * inner, 2), random(columns * hidden, 3));
        let (bias, residual) = (random(hidden, 4), random(rows * columns, 5));
        let first = Epilogue { activation: Pointwise::Gelu, ..Epilogue::bias(Some(bias.as_slice())) };
        let second = Epilogue { residual: Some(residual.as_slice()), ..Epilogue::default() };
        let sizes = [Sizes { rows, columns: hidden, inner }, Sizes { rows, columns, inner: hidden }];
        let left = Matrix::rows(&a, inner);
        let right = [Matrix::columns(&b, inner), Matrix::columns(&c, hidden)];
        let between = gemm(left, right[0], first, sizes[0]);
        let expected = gemm(Matrix::rows(&between, hidden), right[1], second, sizes[1]);
        assert_eq!(gemm_chain(left, [(right[0], first, sizes[0]), (right[1], second, sizes[1])]), expected);
    }
}
