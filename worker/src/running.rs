//! The generate jobs at hand: one running batch per model, which sequences of all jobs join and leave as there is room. Samples of one item share its
//! computation.
//!
//! Who else is in a batch, and in which order sequences join, cannot change a bit of an output.
//!
//! Whose sequence joins next: that of the job with the fewest in the batch, of equals the oldest. One for which there is no memory is passed, so that no
//! place is left empty while another fits it; but nobody passes the oldest job that waits and has none in the batch, so none waits for ever.

use std::collections::HashMap;

use quern_commit::{blob::OutputRecord, work::WorkLeaf};
use quern_exact::decoder::{Batch, Cache, Decoder, DecoderError, Event, Ticket, Workspace};
use quern_model::available_memory;
use quern_types::{B256, FinishReason, PackageRoot};

use crate::{
    generate::{Generated, Generation, SEQUENCES, STEP_ROWS},
    load::{Load, MANY_ROWS, choice_macs, clamped, longest, most_ids, output_macs, positions, rows_macs, step_macs},
};

/// A job at hand; numbers grow with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct JobNumber(u64);

/// What one turn did.
#[derive(Debug)]
pub(crate) struct Turn {
    /// For each job that it did something for.
    pub(crate) worked: Vec<Worked>,
    /// Jobs that are over, and are at hand no more. An error is that of a job for whose single sequence there is no memory.
    pub(crate) ended: Vec<(JobNumber, Result<Generated, DecoderError>)>,
}

/// Work on a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Worked {
    pub(crate) job: JobNumber,
    /// Multiply-adds of its rows.
    pub(crate) macs: u128,
    /// What it still needs at most, in millionths of all that it needs at most.
    pub(crate) left_ppm: u32,
}

/// All jobs at hand.
#[derive(Debug)]
pub(crate) struct Running {
    memory: Memory,
    /// The oldest first.
    jobs: Vec<Job>,
    /// Those of the jobs; the one that has waited longest for a step first.
    models: Vec<Model>,
    numbers: u64,
}

/// Bytes of all keys and values.
#[derive(Debug)]
struct Memory {
    /// As many as all may take together. One sequence alone may take more.
    limit: u64,
    used: u64,
}

#[derive(Debug)]
struct Model {
    package: PackageRoot,
    decoder: Decoder,
    batch: Batch,
    /// For items that several samples share.
    work: Option<Workspace>,
    slots: HashMap<Ticket, Slot>,
}

/// A sequence in the batch.
#[derive(Debug)]
struct Slot {
    job: JobNumber,
    output: usize,
    item_len: usize,
    ids: Vec<u32>,
    leaf: WorkLeaf,
    bytes: u64,
}

/// The next item, computed but for its last id or on its way there, for its samples to come.
#[derive(Debug)]
struct Shared {
    cache: Cache,
    leaf: WorkLeaf,
    bytes: u64,
}

#[derive(Debug)]
struct Job {
    number: JobNumber,
    generation: Generation,
    shared: Option<Shared>,
    done: Vec<Option<(OutputRecord<u32>, B256)>>,
    /// The next output to join.
    next: usize,
    /// Its sequences in the batch.
    sequences: usize,
    /// Ids of it that the step at hand has made.
    chosen: u64,
    macs: u128,
    step_macs: u128,
    /// Multiply-adds that were not told of yet.
    fresh: u128,
    /// Multiply-adds in the worst case, and those of them that are done or turned out not to be needed.
    most: u128,
    settled: u128,
}

/// Whether the next output of a job joined.
enum Admission {
    Joined,
    /// Its item is being computed for all its samples.
    Shares,
    /// As many sequences as may be are in the batch.
    NoPlace,
    /// There is no memory for it before another one leaves.
    NoMemory,
}

impl Running {
    /// No jobs; the keys and values of all may take `kv_limit` bytes together.
    pub(crate) const fn new(kv_limit: u64) -> Self {
        Self { memory: Memory { limit: kv_limit, used: 0 }, jobs: Vec::new(), models: Vec::new(), numbers: 0 }
    }

    /// Takes a job. Its sequences join in the next turns.
    pub(crate) fn join(&mut self, generation: Generation) -> JobNumber {
        self.numbers += 1;
        let number = JobNumber(self.numbers);
        if !self.models.iter().any(|model| model.package == generation.package) {
            self.models.push(Model::new(&generation));
        }
        self.jobs.push(Job::new(number, generation, self.memory.limit));
        number
    }

