//! How much memory a computation may take. Systems lend memory that they do not have, and kill whoever uses it: so what is asked for is compared with
//! what is free before.

use std::fs;

use quern_exact::{decoder::Cache, header::Header};

use crate::ModelError;

/// Taken where the system does not say.
const UNKNOWN: u64 = 4 << 30;

/// Bytes that this process could still take without pushing others out: the least of what the system, the control group and the limit of its address
/// space (`ulimit -v`) say.
#[must_use]
pub fn available_memory() -> u64 {
    let read = |path: &str| fs::read_to_string(path).ok();
    let system = read("/proc/meminfo").and_then(|text| kib(&text, "MemAvailable:"));
    let group = |name: &str| read(&format!("/sys/fs/cgroup/{name}"))?.trim().parse::<u64>().ok();
    let group = group("memory.max").zip(group("memory.current")).map(|(most, used)| most.saturating_sub(used));
    let most = read("/proc/self/limits").and_then(|text| address_space(&text));
    let used = || read("/proc/self/status").and_then(|text| kib(&text, "VmSize:"));
    let space = most.and_then(|most| Some(most.saturating_sub(used()?)));
    system.into_iter().chain(group).chain(space).min().unwrap_or(UNKNOWN)
}

/// Whether the keys and values of so many positions, at most the context, fit the memory that is free.
///
/// # Errors
/// [`ModelError::Memory`].
pub fn check_memory(header: &Header, positions: usize) -> Result<(), ModelError> {
    fits(header, positions, available_memory())
}

fn fits(header: &Header, positions: usize, free: u64) -> Result<(), ModelError> {
    let positions = positions.clamp(1, header.context as usize);
    let bytes = Cache::bytes(header, positions) as u64;
    if bytes > free { Err(ModelError::Memory { positions, bytes, free }) } else { Ok(()) }
}

/// A line such as `MemAvailable: 16 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// The soft limit of the address space; `None`: there is none.
fn address_space(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use quern_exact::sample::small_decoder_header;

    use super::*;

    #[test]
    fn available_memory_is_read_in_its_unit() {
        assert_eq!(kib("MemTotal:  9 kB\nMemAvailable:   16382416 kB\n", "MemAvailable:"), Some(16_382_416 * 1_024));
        assert_eq!(kib("MemTotal: 9 kB\n", "MemAvailable:"), None);
        assert_eq!(address_space("Max cpu time  unlimited unlimited seconds\nMax address space  8192 unlimited bytes\n"), Some(8_192));
        assert_eq!(address_space("Max address space         unlimited            unlimited            bytes\n"), None);
        assert!(available_memory() > 0);
    }

    #[test]
    fn keys_and_values_past_what_is_free_are_refused_with_both_figures() {
        let header = small_decoder_header();
        let bytes = Cache::bytes(&header, 40) as u64;
        assert!(fits(&header, 40, bytes).is_ok());
        let error = fits(&header, 1 << 40, bytes - 1).expect_err("one byte too few");
        assert!(matches!(error, ModelError::Memory { positions: 40, free, .. } if free == bytes - 1), "{error}");
        assert!(error.to_string().contains("--max-tokens"), "{error}");
    }
}
