//! Computing: one thread of its own that works on all jobs at hand, and spreads each piece of work over as many threads as configured.
//!
//! Generate jobs run side by side ([`crate::running`]): a step reads every weight once, however many sequences are in it. Embed jobs gain nothing by that,
//! so they are done one after the other, in pieces, and the one that came first is submitted first. Between the two kinds the one that has had less time
//! goes next: neither starves, whatever its pieces take, and each has at least half of the machine.

use std::{
    collections::VecDeque,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use quern_commit::{
    blob::{OutputRecord, OutputSet},
    work::{work_leaf, work_root},
};
use quern_exact::{
    decoder::{DecoderError, Rule},
    encoder::Encoder,
};
use quern_types::{B256, JobKind, JobSpec, PackageRoot};
use tokio::sync::oneshot;

use crate::{
    Error, Result,
    energy::{Energy, Mark, Meter, process_cpu_time},
    generate::Generation,
    load::{Load, embed_load},
    models::Engine,
    running::{JobNumber, Running},
};

/// Items per thread between two looks at whether the job is still wanted.
const ITEMS_PER_LOOK: usize = 16;
/// Longest time between two readings of the energy counters, which wrap.
const ENERGY_EVERY: Duration = Duration::from_secs(300);
/// All of a job that is left, in millionths.
const WHOLE: u32 = 1_000_000;

/// What is to be computed.
#[derive(Debug)]
pub(crate) enum Task {
    /// A vector of each item.
    Embed { encoder: Arc<Encoder>, items: Vec<Vec<u32>> },
    /// Samples of ids of each item.
    Generate(Box<Generation>),
}

/// What comes out of a job's items.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Computed {
    pub(crate) outputs: OutputSet,
    pub(crate) output_root: B256,
    pub(crate) output_len: u64,
    pub(crate) work_root: B256,
    pub(crate) blob: Vec<u8>,
}

/// What a job took. Of what it shared with others it is its part, by multiply-adds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spent {
    pub(crate) energy: Energy,
    /// What was done.
    pub(crate) load: Load,
    /// Time of the machine.
    pub(crate) busy: Duration,
}

/// What a job's driver and the computing thread tell each other.
#[derive(Debug)]
pub(crate) struct Progress {
    wanted: AtomicBool,
    left_ppm: AtomicU32,
}

impl Default for Progress {
    fn default() -> Self {
        Self { wanted: AtomicBool::new(true), left_ppm: AtomicU32::new(WHOLE) }
    }
}

impl Progress {
    /// The driver: nobody wants the result any more.
    pub(crate) fn give_up(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Of so many milliseconds in all, those that are left at most. ROUNDING: up.
    pub(crate) fn left(&self, millis: u64) -> u64 {
        let left = u128::from(millis) * u128::from(self.left_ppm.load(Ordering::Relaxed));
        u64::try_from(left.div_ceil(WHOLE.into())).unwrap_or(u64::MAX)
    }
}

/// The rule of a generate job; `None` of another.
pub(crate) fn rule(spec: &JobSpec) -> Option<Rule> {
    let max_output = NonZeroU32::new(spec.max_output).filter(|_| spec.kind == JobKind::Generate)?;
    Some(Rule { max_output, stop_ids: spec.stop_ids, temperature: spec.temperature, min_p: spec.min_p, seed: spec.seed.0 })
}

impl Task {
    /// What a job asks of its items; `None` where the model, of this package, is of another kind.
    pub(crate) fn new(engine: &Engine, package: PackageRoot, spec: &JobSpec, items: Vec<Vec<u32>>) -> Option<Self> {
        match (engine, spec.kind) {
            (Engine::Encoder(encoder), JobKind::Embed) => Some(Self::Embed { encoder: encoder.clone(), items }),
            (Engine::Decoder(decoder), JobKind::Generate) => {
                let (decoder, rule) = (decoder.clone(), rule(spec)?);
                Some(Self::Generate(Box::new(Generation { package, decoder, items, samples: spec.samples_per_item, rule })))
            }
            _ => None,
        }
    }
}

impl Computed {
    fn new(outputs: OutputSet, leaves: Vec<B256>) -> Self {
        // A job has 1 to 65,536 items of 1 to 256 samples, so there is a tree over them.
        let root = outputs.tree().unwrap_or_else(|error| unreachable!("{error}")).root();
        let blob = outputs.to_blob().unwrap_or_else(|error| unreachable!("{error}"));
        let work_root = work_root(leaves).unwrap_or_else(|error| unreachable!("{error}"));
        Self { outputs, output_root: root.hash, output_len: root.count, work_root, blob }
    }