    /// Gives a job up with all its sequences.
    pub(crate) fn leave(&mut self, number: JobNumber) {
        let Some(at) = self.jobs.iter().position(|job| job.number == number) else { return };
        self.memory.used -= self.jobs.remove(at).shared.map_or(0, |shared| shared.bytes);
        for Model { batch, slots, .. } in &mut self.models {
            for (ticket, slot) in slots.extract_if(|_, slot| slot.job == number) {
                batch.leave(ticket);
                self.memory.used -= slot.bytes;
            }
        }
        self.models.retain(|model| self.jobs.iter().any(|job| job.generation.package == model.package));
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Lets sequences join, computes a piece of an item that samples share, where one is needed, and makes one step of one batch.
    pub(crate) fn turn(&mut self) -> Turn {
        let mut failed = Vec::new();
        self.admit(&mut failed);
        self.share(&mut failed);
        self.step(&mut failed);
        let worked = self.jobs.iter_mut().filter_map(Job::tell).collect();
        for (number, _) in &failed {
            self.leave(*number);
        }
        let mut ended: Vec<_> = failed.into_iter().map(|(number, error)| (number, Err(error))).collect();
        while let Some(at) = self.jobs.iter().position(Job::is_complete) {
            ended.push((self.jobs[at].number, Ok(self.jobs[at].finish())));
            self.leave(self.jobs[at].number);
        }
        Turn { worked, ended }
    }

    fn admit(&mut self, failed: &mut Vec<(JobNumber, DecoderError)>) {
        while self.admit_one(failed) {}
    }

    /// Lets the next sequence join, if there is one for which there is room.
    fn admit_one(&mut self, failed: &mut Vec<(JobNumber, DecoderError)>) -> bool {
        let Self { memory, jobs, models, .. } = self;
        let idle = models.iter().all(|model| model.slots.is_empty());
        let has_failed = |number| failed.iter().any(|(failed, _)| *failed == number);
        let mut order: Vec<usize> = (0..jobs.len()).filter(|&at| jobs[at].waits() && !has_failed(jobs[at].number)).collect();
        let oldest = order.first().copied();
        order.sort_by_key(|&at| jobs[at].sequences);
        for at in order {
            let job = &mut jobs[at];
            let Some(model) = model_of(models, job) else { continue };
            match job.admit(model, memory, idle) {
                Ok(Admission::Joined) => return true,
                // Where nothing is in any batch, what holds the memory is another job's item: that one must go on.
                Ok(Admission::NoMemory) if oldest == Some(at) && job.sequences == 0 && !idle => return false,
                Ok(Admission::NoMemory | Admission::NoPlace | Admission::Shares) => {}
                Err(error) => {
                    failed.push((job.number, error));
                    return true;
                }
            }
        }
        false
    }

    /// Computes the next piece of the oldest job's item that is not ready for its samples.
    fn share(&mut self, failed: &mut Vec<(JobNumber, DecoderError)>) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.is_sharing()) else { return };
        let Some(model) = model_of(&mut self.models, job) else { return };
        if let Err(error) = job.share(model) {
            failed.push((job.number, error));
        }
    }

    /// One step of the batch that has waited longest for one.
    fn step(&mut self, failed: &mut Vec<(JobNumber, DecoderError)>) {
        let Self { memory, jobs, models, .. } = self;
        let Some(at) = models.iter().position(|model| !model.slots.is_empty()) else { return };
        models[at..].rotate_left(1);
        let Some(Model { decoder, batch, slots, .. }) = models.last_mut() else { return };
        let header = decoder.header();
        let of = |jobs: &mut [Job], number: JobNumber, act: &mut dyn FnMut(&mut Job)| {
            jobs.iter_mut().filter(|job| job.number == number).for_each(act);
        };
        let stepped = batch.step(|event| match event {
            Event::Rows { ticket, first, rows } => {
                if let Some(slot) = slots.get_mut(&ticket) {
                    slot.leaf.push(rows);
                    of(jobs, slot.job, &mut |job| job.count(rows_macs(header, first, rows.len() / header.dim as usize)));
                }
            }
            Event::Id { ticket, id } => {
                if let Some(slot) = slots.get_mut(&ticket) {
                    slot.ids.push(id);
                    of(jobs, slot.job, &mut |job| {
                        job.count(choice_macs(header));
                        job.chosen += 1;
                    });
                }
            }
            Event::End { ticket, reason } => {
                if let Some(mut slot) = slots.remove(&ticket) {
                    memory.used -= slot.bytes;
                    of(jobs, slot.job, &mut |job| job.end(&mut slot, reason));
                }
            }
        });
        let is_short = stepped.as_ref().is_ok_and(|rows| *rows < MANY_ROWS);
        if let Err(error) = stepped {
            let jobs: std::collections::BTreeSet<JobNumber> = slots.values().map(|slot| slot.job).collect();
            failed.extend(jobs.into_iter().map(|job| (job, error.clone())));
        }
        let chosen: u64 = jobs.iter().map(|job| job.chosen).sum();
        for job in jobs.iter_mut().filter(|job| job.chosen > 0) {
            let part = step_macs(header) * u128::from(std::mem::take(&mut job.chosen)) / u128::from(chosen);
            job.step_macs += if is_short { part } else { 0 };
        }
    }
}

