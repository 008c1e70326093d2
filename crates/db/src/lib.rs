//! Everything that Quern keeps in a database: the worker's [`journal`] and the indexer's index. The only place with SQL.
//!
//! Module map: [`journal`] jobs, intents, energy and prices of one worker · [`index`] what the indexer derives from the chain · `open` files, locks, kinds, schema versions · `value`
//! how Rust values stand in columns · `error` failures and who must act. The schema is in `migrations/`.

#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::float_arithmetic)]

mod error;
pub mod index;
pub mod journal;
mod open;
mod value;

pub use error::{Error, Result, Severity};
pub use index::Index;
pub use journal::Journal;
