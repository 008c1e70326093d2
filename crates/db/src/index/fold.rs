//! What each event does to the projections. Pure: rows in memory, no SQL, no clock.
//!
//! ```text
//! JobPosted          (none)                 -> Open
//! JobClaimed         Open                   -> Claimed
//! ReceiptSubmitted   Claimed                -> Submitted
//! ChallengeOpened    Submitted, Challenged  -> Challenged
//! ChallengeDismissed Challenged             -> Challenged while one is open, else Submitted
//! WindowExtended     Submitted, Challenged  -> the same
//! JobCompleted       Submitted              -> Completed
//! JobCancelled, JobExpired      Open        -> Refunded
//! JobUndelivered     Claimed                -> Refunded
//! JobSlashed         Challenged             -> Slashed
//! ```
//! An event that does not fit, money that would become negative, an entry that does not follow from the head before it: each is an [`Alarm`], and the event is
//! applied as well as it can be. TRUST: the contracts cannot do any of these, so an alarm means a lying node, another version of the contracts or a defect here.

use std::collections::HashMap;

use quern_types::{Address, Amount, B256, Bucket, JobState, LedgerHead, Move};
use serde::Serialize;

use super::{
    change::{Change, Event},
    entity::{At, Entity},
    rows::{Balance, Claim, Ending, Job, Ledger, Model, Price, Provider, Settlement, Submission},
};

/// A rule that must hold and does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Where.
    pub at: At,
    /// The rule: `ledger_seq`, `ledger_head`, `negative_balance`, `overflow`, `job_state`, `unknown_job`.
    pub kind: &'static str,
    /// Expected and found.
    pub detail: String,
}

/// The rows of one table that a batch touches.
#[derive(Debug)]
pub(crate) struct Rows<E: Entity> {
    now: HashMap<E::Key, Option<E>>,
    touched: Vec<E::Key>,
    /// The block in which a row was touched last, and what it was before that block.
    images: Vec<(u64, E::Key, Option<E>)>,
    last_touched: HashMap<E::Key, u64>,
}

impl<E: Entity> Default for Rows<E> {
    fn default() -> Self {
        Self { now: HashMap::new(), touched: Vec::new(), images: Vec::new(), last_touched: HashMap::new() }
    }
}

impl<E: Entity> Rows<E> {
    /// Rows as they are in the database; keys that are not there are absent.
    pub(crate) fn fill(&mut self, rows: Vec<E>) {
        self.now.extend(rows.into_iter().map(|row| (row.key(), Some(row))));
    }

    fn get(&self, key: E::Key) -> Option<&E> {
        self.now.get(&key)?.as_ref()
    }

    fn put(&mut self, block: u64, undoable: bool, key: E::Key, row: Option<E>) -> bool {
        let before = self.now.insert(key, row).flatten();
        let first_in_block = self.last_touched.insert(key, block) != Some(block);
        if first_in_block {
            self.touched.push(key);
            if undoable {
                self.images.push((block, key, before));
            }
        }
        first_in_block && undoable
    }

    /// Rows to write and keys to delete.
    pub(crate) fn result(&self) -> (Vec<&E>, Vec<E::Key>) {
        let mut keys = self.touched.clone();
        keys.sort_unstable();
        keys.dedup();
        let mut rows = Vec::with_capacity(keys.len());
        let mut gone = Vec::new();
        for key in keys {
            match self.get(key) {
                Some(row) => rows.push(row),
                None => gone.push(key),
            }
        }
        (rows, gone)
    }
}

/// Which table an undo image belongs to, in the order in which a block touched rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Job,
    Provider,
    Price,
    Model,
    Balance,
    Ledger,
}

/// The rows that a batch touches, and what it adds.
#[derive(Debug)]
pub(crate) struct Working {
    pub(crate) jobs: Rows<Job>,
    pub(crate) providers: Rows<Provider>,
    pub(crate) prices: Rows<Price>,
    pub(crate) models: Rows<Model>,
    pub(crate) balances: Rows<Balance>,
    pub(crate) ledger: Rows<Ledger>,
    pub(crate) alarms: Vec<Alarm>,
    /// The order in which undo images were taken, over all tables.
    pub(crate) order: Vec<Table>,
    genesis: LedgerHead,
    /// Blocks at or below this one are never taken back.
    undo_floor: u64,
}

