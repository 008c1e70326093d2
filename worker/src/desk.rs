//! The hands of a real worker: journal, chain, stores, computing thread.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use quern_bindings::abi::JobMarket;
use quern_chain::sender::{Call, Outcome, TxSender};
use quern_commit::work::work_digest;
use quern_db::{
    Journal,
    journal::{JobEntry, Step},
};
use quern_store::dag;
use quern_types::{Address, Domain, EnergyMethod, Head, JobId, JobParameters, JobSpec, ModelId, PackageRoot, Receipt, SignedReceipt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Error, Result,
    complete::CompletionRequest,
    compute::{Computer, Progress, Task},
    content::{Content, InputFault},
    decide::Backlog,
    drive::{Entry, FACT_RECEIPT, FACT_WORK, Hands, Intention, Output, Sent, Work},
    fault::{When, crash_at},
    life::Seen,
    load::{Load, embed_load, longest},
    models::{Engine, Held, Holding, Models},
    watch::Watch,
};

/// Note of a job in the journal whose content was given up.
pub(crate) const RELEASED: &str = "released";
/// Longest wait for news that a look at the clock may need.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait for news where only the chain has any.
const LONG_TICK: Duration = Duration::from_secs(5);
/// Looks for a block before it is given up: then the chain has gone another way.
const REACH_TICKS: u32 = 60;

/// Everything that the tasks of a worker share.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) config: Config,
    pub(crate) domain: Domain,
    pub(crate) parameters: JobParameters,
    pub(crate) watch: Watch,
    pub(crate) journal: Arc<Journal>,
    pub(crate) sender: Arc<TxSender>,
    pub(crate) content: Content,
    pub(crate) computer: Computer,
    pub(crate) models: Mutex<Models>,
    pub(crate) completions: mpsc::Sender<CompletionRequest>,
    pub(crate) stop: CancellationToken,
    /// What the figures for energy are.
    pub(crate) energy_method: EnergyMethod,
    /// Bytes that the keys and values of all generate jobs in hand may take together.
    pub(crate) kv_limit: u64,
    /// What the jobs in hand need, until they are computed.
    pub(crate) needs: Mutex<HashMap<JobId, Need>>,
}

/// What a job in hand needs.
#[derive(Debug)]
pub(crate) struct Need {
    /// Milliseconds that it takes at most.
    millis: u64,
    /// Seconds that it gives from its claim on.
    deliver_within: u64,
    /// How far it is, once it is being computed.
    progress: Arc<Progress>,
}

impl Need {
    pub(crate) fn new(millis: u64, spec: &JobSpec) -> Self {
        Self { millis, deliver_within: spec.deliver_within.into(), progress: Arc::default() }
    }
}

impl Desk {
    pub(crate) fn market(&self) -> Address {
        self.domain.market
    }

    /// What we hold of a package.
    pub(crate) fn holding(&self, package: PackageRoot) -> Option<Holding> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).get(package).cloned()
    }

    /// The model of a job and its package, where we hold it, verified.
    pub(crate) fn held(&self, model: ModelId) -> Option<(PackageRoot, Held)> {
        let package = self.watch.view().model(model)?.package;
        match self.holding(package)? {
            Holding::Verified(held) => Some((package, held)),
            Holding::Unverified => None,
        }
    }

    /// As [`Desk::held`], once the package is verified.
    async fn verified(&self, job: JobId, model: ModelId) -> Result<(PackageRoot, Held)> {
        loop {
            if let Some(held) = self.held(model) {
                return Ok(held);
            }
            let package = self.watch.view().model(model).map(|model| model.package);
            if package.and_then(|package| self.holding(package)).is_none() {
                let fault = "its package is not held any more: name it with --package again".into();
                return Err(Error::Content { job, what: "the model", fault });
            }
            self.until_stopped(self.watch.change(TICK)).await?;
        }
    }

    /// What the jobs in hand still need, computed side by side; `None`: that of one of them, of those in `waiting`, is not known.
    pub(crate) fn backlog(&self, mut waiting: impl Iterator<Item = JobId>) -> Option<Backlog> {
        let (now, view) = (self.now(), self.watch.view());
        let needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.all(|job| needs.contains_key(&job)) {
            return None;
        }
        let left_secs = |(job, need): (&JobId, &Need)| match view.seen(*job).0 {
            Seen::Claimed { ours: true, deadline } => Some(deadline.saturating_sub(now)),
            // Computed once more, with its receipt on the chain.
            Seen::Submitted { .. } | Seen::Challenged { .. } => None,
            _ => Some(need.deliver_within),
        };
        Some(Backlog {
            millis: needs.values().fold(0, |sum, need| sum.saturating_add(need.progress.left(need.millis))),
            first_secs: needs.iter().filter_map(left_secs).min(),
        })
    }

    pub(crate) fn set_need(&self, job: JobId, need: Option<Need>) {
        let mut needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        match need {
            Some(need) => needs.insert(job, need),
            None => needs.remove(&job),
        };
    }

    /// What a job's items lead to at most: what there is to compute, and the bytes of its longest sequence's keys and values.
    pub(crate) fn demand(&self, held: &Held, spec: &JobSpec, items: &[Vec<u32>]) -> (Load, u64) {
        let header = held.engine.header();
        match held.engine {
            Engine::Encoder(_) => (embed_load(header, items), 0),
            Engine::Decoder(_) => {
                let longest = longest(header, items, spec.samples_per_item, spec.max_output, self.kv_limit);
                (longest.load, longest.kv_bytes)
            }
        }
    }

    /// Does the work, unless the worker is told to stop before it is done.
    pub(crate) async fn until_stopped<T>(&self, work: impl Future<Output = T> + Send) -> Result<T> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Error::Stopping),
            done = work => Ok(done),
        }
    }

    fn call(&self, job: JobId, spec: &JobSpec, intention: &Intention) -> Result<Call> {
        let convert =
            |error: quern_bindings::ConvertError| Error::Rejected { job, intention: intention.name().into(), revert: error.to_string() };
        let spec = JobMarket::JobSpec::try_from(spec).map_err(convert)?;
        Ok(match intention {
            Intention::Claim => Call::new(self.market(), &JobMarket::claimCall { spec, provider: self.config.provider }),
            Intention::Submit(signed) => {
                let receipt = JobMarket::Receipt::from(&signed.receipt);
                Call::new(self.market(), &JobMarket::submitCall { spec, receipt, signature: signed.signature.clone().into() })
            }
        })
    }

    /// Whether work on a job still makes sense.
    fn is_wanted(&self, job: JobId) -> bool {
        let seen = self.watch.view().seen(job).0;
        match seen {
            Seen::Claimed { ours, deadline } => ours && self.watch.now() <= deadline,
            // Computed once more, because the store lost what the receipt promises.
            Seen::Submitted { ours, .. } | Seen::Challenged { ours } => ours,
            _ => false,
        }
    }
}

