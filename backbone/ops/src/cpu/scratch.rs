//! Temporary buffers that are reused from call to call: the page faults of fresh memory cost more than the copy that fills it.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// A temporary buffer. Dropping it returns the memory to the pool.
pub(crate) struct Scratch(Vec<f32>);

/// The pool: unused buffers, sorted by capacity.
static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Largest number of values in the pool: 256 MiB.
const POOL_LIMIT: usize = 1 << 26;

/// A buffer is reused only for requests of at least a quarter of its capacity, so that small requests do not take the large buffers.
const MAX_EXCESS: usize = 4;

impl Scratch {
    /// `len` values with arbitrary content, for a caller that writes every one of them.
    pub(crate) fn unset(len: usize) -> Self {
        let mut buffer = take(len).unwrap_or_else(|| Vec::with_capacity(len));
        buffer.resize(len, 0.0);
        Self(buffer)
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        // `vec!` gets zeroed pages from the system, without a pass over them.
        let Some(mut buffer) = take(len) else { return Self(vec![0.0; len]) };
        buffer.clear();
        buffer.resize(len, 0.0);
        Self(buffer)
    }
}

/// Takes the smallest suitable buffer out of the pool.
fn take(len: usize) -> Option<Vec<f32>> {
    // An address sanitizer sees an access past the end only if the allocation ends there: `.ci/run` asks for exact buffers.
    if len == 0 || cfg!(exact_buffers) {
        return None;
    }
    let mut pool = POOL.lock().ok()?;
    let fitting = pool.partition_point(|buffer| buffer.capacity() < len);
    (pool.get(fitting)?.capacity() <= MAX_EXCESS * len).then(|| pool.remove(fitting))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > POOL_LIMIT {
            return;
        }
        let Ok(mut pool) = POOL.lock() else { return };
        let place = pool.partition_point(|other| other.capacity() < buffer.capacity());
        pool.insert(place, buffer);
        // Small buffers go first: they are the cheapest to allocate again.
        while pool.iter().map(Vec::capacity).sum::<usize>() > POOL_LIMIT {
            pool.remove(0);
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reused_buffers_of_zeros_hold_zeros() {
        // No other test asks for this size, so the second and third buffer are the first one again.
        for _ in 0..3 {
            let mut scratch = Scratch::zeros(12_347);
            assert!(scratch.iter().all(|value| *value == 0.0));
            scratch.fill(1.0);
        }
        assert_eq!(Scratch::unset(12_346).len(), 12_346);
        assert!(Scratch::zeros(0).is_empty());
    }

    #[test]
    fn small_requests_do_not_take_large_buffers() {
        drop(Scratch::unset(7_000_001));
        let small = Scratch::unset(10);
        assert!(small.0.capacity() <= 10 * MAX_EXCESS);
    }
}
