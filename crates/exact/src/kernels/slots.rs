use std::{marker::PhantomData, ops::Range};

/// A slice that the parts of a step write, each its own pieces.
pub(super) struct Slots<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out pieces of a slice of `T` to threads; the caller of `piece` promises that no two are the same.
unsafe impl<T: Send> Sync for Slots<'_, T> {}

impl<'a, T> Slots<'a, T> {
    pub(super) const fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// A piece of the slice.
    ///
    /// # Safety
    /// While the piece lives, nobody may hold another that overlaps it.
    ///
    /// # Panics
    /// If the piece is not within the slice.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that pieces do not overlap")]
    pub(super) unsafe fn piece(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a piece within the slice");
        // SAFETY: in bounds by the assertion; alone by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}