    /// The vectors of these items, on this thread and `threads - 1` others.
    pub(crate) fn of_embeddings(encoder: &Encoder, items: &[Vec<u32>], threads: NonZeroUsize) -> Self {
        let (leaves, records) = embed(encoder, items, threads).into_iter().unzip();
        Self::new(OutputSet::Embed(records), leaves)
    }
}

/// The rows of the final norm are hashed where they were computed, and dropped: only the leaves are kept.
fn embed(encoder: &Encoder, items: &[Vec<u32>], threads: NonZeroUsize) -> Vec<(B256, OutputRecord<i16>)> {
    encoder.embed_map(items, threads, |_, output| (work_leaf(&output), OutputRecord { reason: output.reason, elements: output.vector }))
}

type Answer = Result<Option<(Computed, Spent)>, DecoderError>;

struct Request {
    task: Task,
    progress: Arc<Progress>,
    reply: oneshot::Sender<Answer>,
}

/// The computing thread. Dropping it lets the thread end after the jobs at hand.
#[derive(Debug)]
pub(crate) struct Computer {
    requests: mpsc::SyncSender<Request>,
}

impl Computer {
    /// Starts the thread. The keys and values of all generate jobs at hand may take `kv_limit` bytes together.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(threads: NonZeroUsize, meter: Meter, queue: usize, kv_limit: u64) -> Result<Self> {
        // Bound: as many jobs as the worker has in hand; a sender never waits.
        let (requests, incoming) = mpsc::sync_channel::<Request>(queue);
        let run = move || Workbench::new(threads, meter, kv_limit).work(&incoming);
        let doing = |source| Error::Io { doing: "start", what: "the computing thread".into(), source };
        thread::Builder::new().name("quern-compute".into()).spawn(run).map_err(doing)?;
        Ok(Self { requests })
    }

    /// Computes, beside what is at hand already; `None` where the job was not wanted any more before it ended.
    ///
    /// # Errors
    /// [`Error::ComputeGone`]; [`Error::Memory`].
    pub(crate) async fn compute(&self, task: Task, progress: Arc<Progress>) -> Result<Option<(Computed, Spent)>> {
        let (reply, answer) = oneshot::channel();
        let request = Request { task, progress, reply };
        self.requests.try_send(request).map_err(|_| Error::ComputeGone)?;
        Ok(answer.await.map_err(|_| Error::ComputeGone)??)
    }
}

/// What the computing thread has at hand.
struct Workbench {
    threads: NonZeroUsize,
    running: Running,
    generates: Vec<(JobNumber, u32, Account)>,
    embeds: VecDeque<Embedding>,
    /// Nanoseconds that embed jobs had more than generate jobs since both have been at hand.
    lead: i128,
    clock: EnergyClock,
}

/// An embed job on its way.
struct Embedding {
    encoder: Arc<Encoder>,
    items: Vec<Vec<u32>>,
    done: Vec<(B256, OutputRecord<i16>)>,
    load: Load,
    account: Account,
}

/// What a job took so far, and whom to tell.
struct Account {
    progress: Arc<Progress>,
    reply: oneshot::Sender<Answer>,
    busy: Duration,
    /// Multiply-adds since the counters were last read.
    macs: u128,
    energy: Option<Energy>,
}

impl Account {
    fn end(self, nothing: Energy, computed: Computed, load: Load) {
        self.progress.left_ppm.store(0, Ordering::Relaxed);
        let spent = Spent { energy: self.energy.unwrap_or(nothing), load, busy: self.busy };
        // The caller may have gone: then nobody wants the result.
        let _ = self.reply.send(Ok(Some((computed, spent))));
    }
}

impl Workbench {
    fn new(threads: NonZeroUsize, meter: Meter, kv_limit: u64) -> Self {
        let clock = EnergyClock::start(meter);
        Self { threads, running: Running::new(kv_limit), generates: Vec::new(), embeds: VecDeque::new(), lead: 0, clock }
    }

    fn work(mut self, incoming: &mpsc::Receiver<Request>) {
        loop {
            if self.running.is_empty() && self.embeds.is_empty() {
                let Ok(request) = incoming.recv() else { return };
                // What the process took while nothing was at hand is nobody's.
                self.clock.restart();
                self.take(request);
            }
            while let Ok(request) = incoming.try_recv() {
                self.take(request);
            }
            self.drop_unwanted();
            self.turn();
            if self.clock.is_due() {
                self.read_energy();
            }
        }
    }

    fn take(&mut self, Request { task, progress, reply }: Request) {
        let account = Account { progress, reply, busy: Duration::ZERO, macs: 0, energy: None };
        match task {
            Task::Embed { encoder, items } => {
                let load = embed_load(encoder.header(), &items);
                self.embeds.push_back(Embedding { encoder, done: Vec::with_capacity(items.len()), items, load, account });
            }
            Task::Generate(generation) => {
                let samples = generation.samples;
                self.generates.push((self.running.join(*generation), samples, account));
            }
        }
    }

