//! Generating: all outputs of a job in one running batch, which sequences join and leave as there is room.
//!
//! Samples of one item share the computation of the item. Who else is in the batch, and in which order sequences join, cannot change a bit of an output.

use std::collections::HashMap;

use quern_commit::{blob::OutputRecord, work::WorkLeaf};
use quern_exact::decoder::{Batch, Cache, Decoder, DecoderError, Event, OutputKey, Rule, Ticket, Workspace};
use quern_types::B256;

use crate::load::{Load, generate_load, item_macs, output_macs, positions};

/// Most sequences side by side: by then the products are as fast as with any number of rows.
pub(crate) const SEQUENCES: usize = 32;
/// Most rows of a step: it must be short enough that a look at whether the job is still wanted comes soon.
pub(crate) const STEP_ROWS: usize = 256;

/// The outputs of a generate job to be computed.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    pub(crate) decoder: Decoder,
    pub(crate) items: Vec<Vec<u32>>,
    pub(crate) samples: u32,
    pub(crate) rule: Rule,
    /// Bytes that all keys and values together may take. One sequence is computed whatever it takes.
    pub(crate) kv_limit: u64,
}

/// What came out, item-major, then sample.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) records: Vec<OutputRecord<u32>>,
    /// Work leaf of each output.
    pub(crate) leaves: Vec<B256>,
    pub(crate) load: Load,
}

/// A sequence in the batch.
struct Slot {
    output: usize,
    ids: Vec<u32>,
    leaf: WorkLeaf,
    bytes: u64,
}

/// An item that is computed but for its last id, for samples to come.
struct Shared {
    item: usize,
    cache: Cache,
    leaf: WorkLeaf,
}

/// Whether a sequence joined.
enum Admission {
    Joined,
    /// There is no room before another one leaves, or nothing is left to join.
    Full,
    Unwanted,
}

struct Running<'a> {
    job: &'a Generation,
    batch: Batch,
    /// For items that several samples share.
    work: Option<Workspace>,
    shared: Option<Shared>,
    slots: HashMap<Ticket, Slot>,
    done: Vec<Option<(OutputRecord<u32>, B256)>>,
    /// The next output to join.
    next: usize,
    /// Bytes of all keys and values.
    used: u64,
    macs: u128,
    steps: u64,
}

impl Generation {
    /// Computes; `None` where `wanted`, which is asked between any two steps, said no before the end.
    ///
    /// # Errors
    /// No memory for one sequence alone.
    pub(crate) fn run(&self, wanted: &mut dyn FnMut() -> bool) -> Result<Option<Generated>, DecoderError> {
        let mut running = Running {
            job: self,
            batch: Batch::new(self.decoder.clone(), STEP_ROWS),
            work: None,
            shared: None,
            slots: HashMap::new(),
            done: (0..self.items.len() * self.samples as usize).map(|_| None).collect(),
            next: 0,
            used: 0,
            macs: 0,
            steps: 0,
        };
        loop {
            loop {
                match running.admit(wanted)? {
                    Admission::Joined => {}
                    Admission::Full => break,
                    Admission::Unwanted => return Ok(None),
                }
            }
            if running.slots.is_empty() {
                return Ok(Some(running.finish()));
            }
            if !wanted() {
                return Ok(None);
            }
            running.step()?;
        }
    }
}

