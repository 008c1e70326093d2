//! Things to be done on the chain: one row per intention, so that a restart finds it and never sends it twice.
//!
//! ```text
//!            begin                    finish                      settle
//!   (none) --------> open ----------------------> succeeded | reverted --------> settled
//!                    |  ^  <---------------------
//!            abandon |  | renew      reopen (the block is gone)
//!                    v  |
//!                  abandoned
//! ```
//! The order that makes a crash harmless: begin (the nonce is taken) -> sign -> record the attempt -> send. After a crash at any point the journal
//! knows every transaction that can be on its way, and sending a recorded one again changes nothing.

use quern_types::{Address, B256};
use sqlx::{Sqlite, Transaction, sqlite::SqliteRow};

use super::Journal;
use crate::{
    Error, Result,
    open::now_ms,
    value::{Reader, integer, wide},
};

/// What is known to have become of an intention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntentStatus {
    /// Its nonce is taken; no transaction of it is known to be mined.
    Open,
    /// Mined, and did what it should.
    Succeeded,
    /// Mined, and rejected by the contract.
    Reverted,
    /// Given up; its nonce is free for another.
    Abandoned,
}

impl IntentStatus {
    const ALL: [Self; 4] = [Self::Open, Self::Succeeded, Self::Reverted, Self::Abandoned];

    /// The name in SQL, logs and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Succeeded => "succeeded",
            Self::Reverted => "reverted",
            Self::Abandoned => "abandoned",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// An intention to be begun. Its content never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent<'a> {
    /// Names it for ever, such as `submit/0x<job id>`.
    pub key: &'a str,
    /// The account that signs.
    pub signer: Address,
    /// The contract called.
    pub to: Address,
    /// Native value sent, wei.
    pub value_wei: u128,
    /// What is called.
    pub calldata: &'a [u8],
}

/// A signed transaction of an intention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// Its hash.
    pub tx_hash: B256,
    /// The signed transaction as it is sent.
    pub raw: &'a [u8],
    /// Gas allowed.
    pub gas_limit: u64,
    /// Most per unit of gas, wei.
    pub max_fee_wei: u128,
    /// Most per unit of gas to the sequencer, wei.
    pub priority_fee_wei: u128,
}

/// Where an intention was mined and how it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// Whether the transaction succeeded; `false` is a revert.
    pub succeeded: bool,
    /// The attempt that was mined.
    pub tx_hash: B256,
    /// Number of the block.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: B256,
    /// The decoded revert, for a person; empty for a success.
    pub note: &'a str,
}

/// An intention in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentEntry {
    /// Its key.
    pub key: String,
    /// The account that signs.
    pub signer: Address,
    /// The nonce that belongs to it alone.
    pub nonce: u64,
    /// The contract called.
    pub to: Address,
    /// Native value sent, wei.
    pub value_wei: u128,
    /// What is called.
    pub calldata: Vec<u8>,
    /// What became of it, as far as known.
    pub status: IntentStatus,
    /// Whether that is final.
    pub settled: bool,
    /// Transaction, block number and block hash, where it was mined.
    pub mined: Option<(B256, u64, B256)>,
    /// The decoded revert, or why it was abandoned.
    pub note: String,
    /// Begun, Unix milliseconds.
    pub created_ms: i64,
    /// Last change, Unix milliseconds.
    pub updated_ms: i64,
}

/// A recorded attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptEntry {
    /// 0, 1, 2, ... within the intention.
    pub attempt: u64,
    /// The nonce it carries.
    pub nonce: u64,
    /// Its hash.
    pub tx_hash: B256,
    /// The signed transaction.
    pub raw: Vec<u8>,
    /// Gas allowed.
    pub gas_limit: u64,
    /// Most per unit of gas, wei.
    pub max_fee_wei: u128,
    /// Most per unit of gas to the sequencer, wei.
    pub priority_fee_wei: u128,
    /// Signed, Unix milliseconds.
    pub at_ms: i64,
}

