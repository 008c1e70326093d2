//! Things to be done on the chain: one row per intention, so that a restart finds it and never sends it twice.
//!
//! ```text
//! (none) --insert--> open <--------> mined --------> final
//!                     the block came, or went again
//! ```
//! The order that makes a crash harmless: write the intention with its nonce -> sign -> write the attempt -> send. After a crash at any point the journal
//! knows every transaction that can be on its way, and sending a recorded one again changes nothing. The rows are those of the transaction sender in
//! `quern-chain`; whoever owns both (the worker) joins them.

use quern_types::{Address, B256};
use sqlx::{Sqlite, SqliteConnection, Transaction, sqlite::SqliteRow};

use super::Journal;
use crate::{
    Error, Result,
    open::now_ms,
    value::{Reader, integer, wide},
};

/// Where an intention stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntentStatus {
    /// Not on the chain, as far as we know.
    Open,
    /// On the chain; a reorganisation may take it back.
    Mined,
    /// On the chain below the finalized head. Never touched again.
    Final,
}

impl IntentStatus {
    /// The name in SQL and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Mined => "mined",
            Self::Final => "final",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Mined, Self::Final].into_iter().find(|status| status.name() == name)
    }
}

/// One intention: at most one transaction with this effect is ever mined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Names it for ever, such as `job/0x<job id>/submit`.
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
    /// Where it stands.
    pub status: IntentStatus,
    /// Signed transactions, oldest first; none between the decision and the first signature.
    pub attempts: Vec<Attempt>,
    /// Where it was mined; `None` if and only if it is open.
    pub mined: Option<Mined>,
}

/// A signed transaction of an intention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its hash.
    pub tx_hash: B256,
    /// Most per unit of gas, base fee included, wei.
    pub max_fee_wei: u128,
    /// Most per unit of gas to the sequencer, wei.
    pub priority_fee_wei: u128,
    /// Gas allowed.
    pub gas_limit: u64,
    /// The signed transaction as it is sent.
    pub raw: Vec<u8>,
}

/// Where an intention was mined and how it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mined {
    /// The attempt that was mined.
    pub tx_hash: B256,
    /// Number of the block.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: B256,
    /// Whether the call succeeded; `false` is a revert.
    pub succeeded: bool,
}

impl Journal {
    /// Writes a new intention with its attempts, before any of them is sent.
    ///
    /// # Errors
    /// [`Error::IntentExists`] where the key is there, [`Error::NonceTaken`] where the signer's nonce belongs to another intention,
    /// [`Error::IntentRewritten`] where the intention contradicts itself.
    pub async fn insert_intent(&self, intent: &Intent) -> Result<()> {
        let doing = "writing an intent";
        consistent(intent)?;
        let mut transaction = self.database.begin().await?;
        if find(&mut transaction, &intent.key).await?.is_some() {
            return Err(Error::IntentExists { key: intent.key.clone() });
        }
        refuse_taken(&mut transaction, intent).await?;
        let now = now_ms();
        sqlx::query(
            "INSERT INTO intent (intent_key, signer, nonce, to_address, value_wei, calldata, status, created_ms, updated_ms) \
             VALUES (?, ?, ?, ?, ?, ?, 'open', ?, ?)",
        )
        .bind(&intent.key)
        .bind(intent.signer.as_slice())
        .bind(integer("nonce", intent.nonce)?)
        .bind(intent.to.as_slice())
        .bind(wide(intent.value_wei))
        .bind(intent.calldata.as_slice())
        .bind(now)
        .bind(now)
        .execute(&mut *transaction)
        .await
        .map_err(Error::sql(doing))?;
        write_progress(&mut transaction, intent, 0).await?;
        transaction.commit().await.map_err(Error::sql(doing))
    }

