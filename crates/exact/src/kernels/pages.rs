use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    fmt,
    ptr::NonNull,
};

/// A huge page, where the system has them.
const HUGE: usize = 1 << 21;
/// A cache line, and the widest vector.
const LINE: usize = 64;

/// Zeroed memory for weights that are read from end to end once per token: aligned to a cache line, and from 2 MiB on to huge pages, which the
/// system is asked for (on Linux). Without huge pages the processor spends its time looking up addresses.
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
    /// If `len` is beyond the address space. Aborts, as a `Vec` does, if there is not enough memory.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let align = if len >= HUGE { HUGE } else { LINE };
        let Ok(layout) = Layout::from_size_align(len.max(1), align) else { panic!("{len} bytes are more than a machine can address") };
        // SAFETY: the layout's size is not 0.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        if align == HUGE {
            ask_for_huge_pages(start, len);
        }
        // SAFETY: the allocation is this long. Touched only now, after huge pages were asked for.
        unsafe { start.write_bytes(0, layout.size()) };
        Self { start, len, layout }
    }

    /// All bytes.
    #[must_use]
    pub const fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the allocation is at least this long, written from end to end by `new`, and ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the allocation is at least this long and written from end to end by `new`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
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
