//! The worker's journal: what it has promised and what it has signed.
//!
//! Every call is one transaction that is on disk before the call returns: after a kill -9 or a power cut the journal holds every call
//! that was answered, and each unanswered one wholly or not at all. One process at a time may have it open.
//!
//! Module map: `jobs` steps and facts of a job · `intents` things to be done on the chain, their nonce and their transactions ·
//! `energy` joules per job · `prices` what the worker works for.

mod energy;
mod intents;
mod jobs;
mod prices;

use std::path::Path;

use quern_types::{Address, B256};
use sqlx::{migrate::Migrator, sqlite::SqliteSynchronous};

pub use energy::EnergyReading;
pub use intents::{Attempt, Intent, IntentStatus, Mined};
pub use jobs::{JobEntry, Step, StepEntry};
pub use prices::PriceEntry;

use crate::{
    Result,
    open::{Database, Kind},
};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/sqlite/journal");

const KIND: Kind = Kind {
    name: "journal",
    application_id: i32::from_be_bytes(*b"QRNJ"),
    migrator: &MIGRATOR,
    // Money: a commit that was answered survives a power cut.
    synchronous: SqliteSynchronous::Full,
    cache_kib: 2_000,
    checkpoint_pages: 1_000,
    readers: 2,
    check_whole: true,
    consequence: "deleting it forgets which transactions were sent and which jobs are owed, and costs stake if any job is under way",
};

/// The chain and the deployment that a journal belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalBinding {
    /// Chain id of the L2.
    pub chain_id: u64,
    /// Hash of block 0: a devnet that was reset is another chain, though its id and addresses are the same.
    pub genesis_hash: B256,
    /// The `JobMarket`.
    pub market: Address,
}

/// An open journal. Share it by reference or in an `Arc`; calls are safe from many tasks.
#[derive(Debug)]
pub struct Journal {
    database: Database,
}

impl Journal {
    /// Opens the journal, or creates it where there is no file.
    ///
    /// # Errors
    /// The file is in use, damaged, of another kind, of another chain or deployment, or written by a newer program. None of these reads as
    /// an empty journal, and none is cured by trying again.
    pub async fn open(path: &Path, binding: &JournalBinding) -> Result<Self> {
        let binding = vec![
            ("chain_id", binding.chain_id.to_string()),
            ("genesis_hash", format!("{:?}", binding.genesis_hash)),
            ("market", format!("{:?}", binding.market)),
        ];
        Ok(Self { database: Database::open(path, &KIND, &binding).await? })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.database.path()
    }

    /// Closes the file after everything in flight has ended. Dropping the journal is as safe; closing leaves one tidy file.
    pub async fn close(self) {
        self.database.close().await;
    }
}
