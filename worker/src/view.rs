//! What the canonical chain says, as far as the worker cares: jobs, models, our operator, gateways. Follows the event stream forward and back.
//!
//! Every change leaves its inverse behind until its block is finalized, so a reorganisation is undone exactly.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use quern_bindings::Prices;
use quern_types::{Address, BlockRef, Domain, Heads, JobId, JobSpec, JobState, ModelId, PackageRoot, Receipt};

use crate::{
    event::{Event, Logged},
    life::Seen,
};

/// A job on the canonical chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobView {
    pub(crate) spec: Arc<JobSpec>,
    /// Unix seconds.
    pub(crate) posted_at: u64,
    pub(crate) state: JobState,
    /// Who claimed it: provider and operator key.
    pub(crate) claimant: Option<(Address, Address)>,
    /// Last second to submit.
    pub(crate) deadline: u64,
    /// Last second to challenge.
    pub(crate) window_end: u64,
    /// What was attested.
    pub(crate) receipt: Option<Arc<Receipt>>,
    /// Block of the last transition.
    pub(crate) since: BlockRef,
}

/// A registered model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModelView {
    pub(crate) package: PackageRoot,
    pub(crate) family: u8,
    /// Share of each fee that goes to the publisher, in 1/10,000. The model's id binds it.
    pub(crate) royalty_bps: u16,
}

/// The chain from one provider's side.
#[derive(Debug)]
pub(crate) struct View {
    domain: Domain,
    provider: Address,
    /// Our key. What was claimed for our provider with another key, only that key can deliver.
    key: Address,
    latest: Option<BlockRef>,
    heads: Option<Heads>,
    jobs: HashMap<JobId, JobView>,
    models: HashMap<ModelId, ModelView>,
    operator: Address,
    gateways: HashMap<Address, String>,
    /// What our provider lists.
    listings: HashMap<ModelId, Prices>,
    /// Jobs in the journal that are not done with: their final state is kept until they are.
    kept: HashSet<JobId>,
    undo: VecDeque<(u64, Undo)>,
}

/// The inverse of a change: what stood there before.
#[derive(Debug)]
enum Undo {
    Job(JobId, Option<Box<JobView>>),
    Model(ModelId, Option<ModelView>),
    Operator(Address),
    Gateway(Address, Option<String>),
    Listing(ModelId, Option<Prices>),
}

impl View {
    /// Before the first block. `kept`: jobs of the journal that are not done with.
    pub(crate) fn new(domain: Domain, provider: Address, key: Address, kept: HashSet<JobId>) -> Self {
        Self {
            domain,
            provider,
            key,
            latest: None,
            heads: None,
            jobs: HashMap::new(),
            models: HashMap::new(),
            operator: Address::ZERO,
            gateways: HashMap::new(),
            listings: HashMap::new(),
            kept,
            undo: VecDeque::new(),
        }
    }

    /// Takes blocks and their events, in order.
    pub(crate) fn extend(&mut self, blocks: &[BlockRef], events: &[Logged], heads: Heads) {
        for logged in events {
            self.apply(logged);
        }
        if let Some(last) = blocks.last() {
            self.latest = Some(*last);
        }
        self.settle(heads);
    }

    /// REORG: goes back to the state after block `to`.
    pub(crate) fn unwind(&mut self, to: BlockRef, heads: Heads) {
        while let Some((_, undo)) = self.undo.pop_back_if(|(number, _)| *number > to.number) {
            match undo {
                Undo::Job(id, Some(before)) => {
                    self.jobs.insert(id, *before);
                }
                Undo::Job(id, None) => {
                    self.jobs.remove(&id);
                }
                Undo::Model(id, Some(before)) => {
                    self.models.insert(id, before);
                }
                Undo::Model(id, None) => {
                    self.models.remove(&id);
                }
                Undo::Operator(before) => self.operator = before,
                Undo::Gateway(provider, Some(before)) => {
                    self.gateways.insert(provider, before);
                }
                Undo::Gateway(provider, None) => {
                    self.gateways.remove(&provider);
                }
                Undo::Listing(model, Some(before)) => {
                    self.listings.insert(model, before);
                }
                Undo::Listing(model, None) => {
                    self.listings.remove(&model);
                }
            }
        }
        self.latest = Some(to);
        self.heads = Some(heads);
    }

    /// What can never go back needs no inverse, and final jobs that are nobody's business here need no place.
    fn settle(&mut self, heads: Heads) {
        self.heads = Some(heads);
        while let Some((_, undo)) = self.undo.pop_front_if(|(number, _)| *number <= heads.finalized.number) {
            if let Undo::Job(id, _) = undo {
                self.drop_if_over(id);
            }
        }
    }

    fn drop_if_over(&mut self, id: JobId) {
        let over = self.jobs.get(&id).is_some_and(|job| job.state.is_terminal() && self.is_final(job.since));
        if over && !self.kept.contains(&id) {
            self.jobs.remove(&id);
        }
    }