    fn drop_unwanted(&mut self) {
        let accounts = self.generates.iter().map(|(_, _, account)| account).chain(self.embeds.iter().map(|embedding| &embedding.account));
        if accounts.into_iter().all(|account| account.progress.is_wanted()) {
            return;
        }
        // What they took is theirs, and not that of the others.
        self.read_energy();
        for (number, _, account) in self.generates.extract_if(.., |(_, _, account)| !account.progress.is_wanted()) {
            self.running.leave(number);
            let _ = account.reply.send(Ok(None));
        }
        let (wanted, unwanted): (VecDeque<_>, VecDeque<_>) = self.embeds.drain(..).partition(|job| job.account.progress.is_wanted());
        self.embeds = wanted;
        for Embedding { account, .. } in unwanted {
            let _ = account.reply.send(Ok(None));
        }
    }

    /// One piece of work of the kind of job that has had less time.
    fn turn(&mut self) {
        if self.running.is_empty() || self.embeds.is_empty() {
            self.lead = 0;
        }
        let embeds = !self.embeds.is_empty() && (self.running.is_empty() || self.lead <= 0);
        let began = Instant::now();
        if embeds {
            self.embed();
        } else {
            self.generate(began);
        }
        let took = i128::try_from(began.elapsed().as_nanos()).unwrap_or(i128::MAX);
        self.lead = self.lead.saturating_add(if embeds { took } else { -took });
    }

    fn embed(&mut self) {
        let Some(Embedding { encoder, items, done, load, account }) = self.embeds.front_mut() else { return };
        let began = Instant::now();
        let piece = &items[done.len()..items.len().min(done.len() + ITEMS_PER_LOOK * self.threads.get())];
        account.macs += u128::from(embed_load(encoder.header(), piece).macs);
        done.extend(embed(encoder, piece, self.threads));
        account.busy += began.elapsed();
        let left = embed_load(encoder.header(), &items[done.len()..]);
        account.progress.left_ppm.store(share_ppm(left.macs, load.macs), Ordering::Relaxed);
        if done.len() < items.len() {
            return;
        }
        self.read_energy();
        if let Some(Embedding { done, load, account, .. }) = self.embeds.pop_front() {
            let (leaves, records) = done.into_iter().unzip();
            account.end(self.clock.nothing(), Computed::new(OutputSet::Embed(records), leaves), load);
        }
    }

    fn generate(&mut self, began: Instant) {
        let turn = self.running.turn();
        let took = began.elapsed();
        let all: u128 = turn.worked.iter().map(|worked| worked.macs).sum();
        for worked in &turn.worked {
            if let Some((_, _, account)) = self.generates.iter_mut().find(|(number, ..)| *number == worked.job) {
                account.macs += worked.macs;
                account.busy += took.mul_f64(worked.macs as f64 / all as f64);
                account.progress.left_ppm.store(worked.left_ppm, Ordering::Relaxed);
            }
        }
        if !turn.ended.is_empty() {
            self.read_energy();
        }
        for (ended, made) in turn.ended {
            let Some(at) = self.generates.iter().position(|(number, ..)| *number == ended) else { continue };
            let (_, samples, account) = self.generates.remove(at);
            match made {
                Ok(made) => {
                    let outputs = OutputSet::Generate { samples, outputs: made.records };
                    account.end(self.clock.nothing(), Computed::new(outputs, made.leaves), made.load);
                }
                Err(error) => {
                    let _ = account.reply.send(Err(error));
                }
            }
        }
    }

    /// Reads the counters, and divides what they say among the jobs at hand.
    fn read_energy(&mut self) {
        let energy = self.clock.read();
        let accounts = self.generates.iter_mut().map(|(_, _, account)| account);
        let mut accounts: Vec<&mut Account> = accounts.chain(self.embeds.iter_mut().map(|embedding| &mut embedding.account)).collect();
        let macs: Vec<u128> = accounts.iter_mut().map(|account| std::mem::take(&mut account.macs)).collect();
        for (account, part) in accounts.into_iter().zip(parts(energy, &macs)) {
            account.energy = part.map_or(account.energy, |part| Some(account.energy.map_or(part, |before| before.and(part))));
        }
    }
}

/// The energy of jobs side by side, by their multiply-adds; `None` for a job without any. ROUNDING: up, so that each part, as the whole, is an upper bound.
fn parts(whole: Energy, macs: &[u128]) -> impl Iterator<Item = Option<Energy>> {
    let all: u128 = macs.iter().sum();
    macs.iter().map(move |&macs| {
        let millijoules = (u128::from(whole.millijoules).saturating_mul(macs)).div_ceil(all.max(1));
        (macs > 0).then(|| Energy { millijoules: u64::try_from(millijoules).unwrap_or(u64::MAX), ..whole })
    })
}

