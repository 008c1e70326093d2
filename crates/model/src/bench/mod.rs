//! How fast a decoder runs on this machine, and how fast it could.

use std::{
    hint::black_box,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use quern_exact::{
    decoder::{Batch, Decoder, Event, Given, OutputKey, Rule, Run, Workspace},
    header::{Header, NO_ID},
    kernels::{self, Operands, Packed, Pages, Pool},
    layout::{TensorName, TensorShape, tensor_specs},
    sample,
};
use quern_types::FinishReason;

use crate::{ModelError, Session};

/// Ids of the prompt that is prefilled.
const PREFILL: usize = 512;
/// Ids of the prompts before decoding.
const PROMPT: usize = 16;
/// Ids that are decoded per run, and checked.
const DECODED: u32 = 48;
/// Sequences of the batch.
const BATCH: usize = 8;
/// Each figure is the median of so many runs.
const RUNS: usize = 3;

/// A shape that is measured with random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 135 million weights: 30 layers of 576, 9 heads over 3, ffn 1536, vocabulary 49,152.
    A,
    /// Half a billion: 24 layers of 896, 14 heads over 2, ffn 4864, vocabulary 151,936.
    B,
    /// 1.2 billion: 16 layers of 2048, 32 heads over 8, ffn 8192, vocabulary 128,256.
    C,
}

impl Shape {
    /// The header of the shape, head tied, context 2048.
    #[must_use]
    pub fn header(self) -> Header {
        match self {
            Self::A => sample::decoder_header(30, 576, [9, 3, 64], 1536, 49_152, 2048),
            Self::B => sample::decoder_header(24, 896, [14, 2, 64], 4864, 151_936, 2048),
            Self::C => sample::decoder_header(16, 2048, [32, 8, 64], 8192, 128_256, 2048),
        }
    }

    /// A decoder of this shape with random weights.
    ///
    /// # Errors
    /// None for these shapes.
    pub fn decoder(self, pool: Arc<Pool>) -> Result<Decoder, ModelError> {
        let model = sample::decoder(&self.header(), 1).map_err(|error| ModelError::Header { reason: error.to_string() })?;
        Ok(Decoder::new(&model, pool))
    }
}

/// Medians of a few runs each.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchReport {
    /// Instructions of the kernels.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Ids per second of one sequence, 16 ids of prompt behind it.
    pub decode_tps: f64,
    /// Ids per second of a prompt of 512.
    pub prefill512_tps: f64,
    /// Output ids per second, checked by teacher forcing.
    pub check_tps: f64,
    /// Ids per second of 8 sequences together.
    pub batch8_tps: f64,
    /// 10^9 bytes per second, read from memory by all threads.
    pub dram_gbps: f64,
    /// Part of that which decoding reads: bytes of the packed matrices that each id needs, times `decode_tps`.
    pub dram_share: f64,
    /// 10^9 int8 operations per second (a product and a sum are two) of the product kernel on a matrix that stays in the cache; each weight takes two
    /// products.
    pub int8_peak_gops: f64,
    /// Bytes of the packed matrices that each id needs.
    pub bytes_per_token: u64,
}

