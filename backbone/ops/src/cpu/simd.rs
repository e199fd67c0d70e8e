//! Choice of the vector width at run time.
//!
//! A [`Kernel`] is ordinary Rust over slices and small arrays whose inner loops the compiler vectorises. [`dispatch`] compiles it for
//! AVX-512, for AVX2 and for the target's baseline (SSE2 or NEON) and runs the widest version that the processor supports, so that one
//! binary is fast everywhere. Every function that a kernel calls must be `#[inline(always)]`; otherwise it is compiled for the baseline.

/// Values that a kernel processes together: one AVX-512 register, two AVX2 or four NEON registers, and one cache line.
pub(crate) const LANES: usize = 16;

/// One value for each lane.
pub(crate) type Lanes = [f32; LANES];

/// A kernel that is compiled for several vector widths.
pub(crate) trait Kernel {
    /// What the kernel returns.
    type Output;

    /// Runs the kernel. `FMA` tells whether the target has fused multiply-add; without it `f32::mul_add` calls a slow library function,
    /// see [`fma`].
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Runs a kernel with the widest vectors that this processor supports.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("fma")
        {
            // SAFETY: the features were just detected.
            return unsafe { run_avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            return unsafe { run_avx2(kernel) };
        }
    }
    // AArch64 has fused multiply-add in its baseline.
    if cfg!(target_arch = "aarch64") { kernel.run::<true>() } else { kernel.run::<false>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

/// `a * b + c`, fused where the target has the instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Prefetches the cache line of an element. The index may lie outside the slice: the processor drops a prefetch it cannot serve.
#[inline(always)]
pub(crate) fn prefetch(values: &[f32], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64; a prefetch never faults and has no effect on values.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(index).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, index);
}

/// Sum of the lanes, in a fixed order.
#[inline(always)]
pub(crate) fn lane_sum(v: &Lanes) -> f32 {
    let mut eight = [0.0_f32; 8];
    for i in 0..8 {
        eight[i] = v[i] + v[i + 8];
    }
    let mut four = [0.0_f32; 4];
    for i in 0..4 {
        four[i] = eight[i] + eight[i + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_sum_adds_every_lane_once() {
        let v: Lanes = std::array::from_fn(|i| (1 << i) as f32);
        assert_eq!(lane_sum(&v), 65_535.0);
    }
}
