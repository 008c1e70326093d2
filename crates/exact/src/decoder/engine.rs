//! The function of a decoder, step by step: rows of several sequences at once, in any mixture.

use std::sync::Arc;

use super::{Cache, DecoderError, Model, OutputKey, PackedWeights, Rule, Workspace, compute::Compute, emptied::emptied};
use crate::{
    header::Header,
    kernels::{self, Pool},
};

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
        let (pool, weights) = (&*self.pool, &*self.weights);
        let compute = Compute { pool, header: &self.header };
        work.begin(pool.threads(), runs);
        let lanes = &mut work.lanes;
        lanes.each(pool, |lane| lane.embed(&compute, weights));
        for (at, (layer, value_shifts)) in weights.layers.iter().zip(weights.value_shifts.iter_rows()).enumerate() {
            lanes.append(pool, runs, at, |lane, rooms| lane.project(&compute, weights, layer, value_shifts, rooms));
            lanes.attend(pool, runs, at, |lane, sequences| lane.mix(&compute, layer, value_shifts, sequences));
        }
        lanes.each(pool, |lane| lane.finish(&compute, weights));
        work.collect();
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
        if rows > work.rows() {
            return Err(DecoderError::TooManyRows { rows, limit: work.rows() });
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
        for (rows, draws) in work.asked.chunks(work.head_rows).zip(draws.chunks(work.head_rows)) {
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
