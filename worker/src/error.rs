//! What can stop a worker or an audit, and who must act.

use std::path::PathBuf;

use quern_types::{Address, JobId, ModelId, PackageRoot};

/// What the loop that meets an error does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Try again: a node, a gateway or a disk is busy or away.
    Retry,
    /// Stop and tell a person: going on would be wrong.
    Fatal,
}

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that cannot be used.
    #[error("{option}: {fault}")]
    Config {
        /// The option, as it is written on the command line.
        option: &'static str,
        /// What is wrong, and what to write instead.
        fault: String,
    },
    /// The provider has named another operator, or none.
    #[error(
        "provider {provider} has named {named} as its operator, and this worker's key is {ours}: run `quern provider operator set {ours}` with the provider's \
         key, or start the worker with the right key"
    )]
    NotOperator {
        /// The provider.
        provider: Address,
        /// The operator on the chain; zero: none.
        named: Address,
        /// The key that we have.
        ours: Address,
    },
    /// The chain.
    #[error(transparent)]
    Chain(#[from] quern_chain::Error),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] quern_db::Error),
    /// The content store.
    #[error(transparent)]
    Store(#[from] quern_store::StoreError),
    /// A model's package.
    #[error(transparent)]
    Model(#[from] quern_model::ModelError),
    /// A decoder has no memory for a sequence.
    #[error("cannot generate now")]
    Memory(#[from] quern_exact::decoder::DecoderError),
    /// A file or a socket.
    #[error("cannot {doing} {what}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What the journal holds of a job cannot be what this program wrote.
    #[error("job {job}: the journal's {fact} cannot be read ({fault}): the journal is damaged, restore it from a copy")]
    Fact {
        /// The job.
        job: JobId,
        /// Which fact.
        fact: &'static str,
        /// What is wrong with it.
        fault: String,
    },
    /// The input or output of a claimed job is not what it was when it was checked.
    #[error("job {job}: {what} is not what the job commits to: {fault}")]
    Content {
        /// The job.
        job: JobId,
        /// "the input" or "the output".
        what: &'static str,
        /// What differs.
        fault: String,
    },
    /// A transaction that no repetition will bring through.
    #[error("job {job}: the contract refuses {intention} ({revert})")]
    Rejected {
        /// The job.
        job: JobId,
        /// Which one.
        intention: String,
        /// The contract's error.
        revert: String,
    },
    /// The job is not on the chain.
    #[error("job {job} is not on this chain: check the id, --rpc and --deployment")]
    NoSuchJob {
        /// The job.
        job: JobId,
    },
    /// The job has no receipt.
    #[error("job {job} has no receipt yet: there is nothing to audit (it is {state})")]
    NoReceipt {
        /// The job.
        job: JobId,
        /// Its state.
        state: &'static str,
    },
    /// What the node says of the receipt cannot be proven.
    #[error(
        "job {job} is over, and the node has neither the state of the block in which its receipt was submitted nor the transaction: the receipt that it \
         shows cannot be proven; ask a node that keeps history (--rpc URL)"
    )]
    ReceiptUnproven {
        /// The job.
        job: JobId,
    },
    /// A file that is longer than one is willing to fetch.
    #[error("job {job}: {what} can have {bytes} bytes, and the limit is {limit}: raise it with --max-bytes if this machine has the memory")]
    TooLargeToAudit {
        /// The job.
        job: JobId,
        /// "the input" or "the output".
        what: &'static str,
        /// How many bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The model is not registered.
    #[error("model {model} is registered by nobody on this chain")]
    NoSuchModel {
        /// The model.
        model: ModelId,
    },
    /// None of the packages at hand is the model's.
    #[error("none of the packages given has the root {package}, which job {job} was computed with: name it with --package")]
    PackageNotHeld {
        /// The job.
        job: JobId,
        /// The root that is needed.
        package: PackageRoot,
    },
    /// The input of a job cannot be had, so nothing can be computed again.
    #[error("job {job}: the input cannot be had ({fault}); name a gateway that has it with --gateway")]
    InputUnavailable {
        /// The job.
        job: JobId,
        /// Why.
        fault: String,
    },
    /// The longest sequence of a job does not fit the memory that is free.
    #[error(
        "job {job}: its longest sequence takes {bytes} bytes of keys and values, and {free} are free: end other programs, or audit it on a machine with more \
         memory"
    )]
    AuditMemory {
        /// The job.
        job: JobId,
        /// Bytes of the longest sequence.
        bytes: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// A block that is not on the chain.
    #[error("block {number} is not on the chain yet; the newest is {latest}")]
    NoSuchBlock {
        /// The block asked for.
        number: u64,
        /// The newest.
        latest: u64,
    },
    /// The status file of a worker.
    #[error("no worker has written {path} yet: is this its --data-dir, and did it run?")]
    NoStatus {
        /// The file.
        path: PathBuf,
    },
    /// The computing thread is gone.
    #[error("the thread that computes has ended; restart the worker and report its log")]
    ComputeGone,
    /// The worker is stopping; the job stays where the journal says.
    #[error("the worker is stopping")]
    Stopping,
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Who must act.
    pub fn severity(&self) -> Severity {
        let retry = match self {
            Self::Chain(error) => error.severity() != quern_chain::Severity::Fatal,
            Self::Journal(error) => error.severity() == quern_db::Severity::Retry,
            // Room comes with the next collection; the job's deadline says how long that may take.
            Self::Store(quern_store::StoreError::Full { .. }) => true,
            Self::Store(error) => error.severity() == quern_store::Severity::Retry,
            // Memory comes and goes; the job's deadline says how long that may take.
            Self::Memory(error) => matches!(error, quern_exact::decoder::DecoderError::OutOfMemory { .. }),
            _ => false,
        };
        if retry { Severity::Retry } else { Severity::Fatal }
    }

    /// The error with all its sources in one line, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
