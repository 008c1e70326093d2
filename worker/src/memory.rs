//! How much memory a computation may take.

use std::fs;

/// Taken where the system does not say.
const UNKNOWN: u64 = 4 << 30;

/// Bytes that this process could still take without pushing others out: the least of what the system and the control group say.
pub(crate) fn available() -> u64 {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text));
    let group = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    let group = group("memory.max").zip(group("memory.current")).map(|(most, used)| most.saturating_sub(used));
    system.into_iter().chain(group).min().unwrap_or(UNKNOWN)
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_its_unit() {
        assert_eq!(meminfo("MemTotal:  9 kB\nMemAvailable:   16382416 kB\n"), Some(16_382_416 * 1_024));
        assert_eq!(meminfo("MemTotal: 9 kB\n"), None);
        assert!(available() > 0);
    }
}