fn model_of<'a>(models: &'a mut [Model], job: &Job) -> Option<&'a mut Model> {
    models.iter_mut().find(|model| model.package == job.generation.package)
}

impl Memory {
    /// Whether so many bytes more may be taken. Alone, a sequence may take what there is.
    ///
    /// # Errors
    /// There is no memory for a sequence alone.
    fn has_room(&self, positions: usize, bytes: u64) -> Result<bool, DecoderError> {
        let is_free = bytes <= available_memory();
        if self.used > 0 {
            return Ok(is_free && self.used.saturating_add(bytes) <= self.limit);
        }
        if is_free { Ok(true) } else { Err(DecoderError::OutOfMemory { positions, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) }) }
    }

    /// Memory that the system refuses now may be free when another sequence has left.
    fn or_wait(&self, error: DecoderError) -> Result<Admission, DecoderError> {
        match error {
            DecoderError::OutOfMemory { .. } if self.used > 0 => Ok(Admission::NoMemory),
            error => Err(error),
        }
    }
}

impl Model {
    fn new(generation: &Generation) -> Self {
        let decoder = generation.decoder.clone();
        let batch = Batch::new(decoder.clone(), STEP_ROWS);
        Self { package: generation.package, decoder, batch, work: None, slots: HashMap::new() }
    }
}

impl Job {
    fn new(number: JobNumber, generation: Generation, kv_limit: u64) -> Self {
        let Generation { decoder, items, samples, rule, .. } = &generation;
        let most = longest(decoder.header(), items, *samples, rule.max_output.get(), kv_limit).load.macs.into();
        let done = (0..generation.output_count()).map(|_| None).collect();
        Self { number, generation, shared: None, done, next: 0, sequences: 0, chosen: 0, macs: 0, step_macs: 0, fresh: 0, most, settled: 0 }
    }

    /// Whether outputs of it are to join.
    const fn waits(&self) -> bool {
        self.next < self.done.len()
    }

    const fn is_complete(&self) -> bool {
        !self.waits() && self.sequences == 0
    }

    /// The item of the next output.
    fn item(&self) -> &[u32] {
        self.generation.items.get(self.next / self.generation.samples as usize).map_or(&[], Vec::as_slice)
    }

