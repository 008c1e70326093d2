//! Computing: one thread of its own that takes one job at a time and spreads its items over as many threads as configured.
//!
//! One at a time, because a model uses all threads for one job as well as for several, a job that is done earlier is submitted earlier, and the energy
//! counters of the machine cannot tell jobs apart.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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
use quern_types::{B256, JobKind, JobSpec};
use tokio::sync::oneshot;

use crate::{
    Error, Result,
    energy::{Energy, Mark, Meter, process_cpu_time},
    generate::Generation,
    load::{Load, embed_load},
    models::Engine,
};

/// Items per thread between two looks at whether the job is still wanted.
const ITEMS_PER_LOOK: usize = 16;
/// Longest time between two readings of the energy counters, which wrap.
const ENERGY_EVERY: Duration = Duration::from_secs(300);

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
    pub(crate) energy: Energy,
    /// What was done.
    pub(crate) load: Load,
    /// Wall time.
    pub(crate) took: Duration,
}

/// The rule of a generate job; `None` of another.
pub(crate) fn rule(spec: &JobSpec) -> Option<Rule> {
    let max_output = NonZeroU32::new(spec.max_output).filter(|_| spec.kind == JobKind::Generate)?;
    Some(Rule { max_output, stop_ids: spec.stop_ids, temperature: spec.temperature, min_p: spec.min_p, seed: spec.seed.0 })
}

impl Task {
    /// What a job asks of its items; `None` where the model is of another kind.
    pub(crate) fn new(engine: &Engine, spec: &JobSpec, items: Vec<Vec<u32>>, kv_limit: u64) -> Option<Self> {
        match (engine, spec.kind) {
            (Engine::Encoder(encoder), JobKind::Embed) => Some(Self::Embed { encoder: encoder.clone(), items }),
            (Engine::Decoder(decoder), JobKind::Generate) => {
                let (decoder, rule) = (decoder.clone(), rule(spec)?);
                Some(Self::Generate(Box::new(Generation { decoder, items, samples: spec.samples_per_item, rule, kv_limit })))
            }
            _ => None,
        }
    }
}

struct Request {
    task: Task,
    wanted: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<Option<Computed>, DecoderError>>,
}

/// The computing thread. Dropping it lets the thread end after the job at hand.
#[derive(Debug)]
pub(crate) struct Computer {
    requests: mpsc::SyncSender<Request>,
}

impl Computer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(threads: NonZeroUsize, meter: Meter, queue: usize) -> Result<Self> {
        // Bound: as many jobs as the worker has in hand; a sender never waits.
        let (requests, incoming) = mpsc::sync_channel::<Request>(queue);
        let run = move || {
            while let Ok(request) = incoming.recv() {
                let computed = compute(&request.task, threads, &meter, &request.wanted);
                // The caller may have gone: then nobody wants the result.
                let _ = request.reply.send(computed);
            }
        };
        let doing = |source| Error::Io { doing: "start", what: "the computing thread".into(), source };
        thread::Builder::new().name("quern-compute".into()).spawn(run).map_err(doing)?;
        Ok(Self { requests })
    }

    /// Computes; `None` where the job was not wanted any more before it ended.
    ///
    /// # Errors
    /// [`Error::ComputeGone`]; [`Error::Memory`].
    pub(crate) async fn compute(&self, task: Task, wanted: Arc<AtomicBool>) -> Result<Option<Computed>> {
        let (reply, answer) = oneshot::channel();
        let request = Request { task, wanted, reply };
        self.requests.try_send(request).map_err(|_| Error::ComputeGone)?;
        Ok(answer.await.map_err(|_| Error::ComputeGone)??)
    }
}

/// Time and energy of a computation.
struct Stopwatch<'a> {
    meter: &'a Meter,
    began: Instant,
    /// Of the piece that is running.
    piece: Instant,
    mark: Mark,
    cpu: Duration,
    energy: Option<Energy>,
}

impl<'a> Stopwatch<'a> {
    fn start(meter: &'a Meter) -> Self {
        let now = Instant::now();
        Self { meter, began: now, piece: now, mark: meter.mark(), cpu: process_cpu_time(), energy: None }
    }

    /// Called again and again: ends a piece before the counters can wrap.
    fn look(&mut self) {
        if self.piece.elapsed() >= ENERGY_EVERY {
            self.cut();
        }
    }

    fn cut(&mut self) -> Energy {
        let cpu = process_cpu_time();
        let piece = self.meter.since(&self.mark, cpu.saturating_sub(self.cpu));
        let sum = self.energy.map_or(piece, |energy| energy.and(piece));
        (self.piece, self.mark, self.cpu, self.energy) = (Instant::now(), self.meter.mark(), cpu, Some(sum));
        sum
    }

    fn stop(mut self) -> (Energy, Duration) {
        (self.cut(), self.began.elapsed())
    }
}

/// Computes on this thread and `threads - 1` others; a decoder on the threads of its pool. `None` where `wanted` became false.
///
/// # Errors
/// No memory for one sequence alone.
pub(crate) fn compute(task: &Task, threads: NonZeroUsize, meter: &Meter, wanted: &AtomicBool) -> Result<Option<Computed>, DecoderError> {
    let mut watch = Stopwatch::start(meter);
    let mut look = || {
        watch.look();
        wanted.load(Ordering::Relaxed)
    };
    let (outputs, leaves, load) = match task {
        Task::Embed { encoder, items } => match embed(encoder, items, threads, &mut look) {
            Some((records, leaves)) => (OutputSet::Embed(records), leaves, embed_load(encoder.header(), items)),
            None => return Ok(None),
        },
        Task::Generate(generation) => match generation.run(&mut look)? {
            Some(made) => (OutputSet::Generate { samples: generation.samples, outputs: made.records }, made.leaves, made.load),
            None => return Ok(None),
        },
    };
    // A job has 1 to 65,536 items of 1 to 256 samples, so there is a tree over them.
    let root = outputs.tree().unwrap_or_else(|error| unreachable!("{error}")).root();
    let blob = outputs.to_blob().unwrap_or_else(|error| unreachable!("{error}"));
    let work_root = work_root(leaves).unwrap_or_else(|error| unreachable!("{error}"));
    let (energy, took) = watch.stop();
    Ok(Some(Computed { outputs, output_root: root.hash, output_len: root.count, work_root, blob, energy, load, took }))
}

type Embedded = (Vec<OutputRecord<i16>>, Vec<B256>);

fn embed(encoder: &Encoder, items: &[Vec<u32>], threads: NonZeroUsize, wanted: &mut dyn FnMut() -> bool) -> Option<Embedded> {
    let mut records = Vec::with_capacity(items.len());
    let mut leaves = Vec::with_capacity(items.len());
    for some in items.chunks(ITEMS_PER_LOOK * threads.get()) {
        if !wanted() {
            return None;
        }
        // The rows of the final norm are hashed where they were computed, and dropped: only the leaves are kept.
        let done = encoder
            .embed_map(some, threads, |_, output| (work_leaf(&output), OutputRecord { reason: output.reason, elements: output.vector }));
        for (leaf, record) in done {
            leaves.push(leaf);
            records.push(record);
        }
    }
    Some((records, leaves))
}
