//! What a step needs and what it leaves.

use super::{Cache, Run, emptied::emptied, lane::Lane};
use crate::{
    header::Header,
    kernels::{ChoiceScratch, NewPositions, Operands, Pool, Sequence, each, each_pair},
    reference::Draw,
};

/// Rows that a thread takes through the layers on its own, at least. With fewer the threads share each op, so that weights come from memory once.
const LANE_ROWS: usize = 32;
/// Cuts between lanes lie at multiples of so many positions: no two threads write one cache line of keys or values, and tiles of rows are whole.
const CUT: usize = 16;

/// What a step needs and what it leaves: made for a number of rows, and kept from step to step. It grows with the first step of few rows, which
/// threads share op by op, and with the first of many, which they divide; later ones of no more rows allocate nothing.
#[derive(Debug)]
pub struct Workspace {
    limit: usize,
    pub(super) dim: usize,
    /// Rows whose logits are in memory at a time.
    pub(super) head_rows: usize,
    pub(super) positions: Vec<u32>,
    pub(super) lanes: Lanes,
    pub(super) normed: Vec<i32>,
    /// Rows whose next id is asked for, and what it depends on besides the logits; the latter is empty between steps.
    pub(super) asked: Vec<usize>,
    pub(super) draws: Vec<Draw<'static>>,
    pub(super) chosen_rows: Vec<i32>,
    pub(super) operands: Operands,
    pub(super) logits: Vec<i32>,
    pub(super) choice: ChoiceScratch,
    pub(super) choices: Vec<Option<u32>>,
}

impl Workspace {
    /// Rows that go through the feed-forward part together: what it makes of them is several times as large as they are, and should stay in the
    /// second-level cache.
    pub const FFN_ROWS: usize = 64;

    /// For steps of at most `rows` rows, at least one.
    #[must_use]
    pub fn new(header: &Header, rows: usize) -> Self {
        let (limit, dim) = (rows.max(1), header.dim as usize);
        let head_rows = limit.min(head_rows(header));
        Self {
            limit,
            dim,
            head_rows,
            positions: Vec::with_capacity(limit),
            lanes: Lanes::default(),
            normed: Vec::with_capacity(limit * dim),
            asked: Vec::with_capacity(limit),
            draws: Vec::with_capacity(limit),
            chosen_rows: Vec::with_capacity(head_rows * dim),
            operands: Operands::default(),
            logits: Vec::new(),
            choice: ChoiceScratch::default(),
            choices: Vec::with_capacity(limit),
        }
    }

    /// Most rows of a step.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.limit
    }

    /// Rows whose logits are in memory at a time.
    #[must_use]
    pub const fn head_rows(&self) -> usize {
        self.head_rows
    }

    /// Among how many of some threads the rows of a step are divided: one where they are few, and the threads share each op.
    #[must_use]
    pub const fn lanes(threads: usize, rows: usize) -> usize {
        if rows < LANE_ROWS * threads { 1 } else { threads }
    }

    /// N of the last step: one row of dim elements in Q14 per id, run after run.
    #[must_use]
    pub fn norm_rows(&self) -> &[i32] {
        &self.normed
    }

    /// The choices of the last step, one element per id, run after run; `None` where none was asked for.
    #[must_use]
    pub fn choices(&self) -> &[Option<u32>] {
        &self.choices
    }

    /// Takes in the ids of a step, and gives each thread its rows.
    pub(super) fn begin(&mut self, threads: usize, runs: &[Run<'_>]) {
        self.positions.clear();
        for run in runs {
            // At most the context, 2^15.
            let first = u32::try_from(run.cache.len()).unwrap_or(u32::MAX);
            self.positions.extend((first..).take(run.ids.len()));
        }
        self.lanes.divide(threads, runs, self.positions.len());
        self.choices.clear();
        self.choices.resize(self.positions.len(), None);
    }

    /// Puts together N of all rows.
    pub(super) fn collect(&mut self) {
        self.normed.clear();
        let Lanes { lanes, pieces, .. } = &mut self.lanes;
        for &(lane, rows) in &*pieces {
            self.normed.extend_from_slice(lanes[lane].take_normed(rows * self.dim));
        }
    }
}

/// Rows whose logits are in memory at a time: as many as take about a 32nd of the weights' bytes, but 16 to 64. For each so many, the weights of the
/// head come from memory again.
fn head_rows(header: &Header) -> usize {
    // About the bytes of the weights. A workspace belongs to a header that was checked; of others nothing is computed.
    let bytes = header.macs_per_token().unwrap_or(0);
    let rows = bytes / 32 / (4 * u64::from(header.vocabulary).max(1));
    usize::try_from(rows.clamp(16, 64)).unwrap_or(16).next_multiple_of(16)
}