/// Reads a fact of the journal that was written as JSON.
pub(crate) async fn read_fact<T: serde::de::DeserializeOwned>(journal: &Journal, job: JobId, fact: &'static str) -> Result<Option<T>> {
    match journal.fact(job, fact).await? {
        None => Ok(None),
        Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Fact { job, fact, fault: error.to_string() }),
    }
}

#[async_trait]
impl Hands for Desk {
    async fn entry(&self, job: JobId) -> Result<Entry> {
        let JobEntry { step, spec, .. } = self.journal.job(job).await?.ok_or(quern_db::Error::UnknownJob { job })?;
        let work = read_fact(&self.journal, job, FACT_WORK).await?;
        let receipt = read_fact(&self.journal, job, FACT_RECEIPT).await?;
        Ok(Entry { step, spec, work, receipt })
    }

    async fn advance(&self, job: JobId, from: Step, to: Step, note: &str, fact: Option<(&'static str, Vec<u8>)>) -> Result<()> {
        crash_at(self.config.crash, When::Before, to);
        let facts: Vec<(&str, &[u8])> = fact.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        self.journal.advance(job, from, to, note, &facts).await?;
        crash_at(self.config.crash, When::After, to);
        tracing::info!(%job, state = to.name(), was = from.name(), note, "job.step");
        if to >= Step::Computed {
            self.set_need(job, None);
        }
        if to.is_closed() {
            metrics::counter!("quern_worker_jobs_total", "outcome" => to.name()).increment(1);
        }
        Ok(())
    }

    fn look(&self, job: JobId, spec: &JobSpec) -> (Seen, bool) {
        let view = self.watch.view();
        match view.seen(job) {
            (Seen::Absent, _) => (Seen::Absent, view.heads().is_some_and(|heads| heads.finalized.timestamp > spec.claim_by)),
            seen => seen,
        }
    }

    fn receipt(&self, job: JobId) -> Option<Receipt> {
        self.watch.view().job(job).and_then(|job| job.receipt.as_deref().copied())
    }

    fn now(&self) -> u64 {
        self.watch.now()
    }

    async fn pause(&self, until: Option<u64>) -> Result<()> {
        let longest = if until.is_some() { TICK } else { LONG_TICK };
        self.until_stopped(self.watch.change(longest)).await
    }

    async fn reach(&self, block: u64) -> Result<()> {
        for _ in 0..REACH_TICKS {
            if self.watch.view().latest().is_some_and(|latest| latest.number >= block) {
                return Ok(());
            }
            self.until_stopped(self.watch.change(TICK)).await?;
        }
        tracing::warn!(block, "chain.block_not_seen");
        Ok(())
    }

    async fn send(&self, job: JobId, spec: &JobSpec, intention: &Intention, round: u32) -> Result<Sent> {
        let key = format!("{}/{job}/{round}", intention.name());
        let call = self.call(job, spec, intention)?;
        let outcome = self.until_stopped(self.sender.send(&key, &call, Head::Latest)).await??;
        Ok(match outcome {
            Outcome::Done(receipt) => {
                tracing::info!(%job, tx = %receipt.tx_hash, block = receipt.block.number, gas = receipt.gas_used, intention = intention.name(), "tx.done");
                metrics::histogram!("quern_worker_gas", "call" => intention.name()).record(receipt.gas_used as f64);
                Sent::Done(receipt.block.number)
            }
            Outcome::Reverted { receipt, revert } => Sent::Reverted(receipt.block.number, revert.to_string()),
            Outcome::Refused { revert } => Sent::Refused(revert.to_string()),
        })
    }

    async fn complete(&self, job: JobId, spec: &JobSpec, receipt: &Receipt) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        let request = CompletionRequest { job, spec: spec.clone(), receipt: *receipt, reply };
        self.until_stopped(self.completions.send(request)).await?.map_err(|_| Error::Stopping)?;
        self.until_stopped(answer).await?.map_err(|_| Error::Stopping)?
    }

