//! The function of a decoder, step by step: rows of several sequences at once, in any mixture.

use std::sync::Arc;

use super::{Cache, DecoderError, Model, OutputKey, PackedWeights, Rule, compute::Compute, emptied::emptied};
use crate::{
    header::Header,
    kernels::{self, AttentionScratch, ChoiceScratch, Isa, Operands, Pool, Sequence},
    reference::Draw,
};

/// Rows whose logits are in memory at a time.
const HEAD_ROWS: usize = 64;

/// A decoder that can run, on the threads of a pool.
#[derive(Debug, Clone)]
pub struct Decoder {
    header: Header,
    weights: Arc<PackedWeights>,
    pool: Arc<Pool>,
}

/// Ids of one sequence to compute in a step: they continue what is in its cache.
#[derive(Debug)]
pub struct Run<'a> {
    /// The sequence so far.
    pub cache: &'a mut Cache,
    /// At least one id.
    pub ids: &'a [u32],
    /// Of which of its rows the next id is to be chosen.
    pub choose: Option<Choose<'a>>,
}

/// Choices of a run.
#[derive(Debug, Clone, Copy)]
pub struct Choose<'a> {
    /// By which rule.
    pub rule: &'a Rule,
    /// For which output.
    pub key: OutputKey,
    /// From this row of the run on.
    pub from: usize,
}

/// What a step needs and what it leaves: allocated for a number of rows, and kept from step to step. The first step grows what depends on the
/// pool; later ones of no more rows allocate nothing.
#[derive(Debug)]
pub struct Workspace {
    limit: usize,
    dim: usize,
    positions: Vec<u32>,
    ids: Vec<u32>,
    operands: Operands,
    x: Vec<i32>,
    normed: Vec<i32>,
    q: Vec<i32>,
    k: Vec<i32>,
    v: Vec<i32>,
    mixed: Vec<i32>,
    projected: Vec<i32>,
    gate: Vec<i32>,
    up: Vec<i32>,
    /// Empty between layers.
    sequences: Vec<Sequence<'static>>,
    attention: AttentionScratch,
    /// Rows whose next id is asked for, and what it depends on besides the logits; the latter is empty between steps.
    asked: Vec<usize>,
    draws: Vec<Draw<'static>>,
    chosen_rows: Vec<i32>,
    logits: Vec<i32>,
    choice: ChoiceScratch,
    choices: Vec<Option<u32>>,
}

