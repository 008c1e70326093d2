//! Foreign libraries on the bytes of strangers.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a library's reader: where a hostile file makes it panic, that is an error of the file, with the library's words. What was being read is given
/// up, so no half-made state is seen.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        format!("it breaks its reader ({})", text.unwrap_or("no reason given"))
    })
}
