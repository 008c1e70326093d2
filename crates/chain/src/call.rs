//! Reads: typed calls of our contracts, pinned to a block by its hash, and the state of plain accounts.

use alloy::{
    eips::BlockId,
    primitives::{Address, B256, Bytes, TxKind, U64, U256},
    rpc::types::{TransactionInput, TransactionRequest},
    sol_types::SolCall,
};
use quern_bindings::Revert;

use crate::{Client, Error, Result};

/// Which state a read looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The state after the block with this hash, which must be canonical. Use this wherever two reads must agree.
    Block(B256),
    /// The newest state that the node has.
    Latest,
}

impl From<At> for BlockId {
    fn from(at: At) -> Self {
        match at {
            At::Block(hash) => Self::hash_canonical(hash),
            At::Latest => Self::latest(),
        }
    }
}

impl Client {
    /// Calls a view function.
    ///
    /// # Errors
    /// [`Error::Reverted`] with the decoded reason; [`Error::Decode`] where the answer is not that function's; [`Error::MissingBlock`] where the block is not
    /// on the node's chain.
    pub async fn call<C: SolCall>(&self, to: Address, call: &C, at: At) -> Result<C::Return> {
        let answer = self.call_raw(to, call.abi_encode().into(), self.call_from(), at).await?;
        C::abi_decode_returns_validate(&answer).map_err(|error| Error::Decode { to, signature: C::SIGNATURE, what: error.to_string() })
    }

    /// `eth_call` with calldata as it is.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_raw(&self, to: Address, data: Bytes, from: Option<Address>, at: At) -> Result<Bytes> {
        let request = TransactionRequest { from, to: Some(TxKind::Call(to)), input: TransactionInput::both(data), ..Default::default() };
        match self.request::<_, Bytes>("eth_call", (request, BlockId::from(at))).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain(error, to, at).await),
        }
    }

    /// Runs a transaction without sending it.
    pub(crate) async fn simulate(&self, request: TransactionRequest, to: Address) -> Result<Bytes> {
        match self.request::<_, Bytes>("eth_call", (request, BlockId::latest())).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain(error, to, At::Latest).await),
        }
    }

    /// Turns an answer that refused a call into what it means.
    async fn explain(&self, error: Error, to: Address, at: At) -> Error {
        match error {
            Error::Rpc { data: Some(data), .. } => Error::Reverted { to, revert: Revert::decode(&data) },
            // Code 3 is "execution reverted" (EIP-1474 practice of geth, reth and anvil); without data the contract gave no reason.
            Error::Rpc { code: 3, .. } => Error::Reverted { to, revert: Revert::Unknown(Bytes::new()) },
            error @ Error::Rpc { .. } => match at {
                // REORG: nodes word "no such block" in many ways, so ask instead of reading.
                At::Block(hash) => match self.is_canonical(hash).await {
                    Ok(false) => Error::MissingBlock { method: "eth_call", block: hash },
                    _ => error,
                },
                At::Latest => error,
            },
            error => error,
        }
    }

    /// Whether the node has the block with this hash on its chain.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn is_canonical(&self, hash: B256) -> Result<bool> {
        use crate::source::BlockSource as _;
        let Some(block) = self.block_by_hash(hash).await? else { return Ok(false) };
        Ok(self.header(block.at.number).await?.is_some_and(|canonical| canonical.at.hash == hash))
    }

    /// Balance of the chain's own coin, in wei.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn gas_balance(&self, account: Address, at: At) -> Result<U256> {
        self.request("eth_getBalance", (account, BlockId::from(at))).await
    }

    /// Deployed code of an account; empty where it has none.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn code(&self, account: Address, at: At) -> Result<Bytes> {
        self.request("eth_getCode", (account, BlockId::from(at))).await
    }

    /// Number of transactions that the account has on the chain.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn nonce(&self, account: Address, at: At) -> Result<u64> {
        Ok(self.request::<_, U64>("eth_getTransactionCount", (account, BlockId::from(at))).await?.to())
    }

    /// Number of transactions of the account, with those that the node holds in its pool.
    pub(crate) async fn pending_nonce(&self, account: Address) -> Result<u64> {
        Ok(self.request::<_, U64>("eth_getTransactionCount", (account, BlockId::pending())).await?.to())
    }
}