/// Which rows an event touches, apart from the ledger's one.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) jobs: Vec<<Job as Entity>::Key>,
    pub(crate) providers: Vec<<Provider as Entity>::Key>,
    pub(crate) prices: Vec<<Price as Entity>::Key>,
    pub(crate) models: Vec<<Model as Entity>::Key>,
    pub(crate) balances: Vec<<Balance as Entity>::Key>,
}

impl Keys {
    /// Of all these events, each key once.
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut keys = Self::default();
        for event in events {
            keys.add(&event.change);
        }
        fn once<K: Ord>(keys: &mut Vec<K>) {
            keys.sort_unstable();
            keys.dedup();
        }
        once(&mut keys.jobs);
        once(&mut keys.providers);
        once(&mut keys.prices);
        once(&mut keys.models);
        once(&mut keys.balances);
        keys
    }

    fn add(&mut self, change: &Change) {
        self.jobs.extend(change.job());
        match change {
            Change::Moved { entry, .. } => self.balances.extend([(entry.from, entry.from_bucket), (entry.to, entry.to_bucket)]),
            Change::JobPosted { model, .. } | Change::PackageAnnounced { model, .. } | Change::ModelRegistered { model, .. } => {
                self.models.push(*model);
            }
            Change::PriceListed { provider, model, .. } | Change::PriceUnlisted { provider, model } => {
                self.prices.push((*provider, *model));
                self.providers.push(*provider);
            }
            Change::JobClaimed { provider, .. }
            | Change::ReceiptSubmitted { provider, .. }
            | Change::JobCompleted { provider, .. }
            | Change::JobUndelivered { provider, .. }
            | Change::JobSlashed { provider, .. }
            | Change::OperatorChanged { provider, .. }
            | Change::ProviderAnnounced { provider, .. }
            | Change::StakeAdded { provider, .. }
            | Change::UnbondingStarted { provider, .. }
            | Change::UnbondingCancelled { provider, .. }
            | Change::StakeWithdrawn { provider, .. } => self.providers.push(*provider),
            _ => {}
        }
    }

    /// The models that the jobs among these events belong to are known only once the jobs are loaded.
    pub(crate) fn add_models_of(&mut self, jobs: &[Job]) {
        self.models.extend(jobs.iter().map(|job| job.spec.model_id));
        self.models.sort_unstable();
        self.models.dedup();
    }
}

macro_rules! put {
    ($self:ident, $rows:ident, $table:ident, $place:expr, $key:expr, $row:expr) => {{
        let block = $place.number;
        if $self.$rows.put(block, block > $self.undo_floor, $key, $row) {
            $self.order.push(Table::$table);
        }
    }};
}

impl Working {
    pub(crate) fn new(genesis: LedgerHead, undo_floor: u64) -> Self {
        Self {
            jobs: Rows::default(),
            providers: Rows::default(),
            prices: Rows::default(),
            models: Rows::default(),
            balances: Rows::default(),
            ledger: Rows::default(),
            alarms: Vec::new(),
            order: Vec::new(),
            genesis,
            undo_floor,
        }
    }