/// What [`Journal::begin_intent`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The intention is new; its nonce is taken from now on.
    New(IntentEntry),
    /// It was begun before: go on from its status and its attempts, under its own nonce.
    Existing(IntentEntry),
}

impl Begun {
    /// The entry, new or not.
    #[must_use]
    pub fn entry(&self) -> &IntentEntry {
        match self {
            Self::New(entry) | Self::Existing(entry) => entry,
        }
    }
}

impl Journal {
    /// Begins an intention under the first free nonce that is at least `account_nonce` (the account's transaction count at the latest block), or
    /// returns the one that has this key already.
    ///
    /// # Errors
    /// [`Error::OtherIntent`] where the key stands for another content.
    pub async fn begin_intent(&self, intent: &Intent<'_>, account_nonce: u64) -> Result<Begun> {
        let mut transaction = self.database.begin().await?;
        if let Some(entry) = find(&mut transaction, intent.key).await? {
            same_content(intent, &entry)?;
            return Ok(Begun::Existing(entry));
        }
        let nonce = first_free(&mut transaction, intent.signer, account_nonce).await?;
        insert(transaction, intent, nonce).await.map(Begun::New)
    }

    /// As [`Self::begin_intent`], under exactly this nonce.
    ///
    /// # Errors
    /// [`Error::NonceTaken`] where the nonce belongs to another intention that is not abandoned, [`Error::OtherIntent`] as above.
    pub async fn begin_intent_at(&self, intent: &Intent<'_>, nonce: u64) -> Result<Begun> {
        let mut transaction = self.database.begin().await?;
        if let Some(entry) = find(&mut transaction, intent.key).await? {
            same_content(intent, &entry)?;
            return Ok(Begun::Existing(entry));
        }
        refuse_taken(&mut transaction, intent.key, intent.signer, nonce).await?;
        insert(transaction, intent, nonce).await.map(Begun::New)
    }

    /// Writes down a signed transaction of an open intention, before it is sent. The same transaction twice is one attempt.
    ///
    /// # Errors
    /// [`Error::IntentState`] where the intention is not open.
    pub async fn record_attempt(&self, key: &str, attempt: &Attempt<'_>) -> Result<u64> {
        let doing = "recording an attempt";
        let mut transaction = self.database.begin().await?;
        let entry = known(&mut transaction, key).await?;
        let recorded = attempts_of(&mut transaction, key).await?;
        if let Some(same) = recorded.iter().find(|recorded| recorded.tx_hash == attempt.tx_hash) {
            return Ok(same.attempt);
        }
        if entry.status != IntentStatus::Open {
            return Err(state(&entry, "attempted again"));
        }
        let number = recorded.last().map_or(0, |last| last.attempt + 1);
        sqlx::query(
            "INSERT INTO intent_attempt (intent_key, attempt, nonce, tx_hash, raw, gas_limit, max_fee_wei, priority_fee_wei, at_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(key)
        .bind(integer("attempt", number)?)
        .bind(integer("nonce", entry.nonce)?)
        .bind(attempt.tx_hash.as_slice())
        .bind(attempt.raw)
        .bind(integer("gas limit", attempt.gas_limit)?)
        .bind(wide(attempt.max_fee_wei))
        .bind(wide(attempt.priority_fee_wei))
        .bind(now_ms())
        .execute(&mut *transaction)
        .await
        .map_err(Error::sql(doing))?;
        transaction.commit().await.map_err(Error::sql(doing))?;
        Ok(number)
    }

    /// Writes down that an attempt was mined. May be said again with another block, as long as the intention is not settled.
    ///
    /// # Errors
    /// [`Error::IntentState`] where it is settled or abandoned, [`Error::OtherIntent`] where the transaction is none of its attempts.
    pub async fn finish_intent(&self, key: &str, outcome: &Outcome<'_>) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        let entry = known(&mut transaction, key).await?;
        if entry.settled || entry.status == IntentStatus::Abandoned {
            return Err(state(&entry, "finished"));
        }
        if !attempts_of(&mut transaction, key).await?.iter().any(|attempt| attempt.tx_hash == outcome.tx_hash) {
            return Err(Error::OtherIntent { key: key.to_owned(), what: "transaction" });
        }
        let status = if outcome.succeeded { IntentStatus::Succeeded } else { IntentStatus::Reverted };
        let mined = (outcome.tx_hash, outcome.block_number, outcome.block_hash);
        update(transaction, &IntentEntry { status, mined: Some(mined), note: outcome.note.to_owned(), ..entry }).await
    }

    /// REORG: takes back that an intention was mined: its block is no longer part of the chain.
    ///
    /// # Errors
    /// [`Error::IntentState`] where it was not mined, or is settled.
    pub async fn reopen_intent(&self, key: &str) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        let entry = known(&mut transaction, key).await?;
        if entry.settled || entry.mined.is_none() {
            return Err(state(&entry, "reopened"));
        }
        update(transaction, &IntentEntry { status: IntentStatus::Open, mined: None, note: String::new(), ..entry }).await
    }

