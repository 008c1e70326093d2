//! What the sender must remember across a crash, and the shape of the table that remembers it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use alloy::primitives::{Address, B256, Bytes};
use async_trait::async_trait;

use super::Fees;
use crate::Cursor;

/// An intention to be begun. Its content never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIntent {
    /// The caller's name for it, unique in the journal: the same key never sends twice. For instance `claim/0x12…`.
    pub key: String,
    /// The signing account.
    pub from: Address,
    /// The contract called.
    pub to: Address,
    /// Wei sent along.
    pub value_wei: u128,
    /// The call.
    pub calldata: Bytes,
}

/// An intention in the journal: at most one transaction with this effect is ever mined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// What it is.
    pub what: NewIntent,
    /// Its nonce. Never changes, and no two intents of an account share one.
    pub nonce: u64,
    /// Where it stands.
    pub status: IntentStatus,
    /// Signed transactions, oldest first, all with the same nonce and call. Each is written before it is broadcast.
    pub attempts: Vec<Attempt>,
    /// Where it was mined; `None` while it is not, and again after a reorganisation took the block back.
    pub mined: Option<Mined>,
}

/// Where an intent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntentStatus {
    /// Not on the chain, as far as we know.
    Open,
    /// On the chain; a reorganisation may take it back.
    Mined,
    /// On the chain at or below the finalized head. Never touched again.
    Final,
}

/// One signed transaction of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Transaction hash.
    pub hash: B256,
    /// Gas that it may use.
    pub gas_limit: u64,
    /// Its fee fields.
    pub fees: Fees,
    /// The signed transaction, EIP-2718: exactly this is broadcast, again and again if need be.
    pub raw: Bytes,
}

/// Where an intent was mined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mined {
    /// Which attempt it was.
    pub tx_hash: B256,
    /// The block.
    pub block: Cursor,
    /// Whether the call succeeded; otherwise it reverted and cost its gas.
    pub succeeded: bool,
}

/// What a journal refuses.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The key is there already.
    #[error("intent {key:?} exists already")]
    KeyExists {
        /// The key.
        key: String,
    },
    /// The nonce is there already.
    #[error("nonce {nonce} of {from} is taken by another intent")]
    NonceTaken {
        /// The account.
        from: Address,
        /// The nonce.
        nonce: u64,
    },
    /// The row to update is not there.
    #[error("intent {key:?} is not in the journal")]
    Missing {
        /// The key.
        key: String,
    },
    /// The storage failed.
    #[error("the journal cannot be read or written")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The sender's memory, one per chain. Every write must be durable when the call returns: the sender broadcasts right after.
///
/// Unique: key, and (account, nonce).
#[async_trait]
pub trait Journal: Send + Sync {
    /// The intent with this key.
    async fn get(&self, key: &str) -> Result<Option<Intent>, JournalError>;

    /// Every intent of the account that is not [`IntentStatus::Final`], by nonce, ascending.
    async fn unfinished(&self, from: Address) -> Result<Vec<Intent>, JournalError>;

    /// One more than the highest nonce ever given to an intent of the account; `None` where there is none.
    async fn next_nonce(&self, from: Address) -> Result<Option<u64>, JournalError>;

    /// Writes a new intent under this nonce: [`IntentStatus::Open`], no attempts.
    async fn begin(&self, what: &NewIntent, nonce: u64) -> Result<(), JournalError>;

    /// Appends a signed transaction.
    async fn attempt(&self, key: &str, attempt: &Attempt) -> Result<(), JournalError>;

    /// Sets [`IntentStatus::Mined`]. May be said again with another block.
    async fn mined(&self, key: &str, mined: &Mined) -> Result<(), JournalError>;

    /// Back to [`IntentStatus::Open`]: the block is no longer on the chain.
    async fn taken_back(&self, key: &str) -> Result<(), JournalError>;

    /// Sets [`IntentStatus::Final`].
    async fn finalized(&self, key: &str) -> Result<(), JournalError>;
}

/// A journal that forgets at exit: for one-shot commands whose user sees the outcome, and for tests.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<BTreeMap<String, Intent>>);

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Intent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, key: &str, change: impl FnOnce(&mut Intent)) -> Result<(), JournalError> {
        self.rows().get_mut(key).map(change).ok_or_else(|| JournalError::Missing { key: key.into() })
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn get(&self, key: &str) -> Result<Option<Intent>, JournalError> {
        Ok(self.rows().get(key).cloned())
    }

    async fn unfinished(&self, from: Address) -> Result<Vec<Intent>, JournalError> {
        let of_account = |intent: &&Intent| intent.what.from == from && intent.status != IntentStatus::Final;
        let mut rows: Vec<Intent> = self.rows().values().filter(of_account).cloned().collect();
        rows.sort_by_key(|intent| intent.nonce);
        Ok(rows)
    }

    async fn next_nonce(&self, from: Address) -> Result<Option<u64>, JournalError> {
        let rows = self.rows();
        Ok(rows.values().filter(|intent| intent.what.from == from).map(|intent| intent.nonce + 1).max())
    }

    async fn begin(&self, what: &NewIntent, nonce: u64) -> Result<(), JournalError> {
        let mut rows = self.rows();
        if rows.contains_key(&what.key) {
            return Err(JournalError::KeyExists { key: what.key.clone() });
        }
        if rows.values().any(|row| (row.what.from, row.nonce) == (what.from, nonce)) {
            return Err(JournalError::NonceTaken { from: what.from, nonce });
        }
        let intent = Intent { what: what.clone(), nonce, status: IntentStatus::Open, attempts: Vec::new(), mined: None };
        rows.insert(what.key.clone(), intent);
        Ok(())
    }

    async fn attempt(&self, key: &str, attempt: &Attempt) -> Result<(), JournalError> {
        self.change(key, |intent| intent.attempts.push(attempt.clone()))
    }

    async fn mined(&self, key: &str, mined: &Mined) -> Result<(), JournalError> {
        self.change(key, |intent| (intent.status, intent.mined) = (IntentStatus::Mined, Some(*mined)))
    }

    async fn taken_back(&self, key: &str) -> Result<(), JournalError> {
        self.change(key, |intent| (intent.status, intent.mined) = (IntentStatus::Open, None))
    }

    async fn finalized(&self, key: &str) -> Result<(), JournalError> {
        self.change(key, |intent| intent.status = IntentStatus::Final)
    }
}
