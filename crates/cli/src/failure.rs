//! How a command ends when it does not end well: what happened, what to do, and an exit code that scripts can tell apart.

use std::{error::Error as StdError, fmt};

use serde::Serialize;

/// Exit codes of `quern`. Part of the interface; `quern help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Exit {
    /// The command could not do what it was asked.
    Failure = 1,
    /// The command line or the configuration is wrong. (clap uses the same number.)
    Usage = 2,
    /// Something that was checked does not hold: the ledger, a recomputation, a result.
    Difference = 3,
    /// A job ended, or stands, without a result: nobody took it, it was not delivered, the provider was convicted.
    NoResult = 4,
    /// What was to be checked cannot be had now: neither right nor wrong.
    Unavailable = 5,
    /// Stopped by Ctrl-C or SIGTERM; jobs that were posted are in the journal.
    Interrupted = 130,
}

/// A failure as the user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One line: what went wrong.
    pub what: String,
    /// One line: what to do about it. Empty where there is nothing to say.
    pub remedy: String,
    /// The process's exit code.
    pub exit: Exit,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), exit: Exit::Failure }
    }

    /// A wrong command line or configuration.
    pub fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), exit: Exit::Usage }
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// The failure behind an error of any crate. An error that is no [`Failure`] already says both in its own text; its sources are put in one line.
    pub fn of(error: &anyhow::Error) -> Self {
        if let Some(failure) = error.downcast_ref::<Self>() {
            return failure.clone();
        }
        Self::new(one_line(error.as_ref()), "")
    }

    /// The failure as an object: what `--json` prints on standard error.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": { "what": self.what, "do": self.remedy, "exit": self.exit as u8 } })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  do: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl StdError for Failure {}

/// An error with all its sources in one line. A source whose text its parent already shows is not repeated.
pub fn one_line(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_says_what_and_what_to_do_in_two_lines() {
        let failure = Failure::new("no key is named \"bob\"", "list keys with `quern key list`");
        assert_eq!(failure.to_string(), "no key is named \"bob\"\n  do: list keys with `quern key list`");
        assert_eq!(failure.to_json()["error"]["exit"], 1);
        let through = anyhow::Error::new(failure.clone());
        assert_eq!(Failure::of(&through), failure);
    }

    #[test]
    fn foreign_error_becomes_one_line_without_repetition() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such\nfile");
        let error = anyhow::Error::new(io).context("cannot read x");
        assert_eq!(Failure::of(&error).what, "cannot read x: no such file");
    }
}
