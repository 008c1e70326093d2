//! The attention of a few queries that share a kv head.
//!
//! Products run on pairs of int16 in 32 bits. Scores split the query into two digits, q = 256 · high + low; the mean splits the weights
//! into three, e = 65536 · high + 256 · middle + low, and its 32-bit sums run over at most 256 positions. What each sum can reach stands
//! beside it.

use std::ops::Range;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{KvCache, LANES, Pairs, RUN, Reach, Sequence, TILE, Weights, mean::Mean, portable};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512};
use crate::{
    bounds,
    kernels::{Isa, isa::multiversion, operand::quantise, slots::Slots},
    reference::Attention,
    tables::EXP2,
};

/// What a tile needs besides registers.
#[derive(Debug, Default)]
pub(super) struct TileScratch {
    /// The queries' digits, `[pair of dims][query]` of high and low, each a pair of int16.
    digits: Vec<[[i16; 2]; 2]>,
    /// Dot products, then scores: `[query][position]`, from the first position of the tile's first block.
    scores: Vec<i64>,
    /// `[query]`.
    weights: Vec<Weights>,
    /// Sums of weight times value: `[query][dim]`, whole blocks of dims.
    sums: Vec<i64>,
    #[cfg(target_arch = "x86_64")]
    wide: amx::WideScratch,
}

impl TileScratch {
    /// Room for any few queries that read this cache, however full it gets.
    pub(super) fn make_room(&mut self, cache: &KvCache) {
        fn room<T>(vec: &mut Vec<T>, len: usize) {
            vec.reserve(len.saturating_sub(vec.len()));
        }
        room(&mut self.digits, TILE * cache.dim_pairs());
        room(&mut self.scores, TILE * cache.capacity());
        room(&mut self.weights, TILE);
        room(&mut self.sums, TILE * cache.dim_blocks() * LANES);
    }

    /// Room for more of them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn make_wide_room(&mut self, cache: &KvCache) {
        self.wide.make_room(cache.capacity());
    }
}

/// Some queries of one kv head, at least one. Query i of a sequence and kv head is row i / g, head i mod g of the kv head's g query heads.
pub(super) struct Tile<'a> {
    pub(super) isa: Isa,
    pub(super) attention: &'a Attention<'a>,
    pub(super) reach: Reach,
    pub(super) sequence: &'a Sequence<'a>,
    pub(super) kv_head: usize,
    pub(super) queries: Range<usize>,
}

