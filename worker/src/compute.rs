//! Computing: one thread of its own that takes one job at a time and spreads its items over as many threads as configured.
//!
//! One at a time, because an encoder uses all threads for one job as well as for several, a job that is done earlier is submitted earlier, and the energy
//! counters of the machine cannot tell jobs apart.

use std::{
    num::NonZeroUsize,
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
use quern_exact::{encoder::Encoder, header::Header};
use quern_types::B256;
use tokio::sync::oneshot;

use crate::{
    Error, Result,
    energy::{Energy, Meter, process_cpu_time},
};

/// Items per thread between two looks at whether the job is still wanted.
const ITEMS_PER_LOOK: usize = 16;

/// What comes out of a job's items.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Computed {
    pub(crate) outputs: OutputSet,
    pub(crate) output_root: B256,
    pub(crate) output_len: u64,
    pub(crate) work_root: B256,
    pub(crate) blob: Vec<u8>,
    pub(crate) energy: Energy,
    /// Multiply-adds done.
    pub(crate) work: u64,
    /// Wall time.
    pub(crate) took: Duration,
}

/// Multiply-adds that an item of this many ids takes: the products with the weights, and attention. Items that are refused take none.
pub(crate) fn item_work(header: &Header, len: usize) -> u64 {
    if len > header.context as usize {
        return 0;
    }
    let [dim, layers, heads, kv_heads, head_dim, ffn] =
        [header.dim, header.layers, header.heads, header.kv_heads, header.head_dim, header.ffn].map(u64::from);
    let linear = layers * (dim * head_dim * (2 * heads + 2 * kv_heads) + 2 * ffn * dim);
    let len = len as u64;
    len * linear + 2 * layers * heads * head_dim * len * len
}

/// Multiply-adds of all items.
pub(crate) fn work_of(header: &Header, items: &[Vec<u32>]) -> u64 {
    items.iter().map(|item| item_work(header, item.len())).sum()
}

struct Request {
    encoder: Arc<Encoder>,
    items: Vec<Vec<u32>>,
    wanted: Arc<AtomicBool>,
    reply: oneshot::Sender<Option<Computed>>,
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
                let computed = compute(&request.encoder, &request.items, threads, &meter, &request.wanted);
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
    /// [`Error::ComputeGone`].
    pub(crate) async fn compute(&self, encoder: Arc<Encoder>, items: Vec<Vec<u32>>, wanted: Arc<AtomicBool>) -> Result<Option<Computed>> {
        let (reply, answer) = oneshot::channel();
        let request = Request { encoder, items, wanted, reply };
        self.requests.try_send(request).map_err(|_| Error::ComputeGone)?;
        answer.await.map_err(|_| Error::ComputeGone)
    }
}

/// Computes on this thread and `threads - 1` others.
pub(crate) fn compute(
    encoder: &Encoder,
    items: &[Vec<u32>],
    threads: NonZeroUsize,
    meter: &Meter,
    wanted: &AtomicBool,
) -> Option<Computed> {
    let (mark, cpu_before, began) = (meter.mark(), process_cpu_time(), Instant::now());
    let mut records = Vec::with_capacity(items.len());
    let mut leaves = Vec::with_capacity(items.len());
    for some in items.chunks(ITEMS_PER_LOOK * threads.get()) {
        if !wanted.load(Ordering::Relaxed) {
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
    let outputs = OutputSet::Embed(records);
    // A job has 1 to 65,536 items, so there is a tree over them.
    let root = outputs.tree().unwrap_or_else(|error| unreachable!("{error}")).root();
    let blob = outputs.to_blob().unwrap_or_else(|error| unreachable!("{error}"));
    let work_root = work_root(leaves).unwrap_or_else(|error| unreachable!("{error}"));
    let took = began.elapsed();
    let energy = meter.since(&mark, process_cpu_time().saturating_sub(cpu_before));
    let work = work_of(encoder.header(), items);
    Some(Computed { outputs, output_root: root.hash, output_len: root.count, work_root, blob, energy, work, took })
}

/// How fast this machine computes: measured at the start, and again with every job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Speed {
    macs_per_sec: f64,
}

impl Speed {
    /// Measures with made-up items of 64 ids for about half a second.
    pub(crate) fn measure(encoder: &Encoder, threads: NonZeroUsize) -> Self {
        let header = encoder.header();
        let ids = header.vocabulary.max(1);
        let len = header.context.min(64);
        let items: Vec<Vec<u32>> = (0..2 * threads.get()).map(|_| (0..len).map(|at| (at * 31) % ids).collect()).collect();
        let (began, mut done) = (Instant::now(), 0u64);
        while began.elapsed() < Duration::from_millis(500) {
            encoder.embed_map(&items, threads, |_, _| ());
            done += work_of(header, &items);
        }
        Self { macs_per_sec: done as f64 / began.elapsed().as_secs_f64() }
    }

    /// Takes a job into account: a fifth of the new figure, so that one odd job does not decide.
    pub(crate) fn learn(&mut self, work: u64, took: Duration) {
        // Shorter ones measure the clock.
        if took >= Duration::from_millis(20) && work > 0 {
            self.macs_per_sec = 0.8 * self.macs_per_sec + 0.2 * (work as f64 / took.as_secs_f64());
        }
    }

    /// Multiply-adds per second, at least 1.
    pub(crate) fn macs_per_sec(&self) -> u64 {
        self.macs_per_sec.max(1.0) as u64
    }
}