    fn is_sharing(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.cache.len() + 1 < self.item().len())
    }

    fn count(&mut self, macs: u128) {
        self.macs += macs;
        self.fresh += macs;
        self.settled += macs;
    }

    /// Lets the next output join, where there is room.
    fn admit(&mut self, model: &mut Model, memory: &mut Memory, idle: bool) -> Result<Admission, DecoderError> {
        let Generation { decoder, rule, .. } = &self.generation;
        let header = decoder.header();
        let (item, key, samples) = (self.item(), self.generation.key(self.next), self.generation.samples);
        let empty = WorkLeaf::new(header.dim as usize);
        if let Some(reason) = header.refuse(item) {
            self.done[self.next] = Some((OutputRecord { reason, elements: Vec::new() }, finish(empty)));
            self.next += 1;
            return Ok(Admission::Joined);
        }
        if model.batch.len() >= SEQUENCES {
            return Ok(Admission::NoPlace);
        }
        if self.is_sharing() {
            return Ok(Admission::Shares);
        }
        let item_len = item.len();
        let positions = positions(header, item_len, rule.max_output.get());
        let bytes = Cache::bytes(header, positions) as u64;
        let has_room = memory.has_room(positions, bytes)?;
        let (joined, leaf) = match self.shared.take() {
            None if !has_room => return Ok(Admission::NoMemory),
            None if samples > 1 && item_len > 1 => match decoder.cache(positions) {
                Ok(cache) => {
                    memory.used += bytes;
                    self.shared = Some(Shared { cache, leaf: empty, bytes });
                    return Ok(Admission::Shares);
                }
                Err(error) => return memory.or_wait(error),
            },
            None => {
                let joined = model.batch.join(self.item(), self.generation.rule.clone(), key);
                memory.used += if joined.is_ok() { bytes } else { 0 };
                (joined, empty)
            }
            Some(shared) => {
                // The last sample takes the item itself; so does the next one where there is no room for a copy and none will come.
                let last = key.sample + 1 == samples;
                let copy = if has_room && !last { shared.cache.fork(header).ok() } else { None };
                let (cache, leaf) = match copy {
                    Some(copy) => {
                        memory.used += bytes;
                        let leaf = shared.leaf.clone();
                        self.shared = Some(shared);
                        (copy, leaf)
                    }
                    None if last || idle => (shared.cache, shared.leaf),
                    None => {
                        self.shared = Some(shared);
                        return Ok(Admission::NoMemory);
                    }
                };
                let joined = model.batch.join_from(cache, self.item(), self.generation.rule.clone(), key);
                memory.used -= if joined.is_ok() { 0 } else { bytes };
                (joined, leaf)
            }
        };
        match joined {
            Ok(ticket) => {
                let slot = Slot { job: self.number, output: self.next, item_len, ids: Vec::new(), leaf, bytes };
                model.slots.insert(ticket, slot);
                self.next += 1;
                self.sequences += 1;
                Ok(Admission::Joined)
            }
            Err(error) => memory.or_wait(error),
        }
    }

    /// Computes some ids more of the item that samples share.
    fn share(&mut self, model: &mut Model) -> Result<(), DecoderError> {
        let Some(mut shared) = self.shared.take() else { return Ok(()) };
        let header = model.decoder.header();
        let (item, first) = (self.item(), shared.cache.len());
        let piece = &item[first..(first + STEP_ROWS).min(item.len() - 1)];
        let work = model.work.get_or_insert_with(|| Workspace::new(header, STEP_ROWS));
        let shares = model.decoder.prefill(work, &mut shared.cache, piece, |_, rows| shared.leaf.push(rows));
        let macs = rows_macs(header, first, piece.len());
        let step_macs = if piece.len() < MANY_ROWS { step_macs(header) } else { 0 };
        self.shared = Some(shared);
        self.count(macs);
        self.step_macs += step_macs;
        shares
    }

    /// Takes an output that has left the batch.
    fn end(&mut self, slot: &mut Slot, reason: FinishReason) {
        let Generation { decoder, rule, .. } = &self.generation;
        let header = decoder.header();
        let macs = |ids| output_macs(header, slot.item_len, ids);
        let not_needed = macs(most_ids(header, slot.item_len, rule.max_output.get())).saturating_sub(macs(slot.ids.len() as u64));
        self.settled += not_needed;
        self.sequences -= 1;
        let leaf = std::mem::replace(&mut slot.leaf, WorkLeaf::new(1));
        self.done[slot.output] = Some((OutputRecord { reason, elements: std::mem::take(&mut slot.ids) }, finish(leaf)));
    }

    /// What was done for it since it was last asked.
    fn tell(&mut self) -> Option<Worked> {
        let macs = std::mem::take(&mut self.fresh);
        let left = self.most.saturating_sub(self.settled).saturating_mul(1_000_000).div_ceil(self.most.max(1));
        (macs > 0).then_some(Worked { job: self.number, macs, left_ppm: u32::try_from(left).unwrap_or(1_000_000) })
    }

    fn finish(&mut self) -> Generated {
        let load = Load { macs: clamped(self.macs), step_macs: clamped(self.step_macs) };
        let (records, leaves) = std::mem::take(&mut self.done).into_iter().flatten().unzip();
        Generated { records, leaves, load }
    }
}

/// A sequence has at most the context, 2^15 positions.
fn finish(leaf: WorkLeaf) -> B256 {
    leaf.finish().unwrap_or_else(|error| unreachable!("{error}"))
}

#[cfg(test)]
impl Generation {
    /// Computes it alone.
    pub(crate) fn run(&self, kv_limit: u64) -> Generated {
        let mut running = Running::new(kv_limit);
        running.join(self.clone());
        loop {
            if let Some((_, made)) = running.turn().ended.pop() {
                return made.expect("memory");
            }
        }
    }
}

#[cfg(test)]
impl Running {
    /// Bytes of all keys and values.
    pub(crate) const fn used(&self) -> u64 {
        self.memory.used
    }
}
