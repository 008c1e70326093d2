//! The canonical stream with its logs decoded.

use alloy::primitives::{Address, B256};
use quern_bindings::QuernEvent;
use quern_types::BlockRef;
use tokio::sync::watch;

use crate::{
    BlockSource, LogFilter, NewHeads, Result,
    deployment::Deployment,
    stream::{Batch, LogStream, Start, Step, StreamConfig, StreamHealth},
};

/// One event of our contracts at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The block. (`block.hash`, `log_index`) names the event for ever; the transaction hash does not, for a reorganisation may mine it again elsewhere.
    pub block: BlockRef,
    /// Hash of the transaction.
    pub tx_hash: B256,
    /// Position of the transaction in the block.
    pub tx_index: u64,
    /// Position of the log in the block.
    pub log_index: u64,
    /// The contract that emitted it: one of those that the stream was asked for.
    pub address: Address,
    /// What happened.
    pub event: QuernEvent,
}

/// The canonical event stream of one deployment. See [`LogStream`] for what it guarantees.
pub struct EventStream<S>(LogStream<S>);

impl<S: BlockSource> EventStream<S> {
    /// Every event of the deployment's own contracts (not of the token, which may be anybody's) after the start.
    ///
    /// # Errors
    /// As [`LogStream::new`].
    pub fn new(source: S, deployment: &Deployment, start: Start, config: StreamConfig) -> Result<Self> {
        Self::over(source, LogFilter::new(deployment.modules()), start, config)
    }

    /// Every event of the contracts in `filter`.
    ///
    /// # Errors
    /// As [`LogStream::new`].
    pub fn over(source: S, filter: LogFilter, start: Start, config: StreamConfig) -> Result<Self> {
        LogStream::new(source, filter, start, config).map(Self)
    }

    /// As [`LogStream::wake_on`].
    #[must_use]
    pub fn wake_on(self, new_heads: Option<NewHeads>) -> Self {
        Self(self.0.wake_on(new_heads))
    }

    /// As [`LogStream::health`].
    pub fn health(&self) -> watch::Receiver<StreamHealth> {
        self.0.health()
    }

    /// As [`LogStream::next`].
    ///
    /// # Errors
    /// As [`LogStream::next`].
    pub async fn next(&mut self) -> Result<Step<Event>> {
        Ok(match self.0.next().await? {
            Step::Unwind(unwind) => Step::Unwind(unwind),
            Step::Batch(batch) => Step::Batch(decode(batch)),
        })
    }
}

fn decode(batch: Batch) -> Batch<Event> {
    let mut blocks = batch.blocks.iter().map(|block| block.at).peekable();
    let events = batch
        .events
        .into_iter()
        .filter_map(|log| {
            // Both are ascending, and every log's block is in the batch.
            while blocks.peek().is_some_and(|block| block.number < log.block_number) {
                blocks.next();
            }
            let block = *blocks.peek()?;
            let event = QuernEvent::decode(&log.data);
            if let QuernEvent::Unknown { .. } | QuernEvent::Unreadable { .. } = event {
                tracing::warn!(block = block.number, tx = %log.tx_hash, log_index = log.log_index, address = %log.address, ?event, "event.unreadable");
            }
            Some(Event { block, tx_hash: log.tx_hash, tx_index: log.tx_index, log_index: log.log_index, address: log.address, event })
        })
        .collect();
    Batch { blocks: batch.blocks, events, heads: batch.heads }
}
