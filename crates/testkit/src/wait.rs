//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::interrupted;

/// How long a condition rests between two looks.
const REST: Duration = Duration::from_millis(50);

/// Looks at `condition` until it answers `Some`, at most for `limit`.
///
/// # Errors
/// Whatever the condition fails with, or, past the limit or after a signal, `what` was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        ensure!(!interrupted(), "interrupted while waiting: {what}");
        if start.elapsed() > limit {
            bail!("waited {} s in vain: {what}", limit.as_secs());
        }
        std::thread::sleep(REST);
    }
}
