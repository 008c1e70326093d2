//! What the event stream asks of a chain, small enough that a test can lie through it.

use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256, Bloom, BloomInput, LogData};
use async_trait::async_trait;
use quern_types::{BlockRef, Heads};

use crate::Result;

/// A block with what links it and what tells whether a log may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// Number, hash, time.
    pub at: BlockRef,
    /// Hash of the block before.
    pub parent: B256,
    /// Bloom filter over the addresses and topics of all logs of the block.
    pub bloom: Bloom,
}

/// A log as a node reports it, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLog {
    /// Number of the block.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: B256,
    /// Hash of the transaction.
    pub tx_hash: B256,
    /// Position of the transaction in the block.
    pub tx_index: u64,
    /// Position of the log in the block. (block hash, log index) names a log for ever.
    pub log_index: u64,
    /// The contract that emitted it.
    pub address: Address,
    /// Topics and data.
    pub data: LogData,
    /// The node says that a reorganisation took this log away. Never trusted in either direction; in an answer about canonical blocks it is a contradiction.
    pub removed: bool,
}

/// Which logs are wanted: every log of these contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    addresses: Vec<Address>,
}

impl LogFilter {
    /// All logs of these contracts.
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Self {
        let mut addresses: Vec<Address> = addresses.into_iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self { addresses }
    }

    /// The contracts, sorted.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Whether a log of this contract is wanted.
    pub fn wants(&self, address: Address) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }

    /// Whether a block with this bloom filter may hold a wanted log. `false` is certain.
    pub fn may_match(&self, bloom: &Bloom) -> bool {
        self.addresses.iter().any(|address| bloom.contains_input(BloomInput::Raw(address.as_slice())))
    }
}

/// Where blocks and logs come from: a node, or a test double.
///
/// TRUST: nothing that an implementation returns is believed before it is compared with the hash chain.
#[async_trait]
pub trait BlockSource: Send + Sync {
    /// The three heads. A node that knows no safe or finalized block reports its first block for them.
    async fn heads(&self) -> Result<Heads>;

    /// The block of this height on the chain that the node takes for canonical; `None` above its head.
    async fn header(&self, number: u64) -> Result<Option<BlockHeader>>;

    /// The blocks of these heights in order. Shorter than asked where the node does not have them all.
    async fn headers(&self, numbers: RangeInclusive<u64>) -> Result<Vec<BlockHeader>>;

    /// Wanted logs of these heights.
    async fn logs_in_range(&self, filter: &LogFilter, numbers: RangeInclusive<u64>) -> Result<Vec<RawLog>>;

    /// Wanted logs of the block with this hash.
    async fn logs_of_block(&self, filter: &LogFilter, block: B256) -> Result<Vec<RawLog>>;

    /// Every log of the block with this hash, from its receipts; `None` where the node does not know the block.
    async fn all_logs_of_block(&self, block: B256) -> Result<Option<Vec<RawLog>>>;
}

#[async_trait]
impl<S: BlockSource + ?Sized> BlockSource for std::sync::Arc<S> {
    async fn heads(&self) -> Result<Heads> {
        (**self).heads().await
    }

    async fn header(&self, number: u64) -> Result<Option<BlockHeader>> {
        (**self).header(number).await
    }

    async fn headers(&self, numbers: RangeInclusive<u64>) -> Result<Vec<BlockHeader>> {
        (**self).headers(numbers).await
    }

    async fn logs_in_range(&self, filter: &LogFilter, numbers: RangeInclusive<u64>) -> Result<Vec<RawLog>> {
        (**self).logs_in_range(filter, numbers).await
    }

    async fn logs_of_block(&self, filter: &LogFilter, block: B256) -> Result<Vec<RawLog>> {
        (**self).logs_of_block(filter, block).await
    }

    async fn all_logs_of_block(&self, block: B256) -> Result<Option<Vec<RawLog>>> {
        (**self).all_logs_of_block(block).await
    }
}