    /// Applies one event. Returns the state of its job from now on, where it changes one.
    pub(crate) fn apply(&mut self, event: &Event) -> Option<JobState> {
        let at = At::from(event.place);
        match &event.change {
            Change::Moved { entry, head } => {
                self.entry(at, entry, *head);
                None
            }
            Change::JobPosted { job, model, max_fee, posted_at, spec, .. } => {
                if let Some(known) = self.jobs.get(*job) {
                    let detail = format!("{job} is posted again, it is {}", known.state.name());
                    self.alarm(at, "job_state", detail);
                }
                let row = Job {
                    job: *job,
                    spec: (**spec).clone(),
                    state: JobState::Open,
                    max_fee: *max_fee,
                    posted_at: *posted_at,
                    posted: event.place,
                    claim: None,
                    submission: None,
                    challenges_open: 0,
                    settlement: None,
                    changed: event.place,
                };
                put!(self, jobs, Job, at, *job, Some(row));
                if let Some(mut model) = self.models.get(*model).cloned() {
                    model.jobs_posted += 1;
                    model.changed = at;
                    put!(self, models, Model, at, model.model, Some(model));
                }
                Some(JobState::Open)
            }
            Change::ModelRegistered { model, publisher, package_root, family, macs_per_token, registration } => {
                let row = Model {
                    model: *model,
                    publisher: *publisher,
                    package_root: *package_root,
                    family: *family,
                    macs_per_token: *macs_per_token,
                    registration: (**registration).clone(),
                    package: (registration.package_codec, registration.package_digest),
                    jobs_posted: 0,
                    jobs_completed: 0,
                    registered: event.place,
                    changed: at,
                };
                put!(self, models, Model, at, *model, Some(row));
                None
            }
            Change::PackageAnnounced { model, package_codec, package_digest } => {
                if let Some(mut model) = self.models.get(*model).cloned() {
                    model.package = (*package_codec, *package_digest);
                    model.changed = at;
                    put!(self, models, Model, at, model.model, Some(model));
                }
                None
            }
            Change::PriceListed { provider, model, prices } => {
                let row = Price { provider: *provider, model: *model, prices: *prices, changed: at };
                put!(self, prices, Price, at, (*provider, *model), Some(row));
                self.provider(at, *provider, |_| {});
                None
            }
            Change::PriceUnlisted { provider, model } => {
                put!(self, prices, Price, at, (*provider, *model), None);
                self.provider(at, *provider, |_| {});
                None
            }
            Change::OperatorChanged { provider, operator } => {
                self.provider(at, *provider, |row| row.operator = *operator);
                None
            }
            Change::ProviderAnnounced { provider, gateway } => {
                self.provider(at, *provider, |row| row.gateway.clone_from(gateway));
                None
            }
            Change::UnbondingStarted { provider, unbonded_at, .. } => {
                self.provider(at, *provider, |row| row.unbonded_at = *unbonded_at);
                None
            }
            Change::StakeAdded { provider, .. } | Change::UnbondingCancelled { provider, .. } | Change::StakeWithdrawn { provider, .. } => {
                self.provider(at, *provider, |_| {});
                None
            }
            Change::CompletionSkipped { .. } | Change::EntriesStopped { .. } | Change::EntriesResumed { .. } | Change::Other { .. } => None,
            change => self.transition(event, change, at),
        }
    }

