//! How long a job takes here: counted in multiply-adds, and turned into seconds by speeds that were measured on this machine.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::{Duration, Instant},
};

use quern_exact::{
    decoder::{Cache, Choose, Decoder, DecoderError, OutputKey, Rule, Run, Workspace},
    encoder::Encoder,
    header::{FAMILY_DECODER, Header, NO_ID},
};

use crate::generate::{SEQUENCES, STEP_ROWS};

/// How long each speed is measured.
const MEASURE: Duration = Duration::from_millis(400);
/// Computations shorter than this measure the clock.
const SHORTEST: Duration = Duration::from_millis(20);

/// What there is to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    /// Multiply-adds of all rows: the products with the weights, and attention.
    pub(crate) macs: u64,
    /// Multiply-adds of one row, once per step that makes ids: such a step reads every weight, however few its rows are.
    pub(crate) step_macs: u64,
}

/// The worst case of a generate job: no output ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Longest {
    /// Bytes of the keys and values of its longest sequence.
    pub(crate) kv_bytes: u64,
    /// All that there is to compute.
    pub(crate) load: Load,
}

/// Multiply-adds of attention from rows to `positions` in sum.
fn attention(header: &Header, positions: u128) -> u128 {
    2 * u128::from(header.layers) * u128::from(header.heads) * u128::from(header.head_dim) * positions
}

/// Multiply-adds of a row, and of its logits.
fn row(header: &Header) -> (u128, u128) {
    let all = u128::from(header.macs_per_token().unwrap_or(u64::MAX));
    let head = if header.family == FAMILY_DECODER { u128::from(header.vocabulary) * u128::from(header.dim) } else { 0 };
    (all.saturating_sub(head), head)
}

fn clamped(macs: u128) -> u64 {
    u64::try_from(macs).unwrap_or(u64::MAX)
}

/// Embeddings of these items. Items that nothing is computed of take nothing.
pub(crate) fn embed_load(header: &Header, items: &[Vec<u32>]) -> Load {
    let (linear, _) = row(header);
    let macs = items.iter().map(Vec::len).filter(|len| *len <= header.context as usize).map(|len| {
        let len = len as u128;
        len * linear + attention(header, len * len)
    });
    Load { macs: clamped(macs.sum()), step_macs: 0 }
}

/// Multiply-adds of an item's own rows.
pub(crate) fn item_macs(header: &Header, len: usize) -> u128 {
    let len = len as u128;
    len * row(header).0 + attention(header, len * (len + 1) / 2)
}

/// Multiply-adds of one output of so many ids behind an item.
pub(crate) fn output_macs(header: &Header, item_len: usize, ids: u64) -> u128 {
    let (linear, head) = row(header);
    let (len, ids) = (item_len as u128, u128::from(ids));
    let rows = ids.saturating_sub(1);
    rows * linear + ids * head + attention(header, rows * len + rows * (rows + 1) / 2)
}

/// The load of outputs that were made in so many steps.
pub(crate) fn generate_load(header: &Header, macs: u128, steps: u64) -> Load {
    let (linear, head) = row(header);
    Load { macs: clamped(macs), step_macs: clamped(u128::from(steps) * (linear + head)) }
}

/// Positions of a sequence: the item's and those of all output ids but the last.
pub(crate) fn positions(header: &Header, item_len: usize, max_output: u32) -> usize {
    (item_len + max_output as usize - 1).clamp(1, header.context as usize)
}

/// The worst case of a generate job.
pub(crate) fn longest(header: &Header, items: &[Vec<u32>], samples: u32, max_output: u32, kv_limit: u64) -> Longest {
    let context = header.context as usize;
    let (mut kv_bytes, mut macs, mut ids, mut most) = (0u64, 0u128, 0u128, 0u64);
    for item in items.iter().filter(|item| header.refuse(item).is_none()) {
        let output = u64::from(max_output).min((context - item.len()) as u64 + 1);
        macs += item_macs(header, item.len()) + u128::from(samples) * output_macs(header, item.len(), output);
        ids += u128::from(samples) * u128::from(output);
        most = most.max(output);
        kv_bytes = kv_bytes.max(Cache::bytes(header, positions(header, item.len(), max_output)) as u64);
    }
    let beside = kv_limit.checked_div(kv_bytes).unwrap_or(SEQUENCES as u64).clamp(1, SEQUENCES as u64);
    let steps = clamped(ids.div_ceil(u128::from(beside))).max(most);
    Longest { kv_bytes, load: generate_load(header, macs, steps) }
}

/// How fast this machine computes with a model: measured at the start, and corrected by every job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Speed {
    macs_per_sec: f64,
    step_macs_per_sec: f64,
}

impl Speed {
    /// Measures an encoder with made-up items of 64 ids for about half a second.
    pub(crate) fn of_encoder(encoder: &Encoder, threads: NonZeroUsize) -> Self {
        let header = encoder.header();
        let items: Vec<Vec<u32>> = (0..2 * threads.get()).map(|_| made_up(header, 64)).collect();
        let (began, mut done) = (Instant::now(), 0.0);
        while began.elapsed() < MEASURE {
            encoder.embed_map(&items, threads, |_, _| ());
            done += embed_load(header, &items).macs as f64;
        }
        Self { macs_per_sec: done / began.elapsed().as_secs_f64(), step_macs_per_sec: f64::INFINITY }
    }

