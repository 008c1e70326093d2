//! An event of our contracts with its place on the chain: the one input of the worker's view and of the ledger's audit.

use quern_types::{B256, BlockRef};

pub(crate) use quern_bindings::QuernEvent as Event;

/// An event with its place. (block hash, log index) names it for ever.
///
/// INVARIANT: the log was emitted by one of the deployment's contracts, whose code was compared; none of them emits another one's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The block.
    pub block: BlockRef,
    /// The transaction.
    pub tx: B256,
    /// Position of the log in the block.
    pub log_index: u64,
    /// What happened.
    pub event: Event,
}

impl From<quern_chain::Event> for Logged {
    fn from(event: quern_chain::Event) -> Self {
        Self { block: event.block, tx: event.tx_hash, log_index: event.log_index, event: event.event }
    }
}