    fn is_final(&self, block: BlockRef) -> bool {
        self.heads.is_some_and(|heads| block.number <= heads.finalized.number)
    }

    /// From now on the job's final state is kept until [`View::release`].
    pub(crate) fn keep(&mut self, id: JobId) {
        self.kept.insert(id);
    }

    /// The worker is done with the job.
    pub(crate) fn release(&mut self, id: JobId) {
        self.kept.remove(&id);
        self.drop_if_over(id);
    }

    fn apply(&mut self, logged: &Logged) {
        let number = logged.block.number;
        match &logged.event {
            // TRUST: a node that names another package for a model would have us attest wrong results.
            Event::ModelRegistered { model_id, package_root, publisher, family, registration, .. }
                if quern_commit::model::model_id(*package_root, *publisher, registration.royalty_bps) == *model_id =>
            {
                let model = ModelView { package: *package_root, family: *family, royalty_bps: registration.royalty_bps };
                let before = self.models.insert(*model_id, model);
                self.undo.push_back((number, Undo::Model(*model_id, before)));
            }
            Event::OperatorChanged { provider, operator } if *provider == self.provider => {
                let before = std::mem::replace(&mut self.operator, *operator);
                self.undo.push_back((number, Undo::Operator(before)));
            }
            Event::ProviderAnnounced { provider, gateway } => {
                let before = self.gateways.insert(*provider, gateway.clone());
                self.undo.push_back((number, Undo::Gateway(*provider, before)));
            }
            Event::PriceListed { provider, model_id, prices } if *provider == self.provider => {
                let before = self.listings.insert(*model_id, *prices);
                self.undo.push_back((number, Undo::Listing(*model_id, before)));
            }
            Event::PriceUnlisted { provider, model_id } if *provider == self.provider => {
                let before = self.listings.remove(model_id);
                self.undo.push_back((number, Undo::Listing(*model_id, before)));
            }
            event => {
                let Some(id) = event.job_id() else { return };
                let before = self.jobs.get(&id).cloned();
                let Some(after) = self.transition(id, before.as_ref(), logged) else { return };
                self.jobs.insert(id, after);
                self.undo.push_back((number, Undo::Job(id, before.map(Box::new))));
            }
        }
    }

    /// The job after an event; `None` where the event changes nothing that we look at.
    fn transition(&self, id: JobId, before: Option<&JobView>, logged: &Logged) -> Option<JobView> {
        if let Event::JobPosted { spec, posted_at, .. } = &logged.event {
            // TRUST: a job whose specification does not hash to its id is not served: later calls would name another job.
            return (spec.id(&self.domain) == id).then(|| JobView {
                spec: Arc::new((**spec).clone()),
                posted_at: *posted_at,
                state: JobState::Open,
                claimant: None,
                deadline: 0,
                window_end: 0,
                receipt: None,
                since: logged.block,
            });
        }
        let mut job = before?.clone();
        match &logged.event {
            Event::JobClaimed { provider, operator, deadline, .. } => {
                job.claimant = Some((*provider, *operator));
                job.deadline = *deadline;
                job.state = JobState::Claimed;
            }
            Event::ReceiptSubmitted { window_end, receipt, .. } => {
                job.window_end = *window_end;
                job.receipt = Some(Arc::new(**receipt));
                job.state = JobState::Submitted;
            }
            Event::WindowExtended { window_end, .. } => job.window_end = *window_end,
            Event::ChallengeOpened { .. } => job.state = JobState::Challenged,
            Event::ChallengeDismissed { challenges_open: 0, .. } => job.state = JobState::Submitted,
            Event::JobCompleted { .. } => job.state = JobState::Completed,
            Event::JobCancelled { .. } | Event::JobExpired { .. } | Event::JobUndelivered { .. } => job.state = JobState::Refunded,
            Event::JobSlashed { .. } => job.state = JobState::Slashed,
            _ => return None,
        }
        job.since = logged.block;
        Some(job)
    }

    /// The newest block taken.
    pub(crate) const fn latest(&self) -> Option<BlockRef> {
        self.latest
    }