    /// Measures a decoder for about a second: rows of an item, and ids one after the other.
    ///
    /// # Errors
    /// No memory for a sequence of 64 ids.
    pub(crate) fn of_decoder(decoder: &Decoder) -> Result<Self, DecoderError> {
        let header = decoder.header();
        let ids = made_up(header, 64);
        let mut work = Workspace::new(header, STEP_ROWS);
        let mut cache = decoder.cache(ids.len())?;
        // The first pass reads the weights from the disk.
        decoder.prefill(&mut work, &mut cache, &ids[..1], |_, _| ())?;
        let (began, mut done) = (Instant::now(), 0.0);
        while began.elapsed() < MEASURE {
            cache.truncate(0);
            decoder.prefill(&mut work, &mut cache, &ids, |_, _| ())?;
            done += item_macs(header, ids.len()) as f64;
        }
        let macs_per_sec = done / began.elapsed().as_secs_f64();
        let rule = Rule::greedy(NonZeroU32::MIN, [NO_ID; 8]);
        let key = OutputKey { item: 0, sample: 0 };
        let (began, mut steps) = (Instant::now(), 0);
        while began.elapsed() < MEASURE {
            cache.truncate(ids.len() - 1);
            let choose = Some(Choose { rule: &rule, key, from: 0 });
            decoder.step(&mut work, &mut [Run { cache: &mut cache, ids: &ids[ids.len() - 1..], choose }])?;
            steps += 1;
        }
        let step_macs = generate_load(header, 0, steps).step_macs as f64;
        Ok(Self { macs_per_sec, step_macs_per_sec: step_macs / began.elapsed().as_secs_f64() })
    }

    /// How long this takes: rows and steps one after the other, which is more than both together.
    pub(crate) fn millis(&self, load: &Load) -> u64 {
        let secs = load.macs as f64 / self.macs_per_sec.max(1.0) + load.step_macs as f64 / self.step_macs_per_sec.max(1.0);
        (secs * 1_000.0).ceil() as u64
    }

    /// Takes a job into account: a fifth of the new figure, so that one odd job does not decide.
    pub(crate) fn learn(&mut self, load: &Load, took: Duration) {
        let expected = self.millis(load) as f64 / 1_000.0;
        if took < SHORTEST || expected < SHORTEST.as_secs_f64() {
            return;
        }
        let factor = 0.8 + 0.2 * expected / took.as_secs_f64();
        self.macs_per_sec *= factor;
        self.step_macs_per_sec *= factor;
    }

    /// Multiply-adds per second over many rows, at least 1.
    pub(crate) fn macs_per_sec(&self) -> u64 {
        self.macs_per_sec.max(1.0) as u64
    }
}

fn made_up(header: &Header, len: u32) -> Vec<u32> {
    (0..header.context.min(len)).map(|at| (at * 31) % header.vocabulary.max(1)).collect()
}

#[cfg(test)]
mod tests {
    use quern_exact::sample::{small_decoder_header, small_header};

    use super::*;

    #[test]
    fn encoder_takes_no_steps_and_nothing_for_items_that_it_refuses() {
        let header = small_header();
        let one = embed_load(&header, &[vec![1; 10]]);
        assert_eq!(one.step_macs, 0);
        assert_eq!(embed_load(&header, &[vec![1; 10], vec![], vec![1; 1_000]]), one);
    }

    #[test]
    fn worst_case_of_a_generate_job_is_bounded_by_the_context() {
        let header = small_decoder_header();
        let item = vec![vec![1; 30]];
        let (some, all) = (longest(&header, &item, 2, 11, u64::MAX), longest(&header, &item, 2, 32_768, u64::MAX));
        assert_eq!(some, all, "40 positions end every output");
        assert_eq!(all.kv_bytes, Cache::bytes(&header, 40) as u64);
        let refused = longest(&header, &[vec![], vec![1; 41], vec![100]], 2, 8, u64::MAX);
        assert_eq!(refused, Longest { kv_bytes: 0, load: Load::default() });
    }

    #[test]
    fn less_memory_means_more_steps_and_the_same_rows() {
        let header = small_decoder_header();
        let items = vec![vec![1; 4]; 8];
        let (wide, narrow) = (longest(&header, &items, 4, 8, u64::MAX), longest(&header, &items, 4, 8, 1));
        assert_eq!(wide.load.macs, narrow.load.macs);
        assert_eq!(wide.load.step_macs * 32, narrow.load.step_macs);
    }

    #[test]
    fn time_is_learnt_from_jobs_and_not_from_the_shortest() {
        let mut speed = Speed { macs_per_sec: 1e9, step_macs_per_sec: 1e8 };
        let load = Load { macs: 1_000_000_000, step_macs: 100_000_000 };
        assert_eq!(speed.millis(&load), 2_000);
        speed.learn(&load, Duration::from_millis(1));
        assert_eq!(speed.millis(&load), 2_000);
        for _ in 0..100 {
            speed.learn(&load, Duration::from_secs(4));
        }
        assert!((3_900..=4_100).contains(&speed.millis(&load)), "{}", speed.millis(&load));
    }
}
