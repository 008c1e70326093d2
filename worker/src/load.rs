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
/// From so many rows on a step takes as long as its rows do, and reading the weights takes no time of its own.
pub(crate) const MANY_ROWS: usize = 64;
/// Computations shorter than this measure the clock.
const SHORTEST: Duration = Duration::from_millis(20);

/// What one job can make a speed rise by.
const FASTER: f64 = 1.25;

/// What there is to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    /// Multiply-adds of all rows: the products with the weights, and attention.
    pub(crate) macs: u64,
    /// Multiply-adds of one row, once per step of fewer than [`MANY_ROWS`]: such a step reads every weight, however few its rows are.
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

/// Embeddings of these items. Items that nothing is computed of take nothing.
pub(crate) fn embed_load(header: &Header, items: &[Vec<u32>]) -> Load {
    let (linear, _) = row(header);
    let macs = items.iter().filter(|item| header.refuse(item).is_none()).map(|item| {
        let len = item.len() as u128;
        len * linear + attention(header, len * len)
    });
    Load { macs: clamped(macs.sum()), step_macs: 0 }
}

/// The products of so many ids, whatever items they are in and whatever follows: the least that a job with such an input takes, but for items that the
/// model does not compute.
pub(crate) fn least_load(header: &Header, ids: u64) -> Load {
    Load { macs: clamped(u128::from(ids) * row(header).0), step_macs: 0 }
}

/// Multiply-adds of the rows of a sequence that are computed behind its first `first` ones.
pub(crate) fn rows_macs(header: &Header, first: usize, rows: usize) -> u128 {
    let (first, rows) = (first as u128, rows as u128);
    rows * row(header).0 + attention(header, rows * first + rows * (rows + 1) / 2)
}

/// Multiply-adds of the choice of an id.
pub(crate) fn choice_macs(header: &Header) -> u128 {
    row(header).1
}

/// Multiply-adds of one output of so many ids: the row of the item's last id, which each sample computes for itself, the rows of all output ids but the
/// last, and the choices.
pub(crate) fn output_macs(header: &Header, item_len: usize, ids: u64) -> u128 {
    rows_macs(header, item_len.saturating_sub(1), ids as usize) + u128::from(ids) * choice_macs(header)
}

/// The load of so many rows, in so many steps of few.
pub(crate) fn generate_load(header: &Header, macs: u128, steps: u64) -> Load {
    Load { macs: clamped(macs), step_macs: clamped(u128::from(steps) * step_macs(header)) }
}

/// Multiply-adds that stand for the reading of all weights.
pub(crate) fn step_macs(header: &Header) -> u128 {
    let (linear, head) = row(header);
    linear + head
}

pub(crate) fn clamped(macs: u128) -> u64 {
    u64::try_from(macs).unwrap_or(u64::MAX)
}

/// Most ids of an output behind an item of so many ids, at most the context.
pub(crate) fn most_ids(header: &Header, item_len: usize, max_output: u32) -> u64 {
    u64::from(max_output).min((header.context as usize).saturating_sub(item_len) as u64 + 1)
}

/// Positions of a sequence: the item's and those of all output ids but the last.
pub(crate) fn positions(header: &Header, item_len: usize, max_output: u32) -> usize {
    (item_len + max_output as usize - 1).clamp(1, header.context as usize)
}

