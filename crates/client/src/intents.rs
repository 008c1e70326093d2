//! The transaction sender's memory as files: one per intention, beside the runs that they belong to.
//!
//! Several processes may send for an account at once (one embeds, another cancels): each reads what is on the disk, and changes it, under a lock that the
//! system gives back when the process ends, however it ends. What they do with it does not collide: the chain takes one transaction per nonce, no two
//! intentions share one, and to broadcast a transaction twice is harmless. Other programs may use the account too (a wallet, say):
//! [`FileJournal::allow_foreign`] says up to which nonce they have.
//!
//! ```text
//! DIR/<hash of the key>.json        an intention that is not final
//! DIR/final/<hash of the key>.json  one that is
//! DIR/next.json                     the next nonce
//! DIR/lock
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
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

/// Intents of one account on one chain, as files.
#[derive(Debug)]
pub struct FileJournal {
    dir: PathBuf,
    /// Nonces below this belong to somebody, even where no file says to whom.
    taken_below: AtomicU64,
}

/// The account and its next nonce.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NextNonce {
    account: Address,
    nonce: u64,
}

impl FileJournal {
    /// Opens the journal in `dir`, which need not exist yet. Reads all of it once, so that damage is told before anything is sent.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn open(dir: &Path) -> Result<Self, ClientError> {
        fs::create_dir_all(dir).map_err(|source| ClientError::Journal { action: "open", path: dir.to_owned(), source })?;
        let journal = Self { dir: dir.to_owned(), taken_below: AtomicU64::new(0) };
        journal.locked(|| journal.open_rows())?;
        Ok(journal)
    }

    /// Nonces below the chain's own count are used, whoever used them. Say it before sending; where other programs use the account too, our next
    /// transaction then follows theirs.
    pub fn allow_foreign(&self, chain_count: u64) {
        self.taken_below.fetch_max(chain_count, Ordering::Relaxed);
    }

    /// Runs a short piece of work while no other process touches the files.
    fn locked<T>(&self, work: impl FnOnce() -> Result<T, ClientError>) -> Result<T, ClientError> {
        let path = self.dir.join("lock");
        let failed = |source: io::Error| ClientError::Journal { action: "lock", path: path.clone(), source };
        let lock = fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        lock.lock().map_err(failed)?;
        // Closing the file unlocks it.
        work()
    }

    fn path(&self, key: &str) -> PathBuf {
        // A key may hold any character; its hash is a file name.
        self.dir.join(format!("{:#x}.json", keccak256(key)))
    }

    fn final_path(&self, key: &str) -> PathBuf {
        self.dir.join("final").join(format!("{:#x}.json", keccak256(key)))
    }

    fn row(path: &Path) -> Result<Option<Intent>, ClientError> {
        let damaged = |reason: String| ClientError::JournalDamaged { path: path.to_owned(), reason };
        read_json::<Row>(path)?.map(|row| row.into_intent().map_err(damaged)).transpose()
    }

    fn find(&self, key: &str) -> Result<Option<Intent>, ClientError> {
        match Self::row(&self.path(key))? {
            Some(intent) => Ok(Some(intent)),
            None => Self::row(&self.final_path(key)),
        }
    }

    /// Every intent that is not final, by nonce.
    fn open_rows(&self) -> Result<Vec<Intent>, ClientError> {
        let mut rows = Vec::new();
        for name in names(&self.dir)?.iter().filter(|name| name.starts_with("0x") && name.ends_with(".json")) {
            rows.extend(Self::row(&self.dir.join(name))?);
        }
        rows.retain(|intent| intent.status != IntentStatus::Final);
        rows.sort_by_key(|intent| intent.nonce);
        Ok(rows)
    }

    fn next(&self, account: Address) -> Result<Option<u64>, ClientError> {
        let path = self.dir.join("next.json");
        match read_json::<NextNonce>(&path)? {
            Some(next) if next.account != account => {
                Err(ClientError::JournalDamaged { path, reason: format!("it belongs to account {}, not {account}", next.account) })
            }
            next => {
                let highest = self.open_rows()?.last().map(|intent| intent.nonce.saturating_add(1));
                Ok(next.map(|next| next.nonce).max(highest))
            }
        }
    }

    fn change(&self, key: &str, change: impl FnOnce(&mut Intent)) -> Result<(), JournalError> {
        let changed = self.locked(|| {
            let path = self.path(key);
            let Some(mut intent) = Self::row(&path)? else { return Ok(Self::row(&self.final_path(key))?.is_some()) };
            change(&mut intent);
            let row = Row::from(&intent);
            if intent.status == IntentStatus::Final {
                // The copy first: between the two writes there is one too many, never none.
                write_json(&self.final_path(key), &row)?;
                fs::remove_file(&path).map_err(|source| ClientError::Journal { action: "remove", path, source })?;
            } else {
                write_json(&path, &row)?;
            }
            Ok(true)
        });
        match changed.map_err(storage)? {
            true => Ok(()),
            false => Err(JournalError::Missing { key: key.into() }),
        }
    }
}

