use std::{
    alloc::{Layout, alloc, dealloc},
    fmt,
    ptr::NonNull,
};

use thiserror::Error;

/// A huge page, where the system has them.
const HUGE: usize = 1 << 21;
/// A cache line, and the widest vector.
const LINE: usize = 64;

/// A cache line as int16.
pub(super) type Line = [i16; LINE / 2];

/// Memory that the system refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no memory for {bytes} bytes: close something else, or use a smaller model or a shorter context")]
pub struct OutOfMemory {
    /// Bytes asked for at once.
    pub bytes: usize,
}

/// Zeroed memory for what is read from end to end once per token, weights or keys and values: aligned to a cache line, and from 2 MiB on to huge
/// pages, which the system is asked for (on Linux). Without huge pages the processor spends its time looking up addresses.
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: it owns its memory, as a `Vec<u8>` does.
unsafe impl Send for Pages {}
// SAFETY: shared, it only hands out shared slices.
unsafe impl Sync for Pages {}

impl Pages {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// If there is not enough memory.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self::try_new(len).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// `len` zero bytes, which are touched at once.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn try_new(len: usize) -> Result<Self, OutOfMemory> {
        let refused = OutOfMemory { bytes: len };
        let align = if len >= HUGE { HUGE } else { LINE };
        let layout = Layout::from_size_align(len.max(1), align).map_err(|_| refused)?;
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or(refused)?;
        if align == HUGE {
            ask_for_huge_pages(start, len);
        }
        // SAFETY: the allocation is this long. Touched only now, after huge pages were asked for.
        unsafe { start.write_bytes(0, layout.size()) };
        Ok(Self { start, len, layout })
    }

    /// The cache lines that are all in it, as int16.
    pub(super) const fn lines(&self) -> &[Line] {
        // SAFETY: the start is aligned to a line, the allocation has so many of them and is written from end to end by `try_new`; any bits are
        // an int16.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len / LINE) }
    }

    /// As [`Pages::lines`].
    pub(super) const fn lines_mut(&mut self) -> &mut [Line] {
        // SAFETY: as in `lines`; ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len / LINE) }
    }

    /// All bytes.
    #[must_use]
    pub const fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the allocation is at least this long, written from end to end by `try_new`, and ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the allocation is at least this long and written from end to end by `try_new`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated by `try_new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} bytes)", self.len)
    }
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages(start: NonNull<u8>, len: usize) {
    // SAFETY: the range is ours and whole pages of it hold nothing yet; the advice changes speed only. A refusal costs speed.
    let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), len / HUGE * HUGE, rustix::mm::Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_start: NonNull<u8>, _len: usize) {}
