//! RMSNorm of many rows; twin of [`reference::rms_norm`](crate::reference::rms_norm), whose widths hold here.

use super::isa::multiversion;
use crate::arith::{bit_length, clamp32, floor_sqrt};

multiversion! {
    /// RMSNorm of each row of as many elements as the gain has, in place. `epsilon` is E of the header, or that of a head.
    pub fn rms_norm(rows: &mut [i32], epsilon: u64, gain: &[i32]) -> () = body
}

#[inline(always)]
fn body(rows: &mut [i32], epsilon: u64, gain: &[i32]) {
    for row in rows.chunks_exact_mut(gain.len().max(1)) {
        one_row(row, epsilon, gain);
    }
}

#[inline(always)]
fn one_row(row: &mut [i32], epsilon: u64, gain: &[i32]) {
    let bits = row.iter().fold(0, |bits, x| bits | x.unsigned_abs());
    let shift = bit_length(u64::from(bits)).saturating_sub(24);
    let mut square = 0u64;
    for x in row.iter_mut() {
        // `rs(x, n)` is `(x >> n) + ((x >> (n - 1)) & 1)`, and x for n = 0.
        let carry = if shift == 0 { 0 } else { (*x >> shift.wrapping_sub(1)) & 1 };
        *x = (*x >> shift).wrapping_add(carry);
        square = square.wrapping_add(i64::from(*x).wrapping_mul(i64::from(*x)).unsigned_abs());
    }
    let square = square.wrapping_add(epsilon >> (2 * shift)).max(1);
    let root = floor_sqrt(((row.len() as u128) << 88) / u128::from(square));
    let reciprocal = i64::try_from(root).unwrap_or(i64::MAX);
    for (x, &gain) in row.iter_mut().zip(gain) {
        let unit = i64::from(*x).wrapping_mul(reciprocal).wrapping_add(1 << 27) >> 28;
        *x = clamp32(unit.wrapping_mul(i64::from(gain)).wrapping_add(1 << 15) >> 16);
    }
}
