//! The chain: the only place with a connection to a node.
//!
//! - [`Client`]: requests to one or more nodes of one chain, with time limits, retries and failover.
//! - [`EventStream`]: every event of our contracts on the canonical chain, in order, and the steps back when it reorganises.
//! - [`sender`]: transactions, at most one per intention.
//! - [`proof`]: storage proven against a block's hash.
//! - [`deployment`]: which contracts, and whether they are the ones.
//! - [`keys`]: encrypted signing keys.

pub mod deployment;
pub mod keys;
pub mod proof;
pub mod sender;

mod call;
mod client;
mod error;
mod events;
mod node;
mod range;
mod retry;
mod source;
mod stream;
mod window;

pub use call::At;
pub use client::{Client, ClientConfig, NewHeads};
pub use error::{Error, Result, Severity};
pub use events::{Event, EventStream};
pub use retry::RetryPolicy;
pub use source::{BlockHeader, BlockSource, LogFilter, RawLog};
pub use stream::{Batch, Cursor, LogStream, Start, Step, StreamConfig, StreamHealth, Unwind};
