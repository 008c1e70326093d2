//! The transaction sender: for one intention at most one transaction is ever mined, whatever crashes, reorganises or is lost on the way.
//!
//! How: the first thing that happens to an intention is a durable row with its nonce and its call, then one with its signed transaction, then the broadcast.
//! Every transaction of an intention has that nonce and that call, and the chain takes one transaction per nonce; so broadcasting again is always harmless,
//! and after a crash the rows say all that is needed to go on. Intentions are driven in passes until the chain has finalized them:
//!
//! | the chain says | then |
//! |---|---|
//! | nonce not used, transaction not in the pool | broadcast the same bytes again (this also closes gaps in the nonces) |
//! | nonce not used for `replace_after_blocks`, and it is our turn | sign again with fees 12.5 % higher, journal, broadcast |
//! | nonce used by one of ours | mined; final once its block is |
//! | nonce not used, though it was mined | a reorganisation took it back: broadcast again |
//! | nonce used by none of ours | somebody else has the key: stop |

mod engine;
mod fees;
mod journal;
mod receipt;

use std::{fmt, sync::Arc, time::Duration};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};
use quern_bindings::Revert;
use quern_types::Head;

pub use engine::TxSender;
pub use fees::{FeeCaps, Fees, GAS_PRICE_ORACLE, Quote};
pub use journal::{Attempt, Intent, IntentStatus, Journal, JournalError, MemoryJournal, Mined, NewIntent};
pub use receipt::TxReceipt;

use crate::Severity;

/// A contract call to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// ABI-encoded call.
    pub calldata: Bytes,
    /// Wei sent along.
    pub value_wei: u128,
}

impl Call {
    /// A typed call without value.
    pub fn new<C: SolCall>(to: Address, call: &C) -> Self {
        Self { to, calldata: call.abi_encode().into(), value_wei: 0 }
    }
}

/// Knobs of the sender.
#[derive(Debug, Clone, Copy)]
pub struct SenderConfig {
    /// Limits on fees.
    pub caps: FeeCaps,
    /// Replace a transaction by one with higher fees when it was not mined for this many blocks. Default 10.
    pub replace_after_blocks: u64,
    /// Wait between passes. Default 1 s.
    pub poll: Duration,
    /// How long [`TxSender::send`] waits for the wanted head before it returns [`SendError::NotYet`]; the intention lives on. Default 10 min.
    pub give_up_after: Duration,
    /// Warn when the account holds less than this, in wei. Default 0.01 of the coin.
    pub low_balance: U256,
    /// Passes that must find a nonce used by no transaction of ours before that is believed: nodes behind one address do not move in step. Default 10.
    pub foreign_after_passes: u32,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self {
            caps: FeeCaps::default(),
            replace_after_blocks: 10,
            poll: Duration::from_secs(1),
            give_up_after: Duration::from_secs(600),
            low_balance: U256::from(10_000_000_000_000_000u64),
            foreign_after_passes: 10,
        }
    }
}

/// How an intention ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Mined, and the call succeeded.
    Done(TxReceipt),
    /// Mined, and the call reverted: the gas is spent, the key is used up.
    Reverted {
        /// The transaction.
        receipt: TxReceipt,
        /// Why, as far as a call on the state before the block tells.
        revert: Revert,
    },
    /// The call would revert, so nothing was journalled or sent: the key is free.
    Refused {
        /// Why.
        revert: Revert,
    },
}

impl Outcome {
    /// The receipt of a call that succeeded.
    ///
    /// # Errors
    /// The revert otherwise.
    pub fn success(self) -> Result<TxReceipt, Revert> {
        match self {
            Self::Done(receipt) => Ok(receipt),
            Self::Reverted { revert, .. } | Self::Refused { revert } => Err(revert),
        }
    }
}