    /// Writes down that a mined intention is final: the caller has seen its block, by number and hash, at or below the finalized head.
    ///
    /// # Errors
    /// [`Error::IntentState`] where it was not mined.
    pub async fn settle_intent(&self, key: &str) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        let entry = known(&mut transaction, key).await?;
        if entry.mined.is_none() {
            return Err(state(&entry, "settled"));
        }
        update(transaction, &IntentEntry { settled: true, ..entry }).await
    }

    /// Gives an open intention up and its nonce back. The caller knows that none of its transactions can be mined any more: none was sent, or
    /// another transaction has used the nonce.
    ///
    /// # Errors
    /// [`Error::IntentState`] where it is not open.
    pub async fn abandon_intent(&self, key: &str, why: &str) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        let entry = known(&mut transaction, key).await?;
        if entry.status != IntentStatus::Open {
            return Err(state(&entry, "abandoned"));
        }
        update(transaction, &IntentEntry { status: IntentStatus::Abandoned, note: why.to_owned(), ..entry }).await
    }

    /// Takes an abandoned intention up again under the first free nonce that is at least `account_nonce`.
    ///
    /// # Errors
    /// [`Error::IntentState`] where it is not abandoned.
    pub async fn renew_intent(&self, key: &str, account_nonce: u64) -> Result<IntentEntry> {
        let mut transaction = self.database.begin().await?;
        let entry = known(&mut transaction, key).await?;
        if entry.status != IntentStatus::Abandoned {
            return Err(state(&entry, "renewed"));
        }
        let nonce = first_free(&mut transaction, entry.signer, account_nonce).await?;
        let entry = IntentEntry { status: IntentStatus::Open, nonce, note: String::new(), ..entry };
        update(transaction, &entry).await?;
        Ok(entry)
    }

    /// The intention, or `None` where the journal never held it.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn intent(&self, key: &str) -> Result<Option<IntentEntry>> {
        sqlx::query("SELECT * FROM intent WHERE intent_key = ?")
            .bind(key)
            .fetch_optional(self.database.readers())
            .await
            .map_err(Error::sql("reading an intent"))?
            .as_ref()
            .map(entry)
            .transpose()
    }

    /// Intentions of a signer that are not known to be mined, by nonce.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn open_intents(&self, signer: Address) -> Result<Vec<IntentEntry>> {
        self.intents_where("SELECT * FROM intent WHERE signer = ? AND status = 'open' ORDER BY nonce", signer).await
    }

    /// Intentions of a signer that a reorganisation can still change: open, or mined and not settled; by nonce.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn unsettled_intents(&self, signer: Address) -> Result<Vec<IntentEntry>> {
        let sql = "SELECT * FROM intent WHERE signer = ? AND status <> 'abandoned' AND settled = 0 ORDER BY nonce";
        self.intents_where(sql, signer).await
    }

    /// One more than the highest nonce that belongs to an intention of the signer; 0 where there is none. A nonce below it may be free
    /// where an intention was abandoned: [`Self::begin_intent`] fills such gaps.
    ///
    /// # Errors
    /// The database fails.
    pub async fn next_nonce_floor(&self, signer: Address) -> Result<u64> {
        let highest: Option<i64> = sqlx::query_scalar("SELECT max(nonce) FROM intent WHERE signer = ? AND status <> 'abandoned'")
            .bind(signer.as_slice())
            .fetch_one(self.database.readers())
            .await
            .map_err(Error::sql("reading the highest nonce"))?;
        highest.map_or(Ok(0), |nonce| u64::try_from(nonce).map(|nonce| nonce + 1).map_err(|_| Error::bad_value("intent", "nonce", nonce)))
    }

    /// Every transaction that was signed for an intention, in order.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn attempts(&self, key: &str) -> Result<Vec<AttemptEntry>> {
        let rows = sqlx::query(ATTEMPTS).bind(key).fetch_all(self.database.readers()).await.map_err(Error::sql("reading attempts"))?;
        rows.iter().map(attempt_entry).collect()
    }

    async fn intents_where(&self, sql: &'static str, signer: Address) -> Result<Vec<IntentEntry>> {
        let rows =
            sqlx::query(sql).bind(signer.as_slice()).fetch_all(self.database.readers()).await.map_err(Error::sql("reading intents"))?;
        rows.iter().map(entry).collect()
    }
}

