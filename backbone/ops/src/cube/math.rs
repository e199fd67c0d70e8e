//! Elementary functions of float32 vectors in GPU kernels, as accurate as those in `cpu/math.rs`.
//!
//! They are polynomials because drivers guarantee only 21 bits of a logarithm near 1, and have an approximate error function or none.

use cubecl::prelude::*;

/// `ln(1 + e^x)`, with the polynomial of the CPU, see `cpu::math::softplus`.
#[cube]
pub(crate) fn softplus<V: Size>(x: Vector<f32, V>) -> Vector<f32, V> {
    let zero = Vector::<f32, V>::new(0.0_f32);
    let large = max(x, zero);
    // -|x|
    let t = (x - large - large).exp();
    let p = horner::<V>(Vector::new(-3.176_057e-3_f32), t, 1.954_252_6e-2_f32);
    let p = horner::<V>(p, t, -5.637_361e-2_f32);
    let p = horner::<V>(p, t, 1.054_362_36e-1_f32);
    let p = horner::<V>(p, t, -1.526_966_7e-1_f32);
    let p = horner::<V>(p, t, 1.966_327_4e-1_f32);
    let p = horner::<V>(p, t, -2.495_161_6e-1_f32);
    let p = horner::<V>(p, t, 3.332_971e-1_f32);
    let p = horner::<V>(p, t, -4.999_989_3e-1_f32);
    let p = horner::<V>(p, t, 1.0_f32);
    fma(p, t, large)
}

/// `1 / (1 + e^-x)`.
#[cube]
pub(crate) fn sigmoid<V: Size>(x: Vector<f32, V>) -> Vector<f32, V> {
    let one = Vector::<f32, V>::new(1.0_f32);
    one / (one + (Vector::new(0.0_f32) - x).exp())
}

/// `x / (1 + e^-x)`.
#[cube]
pub(crate) fn silu<V: Size>(x: Vector<f32, V>) -> Vector<f32, V> {
    x * sigmoid::<V>(x)
}

/// Exact GELU: `x` times the standard normal cumulative distribution at `x`.
#[cube]
pub(crate) fn gelu<V: Size>(x: Vector<f32, V>) -> Vector<f32, V> {
    x * normal_cumulative::<V>(x)
}

/// The standard normal cumulative distribution.
#[cube]
pub(crate) fn normal_cumulative<V: Size>(x: Vector<f32, V>) -> Vector<f32, V> {
    Vector::new(0.5_f32) * (Vector::new(1.0_f32) + erf::<V>(x * Vector::new(FRAC_1_SQRT_2)))
}

const FRAC_1_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// The error function, with the rational approximation of the CPU, see `cpu::math::erf`.
#[cube]
pub(crate) fn erf<V: Size>(x: Vector<f32, V>) -> Vector<f32, V> {
    let x = min(max(x, Vector::new(-4.0_f32)), Vector::new(4.0_f32));
    let s = x * x;
    let p = horner::<V>(Vector::new(-2.726_142_3e-10_f32), s, 2.770_681_4e-8_f32);
    let p = horner::<V>(p, s, -2.101_024e-6_f32);
    let p = horner::<V>(p, s, -5.692_506_5e-5_f32);
    let p = horner::<V>(p, s, -7.349_906e-4_f32);
    let p = horner::<V>(p, s, -2.954_6e-3_f32);
    let p = horner::<V>(p, s, -1.609_603_3e-2_f32);
    let q = horner::<V>(Vector::new(-1.456_607_2e-5_f32), s, -2.133_740_6e-4_f32);
    let q = horner::<V>(q, s, -1.682_827e-3_f32);
    let q = horner::<V>(q, s, -7.373_329e-3_f32);
    let q = horner::<V>(q, s, -1.426_473_9e-2_f32);
    p * x / q
}

/// `p t + c`.
#[cube]
fn horner<V: Size>(p: Vector<f32, V>, t: Vector<f32, V>, c: f32) -> Vector<f32, V> {
    fma(p, t, Vector::new(c))
}

/// The sum of the values of a vector.
#[cube]
pub(crate) fn over_vector<V: Size>(vector: Vector<f32, V>) -> f32 {
    let mut sum = 0.0_f32;
    #[unroll]
    for i in 0..V::value() {
        sum += vector.extract(i);
    }
    sum
}
