//! What can go wrong for a client, and what to do about it.

use std::path::PathBuf;

use quern_bindings::{ConvertError, Revert};
use quern_store::StoreError;
use quern_types::{Amount, B256, ContentId, JobId, ModelId, SpecError};

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing to ask for.
    #[error("the text holds nothing but white space: there is nothing to compute")]
    NoText,
    /// More lines than can be counted.
    #[error("the text has more than 2^32 lines: divide it into several files")]
    TooManyLines,
    /// Pieces that do not fit the model.
    #[error("{}; the model takes {context}: shorten what is too long (for embeddings, --split divides it)", too_long(lines))]
    TooLong {
        /// Line of the text, from 1, and ids of each piece that is too long.
        lines: Vec<(u32, usize)>,
        /// Ids that the model takes.
        context: u32,
    },
    /// Ids outside the model's vocabulary.
    #[error("{}; the model knows the ids below {vocabulary}: the tokenizer is not this model's, fetch its package anew", unknown(lines))]
    UnknownId {
        /// Line of the text, from 1, and the first such id of each item that has one.
        lines: Vec<(u32, u32)>,
        /// Ids of the model.
        vocabulary: u32,
    },
    /// A piece that no division makes fit.
    #[error("line {line} cannot be split into parts of {context} ids: one of its characters alone has more")]
    CannotSplit {
        /// Line of the text, from 1.
        line: u32,
        /// Ids that the model takes.
        context: usize,
    },
    /// The tokenizer refused a text.
    #[error("line {line} cannot be tokenized: {reason}")]
    Tokenize {
        /// Line of the text, from 1.
        line: u32,
        /// What the tokenizer said.
        reason: String,
    },
    /// A batch size outside the limits of a job.
    #[error("a job takes 1 to 65,536 items, not {found}: choose another --batch")]
    BatchSize {
        /// What was asked for.
        found: usize,
    },
    /// Prices whose sum no amount holds.
    #[error("the prices times the text are more than any amount can be: lower them")]
    CostTooLarge,
    /// A specification that the contract would refuse.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A value that the contract cannot take.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A file of the journal cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Journal {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the journal does not hold what was written.
    #[error("{} is damaged ({reason}): restore it from a backup, or move it away; what stands on the chain is not lost by that", path.display())]
    JournalDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The run was recorded before.
    #[error("run {run} is in the journal already: resume it with `quern job resume`")]
    RunExists {
        /// The run.
        run: B256,
    },
    /// The chain, or the way to it.
    #[error(transparent)]
    Chain(#[from] quern_chain::Error),
    /// Items that no input tree takes.
    #[error(transparent)]
    Commit(#[from] quern_commit::CommitError),
    /// The content store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model package.
    #[error(transparent)]
    Model(#[from] quern_model::ModelError),
    /// The caller asked to stop.
    #[error("stopped; what was posted stays posted: `quern job resume` goes on, `quern job cancel` takes unclaimed jobs back")]
    Interrupted,
    /// A file of a model package.
    #[error("cannot {action} {}: {source}", path.display())]
    PackageFile {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that is not a model package.
    #[error("this is not a model package: {reason}")]
    PackageForm {
        /// Why not.
        reason: String,
    },
    /// Not enough free money in the Ledger.
    #[error("the account has {free} free units in the Ledger and needs {needed}: {missing} are missing", missing = needed.saturating_sub(*free))]
    InsufficientFree {
        /// Free money in the Ledger.
        free: Amount,
        /// What is needed.
        needed: Amount,
    },
    /// A contract refused what was asked of it.
    #[error("{action} was refused by the contract: {revert}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// The contract's reason.
        revert: Revert,
    },
    /// No model of this id is registered.
    #[error("no model {model} is registered on this chain: list models with `quern model list`")]
    UnknownModel {
        /// The id.
        model: ModelId,
    },
    /// No job of this id was posted.
    #[error("no job {job} is on this chain: it was never posted, or the network is another one")]
    UnknownJob {
        /// The id.
        job: JobId,
    },
    /// The job has no receipt.
    #[error("job {job} has no receipt: it was not delivered")]
    NoReceipt {
        /// The id.
        job: JobId,
    },
    /// An output that no memory is given to.
    #[error("job {job}: its output can have {bytes} bytes, and at most {limit} are fetched: ask for less in one job")]
    OutputTooLarge {
        /// The id.
        job: JobId,
        /// How many bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The content that a receipt names is not what the receipt commits to.
    #[error(
        "job {job}: the output {content} is not what its receipt commits to ({reason}): the provider attested to something else, tell an auditor"
    )]
    WrongOutput {
        /// The id.
        job: JobId,
        /// Where the output is.
        content: ContentId,
        /// What does not fit.
        reason: String,
    },
}

fn too_long(lines: &[(u32, usize)]) -> String {
    told(lines.iter().map(|(line, ids)| format!("line {line} has {ids} ids")), "are too long")
}

fn unknown(lines: &[(u32, u32)]) -> String {
    told(lines.iter().map(|(line, id)| format!("line {line} has id {id}")), "have ids that it does not know")
}

/// The first of some lines, and how many more there are.
fn told(mut lines: impl ExactSizeIterator<Item = String>, others: &str) -> String {
    const TOLD: usize = 8;
    let mut text = lines.by_ref().take(TOLD).collect::<Vec<_>>().join(", ");
    if lines.len() > 0 {
        text.push_str(&format!(" and {} more {others}", lines.len()));
    }
    text
}
