//! How fast a model runs on this machine, and how fast it could.

mod limits;
mod profile;
mod shape;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::{Duration, Instant},
};

use quern_exact::{
    decoder::{Batch, Cache, Decoder, Event, Given, OutputKey, Rule, Workspace},
    encoder::Encoder,
    header::{Header, NO_ID},
    kernels::{Packed, Pool},
    layout::{TensorName, TensorShape, tensor_specs},
    sample,
};
use quern_types::FinishReason;

pub use limits::Limits;
pub use profile::{Op, ProfileLine};
pub use shape::Shape;

use crate::{ModelError, Session, package::packed};

/// Ids of the prompt that is prefilled.
const PREFILL: usize = 512;
/// Ids of all other prompts.
const PROMPT: usize = 16;
/// Ids that are decoded per run.
const DECODED: usize = 48;
/// Ids of the output that is checked.
const CHECKED: usize = 512;
/// Sequences of the batch.
const BATCH: usize = 8;
/// Rows of a step, as in a worker and in a session.
const ROWS: usize = 256;
/// Sentences of an encoder's batch.
const SENTENCES: usize = 32;

/// A part of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// One sequence of 48 ids behind 16.
    Decode,
    /// A prompt of 512 ids and the choice behind it.
    Prefill,
    /// An output of 512 ids behind 16: generated once, then checked by teacher forcing.
    Check,
    /// 8 sequences of 48 ids behind 16 together.
    Batch,
    /// What the machine can do at most.
    Limits,
    /// Time per kind of op.
    Profile,
}

/// Medians of some runs each; `None` is what was not asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchReport {
    /// Instructions of the kernels.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Ids per second of one sequence, behind its first id.
    pub decode_tps: Option<f64>,
    /// Ids per second of a prompt of 512, the choice behind it included.
    pub prefill512_tps: Option<f64>,
    /// Ids per second of an output that is checked, its prompt's time included.
    pub check_tps: Option<f64>,
    /// Ids of the output that is checked: 512, or what the context has room for.
    pub check_ids: usize,
    /// Ids per second of 8 sequences together, once all have their first.
    pub batch8_tps: Option<f64>,
    /// What the machine can do at most.
    pub limits: Option<Limits>,
    /// Part of the memory's bandwidth that decoding reads: bytes of the packed matrices that each id needs, times `decode_tps`.
    pub dram_share: Option<f64>,
    /// Bytes of the packed matrices that each id needs.
    pub bytes_per_token: u64,
    /// Bytes of the packed file.
    pub packed_bytes: u64,
    /// Most bytes of keys and values that were in memory at a time.
    pub kv_bytes: u64,
    /// The most memory that the process had while it generated and checked, before anything else was measured; `None` where the system does not say.
    pub resident_bytes: Option<u64>,
    /// That by packed file and keys and values.
    pub resident_ratio: Option<f64>,
    /// Time per kind of op; empty if not asked for.
    pub profile: Vec<ProfileLine>,
}