fn storage(error: ClientError) -> JournalError {
    JournalError::Storage(Box::new(error))
}

#[async_trait]
impl Journal for FileJournal {
    async fn get(&self, key: &str) -> Result<Option<Intent>, JournalError> {
        self.locked(|| self.find(key)).map_err(storage)
    }

    async fn unfinished(&self, from: Address) -> Result<Vec<Intent>, JournalError> {
        let mut rows = self.locked(|| self.open_rows()).map_err(storage)?;
        rows.retain(|intent| intent.what.from == from);
        Ok(rows)
    }

    async fn next_nonce(&self, from: Address) -> Result<Option<u64>, JournalError> {
        let next = self.locked(|| self.next(from)).map_err(storage)?;
        Ok(next.map(|next| next.max(self.taken_below.load(Ordering::Relaxed))))
    }

    async fn begin(&self, what: &NewIntent, nonce: u64) -> Result<(), JournalError> {
        let refused = self.locked(|| {
            if self.find(&what.key)?.is_some() {
                return Ok(Some(JournalError::KeyExists { key: what.key.clone() }));
            }
            if self.next(what.from)?.is_some_and(|next| nonce < next) {
                return Ok(Some(JournalError::NonceTaken { from: what.from, nonce }));
            }
            // The row first. A crash between the two writes leaves a row above the number, which `next` takes into account.
            let intent = Intent { what: what.clone(), nonce, status: IntentStatus::Open, attempts: Vec::new(), mined: None };
            write_json(&self.path(&what.key), &Row::from(&intent))?;
            write_json(&self.dir.join("next.json"), &NextNonce { account: what.from, nonce: nonce.saturating_add(1) })?;
            Ok(None)
        });
        refused.map_err(storage)?.map_or(Ok(()), Err)
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
        assert!(journal.next_nonce(Address::repeat_byte(3)).await.is_err(), "a journal belongs to one account");
    }

    #[tokio::test]
    async fn two_processes_share_the_journal_and_never_a_nonce() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (FileJournal::open(dir.path()).expect("opened"), FileJournal::open(dir.path()).expect("opened"));
        one.begin(&intention("a"), 7).await.expect("begun");
        assert_eq!(two.next_nonce(ACCOUNT).await.expect("read"), Some(8));
        assert!(matches!(two.begin(&intention("b"), 7).await, Err(JournalError::NonceTaken { .. })));
        two.begin(&intention("b"), 8).await.expect("begun");
        two.attempt("a", &attempt()).await.expect("written");
        assert_eq!(one.get("a").await.expect("read").expect("there").attempts.len(), 1);
        assert_eq!(one.unfinished(ACCOUNT).await.expect("read").iter().map(|intent| intent.nonce).collect::<Vec<_>>(), [7, 8]);
    }

    #[tokio::test]
    async fn nonce_of_a_row_whose_number_was_lost_in_a_crash_is_not_given_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = FileJournal::open(dir.path()).expect("opened");
        journal.begin(&intention("a"), 7).await.expect("begun");
        fs::remove_file(dir.path().join("next.json")).expect("removed");
        assert_eq!(journal.next_nonce(ACCOUNT).await.expect("read"), Some(8));
    }

    #[tokio::test]
    async fn final_intent_keeps_its_key_and_its_nonce() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = FileJournal::open(dir.path()).expect("opened");
        journal.begin(&intention("a"), 7).await.expect("begun");
        journal.finalized("a").await.expect("written");
        assert_eq!(journal.get("a").await.expect("read").expect("there").status, IntentStatus::Final);
        assert!(matches!(journal.begin(&intention("a"), 8).await, Err(JournalError::KeyExists { .. })));
        assert_eq!(journal.next_nonce(ACCOUNT).await.expect("read"), Some(8));
    }

    #[test]
    fn damaged_intent_stops_everything() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("0x01.json"), "{\"key\":").expect("written");
        assert!(matches!(FileJournal::open(dir.path()), Err(ClientError::JournalDamaged { .. })));
    }
}