/// The worst case of a generate job. It holds beside others too: whatever share of the batch they leave, all jobs together take no more steps than one
/// after the other, because a place is never left empty while an output that fits it waits.
pub(crate) fn longest(header: &Header, items: &[Vec<u32>], samples: u32, max_output: u32, kv_limit: u64) -> Longest {
    let computed = || items.iter().filter(|item| header.refuse(item).is_none());
    let bytes = |item: &Vec<u32>| Cache::bytes(header, positions(header, item.len(), max_output)) as u64;
    let kv_bytes = computed().map(bytes).max().unwrap_or(0);
    // Samples are made of a copy of their item's keys and values, which takes a place; where there is room for one only, each computes the item anew.
    let places = kv_limit.checked_div(kv_bytes).unwrap_or(u64::MAX);
    let beside = places.saturating_sub(u64::from(samples > 1)).clamp(1, SEQUENCES as u64);
    let times = if places < 2 { u128::from(samples) } else { 1 };
    let (mut macs, mut ids, mut most, mut shared) = (0u128, 0u64, 0u64, 0u64);
    for item in computed() {
        let output = most_ids(header, item.len(), max_output);
        macs += times * rows_macs(header, 0, item.len() - 1) + u128::from(samples) * output_macs(header, item.len(), output);
        ids = ids.saturating_add(u64::from(samples).saturating_mul(output));
        most = most.max(output);
        if samples > 1 {
            shared = shared.saturating_add((item.len() as u64 - 1).div_ceil(STEP_ROWS as u64).saturating_mul(clamped(times)));
        }
    }
    // All places are taken until the last output has joined, and that one is at most the longest.
    let outputs = computed().count() as u64 * u64::from(samples);
    let steps = if outputs <= beside { most } else { (ids - most).div_ceil(beside) + most };
    // A piece of a beginning is a step of its own, and the samples behind it join a step later.
    Longest { kv_bytes, load: generate_load(header, macs, steps.saturating_add(shared.saturating_mul(2))) }
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
        let ids = made_up(header, MANY_ROWS as u32);
        let mut work = Workspace::new(header, STEP_ROWS);
        let mut cache = decoder.cache(ids.len())?;
        // The first pass reads the weights from the disk.
        decoder.prefill(&mut work, &mut cache, &ids[..1], |_, _| ())?;
        let (began, mut done) = (Instant::now(), 0.0);
        while began.elapsed() < MEASURE {
            cache.truncate(0);
            decoder.prefill(&mut work, &mut cache, &ids, |_, _| ())?;
            done += rows_macs(header, 0, ids.len()) as f64;
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

    /// Takes a job into account: a fifth of the new figure, and never much faster than before, so that one odd job does not decide.
    pub(crate) fn learn(&mut self, load: &Load, took: Duration) {
        if took < SHORTEST {
            return;
        }
        let expected = self.millis(load) as f64 / 1_000.0;
        let factor = (0.8 + 0.2 * expected / took.as_secs_f64()).min(FASTER);
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
        let least = least_load(&header, 10);
        assert!(least.step_macs == 0 && least.macs > 0 && least.macs <= one.macs, "{least:?}");
        assert_eq!(embed_load(&header, &[vec![1; 10], vec![], vec![1; 1_000], vec![u32::MAX; 10]]), one);
    }

    #[test]
    fn worst_case_of_a_generate_job_is_bounded_by_the_context() {
        let header = small_decoder_header();
        let item = vec![vec![1; 30]];
        let (some, all) = (longest(&header, &item, 2, 11, u64::MAX), longest(&header, &item, 2, 32_768, u64::MAX));
        assert_eq!(some, all, "40 positions end every output");
        assert_eq!(all.kv_bytes, Cache::bytes(&header, 40) as u64);
        let refused = longest(&header, &[vec![], vec![1; 41], vec![100]], 2, 8, 1);
        assert_eq!(refused, Longest { kv_bytes: 0, load: Load::default() });
    }

    #[test]
    fn less_memory_means_more_steps_and_the_same_rows() {
        let header = small_decoder_header();
        let items = vec![vec![1; 4]; 8];
        let (wide, narrow) = (longest(&header, &items, 1, 8, u64::MAX), longest(&header, &items, 1, 8, 1));
        assert_eq!(wide.load.macs, narrow.load.macs);
        assert_eq!(wide.load.step_macs * 8, narrow.load.step_macs);
    }

    #[test]
    fn output_that_joins_last_runs_to_its_end_behind_the_others() {
        let header = small_decoder_header();
        let steps =
            |outputs: usize| longest(&header, &vec![vec![1; 4]; outputs], 1, 8, u64::MAX).load.step_macs / clamped(step_macs(&header));
        assert_eq!((steps(1), steps(32), steps(33), steps(64)), (8, 8, 16, 24));
    }

    #[test]
    fn without_room_for_a_copy_every_sample_computes_its_item() {
        let header = small_decoder_header();
        let bytes = Cache::bytes(&header, 27) as u64;
        let macs = |kv_limit| longest(&header, &[vec![1; 20]], 4, 8, kv_limit).load.macs;
        assert_eq!(macs(bytes * 2), macs(u64::MAX));
        assert_eq!(macs(bytes), macs(u64::MAX) + 3 * clamped(rows_macs(&header, 0, 19)));
    }

    #[test]
    fn no_job_of_an_enemy_makes_a_worker_think_itself_much_faster_or_keeps_it_from_learning_that_it_is_slow() {
        let load = Load { macs: 1_000_000_000, step_macs: 0 };
        let mut speed = Speed { macs_per_sec: 1e9, step_macs_per_sec: 1e8 };
        speed.learn(&Load { macs: u64::MAX, step_macs: 0 }, Duration::from_millis(30));
        assert_eq!(speed.millis(&load), 800);
        let mut fooled = Speed { macs_per_sec: 1e15, step_macs_per_sec: 1e15 };
        for _ in 0..80 {
            fooled.learn(&load, Duration::from_secs(1));
        }
        assert!(fooled.millis(&load) > 500, "{} ms", fooled.millis(&load));
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
