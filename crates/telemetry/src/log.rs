//! Starting the log: text for people, JSON for machines, always on standard error (standard output belongs to results).

use std::io;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Filter used where neither the option nor the caller names one: our crates at `info`, the rest at `warn`.
pub const DEFAULT_FILTER: &str = "warn,quern=info,quern_cli=info,quern_indexer=info,quern_worker=info,quern_chain=info,\
                                  quern_store=info,quern_db=info,quern_model=info,quern_telemetry=info";

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One readable line per event; coloured if asked for.
    #[default]
    Text,
    /// One JSON object per line, fields flattened beside `timestamp`, `level`, `target` and `message`.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format { found: other.to_owned() }),
        }
    }
}

/// What the log looks like and what it lets through.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Text or JSON.
    pub format: LogFormat,
    /// Filter in `tracing` directives (`info`, `quern_chain=debug,warn`); none = [`DEFAULT_FILTER`].
    pub filter: Option<String>,
    /// Colours in text; for a terminal only.
    pub colour: bool,
}

/// Why the log did not start.
#[derive(Debug, Error)]
pub enum LogError {
    /// The format has no such name.
    #[error("unknown log format `{found}`: write `text` or `json`")]
    Format {
        /// What was given.
        found: String,
    },
    /// The filter does not parse.
    #[error("log filter `{filter}` does not parse ({source}): write directives such as `info` or `quern_chain=debug,warn`")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something in this process has already started a log.
    #[error("the log of this process was already started: start it once, in main")]
    AlreadyStarted,
}

/// Starts the log of this process on standard error. Call it once, in `main`.
///
/// # Errors
/// The filter does not parse, or a log is running already.
pub fn start(options: &LogOptions) -> Result<(), LogError> {
    let subscriber = subscriber(options, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyStarted)
}

/// The subscriber that [`start`] installs, on a writer of the caller's choice (tests capture it).
///
/// # Errors
/// The filter does not parse.
pub fn subscriber<W>(options: &LogOptions, writer: W) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let directives = options.filter.as_deref().unwrap_or(DEFAULT_FILTER);
    let filter = EnvFilter::try_new(directives).map_err(|source| LogError::Filter { filter: directives.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(options.colour);
    Ok(match options.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(options: &LogOptions, emit: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(options, move || writer.clone()).expect("options are valid");
        tracing::subscriber::with_default(subscriber, emit);
        String::from_utf8(captured.0.lock().expect("no writer panicked").clone()).expect("the log is UTF-8")
    }

    #[test]
    fn json_lines_carry_fields_beside_the_message() {
        let options = LogOptions { format: LogFormat::Json, filter: Some("info".into()), colour: false };
        let log = lines_of(&options, || tracing::info!(job = "0x01", "job.posted"));
        for part in ["\"job\":\"0x01\"", "\"message\":\"job.posted\"", "\"level\":\"INFO\""] {
            assert!(log.contains(part), "{part} is not in {log}");
        }
    }

    #[test]
    fn default_filter_shows_our_info_and_hides_a_dependencys() {
        let log = lines_of(&LogOptions::default(), || {
            tracing::info!(target: "quern_worker::engine", "ours");
            tracing::info!(target: "hyper", "theirs");
            tracing::warn!(target: "hyper", "their warning");
        });
        assert!(log.contains("ours") && log.contains("their warning") && !log.contains("theirs"), "{log}");
    }

    #[test]
    fn secret_does_not_reach_a_log_line() {
        let options = LogOptions { filter: Some("trace".into()), ..LogOptions::default() };
        let key = crate::Secret::new("deadbeef");
        let log = lines_of(&options, || tracing::error!(?key, "key.loaded"));
        assert!(log.contains("key.loaded") && !log.contains("deadbeef"), "{log}");
    }

    #[test]
    fn bad_filter_and_bad_format_say_what_to_write() {
        let options = LogOptions { filter: Some("quern=loud".into()), ..LogOptions::default() };
        let error = subscriber(&options, io::sink).err().expect("`loud` is no level");
        assert!(error.to_string().contains("quern=loud") && error.to_string().contains("debug"), "{error}");
        assert!("xml".parse::<LogFormat>().expect_err("no such format").to_string().contains("`json`"));
    }
}