/// Measures a decoder that runs on this pool.
///
/// # Errors
/// Not enough memory for 8 sequences, a context that is too short, or a check that contradicts the generation, which would be a defect of this
/// program.
pub fn bench(decoder: &Decoder, pool: &Pool) -> Result<BenchReport, ModelError> {
    let header = decoder.header();
    if (header.context as usize) < PREFILL {
        return Err(ModelError::Header { reason: format!("a benchmark needs a context of {PREFILL}, this model has {}", header.context) });
    }
    let bytes_per_token = bytes_per_token(header)?;
    let prompt = |seed: u64, length: usize| -> Vec<u32> {
        let mut generator = sample::Generator::new(seed);
        let id = |n: i64| u32::try_from(n).unwrap_or(0);
        (0..length).map(|_| id(generator.within(0, i64::from(header.vocabulary) - 1))).collect()
    };
    let rule = Rule::greedy(NonZeroU32::new(DECODED).unwrap_or(NonZeroU32::MIN), [NO_ID; 8]);

    let mut session = Session::new(decoder.clone(), PROMPT + DECODED as usize)?;
    let mut decode = Vec::new();
    let mut output = Vec::new();
    for run in 0..=RUNS {
        // A prompt that shares nothing with the one before.
        let generation = session.generate(&prompt(run as u64, PROMPT), &rule, &mut |_| true)?;
        decode.push(generation.decode_per_second());
        output = generation.ids;
    }
    let long = prompt(7, PREFILL);
    let mut work = Workspace::new(header, PREFILL);
    let prefill = timed(PREFILL, || {
        let mut cache = decoder.cache(PREFILL)?;
        decoder.step(&mut work, &mut [Run { cache: &mut cache, ids: &long, choose: None }])?;
        Ok(())
    })?;
    let key = OutputKey { item: 0, sample: 0 };
    let item = prompt(RUNS as u64, PROMPT);
    let check = timed(output.len(), || {
        let given = Given { ids: &output, reason: FinishReason::MaxOutput };
        match decoder.check(&mut work, &item, &rule, key, &given, |_, _| ())? {
            None => Ok(()),
            Some(departure) => Err(ModelError::Header { reason: format!("checking departs from generating: {departure:?}") }),
        }
    })?;
    let mut batched = Vec::new();
    for run in 0..RUNS as u64 {
        batched.push(batch(decoder, &rule, (0..BATCH as u64).map(|at| prompt(100 + at + 10 * run, PROMPT)))?);
    }
    let decode_tps = median(&mut decode);
    let dram = dram(pool);
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let dram_share = bytes_per_token as f64 * decode_tps / dram;
    Ok(BenchReport {
        isa: format!("{:?}", pool.isa()).chars().take_while(|c| c.is_alphanumeric()).collect(),
        threads: pool.threads(),
        decode_tps,
        prefill512_tps: prefill,
        check_tps: check,
        batch8_tps: median(&mut batched),
        dram_gbps: dram / 1e9,
        dram_share,
        int8_peak_gops: int8_peak(pool)? / 1e9,
        bytes_per_token,
    })
}

/// Ids per second of a batch once all prompts are computed.
fn batch(decoder: &Decoder, rule: &Rule, prompts: impl Iterator<Item = Vec<u32>>) -> Result<f64, ModelError> {
    let mut batch = Batch::new(decoder.clone(), BATCH * PROMPT);
    for (item, prompt) in (0..).zip(prompts) {
        batch.join(&prompt, rule.clone(), OutputKey { item, sample: 0 })?;
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

/// Median of things per second of a few runs, after one that does not count.
fn timed(things: usize, mut run: impl FnMut() -> Result<(), ModelError>) -> Result<f64, ModelError> {
    run()?;
    let mut figures = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        figures.push(per_second(things, start.elapsed()));
    }
    Ok(median(&mut figures))
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

/// Bytes per second that all threads of a pool read from memory, the best of a few runs: nothing else is to be measured with it.
fn dram(pool: &Pool) -> f64 {
    const BYTES: usize = 1 << 29;
    let pages = Pages::new(BYTES);
    let bytes: &[u8] = pages.as_ref();
    let parts = 8 * pool.threads();
    let part = BYTES / parts;
    let sum = |bytes: &[u8]| bytes.as_chunks::<8>().0.iter().fold(0u64, |sum, eight| sum.wrapping_add(u64::from_le_bytes(*eight)));
    let run = || {
        let start = Instant::now();
        pool.run(parts, |at| _ = black_box(sum(&bytes[at * part..(at + 1) * part])));
        per_second(parts * part, start.elapsed())
    };
    pool.lead(|| (0..2 * RUNS).map(|_| run()).fold(0.0, f64::max))
}

/// int8 operations per second, the best of a few runs.
fn int8_peak(pool: &Pool) -> Result<f64, ModelError> {
    const COLS: usize = 512;
    const POSITIONS: usize = 256;
    const REPEATS: usize = 20;
    let rows = 192 * 4 * pool.threads();
    let mut generator = sample::Generator::new(1);
    let matrix = sample::quick_matrix(&mut generator, rows, COLS).map_err(|error| ModelError::Header { reason: error.to_string() })?;
    let packed = Packed::new(&matrix);
    let x: Vec<i32> = (0..POSITIONS * COLS).map(|_| i32::try_from(generator.within(-100_000, 100_000)).unwrap_or(0)).collect();
    let mut operands = Operands::new(pool.isa());
    operands.fill(pool, &x, COLS);
    let mut out = vec![0; POSITIONS * rows];
    let mut run = || {
        let start = Instant::now();
        for _ in 0..REPEATS {
            kernels::linear_into(pool, &mut [(&packed, &mut out)], &operands);
        }
        // Two int8 products per weight, each with a sum.
        per_second(REPEATS * rows * COLS * POSITIONS * 4, start.elapsed())
    };
    Ok(pool.lead(|| (0..RUNS).map(|_| run()).fold(0.0, f64::max)))
}
