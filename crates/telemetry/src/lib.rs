//! Logs and metrics: how a Quern process starts them, what their fields are called, and what never goes into them.
//!
//! Rules of the log:
//! - An error is logged once, where it is handled, with the ids it carries (names: [`fields`]).
//! - The message is a short constant; everything that varies is a field.
//! - A secret (key, passphrase, token, an RPC address with its path) never reaches a log: keep it in a [`Secret`], show an
//!   address of a service through [`endpoint`].
//! - `error` means a person must act, `warn` that the process acted and a person may want to know, `info` one line per
//!   step of a job or of the chain's progress, `debug` everything else.
//!
//! Module map: [`log`] starts the log · [`metrics`] the registry behind `/metrics` · [`fields`] names of fields and labels ·
//! [`secret`] what is never shown.

pub mod fields;
pub mod log;
pub mod metrics;
pub mod secret;

pub use log::{LogError, LogFormat, LogOptions};
pub use metrics::{Metrics, MetricsError};
pub use secret::{Secret, endpoint};