    async fn fetch(&self, job: JobId, spec: &JobSpec) -> Result<Vec<Vec<u32>>> {
        match self.until_stopped(self.content.input(spec)).await? {
            Ok(items) => Ok(items),
            Err(InputFault::Store(error)) => Err(error.into()),
            Err(InputFault::Blob(error)) => Err(Error::Content { job, what: "the input", fault: error.to_string() }),
        }
    }

    async fn compute(&self, job: JobId, spec: &JobSpec, items: Vec<Vec<u32>>) -> Result<Option<Output>> {
        let (package, held) = self.verified(job, spec.model_id).await?;
        let (load, _) = self.demand(&held, spec, &items);
        let need = Need::new(held.speed.millis(&load), spec);
        let progress = need.progress.clone();
        self.set_need(job, Some(need));
        let Some(task) = Task::new(&held.engine, package, spec, items) else {
            return Err(Error::Content { job, what: "the model", fault: "it does not do this kind of job".into() });
        };
        tracing::info!(%job, expected_ms = held.speed.millis(&load), "job.computing");
        let computing = self.computer.compute(task, progress.clone());
        tokio::pin!(computing);
        let computed = loop {
            tokio::select! {
                computed = &mut computing => break computed?,
                () = self.watch.change(TICK) => {
                    if !self.is_wanted(job) {
                        progress.give_up();
                    }
                }
                () = self.stop.cancelled() => {
                    progress.give_up();
                    return Err(Error::Stopping);
                }
            }
        };
        let Some((computed, spent)) = computed else {
            self.set_need(job, None);
            return Ok(None);
        };
        self.models.lock().unwrap_or_else(PoisonError::into_inner).learn(package, &spent.load, spent.busy);
        metrics::histogram!("quern_worker_compute_seconds").record(spent.busy.as_secs_f64());
        metrics::counter!("quern_worker_energy_millijoules_total").increment(spent.energy.millijoules);
        let output = dag::content_id(&computed.blob)?;
        let work = Work {
            output_root: computed.output_root,
            output_len: computed.output_len,
            work_root: computed.work_root,
            energy: spent.energy,
            output,
        };
        tracing::info!(%job, elapsed_ms = spent.busy.as_millis() as u64, millijoules = work.energy.millijoules, items = spec.item_count, output_ids = computed.output_len, "job.computed");
        Ok(Some(Output { work, blob: computed.blob }))
    }

    async fn store(&self, job: JobId, output: &Output) -> Result<()> {
        let id = self.content.keep(&output.blob).await?;
        if id == output.work.output {
            Ok(())
        } else {
            Err(Error::Content { job, what: "the output", fault: format!("it was stored as {id}") })
        }
    }

    async fn holds(&self, work: &Work) -> Result<bool> {
        self.content.holds(work.output).await
    }

    fn sign(&self, job: JobId, work: &Work) -> SignedReceipt {
        let provider = self.config.provider;
        let receipt = Receipt {
            job_id: job,
            provider,
            output_root: work.output_root,
            output_len: work.output_len,
            output: work.output,
            work_digest: work_digest(&work.work_root, provider, job),
            energy_millijoules: work.energy.millijoules,
            energy_method: work.energy.method,
        };
        SignedReceipt { receipt, signature: self.config.operator.sign_digest(receipt.digest(&self.domain)).to_vec() }
    }

    async fn forget(&self, job: JobId, entry: &Entry) -> Result<()> {
        if !self.config.keep_content {
            let mut contents = vec![entry.spec.input];
            contents.extend(entry.work.as_ref().map(|work| work.output));
            // Two jobs may have one input, and then one output.
            for other in self.journal.jobs_without_note(RELEASED).await? {
                if other.job == job || contents.is_empty() {
                    continue;
                }
                let work: Option<Work> = read_fact(&self.journal, other.job, FACT_WORK).await?;
                contents.retain(|id| *id != other.spec.input && work.as_ref().is_none_or(|work| work.output != *id));
            }
            for id in contents {
                self.content.release(id).await?;
            }
        }
        self.journal.advance(job, entry.step, entry.step, RELEASED, &[]).await?;
        self.watch.edit(|view| view.release(job));
        tracing::debug!(%job, "job.released");
        Ok(())
    }
}
