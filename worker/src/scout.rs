//! Looks for work: takes decisions on open jobs, fetches their inputs, and starts a driver for each job taken.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quern_bindings::abi::Ledger;
use quern_chain::At;
use quern_db::journal::{JobEntry, Step};
use quern_model::available_memory;
use quern_store::StoreError;
use quern_types::{Amount, Bucket, JobId, JobSpec, JobState, U256};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    Error, Refusal, Result, Severity,
    clock::wall_secs,
    content::InputFault,
    decide::{Backlog, Decision, InputState, ModelState, Question, decide},
    desk::{Desk, Need, RELEASED},
    drive::drive,
    fault::{When, crash_at},
    life::Seen,
    load::{Load, least_load},
    models::Holding,
    status::{JobStatus, ModelStatus, REFRESH_SECS, RefusalStatus, Status},
};

/// Wait between two looks where the chain says nothing.
const TICK: Duration = Duration::from_secs(1);
/// Inputs that are fetched at once: each waits for a gateway most of the time.
const FETCHES: usize = 4;
/// First and longest wait after a failed fetch.
const FETCH_RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How often the operator's gas is looked at.
const GAS_EVERY: Duration = Duration::from_secs(15);
/// Refusals that are remembered for people; the oldest id goes first.
const MAX_REFUSALS: usize = 1_000;

/// Starts drivers, one per job, and knows which are at work.
#[derive(Debug, Clone)]
pub(crate) struct Drivers {
    tracker: TaskTracker,
    driven: Arc<Mutex<HashSet<JobId>>>,
    problems: Arc<Mutex<HashMap<JobId, String>>>,
    /// Gets what stops the whole worker.
    failures: mpsc::UnboundedSender<Error>,
}

impl Drivers {
    pub(crate) fn new(failures: mpsc::UnboundedSender<Error>) -> Self {
        Self { tracker: TaskTracker::new(), driven: Arc::default(), problems: Arc::default(), failures }
    }

    /// Drives a job, unless it is driven already.
    pub(crate) fn start(&self, desk: &Arc<Desk>, job: JobId) {
        if !self.driven.lock().unwrap_or_else(PoisonError::into_inner).insert(job) {
            return;
        }
        desk.watch.edit(|view| view.keep(job));
        let (this, desk) = (self.clone(), desk.clone());
        self.tracker.spawn(async move {
            let ended = drive(&*desk, job).await;
            this.driven.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
            match ended {
                Ok(()) | Err(Error::Stopping) => {}
                // The journal or the chain cannot be relied on: nothing may go on.
                Err(error @ (Error::Journal(_) | Error::Chain(_) | Error::ComputeGone)) => {
                    let _ = this.failures.send(error);
                }
                Err(error) => {
                    tracing::error!(%job, error = error.chain(), "job.stuck");
                    metrics::counter!("quern_worker_stuck_jobs_total").increment(1);
                    desk.set_need(job, None);
                    this.problems.lock().unwrap_or_else(PoisonError::into_inner).insert(job, error.chain());
                }
            }
        });
    }

    pub(crate) fn is_driven(&self, job: JobId) -> bool {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner).contains(&job)
    }

    fn problem(&self, job: JobId) -> Option<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned()
    }

    /// Waits until every driver has ended; they end when the worker's token is cancelled.
    pub(crate) async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// What is known of the input of an open job.
#[derive(Debug, Clone)]
enum Input {
    Fetching { tries: u32 },
    Checked { load: Load, kv_bytes: u64 },
    Failed { fault: String, tries: u32, again: Instant },
    Bad { fault: String },
}

/// An open job that stands under the configured head.
struct Open {
    job: JobId,
    spec: Arc<JobSpec>,
    posted_at: u64,
}

/// What there is for jobs to come.
struct Means {
    jobs_in_hand: usize,
    free_stake: Amount,
    has_gas: bool,
    free_bytes: u64,
}

