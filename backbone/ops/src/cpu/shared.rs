//! One buffer written by many tasks.

/// A pointer through which tasks write disjoint elements of one buffer.
///
/// Tasks that own a block of channels or columns write strided, interleaved parts of the result, which disjoint slices cannot express.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(*mut f32);

// SAFETY: every task accesses only the elements it owns, see `block` and `at`.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    /// Shares a buffer that outlives the parallel section.
    pub(crate) fn new(buffer: &mut [f32]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// Shares memory that may not be initialised yet, such as the capacity of an empty vector. It must outlive the parallel section.
    pub(crate) fn from_ptr(values: *mut f32) -> Self {
        Self(values)
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// The range is initialised and lies inside the buffer, no other task accesses it, and the caller holds no second reference to it.
    #[expect(clippy::mut_from_ref, reason = "that is the purpose; the caller guarantees that ranges are disjoint")]
    #[inline(always)]
    pub(crate) unsafe fn block(&self, start: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller guarantees the conditions above.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }

    /// The address of the element at `offset`.
    ///
    /// # Safety
    /// `offset` lies inside the buffer.
    #[inline(always)]
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller guarantees the condition above.
        unsafe { self.0.add(offset) }
    }
}
