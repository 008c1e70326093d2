//! Do the balances follow from the moves? Everything from the stored entries alone, compared with the projections.

use std::collections::BTreeMap;

use quern_types::{Address, Amount, B256, Bucket};
use serde::Serialize;
use sqlx::SqliteConnection;

use super::{
    Index,
    entity::{self, Entity},
    read::{MoveRow, ledger_move},
    rows::{Balance, Ledger},
};
use crate::{Error, Result, value::integer};

/// Entries read at once.
const PAGE: i64 = 5_000;
/// Differences that are written out; beyond them only the first matter.
const MOST_DIFFERENCES: usize = 20;

/// What a replay of the ledger found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Entries replayed.
    pub entries: u64,
    /// The head that they give; the zero head if there are none.
    pub head: B256,
    /// The sum of all balances.
    pub total: Amount,
    /// Where replay and index differ, the first ones; empty: everything agrees.
    pub differences: Vec<String>,
}

impl Index {
    /// Replays every stored ledger entry and compares sequence, head, every balance and their sum with the projections.
    ///
    /// # Errors
    /// The database fails or holds what we never write. A difference is no error; it is in the answer.
    pub async fn audit(&self) -> Result<Audit> {
        let mut snapshot = self.database.snapshot().await?;
        let mut replay = Replay { head: self.ledger_genesis(), balances: BTreeMap::new(), differences: Vec::new() };
        let mut after = (-1, -1);
        loop {
            let page = moves_after(&mut snapshot, after).await?;
            let Some(last) = page.last() else { break };
            after = (integer("block number", last.place.block.number)?, integer("log index", last.place.log_index)?);
            page.iter().for_each(|entry| replay.add(entry));
        }
        let ledger: Option<Ledger> = entity::load(&mut snapshot, &[1]).await?.pop();
        let rows = sqlx::query("SELECT * FROM balance").fetch_all(&mut *snapshot).await.map_err(Error::sql("reading balances"))?;
        let balances = rows.iter().map(Balance::read).collect::<Result<Vec<_>>>()?;
        Ok(replay.compare(ledger.as_ref(), &balances))
    }
}

async fn moves_after(connection: &mut SqliteConnection, after: (i64, i64)) -> Result<Vec<MoveRow>> {
    let rows = sqlx::query("SELECT * FROM ledger_move WHERE (block_number, log_index) > (?, ?) ORDER BY block_number, log_index LIMIT ?")
        .bind(after.0)
        .bind(after.1)
        .bind(PAGE)
        .fetch_all(connection)
        .await
        .map_err(Error::sql("reading ledger moves"))?;
    rows.iter().map(ledger_move).collect()
}

struct Replay {
    head: quern_types::LedgerHead,
    balances: BTreeMap<(Address, Bucket), Amount>,
    differences: Vec<String>,
}

impl Replay {
    fn differ(&mut self, text: String) {
        if self.differences.len() < MOST_DIFFERENCES {
            self.differences.push(text);
        }
    }

    fn add(&mut self, row: &MoveRow) {
        let entry = &row.entry;
        if entry.seq != self.head.seq + 1 {
            self.differ(format!("entry {} follows entry {}", entry.seq, self.head.seq));
        }
        let next = self.head.after(entry);
        if next.hash != row.head {
            self.differ(format!("after entry {} the head should be {}, the event says {}", entry.seq, next.hash, row.head));
        }
        // Go on from what the event says, so that one lie is named once.
        self.head = quern_types::LedgerHead { hash: row.head, ..next };
        if entry.from_bucket != Bucket::Outside {
            let key = (entry.from, entry.from_bucket);
            let held = self.balances.get(&key).copied().unwrap_or_default();
            let left = held.checked_sub(entry.amount);
            if left.is_none() {
                self.differ(format!("entry {} takes {} from {} of {}, which holds {held}", entry.seq, entry.amount, key.1.name(), key.0));
            }
            self.balances.insert(key, left.unwrap_or_default());
        }
        if entry.to_bucket != Bucket::Outside {
            let key = (entry.to, entry.to_bucket);
            let held = self.balances.get(&key).copied().unwrap_or_default();
            self.balances.insert(key, held.checked_add(entry.amount).unwrap_or(held));
        }
    }

    fn compare(mut self, ledger: Option<&Ledger>, balances: &[Balance]) -> Audit {
        let stored: BTreeMap<_, _> = balances.iter().map(|balance| (balance.key(), balance.amount)).collect();
        let keys: std::collections::BTreeSet<_> = stored.keys().chain(self.balances.keys()).copied().collect();
        for key in keys {
            let (replayed, stored) = (self.balances.get(&key).copied(), stored.get(&key).copied());
            if replayed != stored {
                let show = |amount: Option<Amount>| amount.map_or_else(|| "nothing".to_owned(), |amount| amount.to_string());
                self.differ(format!("{} of {}: the moves give {}, the index holds {}", key.1.name(), key.0, show(replayed), show(stored)));
            }
        }
        let (seq, head) = ledger.map_or((0, B256::ZERO), |ledger| (ledger.seq, ledger.head));
        if (seq, head) != (self.head.seq, self.head.hash) {
            self.differ(format!("the moves end at entry {} ({}), the index holds {seq} ({head})", self.head.seq, self.head.hash));
        }
        let total = self.balances.values().try_fold(Amount::ZERO, |sum, amount| sum.checked_add(*amount)).unwrap_or_default();
        let stored = ledger.map(|ledger| ledger.total).unwrap_or_default();
        if total != stored {
            self.differ(format!("all balances add up to {total}, deposits less withdrawals are {stored}"));
        }
        Audit { entries: self.head.seq, head: self.head.hash, total, differences: self.differences }
    }
}
