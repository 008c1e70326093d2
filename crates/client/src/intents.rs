//! The transaction sender's memory as files: one per intention, beside the runs that they belong to.
//!
//! One process at a time sends for an account: [`FileJournal::open`] takes a lock that the system gives back when the process ends, however it ends.
//! Other programs may use the account between our commands (a wallet, say): [`FileJournal::allow_foreign`] says up to which nonce they have.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::Bytes;
use async_trait::async_trait;
use quern_chain::{
    Cursor,
    sender::{Attempt, Fees, Intent, IntentStatus, Journal, JournalError, Mined, NewIntent},
};
use quern_types::{Address, B256, keccak256};
use serde::{Deserialize, Serialize};

use crate::{
    ClientError,
    journal::{names, read_json, write_json},
};

/// Intents as files. Holds the account's lock for as long as it lives.
#[derive(Debug)]
pub struct FileJournal {
    dir: PathBuf,
    rows: Mutex<Rows>,
    /// Locked; closing it unlocks.
    _lock: fs::File,
}

#[derive(Debug, Default)]
struct Rows {
    by_key: BTreeMap<String, Intent>,
    /// Nonces below this belong to somebody, even where no row says to whom.
    taken_below: u64,
}

impl FileJournal {
    /// Opens the journal in `dir`, which need not exist yet. One directory serves one account on one chain.
    ///
    /// # Errors
    /// [`ClientError::AccountBusy`] where another process sends for this account; a file that cannot be read or is damaged.
    pub fn open(dir: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Journal { action: "open", path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let lock = fs::File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(ClientError::AccountBusy { dir: dir.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut rows = Rows::default();
        for name in names(dir)?.into_iter().filter(|name| name.ends_with(".json")) {
            let path = dir.join(name);
            let damaged = |reason: String| ClientError::JournalDamaged { path: path.clone(), reason };
            let Some(row) = read_json::<Row>(&path)? else { continue };
            let intent = row.into_intent().map_err(damaged)?;
            rows.by_key.insert(intent.what.key.clone(), intent);
        }
        Ok(Self { dir: dir.to_owned(), rows: Mutex::new(rows), _lock: lock })
    }

    /// Nonces below the chain's own count are used, whoever used them. Say it before sending; where other programs use the account too, our next
    /// transaction then follows theirs.
    pub fn allow_foreign(&self, chain_count: u64) {
        let mut rows = self.rows();
        rows.taken_below = rows.taken_below.max(chain_count);
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, intent: &Intent) -> Result<(), JournalError> {
        // A key may hold any character; its hash is a file name.
        let name = keccak256(&intent.what.key);
        write_json(&self.dir.join(format!("{name:#x}.json")), &Row::from(intent)).map_err(|error| JournalError::Storage(Box::new(error)))
    }

    /// Writes the changed intent to the disk before it is believed.
    fn change(&self, key: &str, change: impl FnOnce(&mut Intent)) -> Result<(), JournalError> {
        let mut rows = self.rows();
        let row = rows.by_key.get_mut(key).ok_or_else(|| JournalError::Missing { key: key.into() })?;
        let mut changed = row.clone();
        change(&mut changed);
        self.write(&changed)?;
        *row = changed;
        Ok(())
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn get(&self, key: &str) -> Result<Option<Intent>, JournalError> {
        Ok(self.rows().by_key.get(key).cloned())
    }

    async fn unfinished(&self, from: Address) -> Result<Vec<Intent>, JournalError> {
        let of_account = |intent: &&Intent| intent.what.from == from && intent.status != IntentStatus::Final;
        let mut found: Vec<Intent> = self.rows().by_key.values().filter(of_account).cloned().collect();
        found.sort_by_key(|intent| intent.nonce);
        Ok(found)
    }

    async fn next_nonce(&self, from: Address) -> Result<Option<u64>, JournalError> {
        let rows = self.rows();
        let ours = rows.by_key.values().filter(|intent| intent.what.from == from).map(|intent| intent.nonce.saturating_add(1)).max();
        Ok(ours.map(|next| next.max(rows.taken_below)))
    }

    async fn begin(&self, what: &NewIntent, nonce: u64) -> Result<(), JournalError> {
        let mut rows = self.rows();
        if rows.by_key.contains_key(&what.key) {
            return Err(JournalError::KeyExists { key: what.key.clone() });
        }
        if rows.by_key.values().any(|row| (row.what.from, row.nonce) == (what.from, nonce)) {
            return Err(JournalError::NonceTaken { from: what.from, nonce });
        }
        let intent = Intent { what: what.clone(), nonce, status: IntentStatus::Open, attempts: Vec::new(), mined: None };
        self.write(&intent)?;
        rows.by_key.insert(what.key.clone(), intent);
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

/// An intent as it is written. 128-bit numbers are text: JSON has none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    key: String,
    from: Address,
    to: Address,
    value_wei: String,
    calldata: Bytes,
    nonce: u64,
    status: String,
    attempts: Vec<AttemptRow>,
    mined: Option<MinedRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AttemptRow {
    hash: B256,
    gas_limit: u64,
    max_fee_per_gas: String,
    max_priority_fee_per_gas: String,
    raw: Bytes,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MinedRow {
    tx_hash: B256,
    block_number: u64,
    block_hash: B256,
    succeeded: bool,
}

const OPEN: &str = "open";
const MINED: &str = "mined";
const FINAL: &str = "final";

impl From<&Intent> for Row {
    fn from(intent: &Intent) -> Self {
        let attempt = |attempt: &Attempt| AttemptRow {
            hash: attempt.hash,
            gas_limit: attempt.gas_limit,
            max_fee_per_gas: attempt.fees.max_fee_per_gas.to_string(),
            max_priority_fee_per_gas: attempt.fees.max_priority_fee_per_gas.to_string(),
            raw: attempt.raw.clone(),
        };
        let mined = |mined: Mined| MinedRow {
            tx_hash: mined.tx_hash,
            block_number: mined.block.number,
            block_hash: mined.block.hash,
            succeeded: mined.succeeded,
        };
        let status = match intent.status {
            IntentStatus::Open => OPEN,
            IntentStatus::Mined => MINED,
            IntentStatus::Final => FINAL,
        };
        Self {
            key: intent.what.key.clone(),
            from: intent.what.from,
            to: intent.what.to,
            value_wei: intent.what.value_wei.to_string(),
            calldata: intent.what.calldata.clone(),
            nonce: intent.nonce,
            status: status.into(),
            attempts: intent.attempts.iter().map(attempt).collect(),
            mined: intent.mined.map(mined),
        }
    }
}

impl Row {
    fn into_intent(self) -> Result<Intent, String> {
        let wei = |text: &str| text.parse::<u128>().map_err(|_| format!("{text:?} is not an amount of wei"));
        let mut attempts = Vec::with_capacity(self.attempts.len());
        for row in self.attempts {
            let fees = Fees { max_fee_per_gas: wei(&row.max_fee_per_gas)?, max_priority_fee_per_gas: wei(&row.max_priority_fee_per_gas)? };
            attempts.push(Attempt { hash: row.hash, gas_limit: row.gas_limit, fees, raw: row.raw });
        }
        let status = match self.status.as_str() {
            OPEN => IntentStatus::Open,
            MINED => IntentStatus::Mined,
            FINAL => IntentStatus::Final,
            other => return Err(format!("{other:?} is not a status")),
        };
        let mined = |row: MinedRow| Mined {
            tx_hash: row.tx_hash,
            block: Cursor { number: row.block_number, hash: row.block_hash },
            succeeded: row.succeeded,
        };
        let value_wei = wei(&self.value_wei)?;
        let what = NewIntent { key: self.key, from: self.from, to: self.to, value_wei, calldata: self.calldata };
        Ok(Intent { what, nonce: self.nonce, status, attempts, mined: self.mined.map(mined) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: Address = Address::repeat_byte(1);

    fn intention(key: &str) -> NewIntent {
        NewIntent {
            key: key.into(),
            from: ACCOUNT,
            to: Address::repeat_byte(2),
            value_wei: u128::MAX,
            calldata: Bytes::from_static(&[1, 2, 3]),
        }
    }

    fn attempt() -> Attempt {
        let fees = Fees { max_fee_per_gas: u128::MAX, max_priority_fee_per_gas: 1 };
        Attempt { hash: B256::repeat_byte(4), gas_limit: 100_000, fees, raw: Bytes::from_static(&[2, 9]) }
    }

    fn mined() -> Mined {
        Mined { tx_hash: B256::repeat_byte(4), block: Cursor { number: 6, hash: B256::repeat_byte(6) }, succeeded: true }
    }

    #[tokio::test]
    async fn intents_survive_the_process() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let before = {
            let journal = FileJournal::open(dir.path()).expect("opened");
            journal.begin(&intention("job/a/post"), 7).await.expect("begun");
            journal.attempt("job/a/post", &attempt()).await.expect("written");
            journal.mined("job/a/post", &mined()).await.expect("written");
            journal.get("job/a/post").await.expect("read")
        };
        let journal = FileJournal::open(dir.path()).expect("opened again");
        assert_eq!(journal.get("job/a/post").await.expect("read"), before);
        assert_eq!(journal.unfinished(ACCOUNT).await.expect("read"), Vec::from_iter(before));
        journal.taken_back("job/a/post").await.expect("written");
        let back = journal.get("job/a/post").await.expect("read").expect("there");
        assert_eq!((back.status, back.mined, back.attempts), (IntentStatus::Open, None, vec![attempt()]));
        journal.finalized("job/a/post").await.expect("written");
        assert!(journal.unfinished(ACCOUNT).await.expect("read").is_empty());
    }

    #[tokio::test]
    async fn key_and_nonce_are_given_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = FileJournal::open(dir.path()).expect("opened");
        journal.begin(&intention("a"), 7).await.expect("begun");
        assert!(matches!(journal.begin(&intention("a"), 8).await, Err(JournalError::KeyExists { .. })));
        assert!(matches!(journal.begin(&intention("b"), 7).await, Err(JournalError::NonceTaken { .. })));
        assert!(matches!(journal.attempt("b", &attempt()).await, Err(JournalError::Missing { .. })));
    }

    #[tokio::test]
    async fn next_nonce_follows_ours_and_those_of_other_programs() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = FileJournal::open(dir.path()).expect("opened");
        assert_eq!(journal.next_nonce(ACCOUNT).await.expect("read"), None);
        journal.begin(&intention("a"), 7).await.expect("begun");
        assert_eq!(journal.next_nonce(ACCOUNT).await.expect("read"), Some(8));
        journal.allow_foreign(7);
        assert_eq!(journal.next_nonce(ACCOUNT).await.expect("read"), Some(8), "a count that lags changes nothing");
        journal.allow_foreign(11);
        assert_eq!(journal.next_nonce(ACCOUNT).await.expect("read"), Some(11));
        assert_eq!(journal.next_nonce(Address::repeat_byte(3)).await.expect("read"), None);
    }

    #[test]
    fn second_process_is_told_that_the_account_is_busy() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = FileJournal::open(dir.path()).expect("opened");
        assert!(matches!(FileJournal::open(dir.path()), Err(ClientError::AccountBusy { .. })));
        drop(first);
        assert!(FileJournal::open(dir.path()).is_ok());
    }

    #[test]
    fn damaged_intent_stops_everything() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("0x01.json"), "{\"key\":").expect("written");
        assert!(matches!(FileJournal::open(dir.path()), Err(ClientError::JournalDamaged { .. })));
    }
}