impl Running<'_> {
    /// Lets the next output join, where there is room.
    fn admit(&mut self, wanted: &mut dyn FnMut() -> bool) -> Result<Admission, DecoderError> {
        if self.next >= self.done.len() || self.slots.len() >= SEQUENCES {
            return Ok(Admission::Full);
        }
        let samples = self.job.samples as usize;
        let (at, sample) = (self.next / samples, self.next % samples);
        let job = self.job;
        let (header, item) = (job.decoder.header(), &job.items[at]);
        if let Some(reason) = header.refuse(item) {
            let leaf = leaf(WorkLeaf::new(header.dim as usize));
            self.done[self.next] = Some((OutputRecord { reason, elements: Vec::new() }, leaf));
            self.next += 1;
            return Ok(Admission::Joined);
        }
        let bytes = Cache::bytes(header, positions(header, item.len(), job.rule.max_output.get())) as u64;
        let joined = if samples > 1 && item.len() > 1 {
            if self.shared.as_ref().is_none_or(|shared| shared.item != at) {
                if !self.has_room(bytes) {
                    return Ok(Admission::Full);
                }
                match self.share(at, bytes, wanted) {
                    Ok(true) => {}
                    Ok(false) => return Ok(Admission::Unwanted),
                    Err(error) => return self.or_wait(error),
                }
            }
            self.join_shared(at, sample, bytes)
        } else if self.has_room(bytes) {
            let key = key(at, sample);
            self.batch.join(item, job.rule.clone(), key).map(|ticket| {
                self.used += bytes;
                Some((ticket, WorkLeaf::new(header.dim as usize)))
            })
        } else {
            Ok(None)
        };
        match joined {
            Ok(Some((ticket, leaf))) => {
                if sample == 0 {
                    self.macs += item_macs(header, item.len());
                }
                self.slots.insert(ticket, Slot { output: self.next, ids: Vec::new(), leaf, bytes });
                self.next += 1;
                Ok(Admission::Joined)
            }
            Ok(None) => Ok(Admission::Full),
            Err(error) => self.or_wait(error),
        }
    }

    /// Whether so many bytes more may be taken. Alone, a sequence is tried whatever it takes.
    fn has_room(&self, bytes: u64) -> bool {
        self.used == 0 || self.used.saturating_add(bytes) <= self.job.kv_limit
    }

    /// Memory that the system refuses now may be free when another sequence has left.
    fn or_wait(&self, error: DecoderError) -> Result<Admission, DecoderError> {
        match error {
            DecoderError::OutOfMemory { .. } if !self.slots.is_empty() => Ok(Admission::Full),
            error => Err(error),
        }
    }

    /// Computes an item but for its last id. False: not wanted any more.
    fn share(&mut self, at: usize, bytes: u64, wanted: &mut dyn FnMut() -> bool) -> Result<bool, DecoderError> {
        let job = self.job;
        let (decoder, item) = (&job.decoder, &job.items[at]);
        let header = decoder.header();
        let mut cache = decoder.cache(positions(header, item.len(), job.rule.max_output.get()))?;
        let mut leaf = WorkLeaf::new(header.dim as usize);
        let work = self.work.get_or_insert_with(|| Workspace::new(header, STEP_ROWS));
        for ids in item[..item.len() - 1].chunks(STEP_ROWS) {
            if !wanted() {
                return Ok(false);
            }
            decoder.prefill(work, &mut cache, ids, |_, rows| leaf.push(rows))?;
        }
        self.used += bytes;
        self.shared = Some(Shared { item: at, cache, leaf });
        Ok(true)
    }

    /// Joins a sample of the shared item: with a copy of it, or, as its last or where there is no room for a copy, with itself.
    fn join_shared(&mut self, at: usize, sample: usize, bytes: u64) -> Result<Option<(Ticket, WorkLeaf)>, DecoderError> {
        let last = sample + 1 == self.job.samples as usize;
        let Some(shared) = &self.shared else { return Ok(None) };
        let fits = self.used.saturating_add(bytes) <= self.job.kv_limit;
        let copy = if last || !fits { None } else { shared.cache.fork(self.job.decoder.header()).ok() };
        let (cache, leaf) = match copy {
            Some(copy) => {
                self.used += bytes;
                (copy, shared.leaf.clone())
            }
            None if last || self.slots.is_empty() => match self.shared.take() {
                Some(shared) => (shared.cache, shared.leaf),
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        let ticket = self.batch.join_from(cache, &self.job.items[at], self.job.rule.clone(), key(at, sample))?;
        Ok(Some((ticket, leaf)))
    }

    fn step(&mut self) -> Result<(), DecoderError> {
        let Self { job, batch, slots, done, used, macs, steps, .. } = self;
        *steps += 1;
        batch.step(|event| match event {
            Event::Rows { ticket, rows, .. } => {
                if let Some(slot) = slots.get_mut(&ticket) {
                    slot.leaf.push(rows);
                }
            }
            Event::Id { ticket, id } => {
                if let Some(slot) = slots.get_mut(&ticket) {
                    slot.ids.push(id);
                }
            }
            Event::End { ticket, reason } => {
                if let Some(slot) = slots.remove(&ticket) {
                    let item_len = job.items[slot.output / job.samples as usize].len();
                    *macs += output_macs(job.decoder.header(), item_len, slot.ids.len() as u64);
                    *used -= slot.bytes;
                    done[slot.output] = Some((OutputRecord { reason, elements: slot.ids }, leaf(slot.leaf)));
                }
            }
        })?;
        Ok(())
    }

    fn finish(self) -> Generated {
        let load = generate_load(self.job.decoder.header(), self.macs, self.steps);
        let (records, leaves) = self.done.into_iter().flatten().unzip();
        Generated { records, leaves, load }
    }
}

fn key(item: usize, sample: usize) -> OutputKey {
    // A job has at most 65,536 items of 256 samples.
    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    OutputKey { item: number(item), sample: number(sample) }
}

/// A sequence has at most the context, 2^15 positions.
fn leaf(leaf: WorkLeaf) -> B256 {
    leaf.finish().unwrap_or_else(|error| unreachable!("{error}"))
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, sync::Arc};

    use quern_commit::work::work_leaf;
    use quern_exact::{
        encoder,
        header::NO_ID,
        kernels::{Isa, Pool},
        sample,
    };
    use quern_types::FinishReason;

    use super::*;

    fn job(samples: u32, kv_limit: u64) -> Generation {
        let model = sample::decoder(&sample::small_decoder_header(), 5).expect("a decoder");
        let decoder = Decoder::new(&model, Arc::new(Pool::single(Isa::detect())));
        // Every way to end: empty, one id, long, as long as the context, longer, an unknown id.
        let items = vec![vec![], vec![7], (0..30).collect(), vec![3; 40], vec![3; 41], vec![100], vec![1, 2, 3]];
        let stop_ids = [11, 23, 42, 61, 77, NO_ID, NO_ID, NO_ID];
        let rule = Rule { max_output: NonZeroU32::new(20).expect("20"), stop_ids, temperature: 1 << 16, min_p: 0, seed: [9; 32] };
        Generation { decoder, items, samples, rule, kv_limit }
    }

    fn all(job: &Generation) -> Generated {
        job.run(&mut || true).expect("memory").expect("wanted")
    }

    #[test]
    fn every_output_is_what_its_definition_alone_makes() {
        let job = job(3, u64::MAX);
        let made = all(&job);
        let mut reasons = Vec::new();
        for (at, (record, leaf)) in made.records.iter().zip(&made.leaves).enumerate() {
            let (item, sample) = (at / 3, at % 3);
            let alone = job.decoder.generate(&job.items[item], &job.rule, key(item, sample)).expect("memory");
            assert_eq!((record.reason, &record.elements), (alone.reason, &alone.ids), "item {item}, sample {sample}");
            let output = encoder::Output { reason: alone.reason, vector: Vec::new(), norm_rows: alone.norm_rows };
            if record.elements.is_empty() {
                continue;
            }
            assert_eq!(*leaf, work_leaf(&output), "item {item}, sample {sample}");
            reasons.push(record.reason);
        }
        assert!(reasons.contains(&FinishReason::Stop) && reasons.contains(&FinishReason::Context), "{reasons:?}");
        assert_eq!(made.records.iter().filter(|record| record.elements.is_empty()).count(), 9);
    }

    #[test]
    fn memory_for_one_sequence_at_a_time_gives_the_same_bits() {
        let (wide, narrow) = (all(&job(3, u64::MAX)), all(&job(3, 1)));
        assert_eq!((&wide.records, &wide.leaves), (&narrow.records, &narrow.leaves));
        assert!(narrow.load.step_macs > wide.load.step_macs);
        let two = Cache::bytes(job(3, 0).decoder.header(), 40) as u64 * 2;
        assert_eq!(all(&job(3, two)).records, wide.records);
        assert_eq!(all(&job(1, two)).records.len(), 7);
    }

    #[test]
    fn job_that_is_not_wanted_any_more_ends_without_a_result() {
        let job = job(3, u64::MAX);
        for looks in 0..6 {
            let mut left = looks;
            let ended = job.run(&mut || {
                left -= 1;
                left >= 0
            });
            assert!(ended.expect("memory").is_none(), "{looks} looks");
        }
    }

    #[test]
    fn more_outputs_than_fit_side_by_side_are_all_made() {
        let mut job = job(1, u64::MAX);
        job.items = (0..80).map(|at| vec![at, at + 1]).collect();
        let made = all(&job);
        assert_eq!(made.records.len(), 80);
        assert!(made.records.iter().all(|record| !record.elements.is_empty()));
    }
}
