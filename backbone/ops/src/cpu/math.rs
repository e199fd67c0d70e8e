//! Elementary functions in plain arithmetic, without branches or tables, so that the compiler vectorises loops over them.
//!
//! `FMA` tells whether the target has fused multiply-add, see [`super::simd::Kernel`].

use super::simd::fma;

/// `e^x` within 2 units in the last place for `x` in [-87.3, 88]; clamped outside (0 becomes about 1e-38, infinity about 1.6e38).
///
/// Splits `x = n ln 2 + r` with `|r| <= ln 2 / 2`, evaluates a polynomial for `e^r`, and builds `2^n` from its exponent bits.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.0);
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, -LN2_LOW, fma::<FMA>(n, -LN2_HIGH, x));
    // Minimax coefficients on [-ln 2 / 2, ln 2 / 2] (Cephes `expf`).
    let p = fma::<FMA>(1.987_569_1e-4, r, 1.398_199_9e-3);
    let p = fma::<FMA>(p, r, 8.333_452e-3);
    let p = fma::<FMA>(p, r, 4.166_579_6e-2);
    let p = fma::<FMA>(p, r, 1.666_666_5e-1);
    let p = fma::<FMA>(p, r, 5.0e-1);
    let p = fma::<FMA>(p, r * r, r) + 1.0;
    // A multiplication: adding `n` to the exponent bits of `p` would turn NaN into a number.
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
}

/// Natural logarithm of a positive normal number, within 2 units in the last place.
#[inline(always)]
pub(crate) fn ln<const FMA: bool>(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    // Separate the exponent, with the mantissa in [sqrt 1/2, sqrt 2).
    let bits = x.to_bits().wrapping_sub(SQRT_HALF);
    let exponent = (bits as i32 >> 23) as f32;
    let mantissa = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF));
    let m = mantissa - 1.0;
    // Minimax coefficients on that interval (Cephes `logf`).
    let p = fma::<FMA>(7.037_683_6e-2, m, -1.151_461e-1);
    let p = fma::<FMA>(p, m, 1.167_699_9e-1);
    let p = fma::<FMA>(p, m, -1.242_014_1e-1);
    let p = fma::<FMA>(p, m, 1.424_932_3e-1);
    let p = fma::<FMA>(p, m, -1.666_805_8e-1);
    let p = fma::<FMA>(p, m, 2.000_071_5e-1);
    let p = fma::<FMA>(p, m, -2.499_999_4e-1);
    let p = fma::<FMA>(p, m, 3.333_333e-1);
    let m2 = m * m;
    let y = fma::<FMA>(p * m, m2, exponent * -2.121_944_4e-4);
    let y = fma::<FMA>(m2, -0.5, y);
    fma::<FMA>(exponent, 0.693_359_4, m + y)
}

