//! Bidirectional attention; twin of [`Attention::bidirectional`](crate::reference::Attention::bidirectional), whose widths hold here.

use super::{
    isa::multiversion,
    operand::{quantise, shift_all},
};
use crate::{
    arith::{clamp16, clamp32, rdiv},
    reference::{Attention, exp2_negative},
};

/// Positions whose dot products are computed together.
const LANES: usize = 16;

multiversion! {
    /// Attention over all positions; rows as in the plain twin, row-major. Returns rows of heads · head dim.
    ///
    /// # Panics
    /// If the shapes do not fit the parameters.
    pub fn bidirectional(attention: &Attention<'_>, q: &[i32], k: &[i32], v: &[i32]) -> Vec<i32> = body
}

#[inline(always)]
fn body(attention: &Attention<'_>, q: &[i32], k: &[i32], v: &[i32]) -> Vec<i32> {
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let positions = q.len() / (heads * head_dim);
    let mut out = vec![0; q.len()];
    let mut work = Work::new(positions, head_dim);
    for kv in 0..kv_heads {
        let shift = attention.value_shifts[kv].unsigned_abs();
        work.load_keys(k, kv, kv_heads * head_dim);
        work.load_values(v, kv, kv_heads * head_dim, shift);
        for h in kv * (heads / kv_heads)..(kv + 1) * (heads / kv_heads) {
            for position in 0..positions {
                let at = (position * heads + h) * head_dim;
                work.one(&q[at..at + head_dim], attention.score_scale, shift, &mut out[at..at + head_dim]);
            }
        }
    }
    out
}

/// One kv head, laid out for the loops, and scratch.
struct Work {
    positions: usize,
    head_dim: usize,
    /// `[block of 16 positions][pair of dims][lane][2]`, zeros beyond the last position or dim.
    keys: Vec<i16>,
    key_shifts: Vec<u32>,
    /// `[position][dim]`.
    values: Vec<i16>,
    operand: Vec<i16>,
    scores: Vec<i64>,
    weights: Vec<i32>,
    sums: Vec<i64>,
}

impl Work {
    fn new(positions: usize, head_dim: usize) -> Self {
        let (blocks, pairs) = (positions.div_ceil(LANES), head_dim.div_ceil(2));
        Self {
            positions,
            head_dim,
            keys: vec![0; blocks * pairs * LANES * 2],
            key_shifts: vec![0; blocks * LANES],
            values: vec![0; positions * head_dim],
            operand: vec![0; 2 * pairs],
            scores: vec![0; blocks * LANES],
            weights: vec![0; positions],
            sums: vec![0; head_dim],
        }
    }

    #[inline(always)]
    fn load_keys(&mut self, k: &[i32], kv: usize, stride: usize) {
        let pairs = self.head_dim.div_ceil(2);
        for position in 0..self.positions {
            let at = position * stride + kv * self.head_dim;
            self.key_shifts[position] = quantise(&k[at..at + self.head_dim], &mut self.operand[..self.head_dim]);
            let (block, lane) = (position / LANES, position % LANES);
            for (pair, both) in self.operand.as_chunks::<2>().0.iter().enumerate() {
                let at = ((block * pairs + pair) * LANES + lane) * 2;
                self.keys[at..at + 2].copy_from_slice(both);
            }
        }
    }

    #[inline(always)]
    fn load_values(&mut self, v: &[i32], kv: usize, stride: usize, shift: u32) {
        for (position, out) in self.values.chunks_exact_mut(self.head_dim).enumerate() {
            let at = position * stride + kv * self.head_dim;
            let row = &v[at..at + self.head_dim];
            if shift == 0 {
                for (slot, &v) in out.iter_mut().zip(row) {
                    *slot = clamp16(i64::from(v));
                }
            } else {
                shift_all(row, shift, out);
            }
        }
    }

    /// One query against all positions.
    #[inline(always)]
    fn one(&mut self, query: &[i32], score_scale: u32, value_shift: u32, out: &mut [i32]) {
        self.score(query, score_scale);
        let max = self.scores[..self.positions].iter().copied().fold(i64::MIN, i64::max);
        let mut total = 0i64;
        for (weight, &score) in self.weights.iter_mut().zip(&self.scores) {
            let e = exp2_negative(max.wrapping_sub(score));
            total = total.wrapping_add(e);
            #[expect(clippy::cast_possible_truncation, reason = "e is at most 2^24")]
            let narrow = e as i32;
            *weight = narrow;
        }
        self.sums.fill(0);
        for (&weight, row) in self.weights.iter().zip(self.values.chunks_exact(self.head_dim)) {
            for (sum, &v) in self.sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(i64::from(weight).wrapping_mul(i64::from(v)));
            }
        }
        for (out, &sum) in out.iter_mut().zip(&self.sums) {
            *out = mean(sum, value_shift, total);
        }
    }

    /// Scores of one query: a dot product of int16 in 32 bits by the digits of the query, q = 256 · high + low. With at most 256
    /// dims, |sum of high · k| <= 256 · 128 · 32767 < 2^31 and |sum of low · k| <= 256 · 255 · 32767 < 2^31.
    #[inline(always)]
    fn score(&mut self, query: &[i32], score_scale: u32) {
        let query_shift = quantise(query, &mut self.operand[..self.head_dim]);
        let pairs = self.head_dim.div_ceil(2);
        let blocks = self.keys.chunks_exact(pairs * LANES * 2).zip(self.key_shifts.as_chunks::<LANES>().0);
        for ((keys, shifts), scores) in blocks.zip(self.scores.as_chunks_mut::<LANES>().0) {
            let (mut high, mut low) = ([0i32; LANES], [0i32; LANES]);
            for (keys, q) in keys.as_chunks::<{ 2 * LANES }>().0.iter().zip(self.operand.as_chunks::<2>().0) {
                let (q_high, q_low) = (q.map(|q| i32::from(q >> 8)), q.map(|q| i32::from(q & 255)));
                for (lane, k) in keys.as_chunks::<2>().0.iter().enumerate() {
                    let [a, b] = k.map(i32::from);
                    high[lane] = high[lane].wrapping_add(a.wrapping_mul(q_high[0]).wrapping_add(b.wrapping_mul(q_high[1])));
                    low[lane] = low[lane].wrapping_add(a.wrapping_mul(q_low[0]).wrapping_add(b.wrapping_mul(q_low[1])));
                }
            }
            for (lane, score) in scores.iter_mut().enumerate() {
                let dot = (i64::from(high[lane]) << 8).wrapping_add(i64::from(low[lane]));
                let n = 36 - query_shift - shifts[lane];
                *score = dot.wrapping_mul(i64::from(score_scale)).wrapping_add(1 << (n - 1)) >> n;
            }
        }
    }
}

/// `rdiv(sum << shift, total)`, in 64 bits where the numerator fits: total <= 2^39, so below 2^61 nothing overflows.
#[inline(always)]
fn mean(sum: i64, shift: u32, total: i64) -> i32 {
    if sum.unsigned_abs() < 1 << (61 - shift) {
        clamp32((2 * (sum << shift) + total).div_euclid(2 * total))
    } else {
        clamp32(i64::try_from(rdiv(i128::from(sum) << shift, i128::from(total))).unwrap_or(0))
    }
}
