//! One consistent view for an answer.

use quern_types::{Address, B256, BlockRef, Bucket, Heads, JobId, JobState, ModelId, Move, Reason};
use serde::Serialize;
use sqlx::{QueryBuilder, Sqlite, Transaction, sqlite::SqliteRow};

use super::{
    apply,
    change::{Change, Place},
    entity::{At, Entity},
    rows::{Balance, Job, Ledger, Model, Price, Provider},
};
use crate::{
    Error, Result,
    open::Database,
    value::{Reader, counted, integer, wide},
};

/// Most events that a job's history holds; every one of them costs its author a bond or moves the job.
const MOST_EVENTS: i64 = 1_000;
/// Most providers whose listings are looked for, by stake.
const MOST_STAKED: i64 = 4_096;
/// Most skipped completions that a job's history holds.
const MOST_SKIPPED: i64 = 5;

/// Which jobs are wanted; every condition that is given holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<JobState>,
    /// Posted by this client.
    pub client: Option<Address>,
    /// Claimed by this provider.
    pub provider: Option<Address>,
    /// For this model.
    pub model: Option<ModelId>,
}

/// Which ledger moves are wanted; every condition that is given holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MoveFilter {
    /// From or to this account.
    pub account: Option<Address>,
    /// That belong to this job.
    pub job: Option<JobId>,
}

/// An event at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Where.
    pub place: Place,
    /// Who emitted it.
    pub contract: Address,
    /// State of its job from then on, where it changed.
    pub state: Option<JobState>,
    /// What happened.
    pub change: Change,
}

/// A ledger move at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRow {
    /// Where.
    pub place: Place,
    /// The entry.
    pub entry: Move,
    /// The ledger's head after it, as the contract says.
    pub head: B256,
}

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlarmRow {
    /// Where.
    pub at: At,
    /// The rule.
    pub kind: String,
    /// Expected and found.
    pub detail: String,
}

/// One committed state of the index. Ends when dropped.
#[derive(Debug)]
pub struct Snapshot {
    transaction: Transaction<'static, Sqlite>,
    cursor: Option<BlockRef>,
    heads: Option<Heads>,
}

impl Snapshot {
    pub(super) async fn begin(database: &Database) -> Result<Self> {
        let mut transaction = database.snapshot().await?;
        let cursor = apply::read_cursor(&mut transaction).await?;
        Ok(Self { transaction, cursor: cursor.block, heads: cursor.heads })
    }

    /// Last block applied; `None` before the first.
    #[must_use]
    pub fn cursor(&self) -> Option<BlockRef> {
        self.cursor
    }

    /// The heads of the chain when the last batch was applied; `None` before the first.
    #[must_use]
    pub fn heads(&self) -> Option<Heads> {
        self.heads
    }