    /// Whether the newest block of the node has been taken.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.latest.zip(self.heads).is_some_and(|(latest, heads)| latest.number >= heads.latest.number)
    }

    /// The heads that the node reported last.
    pub(crate) const fn heads(&self) -> Option<Heads> {
        self.heads
    }

    /// A job.
    pub(crate) fn job(&self, id: JobId) -> Option<&JobView> {
        self.jobs.get(&id)
    }

    /// All jobs that are remembered.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (JobId, &JobView)> {
        self.jobs.iter().map(|(id, job)| (*id, job))
    }

    /// A registered model.
    pub(crate) fn model(&self, id: ModelId) -> Option<ModelView> {
        self.models.get(&id).copied()
    }

    /// The operator key that our provider has named; zero: none.
    pub(crate) const fn operator(&self) -> Address {
        self.operator
    }

    /// Where a provider says that it serves content.
    pub(crate) fn gateway(&self, provider: Address) -> Option<&str> {
        self.gateways.get(&provider).map(String::as_str)
    }

    /// What our provider lists for a model.
    pub(crate) fn listing(&self, model: ModelId) -> Option<Prices> {
        self.listings.get(&model).copied()
    }

    /// What the chain says of a job, from our side, and whether that is finalized.
    pub(crate) fn seen(&self, id: JobId) -> (Seen, bool) {
        let Some(job) = self.jobs.get(&id) else { return (Seen::Absent, false) };
        let ours = job.claimant == Some((self.provider, self.key));
        let seen = match job.state {
            JobState::Open => Seen::Open,
            JobState::Claimed => Seen::Claimed { ours, deadline: job.deadline },
            JobState::Submitted => Seen::Submitted { ours, window_end: job.window_end },
            JobState::Challenged => Seen::Challenged { ours },
            JobState::Completed => Seen::Completed { ours },
            JobState::Refunded => Seen::Refunded { ours },
            JobState::Slashed => Seen::Slashed { ours },
        };
        (seen, self.is_final(job.since))
    }
}

#[cfg(test)]
mod tests {
    use quern_types::{Amount, B256};

    use super::*;
    use crate::fixture::{self, block, heads, spec};

    const US: Address = Address::repeat_byte(0x77);

    fn logged(number: u64, event: Event) -> Logged {
        Logged { block: block(number, 0), tx: B256::with_last_byte(1), log_index: 0, event }
    }

    fn claimed(id: JobId, provider: Address) -> Event {
        Event::JobClaimed { job_id: id, provider, operator: US, price_bps: 10_000, deadline: 50, lock: Amount::ZERO }
    }

    #[test]
    fn unwind_restores_the_state_before_each_event() {
        let domain = fixture::DOMAIN;
        let mut view = View::new(domain, US, US, HashSet::new());
        let (posted, id) = fixture::posted(&spec(1), 10);
        view.extend(&[block(10, 0)], &[logged(10, posted.clone())], heads(10, 0));
        view.extend(&[block(11, 0)], &[logged(11, claimed(id, US))], heads(11, 0));
        assert_eq!(view.seen(id), (Seen::Claimed { ours: true, deadline: 50 }, false));

        view.unwind(block(10, 0), heads(10, 0));
        assert_eq!(view.seen(id), (Seen::Open, false));
        view.extend(&[block(11, 1)], &[logged(11, claimed(id, Address::repeat_byte(2)))], heads(11, 0));
        assert_eq!(view.seen(id), (Seen::Claimed { ours: false, deadline: 50 }, false));

        view.unwind(block(9, 0), heads(9, 0));
        assert_eq!(view.seen(id), (Seen::Absent, false));
        assert!(view.undo.is_empty());
    }

    #[test]
    fn final_job_of_others_is_dropped_and_ours_is_kept_until_released() {
        let mut view = View::new(fixture::DOMAIN, US, US, HashSet::new());
        let (first, theirs) = fixture::posted(&spec(1), 10);
        let (second, ours) = fixture::posted(&spec(2), 10);
        view.keep(ours);
        let cancelled = |job_id| Event::JobCancelled { job_id, client: Address::ZERO, refund: Amount::ZERO };
        let events = [first, second, cancelled(theirs), cancelled(ours)].map(|event| logged(10, event));
        view.extend(&[block(10, 0)], &events, heads(10, 0));
        assert_eq!(view.jobs().count(), 2);
        view.extend(&[block(12, 0)], &[], heads(12, 10));
        assert_eq!(view.seen(theirs), (Seen::Absent, false));
        assert_eq!(view.seen(ours), (Seen::Refunded { ours: false }, true));
        view.release(ours);
        assert_eq!(view.jobs().count(), 0);
    }

    #[test]
    fn job_whose_specification_is_not_its_id_is_ignored() {
        let mut view = View::new(fixture::DOMAIN, US, US, HashSet::new());
        let (posted, _) = fixture::posted(&spec(1), 10);
        let Event::JobPosted { client, model_id, max_fee, posted_at, spec, .. } = posted else { panic!("posted") };
        let wrong = JobId(B256::repeat_byte(9));
        let event = Event::JobPosted { job_id: wrong, client, model_id, max_fee, posted_at, spec };
        view.extend(&[block(10, 0)], &[logged(10, event)], heads(10, 0));
        assert_eq!(view.seen(wrong), (Seen::Absent, false));
    }

    #[test]
    fn claim_with_another_key_of_our_provider_is_not_ours_to_deliver() {
        let mut view = View::new(fixture::DOMAIN, US, Address::repeat_byte(0x78), HashSet::new());
        let (posted, id) = fixture::posted(&spec(1), 10);
        view.extend(&[block(11, 0)], &[logged(10, posted), logged(11, claimed(id, US))], heads(11, 0));
        assert_eq!(view.seen(id), (Seen::Claimed { ours: false, deadline: 50 }, false));
    }
}
