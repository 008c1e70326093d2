//! Attention of many queries that share a kv head, by AMX: up to 64 of them in tiles of 16, bytes of queries times bytes of keys, bytes of
//! weights times bytes of values.
//!
//! Queries, keys and values are 256 · high + low, high signed and low not. Keys and values are split once for all queries of a group. Scores
//! are kept in 32 bits; the few groups whose scores do not fit are left to the other kernels. The weights' bytes take their scores' place.

mod scores;
mod sums;

use std::{
    arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_mask_blend_epi16, _mm512_reduce_add_epi64, _mm512_reduce_max_epi32, _mm512_ror_epi32,
        _mm512_setr4_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_storeu_si512,
    },
    ops::Range,
};

use scores::scores;
use sums::{mix, weigh};

use super::{LANES, Pairs, Sequence, avx512::load_pairs, mean::Mean, tile::Tile};
use crate::{
    bounds,
    kernels::{
        Isa,
        isa::Amx,
        operand::quantise,
        slots::Slots,
        tiles::{TILE_BYTES, TILE_ROWS, Tiles},
    },
};

/// Fewer queries are quicker by the other kernels.
pub(super) const FEWEST: usize = 8;
/// Positions of a step of the mean: the bytes of a tile's row.
const CHUNK: usize = TILE_BYTES;
/// Blocks of positions in a chunk.
const CHUNK_BLOCKS: usize = CHUNK / LANES;
/// Most tiles of queries in a group.
const MOST_TILES: usize = 4;
const MOST: usize = MOST_TILES * TILE_ROWS;
/// Chunks that a group of more than one tile has at most, times its tiles: their scores are 512 KiB.
const SHARED_CHUNKS: usize = 128;
/// Chunks of values whose products are summed in 32 bits. With 1,024 positions, |Σ (high or 256) · v's high| <= 1024 · 256 · 128 = 2^25, and the
/// other sums are below 1024 · (256 · 255 + 255 · 128) < 2^27.
const RUN_CHUNKS: usize = 16;
/// Most steps of 64 dims.
const MOST_STEPS: usize = (bounds::HEAD_DIM as usize).div_ceil(TILE_BYTES);
/// The score of a position that a query does not read: further below any maximum than a weight reaches.
const UNREAD: i32 = i32::MIN;

/// A tile of bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bytes([[u8; TILE_BYTES]; TILE_ROWS]);

impl Bytes {
    const ZERO: Self = Self([[0; TILE_BYTES]; TILE_ROWS]);
}

/// A tile of high bytes and one of low bytes.
type Split = [Bytes; 2];

/// A tile's queries at a chunk of positions: scores, `[block][query]`; then the weights' bytes in four planes, `[query]` of 64 positions in the
/// order in which `vpackus` leaves them: bits 16 to 23 (255 for 2^24), 8 to 15, 0 to 7, and whether the weight is 2^24, 2^16 more than its bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Chunk([[[i32; LANES]; TILE_ROWS]; CHUNK_BLOCKS]);

/// Sums of products, by query and lane. Scores: high · high, both mixed ones, low · low. Mean: the weights 2^24, 2^16, 2^8 and 1.
#[repr(C, align(64))]
struct Sums<const N: usize>([[[i32; LANES]; TILE_ROWS]; N]);

/// Some weight of a chunk is not 0; some weight is 2^24.
const LIVE: u8 = 1;
const WHOLE: u8 = 2;

/// What a group of queries needs besides registers: at most 4 KiB for each 16 queries and 64 positions (512 KiB, or from 8,192 positions on 64
/// bytes for each), and 64 KiB.
#[derive(Debug, Default)]
pub(super) struct WideScratch {
    /// `[tile][step of dims]`.
    queries: Vec<Split>,
    /// `[tile][chunk]`.
    chunks: Vec<Chunk>,
    /// `[tile][chunk]`: [`LIVE`] and [`WHOLE`].
    kinds: Vec<u8>,
    /// `[chunk of a run]`, for one block of dims: rows of a tile are quads of positions, in the order of the weights.
    values: Vec<Split>,
}

impl WideScratch {
    /// Room for any group that reads a cache of this many positions.
    pub(super) fn make_room(&mut self, positions: usize) {
        // A group may begin within a block of positions.
        let chunks = (positions + LANES).div_ceil(CHUNK);
        let most = (MOST_TILES * chunks).min(SHARED_CHUNKS.max(chunks));
        self.queries.resize(MOST_TILES * MOST_STEPS, [Bytes::ZERO; 2]);
        self.values.resize(RUN_CHUNKS, [Bytes::ZERO; 2]);
        self.chunks.resize(self.chunks.len().max(most), Chunk([[[0; LANES]; TILE_ROWS]; CHUNK_BLOCKS]));
        self.kinds.resize(self.chunks.len(), 0);
    }
}

/// How many queries make a group where each reads up to so many positions of a cache.
pub(super) fn group(positions: usize, capacity: usize) -> usize {
    // Windows of a group's queries begin one after the other.
    let chunks = ((positions + MOST).min(capacity) + LANES).div_ceil(CHUNK);
    (SHARED_CHUNKS / chunks).clamp(1, MOST_TILES) * TILE_ROWS
}

