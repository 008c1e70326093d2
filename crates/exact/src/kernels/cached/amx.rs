//! Attention of many queries that share a kv head, by AMX: up to 64 of them in tiles of 16, bytes of queries times bytes of keys, bytes of
//! weights times bytes of values.
//!
//! Queries, keys and values are 256 · high + low, high signed and low not. Keys and values are split once for all queries of a group. Scores
//! are kept in 32 bits; the few groups whose scores do not fit are left to the other kernels. The weights' bytes take their scores' place.

use std::{
    arch::{
        asm,
        x86_64::{
            __m512i, _mm_loadu_si128, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_cmpeq_epi32_mask,
            _mm512_cmplt_epu32_mask, _mm512_cvtepu8_epi32, _mm512_loadu_si512, _mm512_mask_blend_epi16, _mm512_mask_mov_epi32,
            _mm512_mask_shuffle_epi32, _mm512_maskz_mov_epi32, _mm512_max_epi32, _mm512_min_epu32, _mm512_mul_epi32, _mm512_or_si512,
            _mm512_packus_epi16, _mm512_packus_epi32, _mm512_reduce_add_epi64, _mm512_reduce_max_epi32, _mm512_ror_epi32,
            _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setr4_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8,
            _mm512_slli_epi32, _mm512_slli_epi64, _mm512_srai_epi32, _mm512_srav_epi64, _mm512_srli_epi16, _mm512_srli_epi32,
            _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_sub_epi64, _mm512_test_epi32_mask, _mm512_xor_si512,
        },
    },
    ops::Range,
};

use super::{
    LANES, Pairs, Sequence,
    avx512::{self, widen},
    mean::Mean,
    tile::Tile,
};
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

/// A block of keys, and 35 - s_k of the even and of the odd ones.
#[derive(Clone, Copy)]
struct Keys {
    first: usize,
    shifts: [__m512i; 2],
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

/// All scores of a group, and their maxima. False if some are beyond 2^29.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scores(
    shapes: &Tiles,
    group: &Tile<'_>,
    tiles: &[Rows],
    positions: Range<usize>,
    (queries, chunks): (&[Split], &mut [Chunk]),
    maxima: &mut [[i32; LANES]; MOST],
) -> bool {
    let Sequence { cache, .. } = group.sequence;
    let (steps, pairs) = (group.attention.head_dim.div_ceil(TILE_BYTES), cache.dim_pairs());
    let chunk_count = positions.len().div_ceil(CHUNK);
    let scale = _mm512_set1_epi64(i64::from(group.attention.score_scale));
    let mut keys = [[Bytes::ZERO; 2]; MOST_STEPS];
    let mut products = [const { Sums::<3>([[[0; LANES]; TILE_ROWS]; 3]) }; 2];
    let mut before: Option<(usize, Keys)> = None;
    let mut beyond = _mm512_setzero_si512();
    let mut turn = 0;
    for block in 0..chunk_count * CHUNK_BLOCKS {
        let first = positions.start + block * LANES;
        let read = first < positions.end;
        let mut shifts = [_mm512_setzero_si512(); 2];
        if read {
            let lines = cache.key_blocks(group.kv_head, first / LANES..first / LANES + 1);
            for (split_keys, lines) in keys.iter_mut().zip(lines[..pairs].chunks(TILE_BYTES / 2)) {
                split(lines, split_keys, |quad| quad);
            }
            let of_keys: &[u8; LANES] = cache.key_shifts(group.kv_head, first..first + LANES).as_chunks().0.first().expect("a whole block");
            // SAFETY: 16 bytes are readable; the load needs no alignment.
            let of_keys = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(of_keys.as_ptr().cast()) });
            let even = _mm512_and_si512(of_keys, _mm512_set1_epi64(0xffff_ffff));
            let most = _mm512_set1_epi64(35);
            shifts = [_mm512_sub_epi64(most, even), _mm512_sub_epi64(most, _mm512_srli_epi64::<32>(of_keys))];
        }
        for (tile, rows) in tiles.iter().enumerate() {
            let some = rows.some();
            if read && first < some.end && first + LANES > some.start {
                let [now, then] = &mut products;
                let (now, then) = if turn == 0 { (now, then) } else { (then, now) };
                turn ^= 1;
                multiply(shapes, &queries[tile * steps..][..steps], &keys[..steps], now);
                if let Some((tile, keys)) = before.replace((tile, Keys { first, shifts })) {
                    let at = (keys.first - positions.start) / LANES;
                    let chunk = &mut chunks[tile * chunk_count + at / CHUNK_BLOCKS];
                    beyond = _mm512_or_si512(
                        beyond,
                        scale_block(then, &tiles[tile], &keys, scale, (chunk, at % CHUNK_BLOCKS), &mut maxima[tile * TILE_ROWS..]),
                    );
                }
            } else {
                chunks[tile * chunk_count + block / CHUNK_BLOCKS].0[block % CHUNK_BLOCKS] = [[UNREAD; LANES]; TILE_ROWS];
            }
        }
    }
    if let Some((tile, keys)) = before {
        let at = (keys.first - positions.start) / LANES;
        let chunk = &mut chunks[tile * chunk_count + at / CHUNK_BLOCKS];
        let last =
            scale_block(&products[1 - turn], &tiles[tile], &keys, scale, (chunk, at % CHUNK_BLOCKS), &mut maxima[tile * TILE_ROWS..]);
        beyond = _mm512_or_si512(beyond, last);
    }
    _mm512_test_epi32_mask(beyond, beyond) == 0
}