    /// Every event that moves a job that is there.
    fn transition(&mut self, event: &Event, change: &Change, at: At) -> Option<JobState> {
        let id = change.job()?;
        let Some(mut job) = self.jobs.get(id).cloned() else {
            self.alarm(at, "unknown_job", format!("{} of {id}, which was never posted", change.name()));
            return None;
        };
        let before = job.state;
        let fits = |states: &[JobState]| states.contains(&before);
        let end = |ending, fee, royalty, refund, penalty| Some(Settlement { ending, fee, royalty, refund, penalty, place: event.place });
        let zero = Amount::ZERO;
        let (allowed, after) = match change {
            Change::JobClaimed { provider, operator, price_bps, deadline, lock, .. } => {
                let (provider, operator) = (*provider, *operator);
                job.claim = Some(Claim { provider, operator, price_bps: *price_bps, deadline: *deadline, lock: *lock, place: event.place });
                self.provider(at, provider, |row| row.claimed += 1);
                (fits(&[JobState::Open]), JobState::Claimed)
            }
            Change::ReceiptSubmitted { provider, receipt_digest, window_end, receipt, .. } => {
                let energy = u128::from(receipt.energy_millijoules);
                job.submission =
                    Some(Submission { receipt: **receipt, digest: *receipt_digest, window_end: *window_end, place: event.place });
                self.provider(at, *provider, |row| {
                    row.submitted += 1;
                    // 2^64 receipts of 2^64 millijoules fit.
                    row.energy_millijoules = row.energy_millijoules.saturating_add(energy);
                });
                (fits(&[JobState::Claimed]), JobState::Submitted)
            }
            Change::ChallengeOpened { challenges_open, .. } => {
                job.challenges_open = *challenges_open;
                (fits(&[JobState::Submitted, JobState::Challenged]), JobState::Challenged)
            }
            Change::ChallengeDismissed { challenges_open, .. } => {
                job.challenges_open = *challenges_open;
                let after = if *challenges_open == 0 { JobState::Submitted } else { JobState::Challenged };
                (fits(&[JobState::Challenged]), after)
            }
            Change::WindowExtended { window_end, .. } => {
                if let Some(submission) = &mut job.submission {
                    submission.window_end = *window_end;
                }
                (fits(&[JobState::Submitted, JobState::Challenged]), before)
            }
            Change::JobCompleted { provider, fee, royalty, change, .. } => {
                job.settlement = end(Ending::Completed, *fee, *royalty, *change, zero);
                self.completed(at, &job, *provider, *fee, *royalty);
                (fits(&[JobState::Submitted]), JobState::Completed)
            }
            Change::JobCancelled { refund, .. } => {
                job.settlement = end(Ending::Cancelled, zero, zero, *refund, zero);
                (fits(&[JobState::Open]), JobState::Refunded)
            }
            Change::JobExpired { refund, .. } => {
                job.settlement = end(Ending::Expired, zero, zero, *refund, zero);
                (fits(&[JobState::Open]), JobState::Refunded)
            }
            Change::JobUndelivered { provider, refund, penalty, .. } => {
                job.settlement = end(Ending::Undelivered, zero, zero, *refund, *penalty);
                self.provider(at, *provider, |row| row.undelivered += 1);
                (fits(&[JobState::Claimed]), JobState::Refunded)
            }
            Change::JobSlashed { provider, to_client, refund, .. } => {
                job.challenges_open = 0;
                job.settlement = end(Ending::Slashed, zero, zero, *refund, *to_client);
                self.provider(at, *provider, |row| row.slashed += 1);
                (fits(&[JobState::Challenged]), JobState::Slashed)
            }
            _ => return None,
        };
        if !allowed {
            self.alarm(at, "job_state", format!("{} of {id}, which is {}", change.name(), before.name()));
        }
        job.state = after;
        job.changed = event.place;
        put!(self, jobs, Job, at, id, Some(job));
        (after != before).then_some(after)
    }

    fn completed(&mut self, at: At, job: &Job, provider: Address, fee: Amount, royalty: Amount) {
        // A royalty is a part of the fee; sums of 96-bit fees fit 128 bits for 2^32 jobs.
        let earned = fee.saturating_sub(royalty).units();
        self.provider(at, provider, |row| {
            row.completed += 1;
            row.earned = Amount::from_units(row.earned.units().saturating_add(earned));
        });
        if let Some(mut model) = self.models.get(job.spec.model_id).cloned() {
            model.jobs_completed += 1;
            model.changed = at;
            put!(self, models, Model, at, model.model, Some(model));
        }
    }

    fn provider(&mut self, at: At, provider: Address, edit: impl FnOnce(&mut Provider)) {
        let mut row = self.providers.get(provider).cloned().unwrap_or_else(|| Provider::new(provider, at));
        edit(&mut row);
        row.changed = at;
        put!(self, providers, Provider, at, provider, Some(row));
    }