/// A tile's queries: which positions each reads, and its shift.
struct Rows {
    count: usize,
    ranges: [Range<usize>; TILE_ROWS],
    shifts: [u32; TILE_ROWS],
}

impl Rows {
    /// Positions that some query reads; those that all do.
    fn some(&self) -> Range<usize> {
        self.ranges[0].start..self.ranges[self.count - 1].end
    }

    fn all(&self) -> Range<usize> {
        self.ranges[self.count - 1].start..self.ranges[0].end
    }
}

/// Attention of a group of up to [`group`] queries. False, and nothing written, if a score is beyond 2^29, which is 8,192 powers of two.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn attend(amx: Amx, group: &Tile<'_>, q: &[i32], out: &Slots<'_, i32>, scratch: &mut WideScratch) -> bool {
    let (head_dim, count) = (group.attention.head_dim, group.queries.len());
    let Sequence { cache, .. } = group.sequence;
    let steps = head_dim.div_ceil(TILE_BYTES);
    let query_tiles = count.div_ceil(TILE_ROWS);
    let WideScratch { queries, chunks, kinds, values } = scratch;
    let tiles: [Rows; MOST_TILES] = std::array::from_fn(|tile| {
        let first = (tile * TILE_ROWS).min(count - 1);
        let count = TILE_ROWS.min(count - first);
        let ranges = std::array::from_fn(|row| group.range(group.queries.start + first + row.min(count - 1)));
        let mut shifts = [0; TILE_ROWS];
        if tile < query_tiles {
            let splits = &mut queries[tile * steps..][..steps];
            for (row, shift) in shifts[..count].iter_mut().enumerate() {
                let from = group.offset(group.queries.start + first + row);
                *shift = load_query(&q[from..from + head_dim], splits, row);
            }
        }
        Rows { count, ranges, shifts }
    });
    let tiles = &tiles[..query_tiles];
    let start = tiles[0].some().start / LANES * LANES;
    let end = tiles[query_tiles - 1].some().end;
    let chunk_count = (end - start).div_ceil(CHUNK);
    let live = |rows: &Rows| (rows.some().start - start) / CHUNK..(rows.some().end - start).div_ceil(CHUNK);
    let (chunks, kinds) = (&mut chunks[..query_tiles * chunk_count], &mut kinds[..query_tiles * chunk_count]);

    let mut shapes = Tiles::new(amx);
    shapes.shape(TILE_ROWS);
    let mut maxima = [[UNREAD; LANES]; MOST];
    if !scores(&shapes, group, tiles, start..end, (queries, chunks), &mut maxima) {
        return false;
    }
    let mut greatest = [0; MOST];
    for (greatest, maxima) in greatest.iter_mut().zip(&maxima[..count]) {
        *greatest = _mm512_reduce_max_epi32(load(maxima));
    }
    // By lane.
    let mut totals = [[0; LANES / 2]; MOST];
    for (tile, rows) in tiles.iter().enumerate() {
        for chunk in live(rows) {
            let at = tile * chunk_count + chunk;
            let queries = tile * TILE_ROWS..tile * TILE_ROWS + rows.count;
            kinds[at] = weigh(&mut chunks[at], &greatest[queries.clone()], &mut totals[queries]);
        }
    }

    let shift = group.attention.value_shifts[group.kv_head].unsigned_abs();
    let means: [_; MOST] = std::array::from_fn(|query| {
        // A query past the last has read nothing.
        Mean::new(_mm512_reduce_add_epi64(load_lanes(&totals[query])).max(1), shift)
    });
    for (block, lines) in cache.head_values(group.kv_head).chunks_exact(cache.value_stride()).enumerate() {
        let mut sums = [[0i64; LANES]; MOST];
        for first in (0..chunk_count).step_by(RUN_CHUNKS) {
            let run = first..chunk_count.min(first + RUN_CHUNKS);
            for (chunk, values) in run.clone().zip(&mut *values) {
                let from = (start + chunk * CHUNK) / 2;
                let to = (from + CHUNK / 2).min(end.next_multiple_of(LANES) / 2);
                split(&lines[from..to], values, |quad| quad % CHUNK_BLOCKS * 4 + quad / CHUNK_BLOCKS);
            }
            for (tile, rows) in tiles.iter().enumerate() {
                let live = live(rows);
                let live = live.start.max(run.start)..live.end.min(run.end);
                if !live.is_empty() {
                    let weights = tile * chunk_count + live.start..tile * chunk_count + live.end;
                    let values = &values[live.start - run.start..live.end - run.start];
                    mix(&shapes, &chunks[weights.clone()], &kinds[weights], values, &mut sums[tile * TILE_ROWS..][..rows.count]);
                }
            }
        }
        let dims = block * LANES..head_dim.min((block + 1) * LANES);
        for (query, (sums, mean)) in sums[..count].iter().zip(&means).enumerate() {
            let from = group.offset(group.queries.start + query);
            // SAFETY: each query of each sequence belongs to one tile, and no two sequences name a row.
            let out = unsafe { out.piece(from + dims.start..from + dims.end) };
            mean.write(Isa::Amx(amx), sums, out);
        }
    }
    true
}