/// ROUNDING: up.
fn share_ppm(part: u64, whole: u64) -> u32 {
    let ppm = (u128::from(part) * u128::from(WHOLE)).div_ceil(u128::from(whole).max(1));
    u32::try_from(ppm).unwrap_or(WHOLE)
}

/// Readings of the energy counters, one after the other.
struct EnergyClock {
    meter: Meter,
    since: Instant,
    mark: Mark,
    cpu: Duration,
}

impl EnergyClock {
    fn start(meter: Meter) -> Self {
        let mark = meter.mark();
        Self { meter, since: Instant::now(), mark, cpu: process_cpu_time() }
    }

    fn restart(&mut self) {
        (self.since, self.mark, self.cpu) = (Instant::now(), self.meter.mark(), process_cpu_time());
    }

    /// Before the counters can wrap.
    fn is_due(&self) -> bool {
        self.since.elapsed() >= ENERGY_EVERY
    }

    /// Energy since the last reading.
    fn read(&mut self) -> Energy {
        let cpu = process_cpu_time();
        let energy = self.meter.since(&self.mark, cpu.saturating_sub(self.cpu));
        (self.since, self.mark, self.cpu) = (Instant::now(), self.meter.mark(), cpu);
        energy
    }

    /// That of a job of which nothing was computed.
    fn nothing(&self) -> Energy {
        Energy { millijoules: 0, method: self.meter.method() }
    }
}

#[cfg(test)]
mod tests {
    use quern_exact::{
        decoder::Decoder,
        header::NO_ID,
        kernels::{Isa, Pool},
        sample,
    };
    use quern_types::EnergyMethod;

    use super::*;

    fn computer() -> Computer {
        Computer::start(NonZeroUsize::MIN, Meter::new(10.0), 8, u64::MAX).expect("a thread")
    }

    fn embedding(items: usize) -> Task {
        let encoder = sample::encoder(&sample::small_header(), 3).expect("an encoder");
        Task::Embed { encoder: Arc::new(encoder), items: vec![vec![1, 2, 3]; items] }
    }

    fn generation(items: usize, max_output: u32) -> Task {
        let model = sample::decoder(&sample::small_decoder_header(), 5).expect("a decoder");
        let decoder = Decoder::new(&model, Arc::new(Pool::single(Isa::detect())));
        let rule = Rule::greedy(NonZeroU32::new(max_output).expect("some"), [NO_ID; 8]);
        let package = PackageRoot(B256::repeat_byte(5));
        Task::Generate(Box::new(Generation { package, decoder, items: vec![vec![1, 2]; items], samples: 1, rule }))
    }

    #[tokio::test]
    async fn job_of_either_kind_ends_beside_a_long_one_of_the_other() {
        let computer = computer();
        for (long, short) in [(generation(60_000, 30), embedding(20)), (embedding(60_000), generation(3, 5))] {
            let (of_long, of_short) = (Arc::new(Progress::default()), Arc::new(Progress::default()));
            let long = computer.compute(long, of_long.clone());
            tokio::pin!(long);
            let short = tokio::select! {
                biased;
                _ = &mut long => panic!("the long one has ended before the short one"),
                short = computer.compute(short, of_short.clone()) => short.expect("memory").expect("wanted"),
            };
            assert!(short.0.blob.len() > 20 && of_short.left(1_000) == 0);
            let left = of_long.left(1_000_000);
            assert!(left > 0 && left <= 1_000_000, "{left}");
            of_long.give_up();
            assert!(long.await.expect("memory").is_none());
        }
    }

    #[tokio::test]
    async fn embed_jobs_end_in_the_order_in_which_they_came_with_what_they_have_alone() {
        let computer = computer();
        let jobs = [1, 40, 7].map(|items| computer.compute(embedding(items), Arc::default()));
        for (made, items) in futures::future::join_all(jobs).await.into_iter().zip([1, 40, 7]) {
            let (computed, spent) = made.expect("memory").expect("wanted");
            let Task::Embed { encoder, items } = embedding(items) else { unreachable!() };
            assert_eq!(computed, Computed::of_embeddings(&encoder, &items, NonZeroUsize::MIN));
            assert_eq!(spent.load, embed_load(encoder.header(), &items));
            assert_eq!(spent.energy.method, Meter::new(10.0).method());
        }
    }

    #[test]
    fn energy_of_jobs_side_by_side_is_divided_by_their_multiply_adds() {
        let energy = |millijoules| Energy { millijoules, method: EnergyMethod::Measured };
        let of = |millijoules, macs: &[u128]| parts(energy(millijoules), macs).collect::<Vec<_>>();
        assert_eq!(of(1_000, &[3, 0, 1]), [Some(energy(750)), None, Some(energy(250))]);
        assert_eq!(of(10, &[1, 1, 1]), [Some(energy(4)); 3], "rounded up");
        assert_eq!(of(10, &[0]), [None]);
    }
}