    /// INVARIANT: the sum of all balances is `Ledger::total`; the head follows from the entries alone.
    fn entry(&mut self, at: At, entry: &Move, head: B256) {
        let before = self.ledger.get(1).cloned();
        let (seq, hash, total) = before.map_or((0, self.genesis.hash, Amount::ZERO), |ledger| (ledger.seq, ledger.head, ledger.total));
        if seq.checked_add(1) != Some(entry.seq) {
            self.alarm(at, "ledger_seq", format!("entry {} follows entry {seq}", entry.seq));
        }
        let expected = LedgerHead { seq, hash, ..self.genesis }.after(entry).hash;
        if expected != head {
            self.alarm(at, "ledger_head", format!("after entry {} the head should be {expected}, the event says {head}", entry.seq));
        }
        self.debit(at, entry);
        self.credit(at, entry);
        let total = match (entry.from_bucket, entry.to_bucket) {
            (Bucket::Outside, Bucket::Outside) => Some(total),
            (Bucket::Outside, _) => total.checked_add(entry.amount),
            (_, Bucket::Outside) => total.checked_sub(entry.amount),
            _ => Some(total),
        };
        let total = total.unwrap_or_else(|| {
            self.alarm(at, "overflow", format!("entry {}: the ledger's total leaves the range of 128 bits", entry.seq));
            Amount::ZERO
        });
        put!(self, ledger, Ledger, at, 1, Some(Ledger { seq: entry.seq, head, total, changed: at }));
    }

    fn debit(&mut self, at: At, entry: &Move) {
        let (account, bucket) = (entry.from, entry.from_bucket);
        if bucket == Bucket::Outside {
            return;
        }
        let held = self.balances.get((account, bucket)).map_or(Amount::ZERO, |balance| balance.amount);
        let amount = held.checked_sub(entry.amount).unwrap_or_else(|| {
            let detail = format!("entry {} takes {} from {} of {account}, which holds {held}", entry.seq, entry.amount, bucket.name());
            self.alarm(at, "negative_balance", detail);
            Amount::ZERO
        });
        put!(self, balances, Balance, at, (account, bucket), Some(Balance { account, bucket, amount, changed: at }));
    }

    fn credit(&mut self, at: At, entry: &Move) {
        let (account, bucket) = (entry.to, entry.to_bucket);
        if bucket == Bucket::Outside {
            return;
        }
        let held = self.balances.get((account, bucket)).map_or(Amount::ZERO, |balance| balance.amount);
        let amount = held.checked_add(entry.amount).unwrap_or_else(|| {
            self.alarm(at, "overflow", format!("entry {}: {} of {account} exceeds 128 bits", entry.seq, bucket.name()));
            held
        });
        put!(self, balances, Balance, at, (account, bucket), Some(Balance { account, bucket, amount, changed: at }));
    }

    fn alarm(&mut self, at: At, kind: &'static str, detail: String) {
        self.alarms.push(Alarm { at, kind, detail });
    }

    /// Undo images in the order in which the rows were touched, as (block, table, key and image in JSON).
    pub(crate) fn undo(&self) -> Result<Vec<Undo>, serde_json::Error> {
        fn next<'r, E: Entity + 'r>(
            images: &mut impl Iterator<Item = &'r (u64, E::Key, Option<E>)>,
        ) -> Result<Option<Undo>, serde_json::Error> {
            let Some((block, key, image)) = images.next() else { return Ok(None) };
            let image = image.as_ref().map(serde_json::to_string).transpose()?;
            Ok(Some(Undo { block: *block, table: E::TABLE, key: serde_json::to_string(key)?, image }))
        }
        let mut jobs = self.jobs.images.iter();
        let mut providers = self.providers.images.iter();
        let mut prices = self.prices.images.iter();
        let mut models = self.models.images.iter();
        let mut balances = self.balances.images.iter();
        let mut ledger = self.ledger.images.iter();
        let mut undo = Vec::with_capacity(self.order.len());
        for table in &self.order {
            undo.extend(match table {
                Table::Job => next::<Job>(&mut jobs)?,
                Table::Provider => next::<Provider>(&mut providers)?,
                Table::Price => next::<Price>(&mut prices)?,
                Table::Model => next::<Model>(&mut models)?,
                Table::Balance => next::<Balance>(&mut balances)?,
                Table::Ledger => next::<Ledger>(&mut ledger)?,
            });
        }
        Ok(undo)
    }
}

/// What a row was before a block touched it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Undo {
    pub(crate) block: u64,
    pub(crate) table: &'static str,
    pub(crate) key: String,
    /// `None` if there was no row.
    pub(crate) image: Option<String>,
}