    /// Writes where an intention stands now, and the attempts that were added to it.
    ///
    /// # Errors
    /// [`Error::UnknownIntent`] where the key is not there; [`Error::IntentRewritten`] where signer, nonce, call or a recorded attempt differs from what is
    /// written, where the intention is final, or where it contradicts itself. Nothing is written then.
    pub async fn update_intent(&self, intent: &Intent) -> Result<()> {
        consistent(intent)?;
        let mut transaction = self.database.begin().await?;
        let Some(written) = find(&mut transaction, &intent.key).await? else {
            return Err(Error::UnknownIntent { key: intent.key.clone() });
        };
        only_added(&written, intent)?;
        write_progress(&mut transaction, intent, written.attempts.len()).await?;
        transaction.commit().await.map_err(Error::sql("updating an intent"))
    }

    /// The intention with this key, or `None` where the journal never held it.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn intent(&self, key: &str) -> Result<Option<Intent>> {
        let mut snapshot = self.database.snapshot().await?;
        find(&mut snapshot, key).await
    }

    /// Intentions of a signer that are not final, by nonce.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn unfinished_intents(&self, signer: Address) -> Result<Vec<Intent>> {
        let mut snapshot = self.database.snapshot().await?;
        let rows = sqlx::query("SELECT * FROM intent WHERE signer = ? AND status <> 'final' ORDER BY nonce")
            .bind(signer.as_slice())
            .fetch_all(&mut *snapshot)
            .await
            .map_err(Error::sql("reading intents"))?;
        let mut intents = Vec::with_capacity(rows.len());
        for row in &rows {
            intents.push(with_attempts(&mut snapshot, intent(row)?).await?);
        }
        Ok(intents)
    }

    /// One more than the highest nonce that was ever written for the signer; `None` where there is none.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn next_nonce(&self, signer: Address) -> Result<Option<u64>> {
        let highest: Option<i64> = sqlx::query_scalar("SELECT max(nonce) FROM intent WHERE signer = ?")
            .bind(signer.as_slice())
            .fetch_one(self.database.readers())
            .await
            .map_err(Error::sql("reading the highest nonce"))?;
        highest.map(|nonce| u64::try_from(nonce).map(|nonce| nonce + 1).map_err(|_| Error::bad_value("intent", "nonce", nonce))).transpose()
    }
}

/// Whether status, attempts and place agree with each other.
fn consistent(intent: &Intent) -> Result<()> {
    let refuse = |what| Err(Error::IntentRewritten { key: intent.key.clone(), what });
    match intent.mined {
        None if intent.status != IntentStatus::Open => refuse("it is mined, but no block is given"),
        Some(_) if intent.status == IntentStatus::Open => refuse("it is open, but a block is given"),
        Some(mined) if !intent.attempts.iter().any(|attempt| attempt.tx_hash == mined.tx_hash) => {
            refuse("the transaction that was mined is none of its attempts")
        }
        _ => Ok(()),
    }
}

