//! The contracts in Rust: generated from `contracts/snapshots/abi`, and translated to and from the nouns of `quern-types`.
//!
//! - [`abi`]: calls, events, errors and structs as the compiler describes them.
//! - [`QuernEvent`]: any log of our contracts as one typed value.
//! - [`Revert`]: any revert of our contracts as one typed value.
//! - [`calls`]: calls of others, read back.
//! - [`storage`]: where Ledger and market keep what an auditor proves.

pub mod abi;
pub mod calls;
mod convert;
mod event;
mod revert;
pub mod storage;

pub use convert::{ConvertError, JobRecord, MarketParameters, ModelRecord, Prices};
pub use event::{QuernEvent, Registration};
pub use revert::Revert;