const ATTEMPTS: &str = "SELECT * FROM intent_attempt WHERE intent_key = ? ORDER BY attempt";

type Tx = Transaction<'static, Sqlite>;

async fn find(transaction: &mut Tx, key: &str) -> Result<Option<IntentEntry>> {
    sqlx::query("SELECT * FROM intent WHERE intent_key = ?")
        .bind(key)
        .fetch_optional(&mut **transaction)
        .await
        .map_err(Error::sql("reading an intent"))?
        .as_ref()
        .map(entry)
        .transpose()
}

async fn known(transaction: &mut Tx, key: &str) -> Result<IntentEntry> {
    find(transaction, key).await?.ok_or_else(|| Error::UnknownIntent { key: key.to_owned() })
}

async fn attempts_of(transaction: &mut Tx, key: &str) -> Result<Vec<AttemptEntry>> {
    let rows = sqlx::query(ATTEMPTS).bind(key).fetch_all(&mut **transaction).await.map_err(Error::sql("reading attempts"))?;
    rows.iter().map(attempt_entry).collect()
}

async fn first_free(transaction: &mut Tx, signer: Address, at_least: u64) -> Result<u64> {
    let rows: Vec<i64> =
        sqlx::query_scalar("SELECT nonce FROM intent WHERE signer = ? AND status <> 'abandoned' AND nonce >= ? ORDER BY nonce")
            .bind(signer.as_slice())
            .bind(integer("nonce", at_least)?)
            .fetch_all(&mut **transaction)
            .await
            .map_err(Error::sql("looking for a free nonce"))?;
    let mut free = at_least;
    for taken in rows {
        if integer("nonce", free)? != taken {
            break;
        }
        free += 1;
    }
    Ok(free)
}

async fn refuse_taken(transaction: &mut Tx, key: &str, signer: Address, nonce: u64) -> Result<()> {
    let owner: Option<String> =
        sqlx::query_scalar("SELECT intent_key FROM intent WHERE signer = ? AND nonce = ? AND status <> 'abandoned'")
            .bind(signer.as_slice())
            .bind(integer("nonce", nonce)?)
            .fetch_optional(&mut **transaction)
            .await
            .map_err(Error::sql("looking for the owner of a nonce"))?;
    owner.map_or(Ok(()), |owner| Err(Error::NonceTaken { key: key.to_owned(), owner, nonce }))
}

async fn insert(mut transaction: Tx, intent: &Intent<'_>, nonce: u64) -> Result<IntentEntry> {
    let doing = "beginning an intent";
    let now = now_ms();
    sqlx::query(
        "INSERT INTO intent (intent_key, signer, nonce, to_address, value_wei, calldata, status, settled, note, created_ms, updated_ms) \
         VALUES (?, ?, ?, ?, ?, ?, 'open', 0, '', ?, ?)",
    )
    .bind(intent.key)
    .bind(intent.signer.as_slice())
    .bind(integer("nonce", nonce)?)
    .bind(intent.to.as_slice())
    .bind(wide(intent.value_wei))
    .bind(intent.calldata)
    .bind(now)
    .bind(now)
    .execute(&mut *transaction)
    .await
    .map_err(Error::sql(doing))?;
    let entry = known(&mut transaction, intent.key).await?;
    transaction.commit().await.map_err(Error::sql(doing))?;
    Ok(entry)
}

