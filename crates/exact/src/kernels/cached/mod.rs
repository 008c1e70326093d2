//! Attention of queries to keys and values that are kept, for decoders position by position and for encoders all at once; twin of
//! [`Attention`](crate::reference::Attention) over each query's own range of positions, whose widths hold here.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cache;
mod mean;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod tile;

pub use cache::{KvCache, NewPositions};
use tile::{Tile, TileScratch};

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

#[cfg(target_arch = "x86_64")]
use super::Isa;
use super::{Pool, slots::Slots};
use crate::reference::Attention;

/// Lanes of a block: positions for the scores, dims for the mean.
const LANES: usize = 16;
/// Positions whose products are summed in 32 bits.
const RUN: usize = 256;
/// Queries that read a block of keys or values together.
const TILE: usize = 8;
/// A pair of int16 for each lane.
type Pairs = [i16; 2 * LANES];
/// The digits of a query's weights for a run of positions: high, middle, low.
type Weights = [[i16; RUN]; 3];

/// Which positions a query reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All positions of the cache.
    All,
    /// The query's own position and those before it: all of them for `window` 0, else the last `window`, its own among them.
    Causal {
        /// Positions, or 0 for all.
        window: usize,
    },
}

/// Queries of one sequence: some rows of the query matrix, and the cache they read.
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    /// Keys and values; with [`Reach::Causal`] those of the queries' own positions are in it already.
    pub cache: &'a KvCache,
    /// Which rows of the query matrix.
    pub rows: Range<usize>,
    /// Position of the first row; the others follow it.
    pub first: usize,
}

/// What attention needs besides its rows; grows to the longest caches and the most rows seen and stays, so that a step allocates nothing.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    tasks: Vec<Task>,
    /// Whether a sequence names the row.
    named: Vec<bool>,
    /// One for each thread.
    tiles: Vec<TileScratch>,
}

/// Some queries of a sequence and kv head.
#[derive(Debug)]
struct Task {
    sequence: usize,
    kv_head: usize,
    queries: Range<usize>,
}

/// Attention of every row of `q` (heads · head dim in Q14, after rope) to the cache of its sequence, into the same row of `out` (EXACT.md,
/// sections 4.5 and 4.6). Rows that no sequence names keep what they had. `attention.value_shifts` are those that the cache was filled with.
///
/// # Panics
/// If the shapes do not fit, two sequences name one row, or a query's range is empty or reaches beyond its cache.
pub fn attend(
    pool: &Pool,
    attention: &Attention<'_>,
    reach: Reach,
    sequences: &[Sequence<'_>],
    q: &[i32],
    out: &mut [i32],
    scratch: &mut AttentionScratch,
) {
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let width = heads * head_dim;
    assert!(q.len() == out.len() && q.len().is_multiple_of(width), "rows of {width} queries, and as many results");
    let per_kv_head = heads / kv_heads;
    let AttentionScratch { tasks, named, tiles } = scratch;
    tasks.clear();
    named.clear();
    named.resize(q.len() / width, false);
    tiles.resize_with(pool.width().max(tiles.len()), TileScratch::default);
    for (at, sequence) in sequences.iter().enumerate() {
        let Sequence { cache, rows, first } = sequence;
        assert!(cache.kv_heads == kv_heads && cache.head_dim == head_dim, "a cache of the layer's own shape");
        assert!(
            !cache.is_empty() && (reach == Reach::All || first + rows.len() <= cache.len()),
            "queries read positions that are in the cache"
        );
        for named in &mut named[rows.clone()] {
            assert!(!std::mem::replace(named, true), "a row belongs to one sequence");
        }
        let queries = rows.len() * per_kv_head;
        for tile in &mut *tiles {
            tile.make_room(cache);
            #[cfg(target_arch = "x86_64")]
            if matches!(pool.isa(), Isa::Amx(_)) && queries >= amx::FEWEST {
                tile.make_wide_room(cache);
            }
        }
        // Enough parts that the last one does not hold up the rest, of whole tiles; of less, which read keys and values once more each, only where
        // a thread would wait for another.
        let tasks_of_tiles = sequences.len() * kv_heads * queries.div_ceil(TILE);
        let uneven = tasks_of_tiles < 2 * pool.width() && !tasks_of_tiles.is_multiple_of(pool.width());
        let (unit, wanted) = if uneven { (1, 2 * pool.width()) } else { (TILE, 4 * pool.width()) };
        let count = queries.div_ceil(unit);
        let parts = count.min(wanted.div_ceil(kv_heads)).max(1);
        for kv_head in 0..kv_heads {
            let part = |part| count * part / parts * unit..queries.min(count * (part + 1) / parts * unit);
            tasks.extend((0..parts).map(|number| Task { sequence: at, kv_head, queries: part(number) }));
        }
    }
    let (slots, free) = (Slots::new(out), Mutex::new(tiles));
    let free = || free.lock().unwrap_or_else(PoisonError::into_inner);
    pool.run(tasks.len(), |task| {
        let Task { sequence, kv_head, ref queries } = tasks[task];
        let sequence = &sequences[sequence];
        // No more tasks run at a time than there are threads.
        let mut scratch = free().pop().unwrap_or_default();
        let tile = Tile { isa: pool.isa(), attention, reach, sequence, kv_head, queries: queries.clone() };
        tile.run(q, &slots, &mut scratch);
        free().push(scratch);
    });
}