/// Takes decisions, one after the other, so that no two of them spend the same stake.
#[derive(Debug)]
pub(crate) struct Scout {
    desk: Arc<Desk>,
    drivers: Drivers,
    inputs: HashMap<JobId, Input>,
    fetches: JoinSet<(JobId, Result<(Load, u64), InputFault>)>,
    refusals: BTreeMap<JobId, Refusal>,
    free_stake: Option<Amount>,
    gas: Option<(Instant, U256)>,
    written_secs: u64,
}

impl Scout {
    pub(crate) fn new(desk: Arc<Desk>, drivers: Drivers) -> Self {
        Self {
            desk,
            drivers,
            inputs: HashMap::new(),
            fetches: JoinSet::new(),
            refusals: BTreeMap::new(),
            free_stake: None,
            gas: None,
            written_secs: 0,
        }
    }

    /// Looks for work until it is told to stop.
    ///
    /// # Errors
    /// What is fatal; the rest is tried again at the next look.
    pub(crate) async fn run(mut self) -> Result<()> {
        let desk = self.desk.clone();
        loop {
            match self.look().await {
                Ok(()) => {}
                Err(error) if error.severity() == Severity::Retry => tracing::warn!(error = error.chain(), "scout.retry"),
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = desk.stop.cancelled() => {
                    self.fetches.shutdown().await;
                    return self.write_status(false).await;
                }
                () = desk.watch.change(TICK) => {}
                Some(done) = self.fetches.join_next() => {
                    if let Ok((job, fetched)) = done {
                        self.fetched(job, fetched);
                    }
                }
            }
        }
    }

    async fn look(&mut self) -> Result<()> {
        if self.desk.watch.view().is_caught_up() {
            self.adopt().await?;
            let pending = self.desk.journal.pending_jobs().await?;
            self.decide_all(&pending).await?;
        }
        if wall_secs() > self.written_secs {
            self.write_status(true).await?;
        }
        Ok(())
    }

    /// Jobs that the chain says are ours and the journal does not know: it was lost, or restored from an old copy.
    async fn adopt(&self) -> Result<()> {
        let ours: Vec<(JobId, Arc<JobSpec>)> = {
            let view = self.desk.watch.view();
            let live = |job: JobId| matches!(view.seen(job).0, Seen::Claimed { ours: true, .. } | Seen::Submitted { ours: true, .. });
            view.jobs().filter(|(job, _)| live(*job) && !self.drivers.is_driven(*job)).map(|(job, seen)| (job, seen.spec.clone())).collect()
        };
        for (job, spec) in ours {
            if self.drivers.problem(job).is_some() {
                continue;
            }
            let entry = self.desk.journal.upsert_job(job, &spec, Step::Claimed).await?;
            tracing::warn!(%job, state = entry.step.name(), "job.adopted");
            self.drivers.start(&self.desk, job);
        }
        Ok(())
    }

