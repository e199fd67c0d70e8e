//! Random numbers of the scenes, equal on every platform and for every library version.
//!
//! Distributions are computed here from the bits of ChaCha8, because the `rand` crate does not promise that its distributions keep their
//! values between versions. Angles become unit vectors through a polynomial, because `sin` and `cos` differ between C libraries and one
//! bit can flip a pixel.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The random generator of one scene.
pub(super) struct SceneRng(ChaCha8Rng);

impl SceneRng {
    /// The generator of scene `index` of the world `seed`. Scenes are independent of each other.
    pub(super) fn new(seed: u64, index: u64) -> Self {
        let mut key = *b"........--------vision scenes v1";
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&index.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// 32 random bits.
    pub(super) fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A uniform integer in `0..n`; 0 for `n = 0`.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.bits()) * u64::from(n)) >> 32) as u32
    }

    /// A uniform integer in `low..=high`.
    pub(super) fn integer(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True with a probability of `percent` / 100.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// A uniform number in `[low, high)`, one of 2^24 equally spaced values.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 8) as f32 * (1.0 / 16_777_216.0))
    }
}

/// Hashes a pixel position and a salt to 32 bits (the finaliser of MurmurHash3 over a linear combination).
#[inline]
pub(super) fn hash(x: i32, y: i32, salt: u32) -> u32 {
    let mut h = (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77) ^ salt;
    h ^= h >> 16;
    h = h.wrapping_mul(0x85EB_CA6B);
    h ^= h >> 13;
    h = h.wrapping_mul(0xC2B2_AE35);
    h ^ (h >> 16)
}

/// Smooth noise in `[0, 1)`: hashed values on an integer lattice, blended by a cubic. `x` and `y` are in lattice cells.
#[inline]
pub(super) fn smooth_noise(x: f32, y: f32, salt: u32) -> f32 {
    let (x0, y0) = (x.floor(), y.floor());
    let (fx, fy) = (ease(x - x0), ease(y - y0));
    let (ix, iy) = (x0 as i32, y0 as i32);
    let corner = |dx, dy| (hash(ix + dx, iy + dy, salt) >> 8) as f32 * (1.0 / 16_777_216.0);
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * fx;
    let bottom = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * fx;
    top + (bottom - top) * fy
}

/// The cubic `3t² - 2t³`, whose slope is 0 at both ends.
#[inline]
pub(super) fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// `(cos, sin)` of `turn` full turns, normalised; computed with multiplications, additions and one square root only.
pub(super) fn direction(turn: f32) -> (f32, f32) {
    let turn = turn - turn.floor();
    let quarter = (turn * 4.0).floor();
    // The angle from the middle of the quarter turn, in radians: |a| <= pi/4, where these series are accurate to 1e-6.
    let a = (turn * 4.0 - quarter - 0.5) * std::f32::consts::FRAC_PI_2;
    let s = a * (1.0 - a * a * (1.0 / 6.0 - a * a * (1.0 / 120.0)));
    let c = 1.0 - a * a * (0.5 - a * a * (1.0 / 24.0 - a * a * (1.0 / 720.0)));
    // Rotate by the 45 degrees from the start of the quarter turn to its middle.
    let h = std::f32::consts::FRAC_1_SQRT_2;
    let (c, s) = ((c - s) * h, (c + s) * h);
    let norm = 1.0 / (c * c + s * s).sqrt();
    let (c, s) = (c * norm, s * norm);
    match quarter as i32 {
        0 => (c, s),
        1 => (-s, c),
        2 => (-c, -s),
        _ => (s, -c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_draws_the_same_numbers_again_and_another_scene_does_not() {
        let mut rng = SceneRng::new(7, 3);
        let first: Vec<u32> = (0..4).map(|_| rng.below(1000)).collect();
        let mut again = SceneRng::new(7, 3);
        assert_eq!(first, (0..4).map(|_| again.below(1000)).collect::<Vec<_>>());
        let mut other = SceneRng::new(7, 4);
        assert_ne!(first, (0..4).map(|_| other.below(1000)).collect::<Vec<_>>());
    }

    #[test]
    fn direction_agrees_with_sine_and_cosine() {
        // The series end at a^7 and a^8 with |a| <= pi/4, and the result is normalised.
        const TOLERANCE: f32 = 1e-4;
        for step in 0..1000 {
            let turn = step as f32 / 1000.0 - 0.3;
            let (c, s) = direction(turn);
            let angle = turn * std::f32::consts::TAU;
            assert!((c - angle.cos()).abs() < TOLERANCE && (s - angle.sin()).abs() < TOLERANCE, "{turn}: {c} {s}");
        }
    }

    #[test]
    fn smooth_noise_stays_in_range_and_is_continuous() {
        let mut last = smooth_noise(-5.0, 0.3, 9);
        for step in 1..10_000 {
            let value = smooth_noise(-5.0 + step as f32 * 0.001, 0.3, 9);
            assert!((0.0..1.0).contains(&value) && (value - last).abs() < 0.01);
            last = value;
        }
    }
}
