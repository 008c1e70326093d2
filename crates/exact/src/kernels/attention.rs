//! Bidirectional attention; twin of [`Attention::bidirectional`](crate::reference::Attention::bidirectional), whose widths hold here.
//!
//! Both products run on pairs of int16 in 32 bits. Scores split the query into digits, q = 256 · high + low; the mean splits the weights,
//! e = 4096 · high + low. What each 32-bit sum can reach stands beside it.

use super::{
    Isa,
    isa::multiversion,
    operand::{quantise, shift_all},
};
use crate::{
    arith::{clamp16, clamp32, rdiv},
    reference::Attention,
    tables::EXP2,
};

/// Lanes of a block: positions for the scores, dims for the mean.
const LANES: usize = 16;
/// A pair of int16 for each lane.
type Pairs = [i16; 2 * LANES];

/// Attention over all positions; rows as in the plain twin, row-major. Returns rows of heads · head dim.
///
/// # Panics
/// If the shapes do not fit the parameters.
#[must_use]
pub fn bidirectional(isa: Isa, attention: &Attention<'_>, q: &[i32], k: &[i32], v: &[i32]) -> Vec<i32> {
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let queries = q.len() / (heads * head_dim);
    let mut out = vec![0; q.len()];
    let mut work = Work::new(k.len() / (kv_heads * head_dim), head_dim);
    for kv in 0..kv_heads {
        let shift = attention.value_shifts[kv].unsigned_abs();
        let head = |rows, head, heads| Head { rows, at: head * head_dim, stride: heads * head_dim };
        load_keys(isa, &mut work, head(k, kv, kv_heads));
        load_values(isa, &mut work, head(v, kv, kv_heads), shift);
        for h in kv * (heads / kv_heads)..(kv + 1) * (heads / kv_heads) {
            for query in 0..queries {
                let at = (query * heads + h) * head_dim;
                let shift_of_query = load_query(isa, &mut work, &q[at..at + head_dim]);
                score(isa, &mut work);
                weigh(isa, &mut work, shift_of_query, attention.score_scale);
                mix(isa, &mut work);
                finish(&work, shift, &mut out[at..at + head_dim]);
            }
        }
    }
    out
}

/// One head of row-major rows.
#[derive(Clone, Copy)]
struct Head<'a> {
    rows: &'a [i32],
    at: usize,
    stride: usize,
}

impl<'a> Head<'a> {
    fn row(&self, position: usize, head_dim: usize) -> &'a [i32] {
        let at = position * self.stride + self.at;
        &self.rows[at..at + head_dim]
    }
}

/// One kv head, laid out for the loops, and scratch. Zeros stand beyond the last position and the last dim.
struct Work {
    positions: usize,
    head_dim: usize,
    /// `[block of 16 positions][pair of dims][lane][2]`.
    keys: Vec<Pairs>,
    key_shifts: Vec<u32>,
    /// `[block of 16 dims][pair of positions][lane][2]`.
    values: Vec<Pairs>,
    operand: Vec<i16>,
    /// The query's digits for each pair of dims: high, low.
    query: Vec<[[i16; 2]; 2]>,
    /// Dot products, then scores, of each position.
    scores: Vec<i64>,
    /// The weights' digits for each pair of positions: high, low.
    weights: Vec<[[i16; 2]; 2]>,
    total: i64,
    /// Sums of weight times value of each dim.
    sums: Vec<i64>,
}

impl Work {
    fn new(positions: usize, head_dim: usize) -> Self {
        let (position_blocks, dim_blocks) = (positions.div_ceil(LANES), head_dim.div_ceil(LANES));
        let (position_pairs, dim_pairs) = (positions.div_ceil(2), head_dim.div_ceil(2));
        Self {
            positions,
            head_dim,
            keys: vec![[0; 2 * LANES]; position_blocks * dim_pairs],
            key_shifts: vec![0; positions],
            values: vec![[0; 2 * LANES]; dim_blocks * position_pairs],
            operand: vec![0; 2 * dim_pairs],
            query: vec![[[0; 2]; 2]; dim_pairs],
            scores: vec![0; position_blocks * LANES],
            weights: vec![[[0; 2]; 2]; position_pairs],
            total: 0,
            sums: vec![0; dim_blocks * LANES],
        }
    }