/// Measures parts of what a decoder does that runs on this pool. Figures are medians of `runs`, behind one that does not count.
///
/// # Errors
/// Not enough memory for 8 sequences, a context of less than 512, or a check that contradicts the generation, which would be a defect of this
/// program.
pub fn bench(decoder: &Decoder, pool: &Pool, parts: &[Part], runs: NonZeroUsize) -> Result<BenchReport, ModelError> {
    let header = decoder.header();
    let context = header.context as usize;
    if context < PREFILL {
        return Err(ModelError::Header { reason: format!("a benchmark needs a context of {PREFILL}, this model has {context}") });
    }
    let bench = Bench { decoder, runs: runs.get() };
    let wants = |part: Part| parts.contains(&part);
    let check_ids = CHECKED.min(context - PROMPT);
    // One after the other, each with its own keys and values: the most that are in memory at a time are those of one part.
    let decode_tps = wants(Part::Decode).then(|| bench.decode()).transpose()?;
    let prefill512_tps = wants(Part::Prefill).then(|| bench.prefill()).transpose()?;
    let check_tps = wants(Part::Check).then(|| bench.check(check_ids)).transpose()?;
    let batch8_tps = wants(Part::Batch).then(|| bench.batch()).transpose()?;
    let resident_bytes = resident_bytes();

    let kv = |part: Part, sequences: usize, positions: usize| if wants(part) { sequences * Cache::bytes(header, positions) } else { 0 };
    let sizes = [
        kv(Part::Decode, 1, PROMPT + DECODED),
        kv(Part::Prefill, 1, PREFILL),
        kv(Part::Check, 1, PROMPT + check_ids),
        kv(Part::Batch, BATCH, PROMPT + DECODED - 1),
    ];
    let kv_bytes = sizes.into_iter().max().unwrap_or(0) as u64;
    let (bytes_per_token, packed_bytes) = (bytes_per_token(header)?, packed::length(header)? as u64);
    let limits = wants(Part::Limits).then(|| Limits::measure(pool)).transpose()?;
    #[expect(clippy::cast_precision_loss, reason = "shares")]
    let (read, ratio) = (|tps: f64| bytes_per_token as f64 * tps, |bytes: u64| bytes as f64 / (packed_bytes + kv_bytes) as f64);
    Ok(BenchReport {
        isa: isa(pool),
        threads: pool.threads(),
        decode_tps,
        prefill512_tps,
        check_tps,
        check_ids,
        batch8_tps,
        dram_share: decode_tps.zip(limits.as_ref()).map(|(tps, limits)| read(tps) / limits.dram_gbps / 1e9),
        limits,
        bytes_per_token,
        packed_bytes,
        kv_bytes,
        resident_bytes,
        resident_ratio: resident_bytes.map(ratio),
        profile: if wants(Part::Profile) { profile::profile(decoder, pool) } else { Vec::new() },
    })
}

/// Sentences per second of an encoder: batches of 32 of `tokens` random ids each, on so many threads; the median of `runs`, behind one that does not
/// count.
///
/// # Errors
/// A context of less than `tokens`.
pub fn bench_encoder(encoder: &Encoder, threads: NonZeroUsize, tokens: usize, runs: NonZeroUsize) -> Result<f64, ModelError> {
    let header = encoder.header();
    if tokens > header.context as usize {
        return Err(ModelError::TooLong { line: 1, tokens, context: header.context as usize });
    }
    let sentences: Vec<_> = (0..SENTENCES as u64).map(|at| prompt(header, at, tokens)).collect();
    timed(SENTENCES, runs.get(), || {
        let _vectors = encoder.embed_map(&sentences, threads, |_, output| output.vector);
        Ok(())
    })
}

struct Bench<'a> {
    decoder: &'a Decoder,
    runs: usize,
}

impl Bench<'_> {
    /// Prompts of `length`, none of which begins as another does: one per run, and one more.
    fn prompts(&self, seed: u64, length: usize) -> impl Iterator<Item = Vec<u32>> {
        (0..=self.runs as u64).map(move |run| prompt(self.decoder.header(), seed + run, length))
    }

    fn decode(&self) -> Result<f64, ModelError> {
        let mut session = Session::new(self.decoder.clone(), PROMPT + DECODED)?;
        let generate = |prompt: Vec<u32>| Ok(session.generate(&prompt, &rule(DECODED), &mut |_| true)?.decode_per_second());
        median_behind_first(self.prompts(0, PROMPT).map(generate))
    }

    fn prefill(&self) -> Result<f64, ModelError> {
        let mut session = Session::new(self.decoder.clone(), PREFILL)?;
        let generate = |prompt: Vec<u32>| Ok(session.generate(&prompt, &rule(1), &mut |_| true)?.prefill_per_second());
        median_behind_first(self.prompts(100, PREFILL).map(generate))
    }

    fn check(&self, ids: usize) -> Result<f64, ModelError> {
        let (item, rule) = (prompt(self.decoder.header(), 200, PROMPT), rule(ids));
        let output = Session::new(self.decoder.clone(), PROMPT + ids)?.generate(&item, &rule, &mut |_| true)?.ids;
        let mut work = Workspace::new(self.decoder.header(), ROWS);
        let given = Given { ids: &output, reason: FinishReason::MaxOutput };
        timed(ids, self.runs, || {
            match self.decoder.check(&mut work, &item, &rule, OutputKey { item: 0, sample: 0 }, &given, |_, _| ())? {
                None => Ok(()),
                Some(departure) => Err(ModelError::Header { reason: format!("checking departs from generating: {departure:?}") }),
            }
        })
    }

    fn batch(&self) -> Result<f64, ModelError> {
        let prompts = |run: u64| (0..BATCH as u64).map(move |at| prompt(self.decoder.header(), 300 + at + 10 * run, PROMPT));
        median_behind_first((0..=self.runs as u64).map(|run| batch(self.decoder, prompts(run))))
    }
}

