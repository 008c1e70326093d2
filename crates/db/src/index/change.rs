//! What the index is told: events of the contracts at their place, in this crate's words.

use quern_types::{Address, Amount, B256, BlockRef, Heads, JobId, JobSpec, ModelId, Move, PackageRoot, Receipt};
use serde::{Deserialize, Serialize};

/// Where something happened. (`block.hash`, `log_index`) names it for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The block.
    pub block: BlockRef,
    /// Position of the log in the block.
    pub log_index: u64,
    /// The transaction; a reorganisation may mine it again elsewhere.
    pub tx_hash: B256,
}

/// One event of our contracts at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it happened.
    pub place: Place,
    /// The contract that emitted it.
    pub contract: Address,
    /// What happened.
    pub change: Change,
}

/// A block of the canonical chain with the link to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Number, hash, time.
    pub at: BlockRef,
    /// Hash of the block before.
    pub parent: B256,
}

/// Consecutive blocks with all their events, and the heads that the chain has by now. Without blocks: only the heads have moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The blocks, ascending, none left out.
    pub blocks: Vec<Block>,
    /// Their events, by block, then by log index.
    pub events: Vec<Event>,
    /// The heads of the chain.
    pub heads: Heads,
}

/// Prices as a provider lists them, in the token's smallest unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prices {
    /// Per job.
    pub base: Amount,
    /// Per input id.
    pub input: Amount,
    /// Per output id.
    pub output: Amount,
    /// Per item.
    pub item: Amount,
}

/// What a publisher says when it registers a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// 40 words, PROTOCOL section 2; fewer where a contract let a malformed one pass.
    pub header: Vec<u32>,
    /// Root over all tensors.
    pub weights_root: B256,
    /// keccak of tokenizer.json; informative.
    pub tokenizer_hash: B256,
    /// Share of each fee, in 1/10,000.
    pub royalty_bps: u16,
    /// CID codec of the package; not checked by the contract.
    pub package_codec: u8,
    /// sha2-256 of the package's root block; not checked by the contract.
    pub package_digest: B256,
    /// Free text of the publisher.
    pub name: String,
    /// Free text of the publisher.
    pub tags: String,
}

/// One event of our contracts. Names and fields are those of the Solidity events; times are Unix seconds of the block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event")]
#[allow(missing_docs, reason = "the fields are those of the events, documented in contracts/src/interfaces")]
pub enum Change {
    /// Money moved; `head` is the ledger's head after it.
    Moved { entry: Move, head: B256 },
    /// A client put the maximum fee into escrow.
    JobPosted { job: JobId, client: Address, model: ModelId, max_fee: Amount, posted_at: u64, spec: Box<JobSpec> },
    /// A provider bound itself.
    JobClaimed { job: JobId, provider: Address, operator: Address, price_bps: u16, deadline: u64, lock: Amount },
    /// The result is attested.
    ReceiptSubmitted { job: JobId, provider: Address, receipt_digest: B256, window_end: u64, receipt: Box<Receipt> },
    /// Paid.
    JobCompleted { job: JobId, provider: Address, publisher: Address, fee: Amount, royalty: Amount, change: Amount },
    /// The client took an unclaimed job back.
    JobCancelled { job: JobId, client: Address, refund: Amount },
    /// Nobody claimed in time.
    JobExpired { job: JobId, client: Address, refund: Amount },
    /// The provider did not deliver in time.
    JobUndelivered { job: JobId, client: Address, provider: Address, refund: Amount, penalty: Amount, unlocked: Amount },
    /// Somebody doubts the receipt.
    ChallengeOpened { job: JobId, challenges_open: u16 },
    /// A doubt was refuted.
    ChallengeDismissed { job: JobId, challenges_open: u16 },
    /// The challenge window ends later.
    WindowExtended { job: JobId, window_end: u64 },
    /// The provider was convicted.
    JobSlashed {
        job: JobId,
        provider: Address,
        challenger: Address,
        to_challenger: Amount,
        to_client: Amount,
        delayed: Amount,
        refund: Amount,
    },
    /// One job of many could not be completed.
    CompletionSkipped { job: JobId, reason: String },
    /// A provider's work key changed.
    OperatorChanged { provider: Address, operator: Address },
    /// Where a provider serves content.
    ProviderAnnounced { provider: Address, gateway: String },
    /// A price.
    PriceListed { provider: Address, model: ModelId, prices: Prices },
    /// No longer on offer.
    PriceUnlisted { provider: Address, model: ModelId },
    /// More stake.
    StakeAdded { provider: Address, amount: Amount },
    /// Stake on its way out.
    UnbondingStarted { provider: Address, amount: Amount, unbonded_at: u64 },
    /// Stake on its way out came back.
    UnbondingCancelled { provider: Address, amount: Amount },
    /// Stake is free again.
    StakeWithdrawn { provider: Address, amount: Amount },
    /// A model, for ever.
    ModelRegistered {
        model: ModelId,
        publisher: Address,
        package_root: PackageRoot,
        family: u8,
        macs_per_token: u64,
        registration: Box<Registration>,
    },
    /// Where a package is now.
    PackageAnnounced { model: ModelId, package_codec: u8, package_digest: B256 },
    /// No new jobs and stakes.
    EntriesStopped { guardian: Address },
    /// Open again.
    EntriesResumed { guardian: Address },
    /// An event that changes nothing here, or that could not be read; kept for whoever looks.
    Other { name: String, detail: String },
}

