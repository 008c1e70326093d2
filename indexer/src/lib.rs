//! The indexer: follows the chain into a database and answers questions about it over HTTP.
//!
//! Module map: [`config`] options, validated · `run` the process: chain, database and server together · `follow` batches and unwinds from the stream into the
//! database · `translate` the contracts' events in the database's words · `state` how it is doing · [`api`] the HTTP API.

pub mod api;
pub mod config;
mod error;
mod follow;
mod run;
mod state;
mod translate;

pub use config::{IndexerArgs, IndexerConfig};
pub use error::Error;
pub use follow::follow;
pub use run::run;
pub use state::{ChainStatus, State};
pub use translate::{batch, change};