/// Dot products of a tile of queries and a block of keys, their bytes apart.
///
/// With at most 256 dims, |Σ high · high| <= 256 · 2^14, |Σ high · low + low · high| < 2 · 256 · 128 · 255 < 2^24, and Σ low · low < 2^24.
#[inline]
fn multiply(tiles: &Tiles, queries: &[Split], keys: &[Split], out: &mut Sums<3>) {
    assert!(tiles.positions() == TILE_ROWS, "tiles of {TILE_ROWS} queries");
    assert!(queries.len() == keys.len() && !keys.is_empty(), "as many steps of queries as of keys");
    // SAFETY: two tiles of 16 rows of 64 bytes are read for each step of queries and keys; what is written are three tiles, as `out` has them.
    // The tiles have been given shapes of 16 rows, so the machine has the instructions.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "2:",
            "tileloadd tmm6, [{keys} + {line}]",
            "tileloadd tmm4, [{queries} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{keys} + {line} + 1024]",
            "tdpbsud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{queries} + {line} + 1024]",
            "tdpbuud tmm2, tmm5, tmm7",
            "tdpbusd tmm1, tmm5, tmm6",
            "add {keys}, 2048",
            "add {queries}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {line}], tmm0",
            "tilestored [{out} + {line} + 1024], tmm1",
            "tilestored [{out} + {line} + 2048], tmm2",
            keys = inout(reg) keys.as_ptr() => _,
            queries = inout(reg) queries.as_ptr() => _,
            steps = inout(reg) keys.len() => _,
            line = in(reg) TILE_BYTES,
            out = in(reg) &raw mut *out,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Scores of a tile and a block of keys: `rs(dot · c, 36 - s_q - s_k)`. Returns a vector that is 0 if none that is read is beyond 2^29.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn scale_block(
    Sums([high, mixed, low]): &Sums<3>,
    rows: &Rows,
    keys: &Keys,
    scale: __m512i,
    (chunk, block): (&mut Chunk, usize),
    maxima: &mut [[i32; LANES]],
) -> __m512i {
    let mut beyond = _mm512_setzero_si512();
    let all = rows.all();
    let inside = all.start <= keys.first && keys.first + LANES <= all.end;
    for row in 0..rows.count {
        // 256 · upper + lower: |upper| <= 2^30 + 2^24, 0 <= lower < 2^24.
        let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(load(&high[row])), load(&mixed[row]));
        let lower = load(&low[row]);
        let shift = _mm512_set1_epi64(i64::from(rows.shifts[row]));
        // Before the last bit of the rounding goes: rs(x, n) = ((x >> (n - 1)) + 1) >> 1, 3 <= n - 1 <= 35.
        let twice = |upper, lower, base| {
            let product = _mm512_add_epi64(_mm512_slli_epi64::<8>(_mm512_mul_epi32(upper, scale)), _mm512_mul_epi32(lower, scale));
            _mm512_srav_epi64(product, _mm512_sub_epi64(base, shift))
        };
        let even = twice(upper, lower, keys.shifts[0]);
        let odd = twice(_mm512_srli_epi64::<32>(upper), _mm512_srli_epi64::<32>(lower), keys.shifts[1]);
        let bits = _mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xaaaa, odd);
        let sign = _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even);
        // Twice the score is below 2^30 if all bits above the lowest 30 are the same.
        let differ = |mask| _mm512_maskz_mov_epi32(mask, _mm512_xor_si512(sign, _mm512_srai_epi32::<30>(bits)));
        let mut score = _mm512_srai_epi32::<1>(_mm512_add_epi32(bits, _mm512_set1_epi32(1)));
        if inside {
            beyond = _mm512_or_si512(beyond, differ(0xffff));
        } else {
            let range = &rows.ranges[row];
            let read = lanes(range.end.saturating_sub(keys.first)) & !lanes(range.start.saturating_sub(keys.first));
            beyond = _mm512_or_si512(beyond, differ(read));
            score = _mm512_mask_mov_epi32(_mm512_set1_epi32(UNREAD), read, score);
        }
        let max = _mm512_max_epi32(load(&maxima[row]), score);
        store(&mut maxima[row], max);
        store(&mut chunk.0[block][row], score);
    }
    beyond
}