/// The rows of a step, divided among threads: one lane with all of them where they are few, else one for each thread.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    /// How many are in use; they come first.
    used: usize,
    /// Lane and rows of each piece of the step, in order. No piece has rows of two runs.
    pieces: Vec<(usize, usize)>,
    /// What each lane writes and what it reads in a layer; empty between layers.
    rooms: Vec<Vec<NewPositions<'static>>>,
    sequences: Vec<Vec<Sequence<'static>>>,
}

impl Lanes {
    /// Each lane gets two pieces of about equal length, the first one and the last, the second and the last but one: later rows have more
    /// positions to attend to.
    fn divide(&mut self, threads: usize, runs: &[Run<'_>], rows: usize) {
        self.used = Workspace::lanes(threads, rows);
        self.lanes.resize_with(self.used.max(self.lanes.len()), Lane::default);
        self.rooms.resize_with(self.lanes.len(), Vec::new);
        self.sequences.resize_with(self.lanes.len(), Vec::new);
        self.lanes.iter_mut().for_each(Lane::clear);
        self.pieces.clear();
        let count = if self.used == 1 { 1 } else { 2 * self.used };
        let (mut piece, mut start) = (0, 0);
        for (at, run) in runs.iter().enumerate() {
            let (first, end) = (start, start + run.ids.len());
            while start < end {
                let cut = if piece + 1 < count { cut(rows * (piece + 1) / count, first, run.cache.len()).min(end) } else { end };
                if cut > start {
                    let lane = piece.min(2 * self.used - 1 - piece);
                    self.lanes[lane].push(at, run.cache.len() + start - first, &run.ids[start - first..cut - first]);
                    self.pieces.push((lane, cut - start));
                    start = cut;
                }
                if start < end {
                    piece += 1;
                }
            }
        }
    }

    /// Runs `f` on each lane.
    pub(super) fn each(&mut self, pool: &Pool, f: impl Fn(&mut Lane) + Sync) {
        each(pool, &mut self.lanes[..self.used], f);
    }

    /// Appends the step's rows to the runs' caches in a layer, and runs `f` on each lane and the positions that it writes, in the order of its rows.
    pub(super) fn append(
        &mut self,
        pool: &Pool,
        runs: &mut [Run<'_>],
        layer: usize,
        f: impl Fn(&mut Lane, &mut Vec<NewPositions<'_>>) + Sync,
    ) {
        let mut rooms = each_emptied(std::mem::take(&mut self.rooms));
        let mut pieces = self.pieces.iter();
        for run in runs {
            let Cache { layers, ids, .. } = &mut *run.cache;
            // Whatever a step that panicked had left.
            layers[layer].truncate(ids.len());
            let mut room = layers[layer].grow(run.ids.len());
            while !room.is_empty()
                && let Some(&(lane, rows)) = pieces.next()
            {
                rooms[lane].push(room.take(rows));
            }
        }
        each_pair(pool, &mut self.lanes[..self.used], &mut rooms[..self.used], f);
        self.rooms = each_emptied(rooms);
    }

    /// Runs `f` on each lane and what its rows attend to in a layer.
    pub(super) fn attend(&mut self, pool: &Pool, runs: &[Run<'_>], layer: usize, f: impl Fn(&mut Lane, &[Sequence<'_>]) + Sync) {
        let mut sequences = each_emptied(std::mem::take(&mut self.sequences));
        for (lane, sequences) in self.lanes[..self.used].iter().zip(&mut sequences) {
            sequences.extend(lane.sequences(runs, layer));
        }
        each_pair(pool, &mut self.lanes[..self.used], &mut sequences[..self.used], |lane, sequences| f(lane, sequences));
        self.sequences = each_emptied(sequences);
    }
}

/// The cut of a run that lies nearest before a row, of the step as the run's `first`; the run begins at position `base`.
fn cut(row: usize, first: usize, base: usize) -> usize {
    let position = base + row.saturating_sub(first);
    first + (position / CUT * CUT).saturating_sub(base)
}

/// Each of the vectors emptied, see there.
fn each_emptied<T, U>(vecs: Vec<Vec<T>>) -> Vec<Vec<U>> {
    vecs.into_iter().map(emptied).collect()
}