impl Change {
    /// The event's name in Solidity.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Moved { .. } => "Moved",
            Self::JobPosted { .. } => "JobPosted",
            Self::JobClaimed { .. } => "JobClaimed",
            Self::ReceiptSubmitted { .. } => "ReceiptSubmitted",
            Self::JobCompleted { .. } => "JobCompleted",
            Self::JobCancelled { .. } => "JobCancelled",
            Self::JobExpired { .. } => "JobExpired",
            Self::JobUndelivered { .. } => "JobUndelivered",
            Self::ChallengeOpened { .. } => "ChallengeOpened",
            Self::ChallengeDismissed { .. } => "ChallengeDismissed",
            Self::WindowExtended { .. } => "WindowExtended",
            Self::JobSlashed { .. } => "JobSlashed",
            Self::CompletionSkipped { .. } => "CompletionSkipped",
            Self::OperatorChanged { .. } => "OperatorChanged",
            Self::ProviderAnnounced { .. } => "ProviderAnnounced",
            Self::PriceListed { .. } => "PriceListed",
            Self::PriceUnlisted { .. } => "PriceUnlisted",
            Self::StakeAdded { .. } => "StakeAdded",
            Self::UnbondingStarted { .. } => "UnbondingStarted",
            Self::UnbondingCancelled { .. } => "UnbondingCancelled",
            Self::StakeWithdrawn { .. } => "StakeWithdrawn",
            Self::ModelRegistered { .. } => "ModelRegistered",
            Self::PackageAnnounced { .. } => "PackageAnnounced",
            Self::EntriesStopped { .. } => "EntriesStopped",
            Self::EntriesResumed { .. } => "EntriesResumed",
            Self::Other { name, .. } => name,
        }
    }

    /// The job that the event is about.
    #[must_use]
    pub const fn job(&self) -> Option<JobId> {
        match self {
            Self::JobPosted { job, .. }
            | Self::JobClaimed { job, .. }
            | Self::ReceiptSubmitted { job, .. }
            | Self::JobCompleted { job, .. }
            | Self::JobCancelled { job, .. }
            | Self::JobExpired { job, .. }
            | Self::JobUndelivered { job, .. }
            | Self::ChallengeOpened { job, .. }
            | Self::ChallengeDismissed { job, .. }
            | Self::WindowExtended { job, .. }
            | Self::JobSlashed { job, .. }
            | Self::CompletionSkipped { job, .. } => Some(*job),
            _ => None,
        }
    }
}
