//! What the canonical chain says about jobs, providers and models, folded from its events and folded again when it reorganises.
//!
//! Kept are the events themselves. A reorganisation cuts the list; the state is always the fold of what is left. So there is no second path to get wrong.

use std::collections::{BTreeMap, HashSet};

use quern_bindings::{Prices, QuernEvent};
use quern_chain::{BlockSource, Event, EventStream, Severity, Start, Step, StreamConfig, deployment::Deployment};
use quern_types::{Address, Amount, B256, BlockRef, Domain, Head, Heads, JobId, JobSpec, JobState, ModelId, PackageRoot, Receipt};
use serde::Serialize;

use crate::ClientError;

/// Which jobs are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// None: providers and models only.
    None,
    /// These.
    Jobs(HashSet<JobId>),
    /// Those that an account posted.
    Client(Address),
}

/// Something that happened to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStep {
    /// The event's name: `JobPosted`, `JobClaimed`, …
    pub event: &'static str,
    /// The transaction.
    pub tx: B256,
    /// The block.
    pub block: BlockRef,
}

/// A job as the chain tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLife {
    /// What was posted.
    pub spec: JobSpec,
    /// Where it is.
    pub state: JobState,
    /// What happened, oldest first.
    pub steps: Vec<JobStep>,
    /// When it was posted, Unix seconds.
    pub posted_at: u64,
    /// Put into escrow.
    pub max_fee: Amount,
    /// Once claimed: by whom, at what share of the maximum, until when, with how much at stake.
    pub claim: Option<Claim>,
    /// Once submitted: the receipt.
    pub receipt: Option<Receipt>,
    /// Once submitted: last second in which it may be challenged, Unix time.
    pub window_end: Option<u64>,
    /// Once over: who got what.
    pub settled: Option<Settlement>,
}

/// Terms of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Owner address of the provider.
    pub provider: Address,
    /// The key that signs the receipt.
    pub operator: Address,
    /// Share of the maximum price, in 1/10,000.
    pub price_bps: u16,
    /// Last second to deliver, Unix time.
    pub deadline: u64,
    /// Stake behind the job.
    pub lock: Amount,
}

/// Where the money of a job went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settlement {
    /// What the job cost its client.
    pub fee: Amount,
    /// Part of the fee that went to the model's publisher.
    pub royalty: Amount,
    /// Escrow that came back to the client.
    pub refund: Amount,
    /// What the client got out of the provider's lock.
    pub compensation: Amount,
}

/// A provider as it presents itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provider {
    /// The key that works for it; zero: none.
    pub operator: Address,
    /// Where it says that it serves content; empty: nowhere.
    pub gateway: String,
    /// What it asks, by model.
    pub prices: BTreeMap<ModelId, Prices>,
}

/// A registered model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedModel {
    /// Who registered it.
    pub publisher: Address,
    /// The arithmetic.
    pub package: PackageRoot,
    /// 1 encoder, 2 decoder.
    pub family: u8,
    /// Share of each fee that goes to the publisher, in 1/10,000.
    pub royalty_bps: u16,
    /// Where its package is, newest announcement first: codec and sha2-256, as the publisher says.
    pub places: Vec<(u8, B256)>,
    /// The publisher's name for it. TRUST: free text of a stranger.
    pub name: String,
    /// The publisher's tags. TRUST: free text of a stranger.
    pub tags: String,
    /// When it was registered.
    pub at: BlockRef,
}

/// Follows a deployment.
pub struct Follower<S> {
    stream: EventStream<S>,
    facts: Facts,
}

impl<S: BlockSource> Follower<S> {
    /// Follows a deployment from its first block: providers and models have no other beginning.
    ///
    /// # Errors
    /// See [`EventStream::new`].
    pub fn new(source: S, deployment: &Deployment, scope: Scope, config: StreamConfig) -> Result<Self, ClientError> {
        let stream = EventStream::new(source, deployment, Start::at_block(deployment.from_block.max(1)), config)?;
        Ok(Self { stream, facts: Facts::new(deployment.domain(), scope) })
    }

