//! Content-addressed blobs behind one trait, [`ContentStore`].
//!
//! The content id is computed here, once, before any backend is asked ([`dag`]: UnixFS profile `unixfs-v1-2025`), and a backend stores
//! nothing but blocks. So every backend gives the same id for the same bytes, and whatever a backend, a gateway or a disk hands back
//! is hashed before a caller sees it.
//!
//! | store | for |
//! |---|---|
//! | [`EmbeddedStore`] | the default: blocks as files, fsync'd, pinned, bounded, collected; two processes may share it |
//! | [`KuboStore`] | an IPFS node of one's own |
//! | [`GatewayStore`] | reading from trustless gateways of others |
//! | [`LayeredStore`] | a store of one's own that fetches what it lacks |
//! | [`MemoryStore`] | tests and short lives |
//!
//! [`gateway::router`] serves any of them to the world.

pub mod car;
pub mod dag;
pub mod gateway;

mod block;
mod embedded;
mod error;
mod fetch;
mod kubo;
mod layered;
mod memory;
mod store;

pub use block::{MAX_BLOCK_BYTES, block_id};
pub use embedded::{DEFAULT_GRACE_SECS, EmbeddedConfig, EmbeddedStore, GcReport};
pub use error::{DagFault, GatewayAttempt, GatewayFault, Severity, StoreError};
pub use fetch::{GatewayConfig, GatewayStore};
pub use kubo::{KuboConfig, KuboReach, KuboStore};
pub use layered::LayeredStore;
pub use memory::MemoryStore;
pub use quern_types::{ContentCodec, ContentId, ContentIdError};
pub use store::{ContentStat, ContentStore};
