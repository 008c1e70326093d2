//! [`BlockSource`] over a real node.

use std::ops::RangeInclusive;

use alloy::{
    primitives::{Address, B256, Bloom, Bytes, LogData, U64},
    rpc::types::Filter,
};
use async_trait::async_trait;
use quern_types::{BlockRef, Heads};
use serde::Deserialize;

use crate::{
    Client, Error, Result,
    source::{BlockHeader, BlockSource, LogFilter, RawLog},
};

/// Headers asked for in one round trip.
const HEADER_BATCH: usize = 100;

/// The part of a block answer that the stream needs. Lean on purpose: unknown fields of future forks do not matter here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockAnswer {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
    logs_bloom: Bloom,
}

impl From<BlockAnswer> for BlockHeader {
    fn from(block: BlockAnswer) -> Self {
        Self {
            at: BlockRef { number: block.number.to(), hash: block.hash, timestamp: block.timestamp.to() },
            parent: block.parent_hash,
            bloom: block.logs_bloom,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogAnswer {
    block_number: Option<U64>,
    block_hash: Option<B256>,
    transaction_hash: Option<B256>,
    transaction_index: Option<U64>,
    log_index: Option<U64>,
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    #[serde(default)]
    removed: bool,
}

impl LogAnswer {
    pub(crate) fn into_raw(self, method: &'static str) -> Result<RawLog> {
        let bad = |what: &str| Error::BadAnswer { method, what: what.into() };
        let data = LogData::new(self.topics, self.data).ok_or_else(|| bad("a log with more than four topics"))?;
        Ok(RawLog {
            block_number: self.block_number.ok_or_else(|| bad("a log without block number: the node answers with pending logs"))?.to(),
            block_hash: self.block_hash.ok_or_else(|| bad("a log without block hash"))?,
            tx_hash: self.transaction_hash.ok_or_else(|| bad("a log without transaction hash"))?,
            tx_index: self.transaction_index.ok_or_else(|| bad("a log without transaction index"))?.to(),
            log_index: self.log_index.ok_or_else(|| bad("a log without index"))?.to(),
            address: self.address,
            data,
            removed: self.removed,
        })
    }
}

#[derive(Debug, Clone, Deserialize)]
struct TransactionAnswer {
    input: Bytes,
}

#[derive(Debug, Clone, Deserialize)]
struct ReceiptLogs {
    logs: Vec<LogAnswer>,
}

impl Client {
    async fn head(&self, tag: &'static str) -> Result<Option<BlockHeader>> {
        Ok(self.request::<_, Option<BlockAnswer>>("eth_getBlockByNumber", (tag, false)).await?.map(BlockHeader::from))
    }

    /// `safe` or `finalized`. Some nodes answer null, some an error, while they have none; then nothing above the first block has that standing.
    async fn lagging_head(&self, tag: &'static str) -> Result<BlockRef> {
        match self.head(tag).await {
            Ok(Some(block)) => return Ok(block.at),
            Ok(None) => {}
            Err(Error::Rpc { code, message, .. }) => tracing::debug!(tag, code, message, "head.unknown"),
            Err(error) => return Err(error),
        }
        match self.head("earliest").await? {
            Some(block) => Ok(block.at),
            None => Err(Error::BadAnswer { method: "eth_getBlockByNumber", what: "the node has no first block".into() }),
        }
    }

    /// The calldata of a transaction; `None` where the node does not have it. TRUST: whatever the node says.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn calldata(&self, transaction: B256) -> Result<Option<Bytes>> {
        let answer: Option<TransactionAnswer> = self.request("eth_getTransactionByHash", (transaction,)).await?;
        Ok(answer.map(|transaction| transaction.input))
    }

    /// The block with this hash, wherever it stands; `None` where the node does not have it.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn block_by_hash(&self, hash: B256) -> Result<Option<BlockHeader>> {
        Ok(self.request::<_, Option<BlockAnswer>>("eth_getBlockByHash", (hash, false)).await?.map(BlockHeader::from))
    }
}

fn into_raw(logs: Vec<LogAnswer>, method: &'static str) -> Result<Vec<RawLog>> {
    logs.into_iter().map(|log| log.into_raw(method)).collect()
}

#[async_trait]
impl BlockSource for Client {
    async fn heads(&self) -> Result<Heads> {
        // Oldest first, so that blocks which arrive in between cannot put `safe` above `latest`.
        let finalized = self.lagging_head("finalized").await?;
        let safe = self.lagging_head("safe").await?;
        let latest = self
            .head("latest")
            .await?
            .ok_or_else(|| Error::BadAnswer { method: "eth_getBlockByNumber", what: "the node has no latest block".into() })?
            .at;
        Ok(Heads { latest, safe, finalized })
    }

    async fn header(&self, number: u64) -> Result<Option<BlockHeader>> {
        let block: Option<BlockAnswer> = self.request("eth_getBlockByNumber", (U64::from(number), false)).await?;
        Ok(block.map(BlockHeader::from))
    }

    async fn headers(&self, numbers: RangeInclusive<u64>) -> Result<Vec<BlockHeader>> {
        if numbers.start() == numbers.end() {
            return Ok(self.header(*numbers.start()).await?.into_iter().collect());
        }
        let params: Vec<(U64, bool)> = numbers.map(|number| (U64::from(number), false)).collect();
        let mut headers = Vec::with_capacity(params.len());
        for chunk in params.chunks(HEADER_BATCH) {
            for block in self.batch::<_, Option<BlockAnswer>>("eth_getBlockByNumber", chunk).await? {
                match block {
                    Some(block) => headers.push(block.into()),
                    None => return Ok(headers),
                }
            }
        }
        Ok(headers)
    }

    async fn logs_in_range(&self, filter: &LogFilter, numbers: RangeInclusive<u64>) -> Result<Vec<RawLog>> {
        let filter = Filter::new().address(filter.addresses().to_vec()).from_block(*numbers.start()).to_block(*numbers.end());
        into_raw(self.request("eth_getLogs", (filter,)).await?, "eth_getLogs")
    }

    async fn logs_of_block(&self, filter: &LogFilter, block: B256) -> Result<Vec<RawLog>> {
        let filter = Filter::new().address(filter.addresses().to_vec()).at_block_hash(block);
        into_raw(self.request("eth_getLogs", (filter,)).await?, "eth_getLogs")
    }

    async fn all_logs_of_block(&self, block: B256) -> Result<Option<Vec<RawLog>>> {
        let receipts: Option<Vec<ReceiptLogs>> = self.request("eth_getBlockReceipts", (block,)).await?;
        receipts
            .map(|receipts| into_raw(receipts.into_iter().flat_map(|receipt| receipt.logs).collect(), "eth_getBlockReceipts"))
            .transpose()
    }
}