/// The first lanes of 16, so many of them.
fn lanes(count: usize) -> u16 {
    if count >= LANES { u16::MAX } else { (1 << count) - 1 }
}

/// Weights from scores, in place, and their sums. Returns the chunk's kind.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn weigh(Chunk([first, second, third, fourth]): &mut Chunk, maxima: &[i32], totals: &mut [[i64; LANES / 2]]) -> u8 {
    // From here on a weight is 0.
    let far = _mm512_set1_epi32(26 << 16);
    let byte = _mm512_set1_epi16(255);
    let mut kind = 0;
    let rows = first.iter_mut().zip(second).zip(third.iter_mut().zip(fourth));
    for (((first, second), (third, fourth)), (&max, totals)) in rows.zip(maxima.iter().zip(totals)) {
        // Below 2^31 + 2^30 as unsigned numbers, for |maximum| <= 2^29: what is not read is far.
        let max = _mm512_set1_epi32(max);
        let below = |scores: &[i32; LANES]| _mm512_min_epu32(_mm512_sub_epi32(max, load(scores)), far);
        let z = [below(first), below(second), below(third), below(fourth)];
        let least = _mm512_min_epu32(_mm512_min_epu32(z[0], z[1]), _mm512_min_epu32(z[2], z[3]));
        if _mm512_cmplt_epu32_mask(least, far) == 0 {
            let zero = _mm512_setzero_si512();
            store(first, zero);
            store(second, zero);
            store(third, zero);
            store(fourth, zero);
            continue;
        }
        kind |= if _mm512_cmpeq_epi32_mask(least, _mm512_setzero_si512()) == 0 { LIVE } else { LIVE | WHOLE };
        let e = [avx512::exp2_negative(z[0]), avx512::exp2_negative(z[1]), avx512::exp2_negative(z[2]), avx512::exp2_negative(z[3])];
        // Four weights a lane: at most 2^26.
        let sum = _mm512_add_epi32(_mm512_add_epi32(e[0], e[1]), _mm512_add_epi32(e[2], e[3]));
        let sum = _mm512_add_epi64(_mm512_and_si512(sum, _mm512_set1_epi64(0xffff_ffff)), _mm512_srli_epi64::<32>(sum));
        store_lanes(totals, _mm512_add_epi64(load_lanes(totals), sum));
        let upper = |a, b| _mm512_packus_epi32(_mm512_srli_epi32::<16>(a), _mm512_srli_epi32::<16>(b));
        let low = _mm512_set1_epi32(0xffff);
        let lower = |a, b| _mm512_packus_epi32(_mm512_and_si512(a, low), _mm512_and_si512(b, low));
        let [upper, next_upper, lower, next_lower] = [upper(e[0], e[1]), upper(e[2], e[3]), lower(e[0], e[1]), lower(e[2], e[3])];
        // 256 becomes 255.
        store(first, _mm512_packus_epi16(upper, next_upper));
        store(second, _mm512_packus_epi16(_mm512_srli_epi16::<8>(lower), _mm512_srli_epi16::<8>(next_lower)));
        store(third, _mm512_packus_epi16(_mm512_and_si512(lower, byte), _mm512_and_si512(next_lower, byte)));
        store(fourth, _mm512_packus_epi16(_mm512_srli_epi16::<8>(upper), _mm512_srli_epi16::<8>(next_upper)));
    }
    kind
}

