//! Names of log fields and metric labels: one word per noun, the same as in SQL and HTTP (docs/GLOSSARY.md).
//!
//! `tracing` macros want a literal name, so a call site writes the word itself; these constants are for code that builds
//! names at run time (labels, JSON) and are the list to look in before inventing a new one.

/// Job id, 0x and 64 hex digits.
pub const JOB: &str = "job";
/// Model id, 0x and 64 hex digits.
pub const MODEL: &str = "model";
/// Owner address of a provider.
pub const PROVIDER: &str = "provider";
/// Hot key that works for a provider.
pub const OPERATOR: &str = "operator";
/// Address that pays for a job.
pub const CLIENT: &str = "client";
/// Address that signs a transaction.
pub const SIGNER: &str = "signer";
/// Account nonce of a transaction.
pub const NONCE: &str = "nonce";
/// Transaction hash.
pub const TX: &str = "tx";
/// Key of a transaction intent in the worker's journal.
pub const INTENT: &str = "intent";
/// L2 block number.
pub const BLOCK: &str = "block";
/// L2 block hash.
pub const BLOCK_HASH: &str = "block_hash";
/// Head a statement stands under: `latest`, `safe` or `finalized`.
pub const HEAD: &str = "head";
/// Sequence number of a ledger move.
pub const SEQ: &str = "seq";
/// Content id of an input or an output.
pub const CID: &str = "cid";
/// Step of a job in the worker's journal, or its state on the chain.
pub const STATE: &str = "state";
/// Wall time of something, in milliseconds.
pub const ELAPSED_MS: &str = "elapsed_ms";
/// Display form of an error.
pub const ERROR: &str = "error";