impl Tile<'_> {
    /// Where the elements of a query start in the query matrix.
    pub(super) fn offset(&self, query: usize) -> usize {
        let Attention { heads, kv_heads, head_dim, .. } = *self.attention;
        let per_kv_head = heads / kv_heads;
        let row = self.sequence.rows.start + query / per_kv_head;
        (row * heads + self.kv_head * per_kv_head + query % per_kv_head) * head_dim
    }

    /// The positions that a query reads.
    pub(super) fn range(&self, query: usize) -> Range<usize> {
        match self.reach {
            Reach::All => 0..self.sequence.cache.len(),
            Reach::Causal { window } => {
                let end = self.sequence.first + query / (self.attention.heads / self.attention.kv_heads) + 1;
                if window == 0 { 0..end } else { end.saturating_sub(window)..end }
            }
        }
    }

    /// The same for some of the queries.
    fn part(&self, queries: Range<usize>) -> Tile<'_> {
        Tile { queries, ..*self }
    }

    pub(super) fn run(&self, q: &[i32], out: &Slots<'_, i32>, scratch: &mut TileScratch) {
        #[cfg(target_arch = "x86_64")]
        if let Isa::Amx(amx) = self.isa
            && self.queries.len() >= amx::FEWEST
        {
            let group = amx::group(self.range(self.queries.end - 1).len(), self.sequence.cache.capacity());
            for first in self.queries.clone().step_by(group) {
                let queries = first..self.queries.end.min(first + group);
                // SAFETY: a value of `Amx` exists only on a machine that has the instructions.
                if !unsafe { amx::attend(amx, &self.part(queries.clone()), q, out, &mut scratch.wide) } {
                    self.run_narrow(queries, q, out, scratch);
                }
            }
            return;
        }
        self.run_narrow(self.queries.clone(), q, out, scratch);
    }

    /// [`TILE`] queries at a time.
    fn run_narrow(&self, queries: Range<usize>, q: &[i32], out: &Slots<'_, i32>, scratch: &mut TileScratch) {
        for first in queries.clone().step_by(TILE) {
            self.part(first..queries.end.min(first + TILE)).run_few(q, out, scratch);
        }
    }

    fn run_few(&self, q: &[i32], out: &Slots<'_, i32>, scratch: &mut TileScratch) {
        let Attention { head_dim, score_scale, .. } = *self.attention;
        let (cache, count) = (self.sequence.cache, self.queries.len());
        let ranges: [Range<usize>; TILE] = std::array::from_fn(|at| self.range(self.queries.start + at.min(count - 1)));
        let start = ranges[0].start / LANES * LANES;
        let end = ranges[count - 1].end.next_multiple_of(LANES);
        let (stride, dims) = (end - start, cache.dim_blocks() * LANES);
        let TileScratch { digits, scores, weights, sums, .. } = scratch;
        digits.resize(cache.dim_pairs() * count, [[0; 2]; 2]);
        scores.resize(scores.len().max(count * stride), 0);
        weights.resize(TILE, [[0; RUN]; 3]);
        sums.clear();
        sums.resize(count * dims, 0);

        let mut shifts = [0; TILE];
        for (at, shift) in shifts[..count].iter_mut().enumerate() {
            let from = self.offset(self.queries.start + at);
            *shift = load_query(self.isa, &q[from..from + head_dim], &mut digits[at..], count);
        }
        let scores = &mut scores[..count * stride];
        dots(self.isa, cache.key_blocks(self.kv_head, start / LANES..end / LANES), digits, count, scores);

        let (mut maxima, mut totals) = ([0; TILE], [0; TILE]);
        for (at, (max, row)) in maxima.iter_mut().zip(scores.chunks_exact_mut(stride)).enumerate() {
            let range = ranges[at].clone();
            let row = &mut row[range.start - start..range.end - start];
            *max = scale(self.isa, row, cache.key_shifts(self.kv_head, range), shifts[at], score_scale);
        }
        for first in (start..end).step_by(RUN) {
            let run = first..end.min(first + RUN);
            for (at, row) in scores.chunks_exact(stride).enumerate() {
                let live = ranges[at].start.clamp(run.start, run.end) - first..ranges[at].end.clamp(run.start, run.end) - first;
                totals[at] += weigh(self.isa, &row[run.start - start..run.end - start], &live, maxima[at], &mut weights[at]);
            }
            let values = cache.head_values(self.kv_head).chunks_exact(cache.value_stride());
            for (block, values) in values.enumerate() {
                mix(self.isa, &values[run.start / 2..run.end / 2], &weights[..count], &mut sums[block * LANES..], dims);
            }
        }
        let shift = self.attention.value_shifts[self.kv_head].unsigned_abs();
        for (at, sums) in sums.chunks_exact(dims).enumerate() {
            let from = self.offset(self.queries.start + at);
            // SAFETY: each query of each sequence belongs to one tile, and no two sequences name a row.
            let out = unsafe { out.piece(from..from + head_dim) };
            Mean::new(totals[at], shift).write(self.isa, &sums[..head_dim], out);
        }
    }
}

multiversion! {
    /// The query's digits, one every `stride` slots; returns its shift.
    fn load_query(query: &[i32], digits: &mut [[[i16; 2]; 2]], stride: usize) -> u32 = load_query_body
}

#[inline(always)]
fn load_query_body(query: &[i32], digits: &mut [[[i16; 2]; 2]], stride: usize) -> u32 {
    let mut operand = [0i16; bounds::HEAD_DIM as usize];
    let shift = quantise(query, &mut operand[..query.len()]);
    for (digits, q) in digits.iter_mut().step_by(stride).zip(operand.as_chunks::<2>().0) {
        *digits = [q.map(|q| q >> 8), q.map(|q| q & 255)];
    }
    shift
}