    /// Waits for the next step of the chain, and takes it.
    ///
    /// # Errors
    /// A fatal one: failures that pass are waited out.
    pub async fn step(&mut self) -> Result<&Facts, ClientError> {
        loop {
            match self.stream.next().await {
                Ok(step) => {
                    self.facts.take(step);
                    return Ok(&self.facts);
                }
                // The stream itself waits between its failures.
                Err(error) if error.severity() != Severity::Fatal => tracing::warn!(error = error.chain(), "follow.retry"),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads up to the node's newest block.
    ///
    /// # Errors
    /// The node does not answer: this is asked by somebody who waits, so failures that may pass are handed up too.
    pub async fn catch_up(&mut self) -> Result<&Facts, ClientError> {
        while !self.facts.is_current() {
            let step = self.stream.next().await?;
            self.facts.take(step);
        }
        Ok(&self.facts)
    }

    /// What is known.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Follows these jobs too, from now on. Their events must lie ahead: call it before they are posted.
    pub fn also(&mut self, jobs: impl IntoIterator<Item = JobId>) {
        match &mut self.facts.scope {
            Scope::Jobs(known) => known.extend(jobs),
            scope @ Scope::None => *scope = Scope::Jobs(jobs.into_iter().collect()),
            Scope::Client(_) => {}
        }
    }
}

/// What the events say.
#[derive(Debug)]
pub struct Facts {
    domain: Domain,
    scope: Scope,
    /// Events that matter here, in order of the chain.
    events: Vec<Event>,
    /// Followed jobs that were seen, in order of posting.
    seen: Vec<JobId>,
    last: Option<BlockRef>,
    heads: Option<Heads>,
}

impl Facts {
    fn new(domain: Domain, scope: Scope) -> Self {
        Self { domain, scope, events: Vec::new(), seen: Vec::new(), last: None, heads: None }
    }

    fn take(&mut self, step: Step<Event>) {
        match step {
            Step::Batch(batch) => {
                for event in batch.events {
                    self.keep(event);
                }
                if let Some(block) = batch.blocks.last() {
                    self.last = Some(block.at);
                }
                self.heads = Some(batch.heads);
            }
            // REORG: forget what is above, and the jobs that were posted there.
            Step::Unwind(unwind) => {
                self.events.retain(|event| event.block.number <= unwind.to.number);
                let posted: HashSet<JobId> =
                    self.events.iter().filter(|event| event.event.name() == "JobPosted").filter_map(|event| event.event.job_id()).collect();
                self.seen.retain(|id| posted.contains(id));
                self.last = Some(unwind.to);
                self.heads = Some(unwind.heads);
            }
        }
    }

    fn keep(&mut self, event: Event) {
        use QuernEvent as E;
        let wanted = match &event.event {
            E::OperatorChanged { .. }
            | E::ProviderAnnounced { .. }
            | E::PriceListed { .. }
            | E::PriceUnlisted { .. }
            | E::ModelRegistered { .. }
            | E::PackageAnnounced { .. } => true,
            E::JobPosted { job_id, client, spec, .. } => {
                let ours = match &self.scope {
                    Scope::None => false,
                    Scope::Jobs(jobs) => jobs.contains(job_id),
                    Scope::Client(address) => address == client,
                };
                // TRUST: a node that shows another specification under a job's id shows no job.
                let ours = ours && spec.id(&self.domain) == *job_id;
                if ours {
                    self.seen.push(*job_id);
                }
                ours
            }
            other => other.job_id().is_some_and(|id| self.seen.contains(&id)),
        };
        if wanted {
            self.events.push(event);
        }
    }

    /// Whether the node's newest block has been read.
    pub fn is_current(&self) -> bool {
        self.last.zip(self.heads).is_some_and(|(last, heads)| last.number >= heads.latest.number)
    }

    /// The last block that was read.
    pub fn last(&self) -> Option<BlockRef> {
        self.last
    }

    /// The heads that the node reported last.
    pub fn heads(&self) -> Option<Heads> {
        self.heads
    }

    /// The strongest head that a block stands under.
    pub fn head_of(&self, block: BlockRef) -> Head {
        self.heads.map_or(Head::Latest, |heads| heads.of(block.number))
    }

    /// Ids of the followed jobs that are on the chain, in order of posting.
    pub fn jobs(&self) -> &[JobId] {
        &self.seen
    }

    /// A followed job; `None` where it is not on the chain (yet, or any more).
    pub fn job(&self, id: JobId) -> Option<JobLife> {
        self.events.iter().filter(|event| event.event.job_id() == Some(id)).fold(None, fold_job)
    }

    /// All providers that ever presented themselves.
    pub fn providers(&self) -> BTreeMap<Address, Provider> {
        let mut providers: BTreeMap<Address, Provider> = BTreeMap::new();
        for event in &self.events {
            match &event.event {
                QuernEvent::OperatorChanged { provider, operator } => providers.entry(*provider).or_default().operator = *operator,
                QuernEvent::ProviderAnnounced { provider, gateway } => providers.entry(*provider).or_default().gateway.clone_from(gateway),
                QuernEvent::PriceListed { provider, model_id, prices } => {
                    providers.entry(*provider).or_default().prices.insert(*model_id, *prices);
                }
                QuernEvent::PriceUnlisted { provider, model_id } => {
                    providers.entry(*provider).or_default().prices.remove(model_id);
                }
                _ => {}
            }
        }
        providers
    }

    /// All registered models.
    pub fn models(&self) -> BTreeMap<ModelId, ListedModel> {
        let mut models: BTreeMap<ModelId, ListedModel> = BTreeMap::new();
        for event in &self.events {
            match &event.event {
                QuernEvent::ModelRegistered { model_id, publisher, package_root, family, registration, .. } => {
                    let model = ListedModel {
                        publisher: *publisher,
                        package: *package_root,
                        family: *family,
                        royalty_bps: registration.royalty_bps,
                        places: vec![(registration.package_codec, registration.package_digest)],
                        name: registration.name.clone(),
                        tags: registration.tags.clone(),
                        at: event.block,
                    };
                    models.insert(*model_id, model);
                }
                QuernEvent::PackageAnnounced { model_id, package_codec, package_digest } => {
                    if let Some(model) = models.get_mut(model_id) {
                        model.places.insert(0, (*package_codec, *package_digest));
                    }
                }
                _ => {}
            }
        }
        models
    }
}

/// The job after an event of it.
fn fold_job(before: Option<JobLife>, event: &Event) -> Option<JobLife> {
    use QuernEvent as E;
    let step = JobStep { event: event.event.name(), tx: event.tx_hash, block: event.block };
    if let E::JobPosted { spec, posted_at, max_fee, .. } = &event.event {
        return Some(JobLife {
            spec: (**spec).clone(),
            state: JobState::Open,
            steps: vec![step],
            posted_at: *posted_at,
            max_fee: *max_fee,
            claim: None,
            receipt: None,
            window_end: None,
            settled: None,
        });
    }
    let mut job = before?;
    job.steps.push(step);
    let settle = |job: &mut JobLife, state, settlement| {
        job.state = state;
        job.settled = Some(settlement);
    };
    match &event.event {
        E::JobClaimed { provider, operator, price_bps, deadline, lock, .. } => {
            job.state = JobState::Claimed;
            job.claim = Some(Claim { provider: *provider, operator: *operator, price_bps: *price_bps, deadline: *deadline, lock: *lock });
        }
        E::ReceiptSubmitted { window_end, receipt, .. } => {
            job.state = JobState::Submitted;
            job.receipt = Some(**receipt);
            job.window_end = Some(*window_end);
        }
        E::WindowExtended { window_end, .. } => job.window_end = Some(*window_end),
        E::ChallengeOpened { .. } => job.state = JobState::Challenged,
        E::ChallengeDismissed { challenges_open: 0, .. } => job.state = JobState::Submitted,
        E::JobCompleted { fee, royalty, change, .. } => {
            settle(&mut job, JobState::Completed, Settlement { fee: *fee, royalty: *royalty, refund: *change, ..Settlement::default() });
        }
        E::JobCancelled { refund, .. } | E::JobExpired { refund, .. } => {
            settle(&mut job, JobState::Refunded, Settlement { refund: *refund, ..Settlement::default() });
        }
        E::JobUndelivered { refund, penalty, .. } => {
            settle(&mut job, JobState::Refunded, Settlement { refund: *refund, compensation: *penalty, ..Settlement::default() });
        }
        E::JobSlashed { refund, to_client, .. } => {
            settle(&mut job, JobState::Slashed, Settlement { refund: *refund, compensation: *to_client, ..Settlement::default() });
        }
        _ => {}
    }
    Some(job)
}
