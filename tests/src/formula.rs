//! Pseudo-random numbers from a name, equal here and in `tests/parity_baselines/generate.py`. Both sides compute the weights, so fixtures
//! of full-size networks store only results.

/// Uniform numbers of the given deviation and mean, one for each place of `shape`: SplitMix64 of the FNV-1a hash of the name plus the index.
pub fn values(name: &str, shape: &[usize], deviation: f64, mean: f64) -> Vec<f32> {
    let seed = fnv1a(name);
    let width = 3.0_f64.sqrt() * deviation;
    let count: usize = shape.iter().product();
    (1..=count as u64)
        .map(|index| {
            let unit = (split_mix(seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 11) as f64 / (1_u64 << 53) as f64;
            (mean + (2.0 * unit - 1.0) * width) as f32
        })
        .collect()
}

/// The value of a parameter or buffer by its key in the reference: scales near 1, shifts near 0, weights of deviation 1 / sqrt(fan in).
pub fn parameter(key: &str, shape: &[usize]) -> Vec<f32> {
    if shape.len() > 1 {
        let fan_in: usize = shape.iter().skip(1).product();
        return values(key, shape, (1.0 / fan_in as f64).sqrt(), 0.0);
    }
    let scale = ["weight", "running_var", "gamma", "gamma1", "gamma2", "gamma3"].iter().any(|end| key.ends_with(end));
    if scale { values(key, shape, 0.2, 1.0) } else { values(key, shape, 0.1, 0.0) }
}

fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

fn split_mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