/// `ln(1 + e^x)`, and `x` above 20, like PyTorch's `softplus` with its default threshold.
#[inline(always)]
pub(crate) fn softplus<const FMA: bool>(x: f32) -> f32 {
    // ln(1 + e^x) = max(x, 0) + t p(t) with t = e^-|x| in (0, 1] and p(t) = ln(1 + t) / t. The polynomial interpolates p at Chebyshev
    // nodes (relative error 5e-9). This needs no logarithm and no division, and stays accurate for tiny `t`.
    let t = exp::<FMA>(-x.abs());
    let p = fma::<FMA>(-3.176_057e-3, t, 1.954_252_6e-2);
    let p = fma::<FMA>(p, t, -5.637_361e-2);
    let p = fma::<FMA>(p, t, 1.054_362_36e-1);
    let p = fma::<FMA>(p, t, -1.526_966_7e-1);
    let p = fma::<FMA>(p, t, 1.966_327_4e-1);
    let p = fma::<FMA>(p, t, -2.495_161_6e-1);
    let p = fma::<FMA>(p, t, 3.332_971e-1);
    let p = fma::<FMA>(p, t, -4.999_989_3e-1);
    let p = fma::<FMA>(p, t, 1.0);
    let y = fma::<FMA>(p, t, if x > 0.0 { x } else { 0.0 });
    if x > 20.0 { x } else { y }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `max(x, 0)`; NaN stays NaN.
#[inline(always)]
pub(crate) fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// Exact GELU (with the error function).
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<const FMA: bool>(x: f32) -> f32 {
    x * sigmoid::<FMA>(x)
}

/// Gauss error function with an absolute error below 5e-7: an odd rational approximation of degrees 13 and 8 on [-4, 4], with the
/// coefficients of Eigen's float version, and -1 or 1 outside.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let p = fma::<FMA>(s, -2.726_142_3e-10, 2.770_681_4e-8);
    let p = fma::<FMA>(p, s, -2.101_024e-6);
    let p = fma::<FMA>(p, s, -5.692_506_5e-5);
    let p = fma::<FMA>(p, s, -7.349_906e-4);
    let p = fma::<FMA>(p, s, -2.954_6e-3);
    let p = fma::<FMA>(p, s, -1.609_603_3e-2) * x;
    let q = fma::<FMA>(s, -1.456_607_2e-5, -2.133_740_6e-4);
    let q = fma::<FMA>(q, s, -1.682_827e-3);
    let q = fma::<FMA>(q, s, -7.373_329e-3);
    let q = fma::<FMA>(q, s, -1.426_473_9e-2);
    p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of `f` against `g` over a grid. With `relative` it is the relative error, otherwise the absolute error where
    /// `|g| < 1` and the relative error elsewhere.
    fn worst(range: std::ops::Range<f64>, relative: bool, f: impl Fn(f32) -> f32, g: impl Fn(f64) -> f64) -> f64 {
        (0..200_000)
            .map(|i| {
                let x = (range.start + (range.end - range.start) * f64::from(i) / 200_000.0) as f32;
                let (y, expected) = (f64::from(f(x)), g(f64::from(x)));
                (y - expected).abs() / if relative { expected.abs() } else { expected.abs().max(1.0) }
            })
            .fold(0.0, f64::max)
    }

    /// Error function: the Taylor series for `|x| < 3`, the continued fraction of the complement beyond.
    fn erf_reference(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let mut term = x;
            let mut sum = x;
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let t = x.abs();
            let mut fraction = t;
            for k in (1..60).rev() {
                fraction = t + f64::from(k) / 2.0 / fraction;
            }
            (1.0 - (-t * t).exp() / (std::f64::consts::PI.sqrt() * fraction)).copysign(x)
        }
    }

    /// Two to four units in the last place of float32.
    const ULPS: f64 = 2.5e-7;

    #[test]
    fn elementary_functions_are_accurate() {
        assert!(worst(-87.0..88.0, true, exp::<true>, f64::exp) < ULPS);
        assert!(worst(-87.0..88.0, true, exp::<false>, f64::exp) < ULPS);
        assert!(worst(1e-3..100.0, false, ln::<true>, f64::ln) < ULPS);
        assert!(worst(-80.0..20.0, true, softplus::<true>, |x| x.exp().ln_1p()) < 2.0 * ULPS);
        assert!(worst(-30.0..30.0, true, sigmoid::<true>, |x| 1.0 / (1.0 + (-x).exp())) < 2.0 * ULPS);
        assert!(worst(-6.0..6.0, false, erf::<true>, erf_reference) < 5e-7);
        assert_eq!(softplus::<true>(25.0), 25.0);
    }

    #[test]
    fn extreme_arguments_stay_finite() {
        for x in [f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY] {
            assert!(exp::<true>(x).is_finite() && sigmoid::<true>(x).is_finite() && erf::<true>(x).is_finite());
        }
        assert!(softplus::<true>(f32::NAN).is_nan() && exp::<true>(f32::NAN).is_nan());
    }
}
