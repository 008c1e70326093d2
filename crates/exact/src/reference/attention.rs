use std::ops::Range;

use super::{Operand, to_operand};
use crate::{
    arith::{clamp16, clamp32, rdiv, rs},
    format::TableI32,
    tables::EXP2,
};

/// The parameters of one layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Query head h reads kv head h / (heads / kv_heads).
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// c of the header, Q24, 1 to 2^25.
    pub score_scale: u32,
    /// Static shift of the values of each kv head, 0 to 16.
    pub value_shifts: &'a [i32],
}

/// 2^-z for z >= 0 in Q16, as Q24 (EXACT.md, section 4.6): a 257-entry Q30 table with linear interpolation, then the whole part by a
/// rounding shift. 2^24 at 0; 0 from 25.0000 on.
#[must_use]
pub fn exp2_negative(z: i64) -> i64 {
    let (whole, part) = (z >> 16, z & 0xffff);
    // The table is at most 2^30, and rs(2^30, 6 + 26) = 0.
    let Ok(whole @ 0..=30) = u32::try_from(whole) else { return 0 };
    // Both are masked to 8 bits.
    let index = usize::try_from(part >> 8).unwrap_or(0);
    let rest = part & 0xff;
    let (high, low) = (i64::from(EXP2[index]), i64::from(EXP2[index + 1]));
    rs(high - rs((high - low) * rest, 8), 6 + whole)
}

impl Attention<'_> {
    /// Bidirectional attention over all positions (EXACT.md, sections 4.5 and 4.6). Rows of q: heads · head dim; of k and v:
    /// kv heads · head dim; Q14. The result has the shape of q.
    ///
    /// # Panics
    /// If the shapes do not fit the parameters.
    #[must_use]
    pub fn bidirectional(&self, q: &TableI32, k: &TableI32, v: &TableI32) -> TableI32 {
        self.over(q, k, v, |_| 0..k.rows())
    }

    /// Causal attention: each position over itself and those before it, of these the last `window` where that is not 0. As
    /// [`Attention::bidirectional`] otherwise; q has as many rows as k.
    ///
    /// # Panics
    /// If the shapes do not fit the parameters.
    #[must_use]
    pub fn causal(&self, window: usize, q: &TableI32, k: &TableI32, v: &TableI32) -> TableI32 {
        self.over(q, k, v, |p| if window == 0 { 0..p + 1 } else { (p + 1).saturating_sub(window)..p + 1 })
    }

    fn over(&self, q: &TableI32, k: &TableI32, v: &TableI32, range: impl Fn(usize) -> Range<usize>) -> TableI32 {
        let per_kv_head = self.heads / self.kv_heads;
        let head = |row: &[i32], head: usize| row[head * self.head_dim..(head + 1) * self.head_dim].to_vec();
        let mut out = Vec::with_capacity(q.data().len());
        let keys: Vec<Vec<Operand>> = k.iter_rows().map(|row| (0..self.kv_heads).map(|h| to_operand(&head(row, h))).collect()).collect();
        let values: Vec<Vec<i16>> = v.iter_rows().map(|row| self.quantise_values(row)).collect();
        for (position, row) in q.iter_rows().enumerate() {
            let (keys, values) = (&keys[range(position)], &values[range(position)]);
            for h in 0..self.heads {
                let kv = h / per_kv_head;
                let query = to_operand(&head(row, h));
                let scores: Vec<i64> = keys.iter().map(|key| self.score(&query, &key[kv])).collect();
                let dims = kv * self.head_dim..(kv + 1) * self.head_dim;
                let values: Vec<&[i16]> = values.iter().map(|row| &row[dims.clone()]).collect();
                out.extend(mix(&scores, &values, self.value_shifts[kv]));
            }
        }
        TableI32::new(q.rows(), q.width(), out).unwrap_or_else(|error| unreachable!("{error}"))
    }

    /// `q = clamp16(rs(v, s))` with the head's static shift (EXACT.md, section 4.5).
    fn quantise_values(&self, row: &[i32]) -> Vec<i16> {
        let heads = row.chunks_exact(self.head_dim).zip(self.value_shifts);
        heads.flat_map(|(head, &shift)| head.iter().map(move |&v| clamp16(rs(i64::from(v), shift.unsigned_abs())))).collect()
    }

    /// The score of one pair in log2 units, Q16: `rs(dot · c, 36 - s_q - s_k)`.
    ///
    /// |dot| <= 256 · 32767² < 2^38, c <= 2^25: |dot · c| <= 2^63 - 2^49 + 2^33, and half of the shift adds at most 2^35: int64.
    /// The shift is at least 36 - 32 = 4, so |score| < 2^59.
    fn score(&self, query: &Operand, key: &Operand) -> i64 {
        let dot: i64 = query.elements.iter().zip(&key.elements).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum();
        rs(dot * i64::from(self.score_scale), 36 - query.shift - key.shift)
    }
}

/// Weights from scores, and the weighted mean of the values, one int32 in Q14 per dim: e = 2^-(max - score) in Q24,
/// `out = rdiv((sum of e · v) << s, sum of e)`.
///
/// Widths, 2^15 positions: each e <= 2^24, so the sum of e is in [2^24, 2^39] (the maximum itself weighs 2^24) and |sum of e · v| < 2^54:
/// int64. Shifted by s <= 16 and doubled by rdiv it reaches 2^71: i128. The result is at most 32767 · 2^16 < 2^31.
fn mix(scores: &[i64], values: &[&[i16]], shift: i32) -> Vec<i32> {
    let max = scores.iter().copied().max().unwrap_or(0);
    let weights: Vec<i64> = scores.iter().map(|&score| exp2_negative(max - score)).collect();
    let total: i64 = weights.iter().sum();
    let dims = values.first().map_or(0, |row| row.len());
    (0..dims)
        .map(|dim| {
            let sum: i64 = weights.iter().zip(values).map(|(&e, row)| e * i64::from(row[dim])).sum();
            let mean = rdiv(i128::from(sum) << shift.unsigned_abs(), i128::from(total));
            clamp32(i64::try_from(mean).unwrap_or(0))
        })
        .collect()
}
