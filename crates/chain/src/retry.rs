//! How long to wait before trying again.

use std::time::Duration;

/// Exponential backoff with full jitter, so that many clients of one node do not return in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one request before its error is handed up; at least 1. Default 4.
    pub attempts: u32,
    /// Upper end of the first wait. Default 100 ms.
    pub first: Duration,
    /// No wait is longer. Default 5 s.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 4, first: Duration::from_millis(100), longest: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// The longest that the wait after failure number `failures` (from 1) may be.
    pub fn ceiling(&self, failures: u32) -> Duration {
        self.first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX)).min(self.longest)
    }

    /// The wait after failure number `failures` (from 1): uniform between half the ceiling and the ceiling.
    pub fn wait(&self, failures: u32) -> Duration {
        self.ceiling(failures).mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_doubles_and_stops() {
        let policy = RetryPolicy { attempts: 9, first: Duration::from_millis(100), longest: Duration::from_secs(1) };
        let millis: Vec<u128> = (1..=6).map(|n| policy.ceiling(n).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(policy.ceiling(u32::MAX), Duration::from_secs(1));
        for n in 1..50 {
            assert!(policy.wait(n) <= policy.ceiling(n) && policy.wait(n) >= policy.ceiling(n) / 2);
        }
    }
}