    const fn dim_pairs(&self) -> usize {
        self.query.len()
    }

    const fn position_pairs(&self) -> usize {
        self.weights.len()
    }
}

multiversion! { fn load_keys(work: &mut Work, k: Head<'_>) -> () = load_keys_body }
multiversion! { fn load_values(work: &mut Work, v: Head<'_>, shift: u32) -> () = load_values_body }
multiversion! { fn load_query(work: &mut Work, query: &[i32]) -> u32 = load_query_body }
multiversion! { fn weigh(work: &mut Work, query_shift: u32, score_scale: u32) -> () = weigh_body }

#[inline(always)]
fn load_keys_body(work: &mut Work, k: Head<'_>) {
    let pairs = work.dim_pairs();
    for position in 0..work.positions {
        work.key_shifts[position] = quantise(k.row(position, work.head_dim), &mut work.operand[..work.head_dim]);
        let (block, lane) = (position / LANES, position % LANES);
        for (pair, both) in work.operand.as_chunks::<2>().0.iter().enumerate() {
            work.keys[block * pairs + pair][2 * lane..2 * lane + 2].copy_from_slice(both);
        }
    }
}

#[inline(always)]
fn load_values_body(work: &mut Work, v: Head<'_>, shift: u32) {
    let pairs = work.position_pairs();
    for position in 0..work.positions {
        let row = v.row(position, work.head_dim);
        let operand = &mut work.operand[..work.head_dim];
        if shift == 0 {
            for (slot, &v) in operand.iter_mut().zip(row) {
                *slot = clamp16(i64::from(v));
            }
        } else {
            shift_all(row, shift, operand);
        }
        for (dim, &value) in operand.iter().enumerate() {
            let (block, lane) = (dim / LANES, dim % LANES);
            work.values[block * pairs + position / 2][2 * lane + position % 2] = value;
        }
    }
}

#[inline(always)]
fn load_query_body(work: &mut Work, query: &[i32]) -> u32 {
    let shift = quantise(query, &mut work.operand[..work.head_dim]);
    for (digits, q) in work.query.iter_mut().zip(work.operand.as_chunks::<2>().0) {
        *digits = [q.map(|q| q >> 8), q.map(|q| q & 255)];
    }
    shift
}

/// Dot products of the query with every key. With at most 256 dims, |Σ high · k| <= 256 · 128 · 32767 < 2^31 and
/// |Σ low · k| <= 256 · 255 · 32767 < 2^31.
fn score(isa: Isa, work: &mut Work) {
    let blocks = work.keys.chunks_exact(work.query.len()).zip(work.scores.as_chunks_mut::<LANES>().0);
    for (keys, scores) in blocks {
        let [high, low] = pair_products(isa, keys, &work.query);
        for ((score, high), low) in scores.iter_mut().zip(high).zip(low) {
            *score = (i64::from(high) << 8).wrapping_add(i64::from(low));
        }
    }
}

/// Scores from dot products, and weights from scores.
#[inline(always)]
fn weigh_body(work: &mut Work, query_shift: u32, score_scale: u32) {
    let scores = &mut work.scores[..work.positions];
    let mut max = i64::MIN;
    for (score, &key_shift) in scores.iter_mut().zip(&work.key_shifts) {
        // 4 <= n <= 36.
        let n = 36u32.wrapping_sub(query_shift).wrapping_sub(key_shift) & 63;
        *score = score.wrapping_mul(i64::from(score_scale)).wrapping_add(1 << (n.wrapping_sub(1) & 63)) >> n;
        max = max.max(*score);
    }
    let mut total = 0i64;
    for (digits, scores) in work.weights.iter_mut().zip(scores.chunks(2)) {
        for (at, &score) in scores.iter().enumerate() {
            let e = exp2_negative(max.wrapping_sub(score));
            total = total.wrapping_add(i64::from(e));
            #[expect(clippy::cast_possible_truncation, reason = "e is at most 2^24: 13 bits and 12 bits")]
            let (high, low) = ((e >> 12) as i16, (e & 0xfff) as i16);
            (digits[0][at], digits[1][at]) = (high, low);
        }
    }
    work.total = total;
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

/// Sums of weight times value. 16 positions at a time: |Σ high · v| <= 16 · 4096 · 32767 < 2^31, and low < 4096.
fn mix(isa: Isa, work: &mut Work) {
    const PAIRS: usize = 8;
    let blocks = work.values.chunks_exact(work.weights.len()).zip(work.sums.as_chunks_mut::<LANES>().0);
    for (values, sums) in blocks {
        *sums = [0; LANES];
        for (values, weights) in values.chunks(PAIRS).zip(work.weights.chunks(PAIRS)) {
            let [high, low] = pair_products(isa, values, weights);
            for ((sum, high), low) in sums.iter_mut().zip(high).zip(low) {
                *sum = sum.wrapping_add((i64::from(high) << 12).wrapping_add(i64::from(low)));
            }
        }
    }
}

fn finish(work: &Work, value_shift: u32, out: &mut [i32]) {
    for (out, &sum) in out.iter_mut().zip(&work.sums) {
        *out = mean(sum, value_shift, work.total);
    }
}

/// `rdiv(sum << shift, total)`, in 64 bits where the numerator fits: total <= 2^39, so below 2^61 nothing overflows.
fn mean(sum: i64, shift: u32, total: i64) -> i32 {
    if sum.unsigned_abs() < 1 << (61 - shift) {
        clamp32((2 * (sum << shift) + total).div_euclid(2 * total))
    } else {
        clamp32(i64::try_from(rdiv(i128::from(sum) << shift, i128::from(total))).unwrap_or(0))
    }
}

/// For each lane, the sums over all pairs of both digits times the lane's pair: `[high, low]`.
#[inline(always)]
fn pair_products(isa: Isa, lanes: &[Pairs], digits: &[[[i16; 2]; 2]]) -> [[i32; LANES]; 2] {
    match isa {
        Isa::Portable => pair_products_portable(lanes, digits),
        // SAFETY: a value of `Avx2` exists only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => unsafe { avx2::pair_products(lanes, digits) },
    }
}

fn pair_products_portable(lanes: &[Pairs], digits: &[[[i16; 2]; 2]]) -> [[i32; LANES]; 2] {
    let mut sums = [[0i32; LANES]; 2];
    for (lanes, digits) in lanes.iter().zip(digits) {
        for (sums, digits) in sums.iter_mut().zip(digits) {
            for (sum, pair) in sums.iter_mut().zip(lanes.as_chunks::<2>().0) {
                let product = |at: usize| i32::from(pair[at]).wrapping_mul(i32::from(digits[at]));
                *sum = sum.wrapping_add(product(0).wrapping_add(product(1)));
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
    };

    use super::{LANES, Pairs};

    #[target_feature(enable = "avx2")]
    pub(super) fn pair_products(lanes: &[Pairs], digits: &[[[i16; 2]; 2]]) -> [[i32; LANES]; 2] {
        let zero = _mm256_setzero_si256();
        let mut sums = [zero; 4];
        for (lanes, &[high, low]) in lanes.iter().zip(digits) {
            let at = lanes.as_ptr().cast::<__m256i>();
            // SAFETY: 64 bytes are readable at `lanes`; the loads need no alignment.
            let [first, second] = unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] };
            let (high, low) = (broadcast(high), broadcast(low));
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(first, high));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(second, high));
            sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(first, low));
            sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(second, low));
        }
        let mut out = [[0; LANES]; 2];
        let at = out.as_mut_ptr().cast::<__m256i>();
        for (eight, &sum) in sums.iter().enumerate() {
            // SAFETY: `out` holds four times 32 bytes; the stores need no alignment.
            unsafe { _mm256_storeu_si256(at.add(eight), sum) };
        }
        out
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn broadcast(pair: [i16; 2]) -> __m256i {
        let [a, b] = pair.map(i16::to_le_bytes);
        _mm256_set1_epi32(i32::from_le_bytes([a[0], a[1], b[0], b[1]]))
    }
}