impl Workspace {
    /// For steps of at most `rows` rows, at least one.
    #[must_use]
    pub fn new(header: &Header, rows: usize) -> Self {
        let limit = rows.max(1);
        let [dim, ffn, q, k] =
            [header.dim, header.ffn, header.heads * header.head_dim, header.kv_heads * header.head_dim].map(|width| width as usize);
        let room = |width: usize| Vec::with_capacity(limit * width);
        Self {
            limit,
            dim,
            positions: Vec::with_capacity(limit),
            ids: Vec::with_capacity(limit),
            operands: Operands::new(Isa::Portable),
            x: room(dim),
            normed: room(dim),
            q: room(q),
            k: room(k),
            v: room(k),
            mixed: room(q),
            projected: room(dim),
            gate: room(ffn),
            up: room(ffn),
            sequences: Vec::with_capacity(limit),
            attention: AttentionScratch::default(),
            asked: Vec::with_capacity(limit),
            draws: Vec::with_capacity(limit),
            chosen_rows: Vec::with_capacity(limit.min(HEAD_ROWS) * dim),
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
}

impl Decoder {
    /// Packs the matrices for the kernels, which takes about their size in memory again.
    #[must_use]
    pub fn new(model: &Model, pool: Arc<Pool>) -> Self {
        Self::from_packed(PackedWeights::new(model), pool)
    }

    /// A decoder from weights that are packed already, for instance in a mapped file.
    #[must_use]
    pub fn from_packed(weights: PackedWeights, pool: Arc<Pool>) -> Self {
        Self { header: weights.header().clone(), weights: Arc::new(weights), pool }
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The weights as the kernels read them.
    #[must_use]
    pub fn weights(&self) -> &PackedWeights {
        &self.weights
    }

    /// A cache for one sequence of at most so many positions; more than the context is the context.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`].
    pub fn cache(&self, positions: usize) -> Result<Cache, DecoderError> {
        Cache::new(&self.header, positions)
    }

    /// Computes all ids of all runs: appends them to their caches, and leaves N and the choices in the workspace. What else is in a step
    /// cannot change a bit of a run's results, nor can how a sequence is cut into runs.
    ///
    /// # Errors
    /// More ids than the workspace or a cache takes, none, an id outside the vocabulary, a cache of another shape. Then nothing was changed.
    pub fn step(&self, work: &mut Workspace, runs: &mut [Run<'_>]) -> Result<(), DecoderError> {
        self.validate(work, runs)?;
        self.pool.lead(|| self.compute(work, runs));
        Ok(())
    }

    /// A step that was checked, on the pool's first thread.
    fn compute(&self, work: &mut Workspace, runs: &mut [Run<'_>]) {
        let (header, weights) = (&self.header, &*self.weights);
        let compute = Compute { pool: &self.pool, header };
        let kv_width = (header.kv_heads * header.head_dim) as usize;
        work.begin(runs);
        compute.embed(&weights.words, &work.ids, &mut work.x);
        for (at, (layer, value_shifts)) in weights.layers.iter().zip(weights.value_shifts.iter_rows()).enumerate() {
            work.normed.clone_from(&work.x);
            compute.norm(&mut work.normed, header.epsilon, layer.attention_gain.as_slice());
            let qkv = [(&layer.query, &mut work.q), (&layer.key, &mut work.k), (&layer.value, &mut work.v)];
            compute.products(&mut work.operands, &work.normed, qkv);
            let (norms, rotary) = (layer.head_norms.as_ref(), weights.rotary.as_ref());
            compute.turn(&mut work.q, header.heads, norms.map(|norms| &norms.query), rotary, &work.positions);
            compute.turn(&mut work.k, header.kv_heads, norms.map(|norms| &norms.key), rotary, &work.positions);
            let mut first = 0;
            for run in runs.iter_mut() {
                let rows = first * kv_width..(first + run.ids.len()) * kv_width;
                let cache = &mut run.cache.layers[at];
                // Whatever a step that panicked had left.
                cache.truncate(run.cache.ids.len());
                cache.append(self.pool.isa(), &work.k[rows.clone()], &work.v[rows], value_shifts);
                first += run.ids.len();
            }
            work.mixed.resize(work.q.len(), 0);
            let mut sequences = emptied(std::mem::take(&mut work.sequences));
            sequences.extend(of_layer(runs, at));
            compute.attend(&sequences, value_shifts, &work.q, &mut work.mixed, &mut work.attention);
            work.sequences = emptied(sequences);
            compute.products(&mut work.operands, &work.mixed, [(&layer.output, &mut work.projected)]);
            compute.add(&mut work.x, &work.projected);
            work.normed.clone_from(&work.x);
            compute.norm(&mut work.normed, header.epsilon, layer.ffn_gain.as_slice());
            compute.products(&mut work.operands, &work.normed, [(&layer.gate, &mut work.gate), (&layer.up, &mut work.up)]);
            compute.gate(&mut work.gate, &work.up);
            compute.products(&mut work.operands, &work.gate, [(&layer.down, &mut work.projected)]);
            compute.add(&mut work.x, &work.projected);
        }
        work.normed.clone_from(&work.x);
        compute.norm(&mut work.normed, header.epsilon, weights.final_gain.as_slice());
        self.choose(&compute, work, runs);
        for run in runs {
            run.cache.ids.extend_from_slice(run.ids);
        }
    }

    fn validate(&self, work: &Workspace, runs: &[Run<'_>]) -> Result<(), DecoderError> {
        let rows = runs.iter().map(|run| run.ids.len()).sum();
        if rows == 0 || runs.iter().any(|run| run.ids.is_empty()) {
            return Err(DecoderError::NoIds);
        }
        if rows > work.limit {
            return Err(DecoderError::TooManyRows { rows, limit: work.limit });
        }
        if work.dim != self.header.dim as usize || runs.iter().any(|run| !run.cache.fits(&self.header)) {
            return Err(DecoderError::ForeignCache);
        }
        for run in runs {
            let (len, ids, capacity) = (run.cache.len(), run.ids.len(), run.cache.capacity());
            if len + ids > capacity {
                return Err(DecoderError::CacheFull { len, ids, capacity });
            }
            if let Some(&id) = run.ids.iter().find(|id| **id >= self.header.vocabulary) {
                return Err(DecoderError::UnknownId { id, vocabulary: self.header.vocabulary });
            }
        }
        Ok(())
    }

    /// Logits of the rows that ask for a choice, some at a time, and the choices.
    fn choose(&self, compute: &Compute<'_>, work: &mut Workspace, runs: &[Run<'_>]) {
        let mut draws = emptied(std::mem::take(&mut work.draws));
        work.asked.clear();
        let mut first = 0;
        for run in runs {
            if let Some(Choose { rule, key, from }) = run.choose {
                let rows = first + from..first + run.ids.len();
                draws.extend(rows.clone().map(|row| rule.draw(key, work.positions[row])));
                work.asked.extend(rows);
            }
            first += run.ids.len();
        }
        let vocabulary = self.header.vocabulary as usize;
        for (rows, draws) in work.asked.chunks(HEAD_ROWS).zip(draws.chunks(HEAD_ROWS)) {
            work.chosen_rows.clear();
            for row in rows {
                work.chosen_rows.extend_from_slice(&work.normed[row * work.dim..(row + 1) * work.dim]);
            }
            compute.products(&mut work.operands, &work.chosen_rows, [(&self.weights.head, &mut work.logits)]);
            let chosen = kernels::choose(&self.pool, vocabulary, &work.logits, draws, &mut work.choice);
            for (row, chosen) in rows.iter().zip(chosen) {
                work.choices[*row] = Some(chosen);
            }
        }
        work.draws = emptied(draws);
    }
}

impl Workspace {
    fn begin(&mut self, runs: &[Run<'_>]) {
        self.ids.clear();
        self.positions.clear();
        for run in runs {
            self.ids.extend_from_slice(run.ids);
            // At most the context, 2^15.
            let first = u32::try_from(run.cache.len()).unwrap_or(u32::MAX);
            self.positions.extend((first..).take(run.ids.len()));
        }
        self.x.resize(self.ids.len() * self.dim, 0);
        self.choices.clear();
        self.choices.resize(self.ids.len(), None);
    }
}

/// The runs' rows and their caches in a layer.
fn of_layer<'a>(runs: &'a [Run<'_>], layer: usize) -> impl Iterator<Item = Sequence<'a>> {
    let mut end = 0;
    runs.iter().map(move |run| {
        let start = end;
        end += run.ids.len();
        Sequence { cache: &run.cache.layers[layer], rows: start..end, first: run.cache.len() }
    })
}