    async fn decide_all(&mut self, pending: &[JobEntry]) -> Result<()> {
        let known: HashSet<JobId> = pending.iter().map(|entry| entry.job).collect();
        let open = self.open_jobs(&known);
        let still: HashSet<JobId> = open.iter().map(|open| open.job).collect();
        self.inputs.retain(|job, _| still.contains(job));
        self.refusals.retain(|job, _| still.contains(job));
        if open.is_empty() {
            return Ok(());
        }
        let mut means = Means {
            jobs_in_hand: pending.iter().filter(|entry| entry.step < Step::Submitted).count(),
            free_stake: self.spendable(pending).await?,
            has_gas: self.has_gas().await?,
            free_bytes: available_memory(),
        };
        for Open { job, spec, posted_at } in open {
            let input = self.input_state(job, &spec);
            // A job that needs a person is not being computed.
            let computes = |entry: &&JobEntry| entry.step < Step::Computed && self.drivers.problem(entry.job).is_none();
            let backlog = self.desk.backlog(pending.iter().filter(computes).map(|entry| entry.job));
            match self.decide(&spec, posted_at, input, &means, backlog) {
                Decision::Refuse(refusal) | Decision::Hold(refusal) => self.refuse(job, refusal),
                Decision::WaitUntil(_) => {}
                Decision::FetchInput => self.fetch(job, &spec),
                Decision::Claim => {
                    match self.accept(job, &spec).await {
                        // Collected since it was fetched: fetched again at the next look. A job's own trouble keeps no other from being decided.
                        Err(Error::Store(StoreError::NotFound { .. } | StoreError::Corrupt { .. })) => {
                            self.inputs.remove(&job);
                            continue;
                        }
                        accepted => accepted?,
                    }
                    means.jobs_in_hand += 1;
                    means.free_stake = means.free_stake.saturating_sub(spec.lock(&self.desk.parameters).unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    /// What is known of a job's input, in the time that it takes at today's speed.
    fn input_state(&self, job: JobId, spec: &JobSpec) -> InputState {
        match (self.inputs.get(&job), self.desk.held(spec.model_id)) {
            (Some(Input::Checked { load, kv_bytes }), Some((_, held))) => {
                InputState::Checked { millis: held.speed.millis(load), kv_bytes: *kv_bytes }
            }
            (_, Some((_, held))) => InputState::Unknown { millis: held.speed.millis(&least_load(held.engine.header(), spec.input_len)) },
            (_, None) => InputState::Unknown { millis: 0 },
        }
    }

    fn open_jobs(&self, known: &HashSet<JobId>) -> Vec<Open> {
        let view = self.desk.watch.view();
        let Some(heads) = view.heads() else { return Vec::new() };
        let settled = heads.get(self.desk.config.begin_at).number;
        let mut open: Vec<Open> = view
            .jobs()
            .filter(|(job, seen)| seen.state == JobState::Open && seen.since.number <= settled && !known.contains(job))
            .map(|(job, seen)| Open { job, spec: seen.spec.clone(), posted_at: seen.posted_at })
            .collect();
        open.sort_by_key(|open| (open.posted_at, open.job));
        open
    }

    fn decide(&self, spec: &JobSpec, posted_at: u64, input: InputState, means: &Means, backlog: Option<Backlog>) -> Decision {
        let desk = &self.desk;
        let (model, royalty_bps, is_operator, listing) = {
            let view = desk.watch.view();
            let models = desk.models.lock().unwrap_or_else(PoisonError::into_inner);
            let registered = view.model(spec.model_id);
            let model = match registered {
                None => ModelState::Unregistered,
                Some(model) => match (models.get(model.package), quern_types::JobKind::try_from(model.family)) {
                    (Some(_), Ok(_)) if !models.are_verified() => ModelState::Unverified,
                    (Some(_), Ok(kind)) => ModelState::Ready { kind },
                    _ => ModelState::NotHeld,
                },
            };
            let royalty_bps = registered.map_or(0, |model| model.royalty_bps);
            (model, royalty_bps, view.operator() == desk.config.operator.address(), view.listing(spec.model_id))
        };
        decide(&Question {
            spec,
            posted_at,
            now: desk.watch.now(),
            provider: desk.config.provider,
            is_operator,
            model,
            royalty_bps,
            prices: desk.config.prices.get(&spec.model_id).copied().or(listing).or(desk.config.default_prices),
            parameters: &desk.parameters,
            free_stake: means.free_stake,
            has_gas: means.has_gas,
            jobs_in_hand: means.jobs_in_hand,
            max_jobs: desk.config.max_jobs,
            max_input_len: desk.config.max_input_len,
            input,
            max_output_len: desk.config.max_output_len,
            kv_limit: desk.kv_limit,
            free_bytes: means.free_bytes,
            backlog,
            margin_secs: desk.config.margin_secs,
        })
    }

    /// Stake that no claim has locked or is about to lock.
    async fn spendable(&mut self, pending: &[JobEntry]) -> Result<Amount> {
        let desk = &self.desk;
        let call = Ledger::balanceOfCall { account: desk.config.provider, bucket: Bucket::Stake.code() };
        let stake = desk.sender.client().call(desk.config.deployment.contracts.ledger.address, &call, At::Latest).await?;
        let promised: Amount = {
            let view = desk.watch.view();
            let unseen = pending
                .iter()
                .filter(|entry| matches!(entry.step, Step::Accepted | Step::Claiming) && view.seen(entry.job).0 == Seen::Open);
            unseen.filter_map(|entry| entry.spec.lock(&desk.parameters).ok()).sum()
        };
        let free = Amount::from_units(stake).saturating_sub(promised);
        self.free_stake = Some(free);
        Ok(free)
    }

    async fn has_gas(&mut self) -> Result<bool> {
        let reserve = U256::from(self.desk.config.gas_reserve_wei);
        let balance = match self.gas {
            Some((at, balance)) if at.elapsed() < GAS_EVERY => balance,
            _ => {
                let sender = &self.desk.sender;
                let balance = sender.client().gas_balance(sender.account(), At::Latest).await?;
                self.gas = Some((Instant::now(), balance));
                balance
            }
        };
        Ok(balance >= reserve)
    }

    /// Says why a job is not taken: once per reason.
    fn refuse(&mut self, job: JobId, refusal: Refusal) {
        // Beyond the bound nothing is said: whoever posts so many must not fill the log.
        if self.refusals.len() >= MAX_REFUSALS && !self.refusals.contains_key(&job) {
            return;
        }
        let same = self.refusals.get(&job).is_some_and(|before| std::mem::discriminant(before) == std::mem::discriminant(&refusal));
        if !same {
            tracing::info!(%job, reason = %refusal, "job.not_taken");
            metrics::counter!("quern_worker_refusals_total", "reason" => refusal.name()).increment(1);
        }
        self.refusals.insert(job, refusal);
    }

    fn fetch(&mut self, job: JobId, spec: &Arc<JobSpec>) {
        let fault = match self.inputs.get(&job) {
            Some(Input::Fetching { .. } | Input::Checked { .. }) => return,
            Some(Input::Bad { fault }) => Some(fault.clone()),
            Some(Input::Failed { fault, again, .. }) if *again > Instant::now() => Some(fault.clone()),
            Some(Input::Failed { .. }) | None => None,
        };
        if let Some(fault) = fault {
            return self.refuse(job, Refusal::InputUnavailable { fault });
        }
        if self.fetches.len() >= FETCHES {
            return;
        }
        let (desk, spec) = (self.desk.clone(), spec.clone());
        let tries = match self.inputs.get(&job) {
            Some(Input::Failed { tries, .. }) => *tries,
            _ => 0,
        };
        self.inputs.insert(job, Input::Fetching { tries });
        self.fetches.spawn(async move {
            let fetched = desk.content.input(&spec).await;
            let held = desk.held(spec.model_id);
            (job, fetched.map(|items| held.map_or((Load::default(), 0), |(_, held)| desk.demand(&held, &spec, &items))))
        });
    }

    fn fetched(&mut self, job: JobId, fetched: Result<(Load, u64), InputFault>) {
        let input = match fetched {
            Ok((load, kv_bytes)) => Input::Checked { load, kv_bytes },
            Err(fault) if fault.is_final() => Input::Bad { fault: fault.to_string() },
            Err(fault) => {
                let tries = match self.inputs.get(&job) {
                    Some(Input::Fetching { tries }) => tries + 1,
                    _ => 1,
                };
                let (first, longest) = FETCH_RETRY;
                let wait = first.saturating_mul(1 << tries.min(6)).min(longest);
                Input::Failed { fault: fault.to_string(), tries, again: Instant::now() + wait }
            }
        };
        if let Input::Failed { fault, .. } | Input::Bad { fault } = &input {
            self.refuse(job, Refusal::InputUnavailable { fault: fault.clone() });
        }
        self.inputs.insert(job, input);
    }

    /// Writes the job down and drives it. From here on the journal knows it.
    async fn accept(&mut self, job: JobId, spec: &JobSpec) -> Result<()> {
        let desk = &self.desk;
        if let Some(before) = desk.journal.job(job).await? {
            if before.step == Step::Refused {
                // The contract has refused it; nothing has changed that we could see.
                self.refuse(job, Refusal::ClaimReverted { fault: before.note });
                return Ok(());
            }
            desk.content.pin(spec.input).await?;
            if before.step.is_closed() {
                desk.journal.advance(job, before.step, Step::Accepted, "", &[]).await?;
            }
        } else {
            desk.content.pin(spec.input).await?;
            crash_at(desk.config.crash, When::Before, Step::Accepted);
            desk.journal.upsert_job(job, spec, Step::Accepted).await?;
            crash_at(desk.config.crash, When::After, Step::Accepted);
        }
        if let InputState::Checked { millis, .. } = self.input_state(job, spec) {
            desk.set_need(job, Some(Need::new(millis, spec)));
        }
        tracing::info!(%job, state = Step::Accepted.name(), items = spec.item_count, "job.step");
        self.refusals.remove(&job);
        self.drivers.start(desk, job);
        Ok(())
    }

    async fn write_status(&mut self, ready: bool) -> Result<()> {
        let desk = &self.desk;
        let jobs = desk.journal.pending_jobs().await?;
        let status = {
            let view = desk.watch.view();
            let models = desk.models.lock().unwrap_or_else(PoisonError::into_inner);
            Status {
                pid: std::process::id(),
                written_at: wall_secs(),
                ready: ready && view.is_caught_up() && models.are_verified(),
                provider: desk.config.provider,
                operator: desk.config.operator.address(),
                is_operator: view.operator() == desk.config.operator.address(),
                chain_id: desk.domain.chain_id,
                block: view.latest(),
                free_stake: self.free_stake,
                gas_balance_wei: self.gas.map(|(_, balance)| balance.to_string()),
                models: models
                    .iter()
                    .map(|(package, holding)| match holding {
                        Holding::Unverified => ModelStatus { package, verified: false, macs_per_sec: 0 },
                        Holding::Verified(held) => ModelStatus { package, verified: true, macs_per_sec: held.speed.macs_per_sec() },
                    })
                    .collect(),
                energy_method: desk.energy_method,
                jobs: jobs
                    .into_iter()
                    .map(|entry| JobStatus {
                        job: entry.job,
                        step: entry.step.name().to_owned(),
                        note: entry.note,
                        problem: self.drivers.problem(entry.job),
                    })
                    .collect(),
                refusals: self.refusals.iter().map(|(job, refusal)| RefusalStatus { job: *job, reason: refusal.to_string() }).collect(),
            }
        };
        metrics::gauge!("quern_worker_jobs_in_hand").set(status.jobs.len() as f64);
        metrics::gauge!("quern_worker_ready").set(f64::from(u8::from(status.ready)));
        self.written_secs = status.written_at + if status.jobs.is_empty() && status.refusals.is_empty() { REFRESH_SECS / 4 } else { 0 };
        // For people only: a full disk must not stop jobs that are under way.
        if let Err(error) = status.write(&desk.config.data_dir) {
            tracing::warn!(error = error.chain(), "status.not_written");
        }
        Ok(())
    }
}

/// Jobs of the journal whose content is not given up yet: each needs a driver after a restart.
pub(crate) async fn unreleased(journal: &quern_db::Journal) -> Result<HashSet<JobId>> {
    Ok(journal.jobs_without_note(RELEASED).await?.into_iter().map(|entry| entry.job).collect())
}