/// Sums of weight times value over some chunks, for a tile of queries and a block of dims. The bounds are those of [`RUN_CHUNKS`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn mix(tiles: &Tiles, weights: &[Chunk], kinds: &[u8], values: &[Split], sums: &mut [[i64; LANES]]) {
    let mut products = Sums::<4>([[[0; LANES]; TILE_ROWS]; 4]);
    assert!(tiles.positions() == TILE_ROWS, "tiles of {TILE_ROWS} queries");
    assert!(weights.len() == kinds.len() && weights.len() == values.len(), "as many chunks of weights as of values");
    assert!((1..=RUN_CHUNKS).contains(&weights.len()), "a run of chunks");
    // SAFETY: for each chunk its kind, four tiles of weights and two of values are readable; what is written
    // are four tiles, as `products` has them. The tiles have been given shapes of 16 rows, so the machine has the instructions.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "movzx {kind:e}, byte ptr [{kinds}]",
            "test {kind:e}, {kind:e}",
            "jz 4f",
            "tileloadd tmm4, [{weights} + {line}]",
            "tileloadd tmm6, [{values} + {line}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{values} + {line} + 1024]",
            "tdpbuud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{weights} + {line} + 1024]",
            "tdpbuud tmm2, tmm5, tmm7",
            "tileloadd tmm4, [{weights} + {line} + 2048]",
            "tdpbuud tmm3, tmm4, tmm7",
            "tdpbusd tmm1, tmm5, tmm6",
            "tdpbusd tmm2, tmm4, tmm6",
            "test {kind:e}, 2",
            "jz 4f",
            "tileloadd tmm5, [{weights} + {line} + 3072]",
            "tdpbusd tmm0, tmm5, tmm6",
            "tdpbuud tmm1, tmm5, tmm7",
            "4:",
            "inc {kinds}",
            "add {weights}, 4096",
            "add {values}, 2048",
            "dec {chunks}",
            "jnz 2b",
            "tilestored [{out} + {line}], tmm0",
            "tilestored [{out} + {line} + 1024], tmm1",
            "tilestored [{out} + {line} + 2048], tmm2",
            "tilestored [{out} + {line} + 3072], tmm3",
            kind = out(reg) _,
            kinds = inout(reg) kinds.as_ptr() => _,
            weights = inout(reg) weights.as_ptr() => _,
            values = inout(reg) values.as_ptr() => _,
            chunks = inout(reg) weights.len() => _,
            line = in(reg) TILE_BYTES,
            out = in(reg) &raw mut products,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    let [first, second, third, fourth] = &products.0;
    for (row, sums) in sums.iter_mut().enumerate() {
        let [first, second, third, fourth] =
            [widen(load(&first[row])), widen(load(&second[row])), widen(load(&third[row])), widen(load(&fourth[row]))];
        for (half, sums) in sums.as_chunks_mut::<{ LANES / 2 }>().0.iter_mut().enumerate() {
            let upper = _mm512_add_epi64(_mm512_slli_epi64::<24>(first[half]), _mm512_slli_epi64::<16>(second[half]));
            let lower = _mm512_add_epi64(_mm512_slli_epi64::<8>(third[half]), fourth[half]);
            store_lanes(sums, _mm512_add_epi64(load_lanes(sums), _mm512_add_epi64(upper, lower)));
        }
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
fn load_pairs(pairs: &Pairs) -> __m512i {
    // SAFETY: 64 bytes are readable; the load needs no alignment.
    unsafe { _mm512_loadu_si512(pairs.as_ptr().cast()) }
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