    /// A job.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn job(&mut self, id: JobId) -> Result<Option<Job>> {
        self.one(id).await
    }

    /// Jobs, newest posting first, those posted before `before` (block number and log index of a posting).
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn jobs(&mut self, filter: &JobFilter, before: Option<(u64, u64)>, limit: u32) -> Result<Vec<Job>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM job WHERE 1 = 1");
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.name());
        }
        for (column, address) in [("client", filter.client), ("provider", filter.provider)] {
            if let Some(address) = address {
                query.push(format!(" AND {column} = ")).push_bind(address.to_vec());
            }
        }
        if let Some(model) = filter.model {
            query.push(" AND model_id = ").push_bind(model.0.to_vec());
        }
        push_before(&mut query, "posted_number", "posted_log_index", before)?;
        query.push(" ORDER BY posted_number DESC, posted_log_index DESC LIMIT ").push_bind(i64::from(limit));
        self.many(query).await
    }

    /// The events about a job, in order. Of completions that were skipped, which anybody may cause at will, only the last few.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn job_events(&mut self, id: JobId) -> Result<Vec<EventRow>> {
        let mut events = Vec::new();
        for sql in [
            "SELECT * FROM event WHERE job_id = ? AND name <> 'CompletionSkipped' ORDER BY block_number DESC, log_index DESC LIMIT ?",
            "SELECT * FROM event WHERE job_id = ? AND name = 'CompletionSkipped' ORDER BY block_number DESC, log_index DESC LIMIT ?",
        ] {
            let limit = if events.is_empty() { MOST_EVENTS } else { MOST_SKIPPED };
            let rows = sqlx::query(sql)
                .bind(id.0.as_slice())
                .bind(limit)
                .fetch_all(&mut *self.transaction)
                .await
                .map_err(Error::sql("reading the events of a job"))?;
            for row in &rows {
                events.push(event(row)?);
            }
        }
        events.sort_by_key(|event| (event.place.block.number, event.place.log_index));
        Ok(events)
    }

    /// A provider.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn provider(&mut self, address: Address) -> Result<Option<Provider>> {
        self.one(address).await
    }

    /// Providers by address, those after `after`.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn providers(&mut self, after: Option<Address>, limit: u32) -> Result<Vec<Provider>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM provider");
        if let Some(after) = after {
            query.push(" WHERE provider > ").push_bind(after.to_vec());
        }
        query.push(" ORDER BY provider LIMIT ").push_bind(i64::from(limit));
        self.many(query).await
    }

    /// What a provider asks, by model, at most `limit`.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn prices_of_provider(&mut self, provider: Address, limit: u32) -> Result<Vec<Price>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM price WHERE provider = ");
        query.push_bind(provider.to_vec()).push(" ORDER BY model_id LIMIT ").push_bind(i64::from(limit));
        self.many(query).await
    }

    /// What is asked for a model by providers who have stake, at most `limit`: those with the most stake first. Anybody may list a price for nothing, so
    /// the way leads from the stake to the listing; of those who staked, the first few thousand are looked at.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn prices_of_model(&mut self, model: ModelId, limit: u32) -> Result<Vec<Price>> {
        let mut query =
            QueryBuilder::<Sqlite>::new("SELECT price.* FROM (SELECT account, amount FROM balance WHERE bucket = 'Stake' AND amount > ");
        query
            .push_bind(wide(0))
            .push(" ORDER BY amount DESC, account DESC LIMIT ")
            .push_bind(MOST_STAKED)
            .push(") AS staked CROSS JOIN price WHERE price.provider = staked.account AND price.model_id = ")
            .push_bind(model.0.to_vec())
            .push(" ORDER BY staked.amount DESC, staked.account DESC LIMIT ")
            .push_bind(i64::from(limit));
        self.many(query).await
    }

    /// A model.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn model(&mut self, id: ModelId) -> Result<Option<Model>> {
        self.one(id).await
    }

    /// Models, newest registration first, those registered before `before` (block number and log index).
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn models(&mut self, before: Option<(u64, u64)>, limit: u32) -> Result<Vec<Model>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM model WHERE 1 = 1");
        push_before(&mut query, "registered_number", "registered_log_index", before)?;
        query.push(" ORDER BY registered_number DESC, registered_log_index DESC LIMIT ").push_bind(i64::from(limit));
        self.many(query).await
    }

    /// The ledger as a whole; `None` before its first entry.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn ledger(&mut self) -> Result<Option<Ledger>> {
        self.one(1).await
    }

    /// Ledger moves in order, those with a sequence number above `after`.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn moves(&mut self, filter: &MoveFilter, after: u64, limit: u32) -> Result<Vec<MoveRow>> {
        let mut query = QueryBuilder::<Sqlite>::new("");
        // One branch per index, each cut to the page, so that no filter makes a page cost a walk over the whole ledger.
        let branches: &[&str] = if filter.account.is_some() { &["from_account", "to_account"] } else { &[""] };
        for (position, column) in branches.iter().enumerate() {
            query.push(if position == 0 { "SELECT * FROM (" } else { " UNION SELECT * FROM (" });
            query.push("SELECT * FROM ledger_move WHERE seq > ").push_bind(counted(after));
            if let Some(account) = filter.account {
                query.push(format!(" AND {column} = ")).push_bind(account.to_vec());
            }
            if let Some(job) = filter.job {
                query.push(" AND reference = ").push_bind(job.0.to_vec());
            }
            query.push(" ORDER BY seq, block_number, log_index LIMIT ").push_bind(i64::from(limit)).push(format!(") AS moves_{position}"));
        }
        query.push(" ORDER BY seq, block_number, log_index LIMIT ").push_bind(i64::from(limit));
        let rows = query.build().fetch_all(&mut *self.transaction).await.map_err(Error::sql("reading ledger moves"))?;
        rows.iter().map(ledger_move).collect()
    }

    /// What an account has, by bucket; buckets that never held anything are left out.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn balances_of(&mut self, account: Address) -> Result<Vec<Balance>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM balance WHERE account = ");
        query.push_bind(account.to_vec()).push(" ORDER BY bucket");
        self.many(query).await
    }

    /// Balances by account and bucket, those of accounts after `after`; at most `accounts` accounts, each whole.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn balances(&mut self, after: Option<Address>, accounts: u32) -> Result<Vec<Balance>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM balance WHERE account IN (SELECT DISTINCT account FROM balance");
        if let Some(after) = after {
            query.push(" WHERE account > ").push_bind(after.to_vec());
        }
        query.push(" ORDER BY account LIMIT ").push_bind(i64::from(accounts)).push(") ORDER BY account, bucket");
        self.many(query).await
    }

    /// How many alarms stand, and the first of them, at most `limit`.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn alarms(&mut self, limit: u32) -> Result<(u64, Vec<AlarmRow>)> {
        let doing = "reading alarms";
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM alarm").fetch_one(&mut *self.transaction).await.map_err(Error::sql(doing))?;
        let rows = sqlx::query("SELECT * FROM alarm ORDER BY block_number, log_index, position LIMIT ?")
            .bind(i64::from(limit))
            .fetch_all(&mut *self.transaction)
            .await
            .map_err(Error::sql(doing))?;
        let alarms = rows.iter().map(alarm).collect::<Result<_>>()?;
        Ok((u64::try_from(count).map_err(|_| Error::bad_value("alarm", "count", count))?, alarms))
    }

    async fn one<E: Entity>(&mut self, key: E::Key) -> Result<Option<E>> {
        Ok(super::entity::load(&mut self.transaction, &[key]).await?.pop())
    }

    async fn many<E: Entity>(&mut self, mut query: QueryBuilder<Sqlite>) -> Result<Vec<E>> {
        let rows = query.build().fetch_all(&mut *self.transaction).await.map_err(Error::sql("reading projections"))?;
        rows.iter().map(E::read).collect()
    }
}