/// Ids per second of a batch once all prompts are computed.
fn batch(decoder: &Decoder, prompts: impl Iterator<Item = Vec<u32>>) -> Result<f64, ModelError> {
    let mut batch = Batch::new(decoder.clone(), ROWS);
    for (item, prompt) in (0..).zip(prompts) {
        batch.join(&prompt, rule(DECODED), OutputKey { item, sample: 0 })?;
    }
    let (mut ids, mut start) = (0usize, None);
    while !batch.is_empty() {
        let mut made = 0;
        batch.step(|event| made += usize::from(matches!(event, Event::Id { .. })))?;
        match start {
            Some(_) => ids += made,
            // All have their first id: from now on every step is one id of each.
            None if made == BATCH => start = Some(Instant::now()),
            None => {}
        }
    }
    Ok(per_second(ids, start.map_or(Duration::MAX, |start| start.elapsed())))
}

fn prompt(header: &Header, seed: u64, length: usize) -> Vec<u32> {
    let mut generator = sample::Generator::new(seed);
    (0..length).map(|_| u32::try_from(generator.within(0, i64::from(header.vocabulary) - 1)).unwrap_or(0)).collect()
}

/// Greedy, and nothing stops it.
fn rule(ids: usize) -> Rule {
    let most = u32::try_from(ids).ok().and_then(NonZeroU32::new);
    Rule::greedy(most.unwrap_or(NonZeroU32::MIN), [NO_ID; 8])
}

fn isa(pool: &Pool) -> String {
    format!("{:?}", pool.isa()).chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// Median of things per second of some runs, after one that does not count.
fn timed(things: usize, runs: usize, mut run: impl FnMut() -> Result<(), ModelError>) -> Result<f64, ModelError> {
    median_behind_first((0..=runs).map(|_| {
        let start = Instant::now();
        run()?;
        Ok(per_second(things, start.elapsed()))
    }))
}

/// The median of figures, of which the first one is for warming up.
fn median_behind_first(figures: impl Iterator<Item = Result<f64, ModelError>>) -> Result<f64, ModelError> {
    let figures = figures.collect::<Result<Vec<_>, _>>()?;
    Ok(median(&mut figures.into_iter().skip(1).collect::<Vec<_>>()))
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(things: usize, time: Duration) -> f64 {
    things as f64 / time.as_secs_f64()
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

/// Packed bytes of all matrices that an id is multiplied with.
fn bytes_per_token(header: &Header) -> Result<u64, ModelError> {
    let specs = tensor_specs(header).map_err(|error| ModelError::Header { reason: error.to_string() })?;
    let untied = specs.iter().any(|spec| spec.name == TensorName::Head);
    let bytes = specs.iter().map(|spec| match spec.shape {
        // Of the words one row is looked up, unless they are the head.
        TensorShape::Matrix { .. } if untied && spec.name == TensorName::Words => 0,
        TensorShape::Matrix { rows, cols, .. } => Packed::bytes(rows, cols) as u64,
        TensorShape::Table { .. } | TensorShape::Vector { .. } => 0,
    });
    Ok(bytes.sum())
}

/// The most memory that this process had.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(1024 * kib)
}