/// Something worth a metric. Each is also logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderEvent {
    /// The account holds less than [`SenderConfig::low_balance`].
    LowBalance {
        /// The account.
        account: Address,
        /// Wei.
        balance: U256,
        /// Wei.
        threshold: U256,
    },
    /// A transaction was handed to the node.
    Broadcast {
        /// The intention.
        key: String,
        /// Its nonce.
        nonce: u64,
        /// The transaction.
        hash: B256,
        /// From 1.
        attempt: usize,
    },
    /// A transaction was replaced by one with higher fees.
    Replaced {
        /// The intention.
        key: String,
        /// Its nonce.
        nonce: u64,
        /// The new transaction.
        hash: B256,
        /// Its fees.
        fees: Fees,
    },
    /// A transaction waits, and the caps forbid higher fees.
    FeeCapReached {
        /// The intention.
        key: String,
        /// Its nonce.
        nonce: u64,
    },
    /// Mined.
    Mined {
        /// The intention.
        key: String,
        /// The transaction.
        hash: B256,
        /// Whether the call succeeded.
        succeeded: bool,
    },
    /// A reorganisation took a mined transaction back; it is broadcast again.
    TakenBack {
        /// The intention.
        key: String,
        /// The transaction.
        hash: B256,
    },
}

/// What receives [`SenderEvent`]s.
pub type Observer = Arc<dyn Fn(&SenderEvent) + Send + Sync>;

/// Why an intention could not be driven on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The key names another call already.
    #[error("intent {key:?} was journalled with another call: one key stands for one intention, choose a new key")]
    KeyReused {
        /// The key.
        key: String,
    },
    /// The account cannot pay.
    #[error("account {account} holds {balance} wei and the transaction may need {needed}: send it more of the chain's own coin")]
    InsufficientFunds {
        /// The account.
        account: Address,
        /// Wei.
        balance: U256,
        /// Wei.
        needed: U256,
    },
    /// Gas costs more than allowed.
    #[error("gas costs {base_fee} + {tip} wei and the limit is {cap}: wait, or raise the fee limit")]
    FeeCap {
        /// Base fee, wei per gas.
        base_fee: u128,
        /// Tip, wei per gas.
        tip: u128,
        /// The limit, wei per gas.
        cap: u128,
    },
    /// The pool holds transactions of the account that the journal does not know.
    #[error(
        "account {account} has {pending} transactions in the node's pool that this journal does not know: another program uses the key, or the journal was \
         lost. Give this process a key of its own, or wait until they are mined"
    )]
    UnknownPending {
        /// The account.
        account: Address,
        /// How many.
        pending: u64,
    },
    /// The chain counts more transactions of the account than the journal.
    #[error(
        "account {account} has used nonce {expected} for a transaction that this journal does not know (the chain is at {actual}): another program uses the \
         key, or an old journal was restored. Give this process a key of its own"
    )]
    ForeignNonce {
        /// The account.
        account: Address,
        /// The first nonce that the journal has not given away.
        expected: u64,
        /// The chain's count.
        actual: u64,
    },
    /// A nonce of ours was used by a transaction of somebody else.
    #[error(
        "nonce {nonce} of {account}, journalled for {key:?}, was used by a transaction that is not ours: another program uses the key. Give this process a \
         key of its own"
    )]
    NonceTaken {
        /// The account.
        account: Address,
        /// The nonce.
        nonce: u64,
        /// The intention that lost it.
        key: String,
    },
    /// The chain counts fewer transactions than were finalized.
    #[error(
        "the chain counts {actual} transactions of {account}, but {expected} were mined and finalized: the node is behind, or the chain was reset (a devnet: \
         delete the local database)"
    )]
    ChainBehindJournal {
        /// The account.
        account: Address,
        /// What the journal knows.
        expected: u64,
        /// The chain's count.
        actual: u64,
    },
    /// Not under the wanted head in time.
    #[error("intent {key:?} (nonce {nonce}) is not {head:?} after {waited:?}; it is still being sent: ask again with the same key")]
    NotYet {
        /// The key.
        key: String,
        /// Its nonce.
        nonce: u64,
        /// The head waited for.
        head: Head,
        /// How long.
        waited: Duration,
    },
    /// The journal failed. Nothing is sent that is not journalled.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl SendError {
    /// Who must act.
    pub fn severity(&self) -> Severity {
        match self {
            Self::InsufficientFunds { .. }
            | Self::FeeCap { .. }
            | Self::UnknownPending { .. }
            | Self::ChainBehindJournal { .. }
            | Self::NotYet { .. } => Severity::Retry,
            Self::KeyReused { .. } | Self::ForeignNonce { .. } | Self::NonceTaken { .. } | Self::Journal(_) => Severity::Fatal,
        }
    }
}

impl fmt::Display for Fees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (tip {}) wei per gas", self.max_fee_per_gas, self.max_priority_fee_per_gas)
    }
}
