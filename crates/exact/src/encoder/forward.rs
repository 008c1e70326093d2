//! The function from ids to a vector.

use std::{
    num::NonZeroUsize,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use quern_types::FinishReason;

use super::EncoderWeights;
use crate::{
    format::TableI32,
    header::Header,
    kernels::{Engine, Isa},
    layout::WeightsError,
};

/// An encoder that can run: a valid header and weights that fit it.
#[derive(Debug, Clone)]
pub struct Encoder {
    header: Header,
    weights: EncoderWeights,
    engine: Engine,
}

/// What an encoder makes of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `Complete`, or why nothing was computed.
    pub reason: FinishReason,
    /// Unit length in Q15, `dim` elements; all zero where nothing was computed.
    pub vector: Vec<i16>,
    /// N, the rows of the final norm in Q14, one per position: what the work digest hashes. No rows where nothing was computed.
    pub norm_rows: TableI32,
}

impl Output {
    pub(crate) const fn computed(vector: Vec<i16>, norm_rows: TableI32) -> Self {
        Self { reason: FinishReason::Complete, vector, norm_rows }
    }

    pub(crate) fn not_computed(reason: FinishReason, header: &Header) -> Self {
        let dim = header.dim as usize;
        let norm_rows = TableI32::new(0, dim, Vec::new()).unwrap_or_else(|error| unreachable!("{error}"));
        Self { reason, vector: vec![0; dim], norm_rows }
    }
}

impl Encoder {
    /// An encoder with the fastest kernels of this machine. Packs the matrices once, which takes about their size in memory again.
    ///
    /// # Errors
    /// The header is invalid or unsupported, or the weights do not fit it.
    pub fn new(header: Header, weights: EncoderWeights) -> Result<Self, WeightsError> {
        Self::with_isa(header, weights, Isa::detect())
    }

    /// As [`Encoder::new`] with kernels of one's choice; the results are the same to the bit.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn with_isa(header: Header, weights: EncoderWeights, isa: Isa) -> Result<Self, WeightsError> {
        weights.check(&header)?;
        let engine = Engine::new(isa, &weights);
        Ok(Self { header, weights, engine })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The weights, as they are hashed.
    #[must_use]
    pub const fn weights(&self) -> &EncoderWeights {
        &self.weights
    }

    /// The embedding of one item. A total function: empty, over-long and unknown ids have their defined result.
    #[must_use]
    pub fn forward(&self, ids: &[u32]) -> Output {
        self.forward_batch(&[ids]).swap_remove(0)
    }

    /// As [`Encoder::forward`] for several items, computed together on this thread.
    fn forward_batch(&self, items: &[&[u32]]) -> Vec<Output> {
        let refused: Vec<_> = items.iter().map(|ids| self.header.refuse(ids)).collect();
        let accepted: Vec<_> = items.iter().zip(&refused).filter(|(_, reason)| reason.is_none()).map(|(ids, _)| *ids).collect();
        let mut computed = self.engine.forward(&self.header, &self.weights, &accepted).into_iter();
        let output = |reason: Option<FinishReason>| {
            let not_computed = |reason| Some(Output::not_computed(reason, &self.header));
            reason.map_or_else(|| computed.next(), not_computed).unwrap_or_else(|| unreachable!("an output for each accepted item"))
        };
        refused.into_iter().map(output).collect()
    }

    /// The outputs of many items, in their order, by `threads` threads. Keeps every item's final norm rows: for more than a few hundred
    /// items use [`Encoder::embed_map`].
    #[must_use]
    pub fn embed_many<I: AsRef<[u32]> + Sync>(&self, items: &[I], threads: NonZeroUsize) -> Vec<Output> {
        self.embed_map(items, threads, |_, output| output)
    }

    /// As [`Encoder::embed_many`], with each output (and its index) reduced by `map` on the thread that computed it.
    ///
    /// Threads take a few items at a time and compute them together; neither how many nor who takes what can change a bit.
    pub fn embed_map<I, R, F>(&self, items: &[I], threads: NonZeroUsize, map: F) -> Vec<R>
    where
        I: AsRef<[u32]> + Sync,
        R: Send,
        F: Fn(usize, Output) -> R + Sync,
    {
        let groups = groups(items, threads);
        let next = AtomicUsize::new(0);
        let take = || {
            let mut taken = Vec::new();
            loop {
                let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) else { return taken };
                let ids: Vec<_> = items[group.clone()].iter().map(AsRef::as_ref).collect();
                let outputs = self.forward_batch(&ids);
                taken.extend(group.clone().zip(outputs).map(|(at, output)| (at, map(at, output))));
            }
        };
        let mut results = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.get().min(groups.len())).map(|_| scope.spawn(take)).collect();
            let mut results = take();
            for other in others {
                match other.join() {
                    Ok(more) => results.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            results
        });
        results.sort_unstable_by_key(|(at, _)| *at);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

/// Items that are computed together, in order: about 128 positions, which is where more rows no longer make products faster, or fewer where
/// threads would otherwise have nothing to do.
fn groups<I: AsRef<[u32]>>(items: &[I], threads: NonZeroUsize) -> Vec<Range<usize>> {
    const POSITIONS: usize = 128;
    let total: usize = items.iter().map(|item| item.as_ref().len()).sum();
    let enough = total.div_ceil(2 * threads.get()).clamp(1, POSITIONS);
    let mut groups = Vec::new();
    let (mut first, mut positions) = (0, 0);
    for (at, item) in items.iter().enumerate() {
        positions += item.as_ref().len();
        if positions >= enough || at + 1 == items.len() {
            groups.push(first..at + 1);
            (first, positions) = (at + 1, 0);
        }
    }
    groups
}