/// The bytes of a query as a row of its tiles, zeros behind them; returns its shift.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load_query(query: &[i32], splits: &mut [Split], row: usize) -> u32 {
    let mut operand = [0i16; bounds::HEAD_DIM as usize];
    let shift = quantise(query, &mut operand[..query.len()]);
    for ([high, low], q) in splits.iter_mut().zip(operand.as_chunks::<TILE_BYTES>().0) {
        for ((high, low), q) in high.0[row].iter_mut().zip(&mut low.0[row]).zip(q) {
            [*low, *high] = q.to_le_bytes();
        }
    }
    shift
}

/// Quads of bytes from lines of pairs of int16, two lines a quad: the row that `row` says for each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn split(lines: &[Pairs], [high, low]: &mut Split, row: impl Fn(usize) -> usize) {
    // Of each pair, high bytes first, or low bytes first.
    let high_first = _mm512_setr4_epi32(0x0200_0301, 0x0604_0705, 0x0a08_0b09, 0x0e0c_0f0d);
    let low_first = _mm512_setr4_epi32(0x0301_0200, 0x0705_0604, 0x0b09_0a08, 0x0f0d_0e0c);
    for (quad, lines) in lines.chunks(2).enumerate() {
        let first = _mm512_shuffle_epi8(load_pairs(&lines[0]), high_first);
        let second = lines.get(1).map_or(_mm512_setzero_si512(), |line| _mm512_shuffle_epi8(load_pairs(line), low_first));
        let row = row(quad);
        store_bytes(&mut high.0[row], _mm512_mask_blend_epi16(0xaaaa_aaaa, first, second));
        store_bytes(&mut low.0[row], _mm512_ror_epi32::<16>(_mm512_mask_blend_epi16(0xaaaa_aaaa, second, first)));
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(lanes: &[i32; LANES]) -> __m512i {
    // SAFETY: 64 bytes are readable; the load needs no alignment.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(lanes: &mut [i32; LANES], value: __m512i) {
    // SAFETY: 64 bytes are writable; the store needs no alignment.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), value) };
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_lanes(lanes: &[i64; LANES / 2]) -> __m512i {
    // SAFETY: 64 bytes are readable; the load needs no alignment.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_lanes(lanes: &mut [i64; LANES / 2], value: __m512i) {
    // SAFETY: 64 bytes are writable; the store needs no alignment.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), value) };
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_bytes(bytes: &mut [u8; TILE_BYTES], value: __m512i) {
    // SAFETY: 64 bytes are writable; the store needs no alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) };
}

#[cfg(test)]
mod tests {
    use super::{Slots, Tile, WideScratch, attend};
    use crate::{
        kernels::{Isa, KvCache, Reach, Sequence},
        reference::Attention,
    };

    /// Whether a group of 40 queries is done here: rows of one number each, and what is in `out` after.
    fn done(query: i32, key: i32) -> Option<(bool, Vec<i32>)> {
        let Some(Isa::Amx(amx)) = Isa::available().pop() else { return None };
        let value_shifts = [0];
        let attention = Attention { heads: 1, kv_heads: 1, head_dim: 64, score_scale: 3_025_570, value_shifts: &value_shifts };
        let mut cache = KvCache::new(1, 64, 40);
        cache.append(Isa::Amx(amx), &[key; 40 * 64], &[7; 40 * 64], &value_shifts);
        let sequence = Sequence { cache: &cache, rows: 0..40, first: 0 };
        let reach = Reach::Causal { window: 0 };
        let group = Tile { isa: Isa::Amx(amx), attention: &attention, reach, sequence: &sequence, kv_head: 0, queries: 0..40 };
        let (mut out, mut scratch) = (vec![-1; 40 * 64], WideScratch::default());
        scratch.make_room(40);
        // SAFETY: a value of `Amx` exists only on a machine that has the instructions.
        let done = unsafe { attend(amx, &group, &[query; 40 * 64], &Slots::new(&mut out), &mut scratch) };
        Some((done, out))
    }

    /// Otherwise all would be left to the other kernels, and no result would show it.
    #[test]
    fn ordinary_scores_are_done_here_and_extreme_ones_left() {
        // In Q14; scores reach 2^29 where all elements of both are about 27.
        for (query, key) in [(0, 0), (60_000, 60_000), (-60_000, 60_000), (1 << 18, 1 << 18)] {
            if let Some((done, out)) = done(query, key) {
                assert!(done && out.iter().all(|&x| x == 7), "queries of {query}, keys of {key}");
            }
        }
        for (query, key) in [(1 << 24, 1 << 24), (1 << 30, -(1 << 30)), (i32::MAX, i32::MAX)] {
            if let Some((done, out)) = done(query, key) {
                assert!(!done && out.iter().all(|&x| x == -1), "queries of {query}, keys of {key}");
            }
        }
    }
}
