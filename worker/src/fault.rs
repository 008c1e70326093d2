//! Crashes on demand, so that tests can kill a real worker between any two steps.

use std::{fmt, str::FromStr};

use quern_db::journal::Step;

/// Where the process kills itself: just before or just after the journal's move to a step. What the worker does between two moves lies between the
/// point after one and the point before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPoint {
    /// Before the journal moves, or after.
    pub when: When,
    /// The step.
    pub step: Step,
}

/// Which side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The journal has not moved yet; what led to the step is done.
    Before,
    /// The journal has moved; what follows is not begun.
    After,
}

/// The text names no crash point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no crash point: write before:STEP or after:STEP, with a step of the journal such as claimed")]
pub struct ParseCrashPointError {
    found: String,
}

impl FromStr for CrashPoint {
    type Err = ParseCrashPointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let point = text.split_once(':').and_then(|(when, step)| {
            let when = match when {
                "before" => When::Before,
                "after" => When::After,
                _ => return None,
            };
            Step::ALL.into_iter().find(|known| known.name() == step).map(|step| Self { when, step })
        });
        point.ok_or_else(|| ParseCrashPointError { found: text.chars().take(40).collect() })
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self.when {
            When::Before => "before",
            When::After => "after",
        };
        write!(f, "{when}:{}", self.step.name())
    }
}

/// Kills the process, without any cleaning up, where it has come to the point.
pub(crate) fn crash_at(wanted: Option<CrashPoint>, when: When, step: Step) {
    if wanted == Some(CrashPoint { when, step }) {
        tracing::error!(state = step.name(), "worker.crash_on_demand");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_every_point_round_trips() {
        for step in Step::ALL {
            for when in [When::Before, When::After] {
                let point = CrashPoint { when, step };
                assert_eq!(point.to_string().parse(), Ok(point));
            }
        }
        for text in ["", "claimed", "during:claimed", "before:", "after:nothing"] {
            assert!(text.parse::<CrashPoint>().is_err(), "{text}");
        }
    }
}
