//! Files as trees of blocks: UnixFS, profile `unixfs-v1-2025` of IPIP-0499 (CIDv1, raw leaves, sha2-256, chunks of 1 MiB, balanced, at
//! most 1024 links).
//!
//! Built by that profile only; read more widely (any chunk size and fan-out, dag-pb leaves), because clients put their own input with
//! their own tools. What is read is hostile until proven otherwise: every size is checked against the parent's before it is believed,
//! and the work is bounded by the content's size.

mod build;
mod node;
mod read;

pub use build::{CHUNK_BYTES, FileBuilder, MAX_LINKS, content_id, content_id_of, import};
pub(crate) use node::Node;
pub use read::{Builder, Leaves, MAX_DEPTH, read, walk};
pub(crate) use read::{Seen, Walk};
