//! LayerNorm of many rows; twin of [`reference::layer_norm`](crate::reference::layer_norm), whose widths hold here.

use super::isa::multiversion;
use crate::{
    arith::{bit_length, clamp32, floor_sqrt},
    encoder::Norm,
};

multiversion! {
    /// LayerNorm of each row, in place. `epsilon` is E of the header.
    ///
    /// # Panics
    /// If the norm's parameters differ in length, or are empty.
    pub fn layer_norm(rows: &mut [i32], epsilon: u64, norm: &Norm) -> () = body
}

#[inline(always)]
fn body(rows: &mut [i32], epsilon: u64, norm: &Norm) {
    let (gain, bias) = (norm.gain.as_slice(), norm.bias.as_slice());
    assert_eq!(gain.len(), bias.len(), "a norm has one gain and one bias per element");
    let mut centred = vec![0i64; gain.len()];
    for row in rows.chunks_exact_mut(gain.len()) {
        one_row(row, epsilon, gain, bias, &mut centred);
    }
}

#[inline(always)]
fn one_row(row: &mut [i32], epsilon: u64, gain: &[i32], bias: &[i32], centred: &mut [i64]) {
    let dim = i64::try_from(row.len()).unwrap_or(i64::MAX);
    let sum = row.iter().fold(0i64, |sum, &x| sum.wrapping_add(i64::from(x)));
    // rdiv in 64 bits: |2 · sum + d| < 2^47.
    let mean = (2 * sum + dim).div_euclid(2 * dim);
    let mut bits = 0;
    for (c, &x) in centred.iter_mut().zip(&*row) {
        *c = i64::from(x).wrapping_sub(mean);
        bits |= c.unsigned_abs();
    }
    let shift = bit_length(bits).saturating_sub(24);
    let half = (1i64 << shift) >> 1;
    let mut square = 0u64;
    for c in centred.iter_mut() {
        *c = c.wrapping_add(half) >> shift;
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^24 after the shift")]
        let narrow = *c as i32;
        square = square.wrapping_add((i64::from(narrow) * i64::from(narrow)).unsigned_abs());
    }
    let square = square.wrapping_add(epsilon >> (2 * shift)).max(1);
    let root = floor_sqrt((u128::from(dim.unsigned_abs()) << 88) / u128::from(square));
    let reciprocal = i64::try_from(root).unwrap_or(i64::MAX);
    for ((y, &c), (&gain, &bias)) in row.iter_mut().zip(&*centred).zip(gain.iter().zip(bias)) {
        let unit = c.wrapping_mul(reciprocal).wrapping_add(1 << 27) >> 28;
        *y = clamp32((unit.wrapping_mul(i64::from(gain)).wrapping_add(1 << 15) >> 16).wrapping_add(i64::from(bias)));
    }
}