/// Dot products of every query with every key of whole blocks: `[query][position]`.
fn dots(isa: Isa, keys: &[Pairs], digits: &[[[i16; 2]; 2]], count: usize, out: &mut [i64]) {
    match isa {
        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::dots(keys, digits, count, out) },
        // SAFETY: a value of `Avx2` exists only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => unsafe { avx2::dots(keys, digits, count, out) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::DotProd(_) => neon::dots(keys, digits, count, out),
        Isa::Portable => portable::dots(keys, digits, count, out),
    }
}

/// Sums of weight times value over a run of positions, added to `sums`: `[query]` every `stride`, 16 dims each.
fn mix(isa: Isa, values: &[Pairs], weights: &[Weights], sums: &mut [i64], stride: usize) {
    match isa {
        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::mix(values, weights, sums, stride) },
        // SAFETY: a value of `Avx2` exists only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => unsafe { avx2::mix(values, weights, sums, stride) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::DotProd(_) => neon::mix(values, weights, sums, stride),
        Isa::Portable => portable::mix(values, weights, sums, stride),
    }
}

/// Scores from dot products, in place: `rs(dot · c, 36 - s_q - s_k)`. Returns the greatest.
fn scale(isa: Isa, scores: &mut [i64], key_shifts: &[u8], query_shift: u32, score_scale: u32) -> i64 {
    match isa {
        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::scale(scores, key_shifts, query_shift, score_scale) },
        _ => scale_plain(isa, scores, key_shifts, query_shift, score_scale),
    }
}

/// The weights of a run of positions, of those that are live; 0 for the others. Returns the weights' sum.
fn weigh(isa: Isa, scores: &[i64], live: &Range<usize>, max: i64, weights: &mut Weights) -> i64 {
    match isa {
        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::weigh(scores, live, max, weights) },
        _ => weigh_plain(isa, scores, live, max, weights),
    }
}

multiversion! { fn scale_plain(scores: &mut [i64], key_shifts: &[u8], query_shift: u32, score_scale: u32) -> i64 = scale_body }

#[inline(always)]
fn scale_body(scores: &mut [i64], key_shifts: &[u8], query_shift: u32, score_scale: u32) -> i64 {
    let mut max = i64::MIN;
    for (score, &key_shift) in scores.iter_mut().zip(key_shifts) {
        // 4 <= n <= 36.
        let n = 36u32.wrapping_sub(query_shift).wrapping_sub(u32::from(key_shift)) & 63;
        *score = score.wrapping_mul(i64::from(score_scale)).wrapping_add(1 << (n.wrapping_sub(1) & 63)) >> n;
        max = max.max(*score);
    }
    max
}

multiversion! { fn weigh_plain(scores: &[i64], live: &Range<usize>, max: i64, weights: &mut Weights) -> i64 = weigh_body }

#[inline(always)]
fn weigh_body(scores: &[i64], live: &Range<usize>, max: i64, weights: &mut Weights) -> i64 {
    let mut total = 0i64;
    let [high, middle, low] = weights;
    let digits = high.iter_mut().zip(middle).zip(low);
    for (at, (&score, ((high, middle), low))) in scores.iter().zip(digits).enumerate() {
        let e = if live.contains(&at) { exp2_negative(max.wrapping_sub(score)) } else { 0 };
        total = total.wrapping_add(i64::from(e));
        // e is at most 2^24: 9, 8 and 8 bits.
        let digits = ((e >> 16) as i16, (e >> 8 & 255) as i16, (e & 255) as i16);
        (*high, *middle, *low) = digits;
    }
    total
}

/// Twin of [`reference::exp2_negative`](crate::reference::exp2_negative) in 32 bits: from z = 26 · 2^16 on the result is 0, and below it
/// nothing exceeds 2^30 + 2^30.
#[inline(always)]
fn exp2_negative(z: i64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= z <= 26 · 2^16 after the minimum")]
    let z = z.min(26 << 16) as u32;
    let (whole, index, rest) = (z >> 16, (z >> 8 & 255) as usize, z & 255);
    let (high, low) = (EXP2[index], EXP2[index + 1]);
    let value = high.wrapping_sub(high.wrapping_sub(low).wrapping_mul(rest).wrapping_add(128) >> 8);
    // At z = 26 · 2^16 the shift is out of range and the value is not used.
    let shift = whole.wrapping_add(6) & 31;
    if whole > 25 { 0 } else { value.wrapping_add(1 << (shift.wrapping_sub(1) & 31)) >> shift }
}