/// ` AND (number, index) < (?, ?)`, as both dialects understand it.
fn push_before(query: &mut QueryBuilder<Sqlite>, number: &str, index: &str, before: Option<(u64, u64)>) -> Result<()> {
    if let Some((block, log)) = before {
        query.push(format!(" AND ({number}, {index}) < (")).push_bind(integer("block number", block)?);
        query.push(", ").push_bind(integer("log index", log)?).push(")");
    }
    Ok(())
}

fn place(row: &Reader<'_>) -> Result<Place> {
    Ok(Place {
        block: BlockRef { number: row.number("block_number")?, hash: row.hash("block_hash")?, timestamp: row.number("block_at")? },
        log_index: row.number("log_index")?,
        tx_hash: row.hash("tx_hash")?,
    })
}

fn event(row: &SqliteRow) -> Result<EventRow> {
    let row = Reader::new("event", row);
    let state = match row.opt_text("state")? {
        None => None,
        Some(_) => Some(row.named("state", |name| JobState::ALL.iter().copied().find(|state| state.name() == name))?),
    };
    let change = serde_json::from_str(row.text("body")?).map_err(|error| row.bad("body", error))?;
    Ok(EventRow { place: place(&row)?, contract: row.address("contract")?, state, change })
}

fn bucket(row: &Reader<'_>, column: &'static str) -> Result<Bucket> {
    row.named(column, |name| Bucket::ALL.iter().copied().find(|bucket| bucket.name() == name))
}

pub(super) fn ledger_move(row: &SqliteRow) -> Result<MoveRow> {
    let row = Reader::new("ledger_move", row);
    let entry = Move {
        seq: row.number("seq")?,
        from: row.address("from_account")?,
        from_bucket: bucket(&row, "from_bucket")?,
        to: row.address("to_account")?,
        to_bucket: bucket(&row, "to_bucket")?,
        amount: row.amount("amount")?,
        reason: row.named("reason", |name| Reason::ALL.iter().copied().find(|reason| reason.name() == name))?,
        reference: row.hash("reference")?,
    };
    Ok(MoveRow { place: place(&row)?, entry, head: row.hash("head")? })
}

fn alarm(row: &SqliteRow) -> Result<AlarmRow> {
    let row = Reader::new("alarm", row);
    Ok(AlarmRow {
        at: At { number: row.number("block_number")?, hash: row.hash("block_hash")?, log_index: row.number("log_index")? },
        kind: row.text("kind")?.to_owned(),
        detail: row.text("detail")?.to_owned(),
    })
}
