//! The indexer's database: what the chain says, in tables that can be asked.
//!
//! Everything in it follows from the events of the contracts, so it can be deleted and built again. A batch of blocks is one transaction; when the chain
//! takes blocks back, raw rows above the fork are deleted and projections restored from undo images, so that the tables are those that the canonical
//! chain alone would have given, bit for bit.
//!
//! Module map: `change` what the index is told · `fold` what each event does, pure · `rows` the projections · `entity` rows alike for all tables ·
//! `apply` batches and unwinds · `read` one consistent view for answers · `audit` do the balances follow from the moves.

mod apply;
mod audit;
mod change;
mod entity;
mod fold;
mod read;
mod rows;

use std::path::Path;

use quern_types::{Address, B256, BlockRef, Heads, LedgerHead};
use sqlx::{migrate::Migrator, sqlite::SqliteSynchronous};

pub use apply::Applied;
pub use audit::Audit;
pub use change::{Batch, Block, Change, Event, Place, Prices, Registration};
pub use entity::At;
pub use fold::Alarm;
pub use read::{AlarmRow, EventRow, JobFilter, MoveFilter, MoveRow, Snapshot};
pub use rows::{Balance, Claim, Ending, Job, Ledger, Model, Price, Provider, Settlement, Submission};

use crate::{
    Error, Result,
    open::{Database, Kind},
    value::Reader,
};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/sqlite/index");

const KIND: Kind = Kind {
    name: "index",
    application_id: i32::from_be_bytes(*b"QRNI"),
    migrator: &MIGRATOR,
    // Derived from the chain: a commit may be lost to a power cut, a file may not be torn by one.
    synchronous: SqliteSynchronous::Normal,
    cache_kib: 65_536,
    checkpoint_pages: 8_192,
    readers: 8,
    check_whole: false,
    consequence: "nothing but time is lost if it is deleted: the indexer builds it again from the chain",
};

/// The chain and the deployment that an index belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexBinding {
    /// Chain id of the L2.
    pub chain_id: u64,
    /// Hash of block 0: a devnet that was reset is another chain, though its id and addresses are the same.
    pub genesis_hash: B256,
    /// The `Ledger`.
    pub ledger: Address,
    /// The `JobMarket`.
    pub market: Address,
    /// The `ProviderRegistry`.
    pub provider_registry: Address,
    /// The `ModelRegistry`.
    pub model_registry: Address,
    /// The first block that can hold an event: the deployment's. At least 1.
    pub first_block: u64,
}

/// How far an index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Last block applied; `None` before the first.
    pub cursor: Option<BlockRef>,
    /// The heads of the chain when it got there; `None` before the first batch.
    pub heads: Option<Heads>,
    /// The blocks from the undo floor to the cursor, ascending, without gaps: where a reorganisation is looked for.
    pub history: Vec<BlockRef>,
}

/// An open index. Share it by reference or in an `Arc`; one task writes, any number read.
#[derive(Debug)]
pub struct Index {
    database: Database,
    binding: IndexBinding,
}

impl Index {
    /// Opens the index, or creates it where there is no file.
    ///
    /// # Errors
    /// The file is in use, damaged, of another kind, of another chain or deployment, or written by a newer program; or its cursor does not agree with its
    /// rows. None of these reads as an empty index, and none is cured by trying again.
    pub async fn open(path: &Path, binding: &IndexBinding) -> Result<Self> {
        let names = vec![
            ("chain_id", binding.chain_id.to_string()),
            ("genesis_hash", format!("{:?}", binding.genesis_hash)),
            ("ledger", format!("{:?}", binding.ledger)),
            ("market", format!("{:?}", binding.market)),
            ("provider_registry", format!("{:?}", binding.provider_registry)),
            ("model_registry", format!("{:?}", binding.model_registry)),
            ("first_block", binding.first_block.to_string()),
        ];
        let index = Self { database: Database::open(path, &KIND, &names).await?, binding: *binding };
        index.check_cursor().await?;
        Ok(index)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.database.path()
    }

    /// What the file belongs to.
    #[must_use]
    pub fn binding(&self) -> &IndexBinding {
        &self.binding
    }

    /// The ledger's head before its first entry.
    #[must_use]
    pub fn ledger_genesis(&self) -> LedgerHead {
        LedgerHead::genesis(self.binding.chain_id, self.binding.ledger)
    }

    /// How far the index is: where the stream goes on after a restart.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn position(&self) -> Result<Position> {
        let mut snapshot = self.database.snapshot().await?;
        let cursor = apply::read_cursor(&mut snapshot).await?;
        let rows =
            sqlx::query("SELECT * FROM block ORDER BY number").fetch_all(&mut *snapshot).await.map_err(Error::sql("reading blocks"))?;
        let history = rows
            .iter()
            .map(|row| {
                let row = Reader::new("block", row);
                Ok(BlockRef { number: row.number("number")?, hash: row.hash("hash")?, timestamp: row.number("block_at")? })
            })
            .collect::<Result<_>>()?;
        Ok(Position { cursor: cursor.block, heads: cursor.heads, history })
    }

    /// One consistent view for an answer: everything read through it stands under the same cursor.
    ///
    /// # Errors
    /// The database fails.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::begin(&self.database).await
    }

    /// Writes everything back into the one file and closes it.
    pub async fn close(self) {
        self.database.close().await;
    }

    /// INVARIANT: the last block of the window is the cursor, the window has no gap, and no raw row lies above the cursor.
    async fn check_cursor(&self) -> Result<()> {
        let position = self.position().await?;
        let damaged = |what: String| Error::Damaged { path: self.path().to_owned(), what, consequence: KIND.consequence };
        if position.history.last() != position.cursor.as_ref() {
            return Err(damaged(format!("its cursor is {:?}, its last block {:?}", position.cursor, position.history.last())));
        }
        if let Some(pair) = position.history.windows(2).find(|pair| pair[0].number + 1 != pair[1].number) {
            return Err(damaged(format!("block {} follows block {}", pair[1].number, pair[0].number)));
        }
        let highest: Option<i64> = sqlx::query_scalar(
            "SELECT max(number) FROM (SELECT max(block_number) AS number FROM event UNION ALL SELECT max(block_number) FROM ledger_move) AS raw",
        )
        .fetch_one(self.database.readers())
        .await
        .map_err(Error::sql("reading the highest raw row"))?;
        let cursor = position.cursor.map(|block| block.number);
        if highest.and_then(|number| u64::try_from(number).ok()) > cursor {
            return Err(damaged(format!("its cursor is {cursor:?}, but it holds rows up to block {highest:?}")));
        }
        Ok(())
    }
}
