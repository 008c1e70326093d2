//! What the chain says about a mined transaction.

use alloy::primitives::{B256, U64, U128, U256};
use quern_bindings::QuernEvent;
use quern_types::BlockRef;
use serde::Deserialize;

use crate::{Client, Error, Result, node::LogAnswer, source::BlockSource as _, source::RawLog};

/// A mined transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxReceipt {
    /// Hash of the transaction.
    pub tx_hash: B256,
    /// The block that holds it, on the chain when this was read.
    pub block: BlockRef,
    /// Whether the call succeeded.
    pub succeeded: bool,
    /// Gas used.
    pub gas_used: u64,
    /// Wei per gas paid.
    pub effective_gas_price: u128,
    /// Wei paid for the L1 part, where the node reports it.
    pub l1_fee: Option<U256>,
    /// Logs, in order.
    pub logs: Vec<RawLog>,
}

impl TxReceipt {
    /// What the transaction cost, in wei, without the value sent along.
    pub fn cost(&self) -> U256 {
        U256::from(self.gas_used) * U256::from(self.effective_gas_price) + self.l1_fee.unwrap_or_default()
    }

    /// The logs of our contracts, decoded; logs of other contracts come out as they may.
    pub fn events(&self) -> impl Iterator<Item = QuernEvent> + '_ {
        self.logs.iter().map(|log| QuernEvent::decode(&log.data))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptAnswer {
    transaction_hash: B256,
    block_hash: Option<B256>,
    block_number: Option<U64>,
    status: Option<U64>,
    gas_used: U64,
    effective_gas_price: Option<U128>,
    l1_fee: Option<U256>,
    logs: Vec<LogAnswer>,
}

impl Client {
    /// The receipt of a transaction that is on the node's chain now; `None` where it is not.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn receipt(&self, tx_hash: B256) -> Result<Option<TxReceipt>> {
        const METHOD: &str = "eth_getTransactionReceipt";
        let Some(answer) = self.request::<_, Option<ReceiptAnswer>>(METHOD, (tx_hash,)).await? else { return Ok(None) };
        let bad = |what: &str| Error::BadAnswer { method: METHOD, what: what.into() };
        if answer.transaction_hash != tx_hash {
            return Err(bad("it is about another transaction"));
        }
        let (Some(hash), Some(number)) = (answer.block_hash, answer.block_number) else { return Ok(None) };
        // REORG: a node may still answer from a block that it took back.
        let Some(block) = self.header(number.to()).await?.map(|header| header.at).filter(|block| block.hash == hash) else {
            return Ok(None);
        };
        Ok(Some(TxReceipt {
            tx_hash,
            block,
            succeeded: answer.status.ok_or_else(|| bad("no status"))?.to::<u64>() == 1,
            gas_used: answer.gas_used.to(),
            effective_gas_price: answer.effective_gas_price.unwrap_or_default().to(),
            l1_fee: answer.l1_fee,
            logs: answer.logs.into_iter().map(|log| log.into_raw(METHOD)).collect::<Result<_>>()?,
        }))
    }
}
