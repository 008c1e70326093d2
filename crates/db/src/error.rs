//! What can go wrong between us and a database file, and who must act.

use std::{io, path::PathBuf};

use quern_types::{B256, JobId};

/// What the loop that meets an error does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Try again: the file is busy.
    Retry,
    /// Stop and tell a person: going on would be wrong.
    Fatal,
}

/// Every failure of this crate. The text says what to do; [`Error::severity`] says who does it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the file open.
    #[error("{path} is in use by another process: stop that one, or give this one its own --data-dir")]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file is there, and it is not one of ours, or not the right one.
    #[error(
        "{path} is not a quern {expected} database ({found}): if the path is right, the file is damaged. Restore it from a copy; {consequence}"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// `journal` or `index`.
        expected: &'static str,
        /// What was found instead.
        found: String,
        /// What it costs to delete the file.
        consequence: &'static str,
    },
    /// The file is damaged.
    #[error("{path} is damaged ({what}). Restore it from a copy; {consequence}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        what: String,
        /// What it costs to delete the file.
        consequence: &'static str,
    },
    /// A row cannot be what this program wrote.
    #[error("{table}.{column} holds a value that this program never writes ({what}): the database is damaged; restore it from a copy")]
    BadValue {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// A newer program has changed the schema.
    #[error("{path} has schema version {found}, this program knows up to {known}: start the newer program that wrote it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// A migration in the file differs from ours.
    #[error("{path} was written by another build of this program (schema change {version} differs): use that build, or a new file")]
    OtherBuild {
        /// The file.
        path: PathBuf,
        /// The migration that differs.
        version: i64,
    },
    /// The file belongs to another chain or deployment.
    #[error(
        "{path} belongs to {name} {found}, but this process runs on {expected}: give it its own --data-dir (a devnet that was reset is another chain)"
    )]
    OtherChain {
        /// The file.
        path: PathBuf,
        /// What differs: `chain_id`, `genesis_hash`, a contract.
        name: String,
        /// What the file says.
        found: String,
        /// What the process says.
        expected: String,
    },
    /// A number that SQL cannot hold.
    #[error("{what} is {value}, more than the database can hold (2^63 - 1)")]
    TooLarge {
        /// The number's name.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// The job is not where the caller believed it to be.
    #[error("job {job} is {actual}, not {expected}: somebody else has moved it; read it again")]
    StepMoved {
        /// The job.
        job: JobId,
        /// The step that the caller named.
        expected: &'static str,
        /// The step in the journal, `unknown` where the journal does not hold the job.
        actual: &'static str,
    },
    /// The journal does not hold the job.
    #[error("the journal does not hold job {job}")]
    UnknownJob {
        /// The job.
        job: JobId,
    },
    /// The same job id with another specification: the id is not the hash of one of them.
    #[error("job {job} is in the journal with another specification: one of the two does not hash to its id")]
    OtherSpec {
        /// The job.
        job: JobId,
    },
    /// The intention is there already.
    #[error("intent {key} is in the journal already: read it, and go on from its attempts")]
    IntentExists {
        /// The intention's key.
        key: String,
    },
    /// The nonce already belongs to another intention.
    #[error("nonce {nonce} belongs to intent {owner}, intent {key} cannot have it: choose the next free one")]
    NonceTaken {
        /// The intention that wanted it.
        key: String,
        /// The intention that has it.
        owner: String,
        /// The nonce.
        nonce: u64,
    },
    /// The journal does not hold the intention.
    #[error("the journal does not hold intent {key}")]
    UnknownIntent {
        /// The key.
        key: String,
    },
    /// What was written about an intention never changes, except where it stands and that attempts are added.
    #[error("intent {key}: {what}; what the journal holds about an intention is only added to")]
    IntentRewritten {
        /// The key.
        key: String,
        /// What does not fit.
        what: &'static str,
    },
    /// A batch does not follow what the index holds.
    #[error(
        "block {next} ({hash}) does not follow the index's last block ({last}): {what}. The stream and the index disagree; restart the indexer"
    )]
    NotNext {
        /// Number of the block that was offered.
        next: u64,
        /// Its hash.
        hash: B256,
        /// The index's last block: number and hash, or that there is none.
        last: String,
        /// What does not fit.
        what: &'static str,
    },
    /// The chain takes back a block that the index can no longer take back.
    #[error(
        "the chain goes back to block {to} ({hash}), but {why}. If the chain is the right one, delete {path} and index again; a devnet that was reset is \
         another chain"
    )]
    CannotUnwind {
        /// The block that stays.
        to: u64,
        /// Its hash.
        hash: B256,
        /// Why it is refused.
        why: String,
        /// The file.
        path: PathBuf,
    },
    /// SQLite refused for another reason.
    #[error("database: {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Who must act.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Sql { source, .. } if is_busy(source) => Severity::Retry,
            _ => Severity::Fatal,
        }
    }

    /// Wraps what SQLite said with what was being done.
    pub(crate) fn sql(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Sql { doing, source }
    }

    /// A value read from the database that this program never writes.
    pub(crate) fn bad_value(table: &'static str, column: &'static str, what: impl ToString) -> Self {
        Self::BadValue { table, column, what: what.to_string() }
    }
}

/// Primary result code of SQLite (the low byte of the extended code), where it is SQLite that spoke.
pub(crate) fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

fn is_busy(error: &sqlx::Error) -> bool {
    const SQLITE_BUSY: i32 = 5;
    const SQLITE_LOCKED: i32 = 6;
    matches!(error, sqlx::Error::PoolTimedOut) || matches!(sqlite_code(error), Some(SQLITE_BUSY | SQLITE_LOCKED))
}

/// Whether SQLite says that the file is no database or a damaged one.
pub(crate) fn is_damage(error: &sqlx::Error) -> bool {
    const SQLITE_CORRUPT: i32 = 11;
    const SQLITE_NOTADB: i32 = 26;
    matches!(sqlite_code(error), Some(SQLITE_CORRUPT | SQLITE_NOTADB))
}