async fn update(mut transaction: Tx, entry: &IntentEntry) -> Result<()> {
    let doing = "updating an intent";
    let (tx_hash, block_number, block_hash) = match &entry.mined {
        Some((tx_hash, number, hash)) => (Some(tx_hash.as_slice()), Some(integer("block number", *number)?), Some(hash.as_slice())),
        None => (None, None, None),
    };
    sqlx::query(
        "UPDATE intent SET nonce = ?, status = ?, settled = ?, tx_hash = ?, block_number = ?, block_hash = ?, note = ?, updated_ms = ? \
         WHERE intent_key = ?",
    )
    .bind(integer("nonce", entry.nonce)?)
    .bind(entry.status.name())
    .bind(i64::from(entry.settled))
    .bind(tx_hash)
    .bind(block_number)
    .bind(block_hash)
    .bind(&entry.note)
    .bind(now_ms())
    .bind(&entry.key)
    .execute(&mut *transaction)
    .await
    .map_err(Error::sql(doing))?;
    transaction.commit().await.map_err(Error::sql(doing))
}

fn same_content(intent: &Intent<'_>, entry: &IntentEntry) -> Result<()> {
    let differs = [
        (intent.signer == entry.signer, "signer"),
        (intent.to == entry.to, "contract"),
        (intent.value_wei == entry.value_wei, "value"),
        (intent.calldata == entry.calldata, "calldata"),
    ];
    match differs.into_iter().find(|(same, _)| !same) {
        Some((_, what)) => Err(Error::OtherIntent { key: intent.key.to_owned(), what }),
        None => Ok(()),
    }
}

fn state(entry: &IntentEntry, wanted: &'static str) -> Error {
    let status = match (entry.status, entry.settled) {
        (IntentStatus::Succeeded, true) => "succeeded and settled",
        (IntentStatus::Reverted, true) => "reverted and settled",
        (status, _) => status.name(),
    };
    Error::IntentState { key: entry.key.clone(), status, wanted }
}

fn entry(row: &SqliteRow) -> Result<IntentEntry> {
    let row = Reader::new("intent", row);
    let mined = match (row.opt_hash("tx_hash")?, row.opt_number("block_number")?, row.opt_hash("block_hash")?) {
        (Some(tx_hash), Some(number), Some(hash)) => Some((tx_hash, number, hash)),
        (None, None, None) => None,
        _ => return Err(row.bad("tx_hash", "transaction, block number and block hash do not stand together")),
    };
    Ok(IntentEntry {
        key: row.text("intent_key")?.to_owned(),
        signer: row.address("signer")?,
        nonce: row.number("nonce")?,
        to: row.address("to_address")?,
        value_wei: row.wide("value_wei")?,
        calldata: row.bytes("calldata")?.to_vec(),
        status: row.named("status", IntentStatus::from_name)?,
        settled: row.yes("settled")?,
        mined,
        note: row.text("note")?.to_owned(),
        created_ms: row.signed("created_ms")?,
        updated_ms: row.signed("updated_ms")?,
    })
}

fn attempt_entry(row: &SqliteRow) -> Result<AttemptEntry> {
    let row = Reader::new("intent_attempt", row);
    Ok(AttemptEntry {
        attempt: row.number("attempt")?,
        nonce: row.number("nonce")?,
        tx_hash: row.hash("tx_hash")?,
        raw: row.bytes("raw")?.to_vec(),
        gas_limit: row.number("gas_limit")?,
        max_fee_wei: row.wide("max_fee_wei")?,
        priority_fee_wei: row.wide("priority_fee_wei")?,
        at_ms: row.signed("at_ms")?,
    })
}
