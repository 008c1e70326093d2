//! What the canonical chain says about jobs, providers and models, folded from its events and folded again when it reorganises.
//!
//! Kept are the events themselves. A reorganisation cuts the list; the state is always the fold of what is left. So there is no second path to get wrong.

use std::collections::{BTreeMap, HashSet};

use quern_bindings::{Prices, QuernEvent};
use quern_chain::{BlockSource, Event, EventStream, Severity, Start, Step, StreamConfig, deployment::Deployment};
use quern_commit::model::model_id;
use quern_types::{Address, Amount, B256, BlockRef, Domain, Head, Heads, JobId, JobSpec, JobState, ModelId, PackageRoot, Receipt};
use serde::Serialize;

use crate::{ClientError, OutputShape};

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
    /// What it has staked and not taken out, locked stake included; penalties are not subtracted. Enough to tell who has nothing at stake.
    pub staked: Amount,
    /// What it asks, by model. TRUST: listing is free.
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
    /// What bounds its outputs; `None` where the header is none, which the contract does not take.
    pub shape: Option<OutputShape>,
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
            | E::StakeAdded { .. }
            | E::UnbondingStarted { .. }
            | E::UnbondingCancelled { .. }
            | E::PackageAnnounced { .. } => true,
            // TRUST: a node that shows another package, publisher or royalty under a model's id shows no model.
            E::ModelRegistered { model_id: id, package_root, publisher, registration, .. } => {
                model_id(*package_root, *publisher, registration.royalty_bps) == *id
            }
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
            // Nothing happened to the job, and whoever likes says so as often as it likes.
            E::CompletionSkipped { .. } => false,
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
                QuernEvent::StakeAdded { provider, amount } | QuernEvent::UnbondingCancelled { provider, amount } => {
                    let staked = &mut providers.entry(*provider).or_default().staked;
                    *staked = staked.checked_add(*amount).unwrap_or(*staked);
                }
                QuernEvent::UnbondingStarted { provider, amount, .. } => {
                    let staked = &mut providers.entry(*provider).or_default().staked;
                    *staked = staked.saturating_sub(*amount);
                }
                QuernEvent::PriceUnlisted { provider, model_id } => {
                    providers.entry(*provider).or_default().prices.remove(model_id);
                }
                _ => {}
            }
        }
        providers
    }

    /// What bounds the outputs of a model's jobs.
    ///
    /// # Errors
    /// [`ClientError::UnknownModel`].
    pub fn output_shape(&self, model: ModelId) -> Result<OutputShape, ClientError> {
        let registered = self.events.iter().rev().find_map(|event| match &event.event {
            QuernEvent::ModelRegistered { model_id, registration, .. } if *model_id == model => {
                OutputShape::of_header(&registration.header)
            }
            _ => None,
        });
        registered.ok_or(ClientError::UnknownModel { model })
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
                        shape: OutputShape::of_header(&registration.header),
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

#[cfg(test)]
mod tests {
    use quern_chain::{Batch, BlockHeader, Unwind};
    use quern_types::{ContentCodec, ContentId, EnergyMethod};

    use super::*;
    use crate::fixture;

    const DOMAIN: Domain = Domain { chain_id: 901, market: Address::repeat_byte(9) };
    const CLIENT: Address = Address::repeat_byte(1);
    const PROVIDER: Address = Address::repeat_byte(2);

    fn block(number: u64) -> BlockRef {
        BlockRef { number, hash: B256::with_last_byte(u8::try_from(number).expect("small")), timestamp: 1_000 + number }
    }

    fn heads(latest: u64) -> Heads {
        Heads { latest: block(latest), safe: block(0), finalized: block(0) }
    }

    fn spec(salt: u8) -> JobSpec {
        JobSpec {
            client: CLIENT,
            input_len: 3,
            base_price: Amount::from_units(100),
            claim_by: 9_000,
            salt: B256::repeat_byte(salt),
            ..fixture::spec()
        }
    }

    fn posted(job_id: JobId, spec: JobSpec) -> QuernEvent {
        let (client, model_id) = (spec.client, spec.model_id);
        QuernEvent::JobPosted { job_id, client, model_id, max_fee: Amount::from_units(100), posted_at: 1_001, spec: Box::new(spec) }
    }

    fn claimed(job_id: JobId) -> QuernEvent {
        QuernEvent::JobClaimed { job_id, provider: PROVIDER, operator: PROVIDER, price_bps: 10_000, deadline: 2_000, lock: Amount::ZERO }
    }

    fn submitted(job_id: JobId) -> QuernEvent {
        let receipt = Receipt {
            job_id,
            provider: PROVIDER,
            output_root: B256::ZERO,
            output_len: 0,
            output: ContentId { codec: ContentCodec::Raw, digest: B256::ZERO },
            work_digest: B256::ZERO,
            energy_millijoules: 1,
            energy_method: EnergyMethod::Estimated,
        };
        QuernEvent::ReceiptSubmitted {
            job_id,
            provider: PROVIDER,
            receipt_digest: B256::ZERO,
            window_end: 3_000,
            receipt: Box::new(receipt),
        }
    }

    /// One block with one event.
    fn batch(number: u64, event: QuernEvent) -> Step<Event> {
        let at = block(number);
        let header = BlockHeader { at, parent: block(number - 1).hash, bloom: Default::default() };
        let event = Event { block: at, tx_hash: at.hash, tx_index: 0, log_index: 0, address: DOMAIN.market, event };
        Step::Batch(Batch { blocks: vec![header], events: vec![event], heads: heads(number) })
    }

    fn unwind(to: u64) -> Step<Event> {
        Step::Unwind(Unwind { to: block(to), heads: heads(to) })
    }

    #[test]
    fn job_is_followed_from_its_posting_to_its_payment() {
        let id = spec(1).id(&DOMAIN);
        let mut facts = Facts::new(DOMAIN, Scope::Client(CLIENT));
        facts.take(batch(1, posted(id, spec(1))));
        assert_eq!(facts.job(id).map(|job| job.state), Some(JobState::Open));
        facts.take(batch(2, claimed(id)));
        facts.take(batch(3, submitted(id)));
        let job = facts.job(id).expect("followed");
        assert_eq!((job.state, job.window_end, job.claim.map(|claim| claim.deadline)), (JobState::Submitted, Some(3_000), Some(2_000)));
        let (fee, royalty, change) = (Amount::from_units(60), Amount::from_units(6), Amount::from_units(40));
        facts.take(batch(4, QuernEvent::JobCompleted { job_id: id, provider: PROVIDER, publisher: CLIENT, fee, royalty, change }));
        let job = facts.job(id).expect("followed");
        assert_eq!(job.state, JobState::Completed);
        assert_eq!(job.settled, Some(Settlement { fee, royalty, refund: change, compensation: Amount::ZERO }));
        assert_eq!(job.steps.iter().map(|step| step.block.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(facts.is_current());
    }

    #[test]
    fn completions_of_an_ended_job_that_an_enemy_has_skipped_change_nothing_of_it() {
        let mut facts = Facts::new(DOMAIN, Scope::Client(CLIENT));
        let spec = spec(1);
        let id = spec.id(&DOMAIN);
        facts.take(batch(1, posted(id, spec)));
        facts.take(batch(2, QuernEvent::JobCancelled { job_id: id, client: CLIENT, refund: Amount::from_units(100) }));
        let before = facts.job(id);
        facts.take(batch(3, QuernEvent::CompletionSkipped { job_id: id, revert: quern_bindings::Revert::decode(&[]) }));
        assert_eq!(facts.job(id), before, "the last step says how a job ended");
    }

    #[test]
    fn reorganisation_takes_back_exactly_what_was_above_it() {
        let id = spec(1).id(&DOMAIN);
        let mut facts = Facts::new(DOMAIN, Scope::Client(CLIENT));
        facts.take(batch(1, posted(id, spec(1))));
        facts.take(batch(2, claimed(id)));
        facts.take(unwind(1));
        assert_eq!(facts.job(id).map(|job| (job.state, job.claim)), Some((JobState::Open, None)));
        facts.take(unwind(0));
        assert_eq!(facts.job(id), None);
        assert!(facts.jobs().is_empty());
        // Mined again in another block, it is the same job.
        facts.take(batch(1, posted(id, spec(1))));
        facts.take(batch(2, claimed(id)));
        assert_eq!(facts.job(id).map(|job| job.state), Some(JobState::Claimed));
        assert_eq!(facts.jobs(), [id]);
    }

    #[test]
    fn node_that_shows_another_specification_under_an_id_shows_no_job() {
        let id = spec(1).id(&DOMAIN);
        let mut facts = Facts::new(DOMAIN, Scope::Jobs([id].into()));
        facts.take(batch(1, posted(id, JobSpec { base_price: Amount::from_units(1), ..spec(1) })));
        facts.take(batch(2, claimed(id)));
        assert_eq!(facts.job(id), None);
    }

    #[test]
    fn node_that_shows_another_package_or_royalty_under_an_id_shows_no_model() {
        let (package, publisher) = (PackageRoot(B256::repeat_byte(3)), CLIENT);
        let id = model_id(package, publisher, 250);
        let registered = |package_root: PackageRoot, royalty_bps: u16| QuernEvent::ModelRegistered {
            model_id: id,
            publisher,
            package_root,
            family: 1,
            macs_per_token: 1,
            registration: Box::new(quern_bindings::Registration {
                header: vec![0; 160],
                weights_root: B256::ZERO,
                tokenizer_hash: B256::ZERO,
                royalty_bps,
                package_codec: 0x55,
                package_digest: B256::ZERO,
                name: "model".into(),
                tags: String::new(),
            }),
        };
        let mut facts = Facts::new(DOMAIN, Scope::None);
        facts.take(batch(1, registered(PackageRoot(B256::repeat_byte(4)), 250)));
        facts.take(batch(2, registered(package, 0)));
        assert!(facts.models().is_empty());
        facts.take(batch(3, registered(package, 250)));
        assert_eq!(facts.models().get(&id).map(|model| (model.package, model.royalty_bps)), Some((package, 250)));
    }

    #[test]
    fn jobs_outside_the_scope_are_not_kept() {
        let (ours, theirs) = (spec(1).id(&DOMAIN), spec(2).id(&DOMAIN));
        let mut facts = Facts::new(DOMAIN, Scope::Jobs([ours].into()));
        facts.take(batch(1, posted(theirs, spec(2))));
        facts.take(batch(2, claimed(theirs)));
        facts.take(batch(3, posted(ours, spec(1))));
        assert_eq!((facts.job(theirs), facts.jobs()), (None, [ours].as_slice()));
        assert_eq!(facts.events.len(), 1);
    }

    #[test]
    fn listing_is_what_was_said_last() {
        let model = ModelId(B256::repeat_byte(7));
        let mut facts = Facts::new(DOMAIN, Scope::None);
        let listed = |item: u128| QuernEvent::PriceListed {
            provider: PROVIDER,
            model_id: model,
            prices: Prices { item: Amount::from_units(item), ..Prices::default() },
        };
        facts.take(batch(1, listed(5)));
        facts.take(batch(2, listed(7)));
        facts.take(batch(3, QuernEvent::ProviderAnnounced { provider: PROVIDER, gateway: "http://a".into() }));
        let provider = facts.providers().remove(&PROVIDER).expect("listed");
        assert_eq!((provider.gateway.as_str(), provider.prices[&model].item), ("http://a", Amount::from_units(7)));
        facts.take(batch(4, QuernEvent::PriceUnlisted { provider: PROVIDER, model_id: model }));
        assert!(facts.providers()[&PROVIDER].prices.is_empty());
        facts.take(unwind(1));
        assert_eq!(facts.providers()[&PROVIDER].prices[&model].item, Amount::from_units(5));
    }
}