/// Whether `new` says nothing about the past that differs from `written`.
fn only_added(written: &Intent, new: &Intent) -> Result<()> {
    let (kept, all) = (written.attempts.len(), new.attempts.len());
    let rules = [
        (written.signer == new.signer, "the signer differs"),
        (written.nonce == new.nonce, "the nonce differs"),
        (written.to == new.to && written.value_wei == new.value_wei && written.calldata == new.calldata, "the call differs"),
        (all >= kept && written.attempts[..] == new.attempts[..kept.min(all)], "a recorded attempt is missing or differs"),
        (written.status != IntentStatus::Final || written == new, "it is final"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err(Error::IntentRewritten { key: new.key.clone(), what }),
        None => Ok(()),
    }
}

async fn refuse_taken(transaction: &mut Transaction<'_, Sqlite>, intent: &Intent) -> Result<()> {
    let owner: Option<String> = sqlx::query_scalar("SELECT intent_key FROM intent WHERE signer = ? AND nonce = ?")
        .bind(intent.signer.as_slice())
        .bind(integer("nonce", intent.nonce)?)
        .fetch_optional(&mut **transaction)
        .await
        .map_err(Error::sql("looking for the owner of a nonce"))?;
    owner.map_or(Ok(()), |owner| Err(Error::NonceTaken { key: intent.key.clone(), owner, nonce: intent.nonce }))
}

/// Writes status and place, and the attempts from number `recorded` on.
async fn write_progress(transaction: &mut Transaction<'_, Sqlite>, intent: &Intent, recorded: usize) -> Result<()> {
    let doing = "updating an intent";
    let number = intent.mined.map(|mined| integer("block number", mined.block_number)).transpose()?;
    let now = now_ms();
    sqlx::query(
        "UPDATE intent SET status = ?, mined_tx_hash = ?, block_number = ?, block_hash = ?, succeeded = ?, updated_ms = ? \
         WHERE intent_key = ?",
    )
    .bind(intent.status.name())
    .bind(intent.mined.as_ref().map(|mined| mined.tx_hash.as_slice()))
    .bind(number)
    .bind(intent.mined.as_ref().map(|mined| mined.block_hash.as_slice()))
    .bind(intent.mined.map(|mined| i64::from(mined.succeeded)))
    .bind(now)
    .bind(&intent.key)
    .execute(&mut **transaction)
    .await
    .map_err(Error::sql(doing))?;
    for (number, attempt) in (0u64..).zip(&intent.attempts).skip(recorded) {
        sqlx::query(
            "INSERT INTO intent_attempt (intent_key, attempt, tx_hash, raw, max_fee_wei, priority_fee_wei, gas_limit, at_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&intent.key)
        .bind(integer("attempt", number)?)
        .bind(attempt.tx_hash.as_slice())
        .bind(attempt.raw.as_slice())
        .bind(wide(attempt.max_fee_wei))
        .bind(wide(attempt.priority_fee_wei))
        .bind(integer("gas limit", attempt.gas_limit)?)
        .bind(now)
        .execute(&mut **transaction)
        .await
        .map_err(Error::sql(doing))?;
    }
    Ok(())
}

async fn find(connection: &mut SqliteConnection, key: &str) -> Result<Option<Intent>> {
    let row = sqlx::query("SELECT * FROM intent WHERE intent_key = ?")
        .bind(key)
        .fetch_optional(&mut *connection)
        .await
        .map_err(Error::sql("reading an intent"))?;
    match row {
        Some(row) => with_attempts(connection, intent(&row)?).await.map(Some),
        None => Ok(None),
    }
}

async fn with_attempts(connection: &mut SqliteConnection, mut intent: Intent) -> Result<Intent> {
    let rows = sqlx::query("SELECT * FROM intent_attempt WHERE intent_key = ? ORDER BY attempt")
        .bind(&intent.key)
        .fetch_all(&mut *connection)
        .await
        .map_err(Error::sql("reading attempts"))?;
    intent.attempts = rows.iter().map(attempt).collect::<Result<_>>()?;
    Ok(intent)
}

fn intent(row: &SqliteRow) -> Result<Intent> {
    let row = Reader::new("intent", row);
    let mined = match row.opt_hash("mined_tx_hash")? {
        None => None,
        Some(tx_hash) => Some(Mined {
            tx_hash,
            block_number: row.number("block_number")?,
            block_hash: row.hash("block_hash")?,
            succeeded: row.yes("succeeded")?,
        }),
    };
    Ok(Intent {
        key: row.text("intent_key")?.to_owned(),
        signer: row.address("signer")?,
        nonce: row.number("nonce")?,
        to: row.address("to_address")?,
        value_wei: row.wide("value_wei")?,
        calldata: row.bytes("calldata")?.to_vec(),
        status: row.named("status", IntentStatus::from_name)?,
        attempts: Vec::new(),
        mined,
    })
}

fn attempt(row: &SqliteRow) -> Result<Attempt> {
    let row = Reader::new("intent_attempt", row);
    Ok(Attempt {
        tx_hash: row.hash("tx_hash")?,
        max_fee_wei: row.wide("max_fee_wei")?,
        priority_fee_wei: row.wide("priority_fee_wei")?,
        gas_limit: row.number("gas_limit")?,
        raw: row.bytes("raw")?.to_vec(),
    })
}
