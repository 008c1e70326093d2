//! Activation of the gate times up; twin of [`reference::gated`](crate::reference::gated) over the three activations, whose widths hold here.

use super::isa::multiversion;
use crate::{
    arith::clamp32,
    header::{ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH},
    tables::{EXP2, NORMAL_CDF, TANH_CDF},
};

/// Elements that go through the steps of SiLU together.
const LANES: usize = 16;

multiversion! {
    /// `gated(activation(gate), up)` of each pair of elements, into `gate`. `activation` is the header's.
    pub fn gate(activation: u32, gate: &mut [i32], up: &[i32]) -> () = body
}

#[inline(always)]
fn body(activation: u32, gate: &mut [i32], up: &[i32]) {
    match activation {
        ACTIVATION_GELU_ERF => gelu(&NORMAL_CDF, gate, up),
        ACTIVATION_GELU_TANH => gelu(&TANH_CDF, gate, up),
        _ => silu(gate, up),
    }
}

#[inline(always)]
fn gelu(table: &[u32; 513], gate: &mut [i32], up: &[i32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        let a = gate.unsigned_abs().min((1 << 17) - 1);
        let (index, rest) = ((a >> 8) as usize, i64::from(a & 255));
        let (low, high) = (i64::from(table[index]), i64::from(table[index + 1]));
        let positive = low.wrapping_add(high.wrapping_sub(low).wrapping_mul(rest).wrapping_add(128) >> 8);
        *gate = finish(*gate, positive, up);
    }
}

#[inline(always)]
fn silu(gate: &mut [i32], up: &[i32]) {
    for (gate, up) in gate.chunks_mut(LANES).zip(up.chunks(LANES)) {
        let mut exponentials = [0u32; LANES];
        for (e, x) in exponentials.iter_mut().zip(&*gate) {
            *e = exponential(x.unsigned_abs());
        }
        let mut quotients = [0i64; LANES];
        for (quotient, &e) in quotients.iter_mut().zip(&exponentials) {
            *quotient = sigmoid(e);
        }
        for ((gate, &up), quotient) in gate.iter_mut().zip(up).zip(quotients) {
            *gate = finish(*gate, quotient, up);
        }
    }
}

/// `rs(activation · up, 14)` with the activation `rs(x · p, 30)`, p the share of a positive x.
#[inline(always)]
fn finish(x: i32, positive: i64, up: i32) -> i32 {
    let p = if x < 0 { (1i64 << 30).wrapping_sub(positive) } else { positive };
    #[expect(clippy::cast_possible_truncation, reason = "p is 0 to 2^30")]
    let p = i64::from(p as i32);
    // No greater than x, so there is nothing to clamp.
    let activation = i64::from(x).wrapping_mul(p).wrapping_add(1 << 29) >> 30;
    clamp32(activation.wrapping_mul(i64::from(up)).wrapping_add(1 << 13) >> 14)
}

/// 2^-z in Q24 for z = |x| · log2(e) in Q16; from z = 26 · 2^16 on it is 0.
#[inline(always)]
fn exponential(magnitude: u32) -> u32 {
    let z = u64::from(magnitude).wrapping_mul(1_549_082_005).wrapping_add(1 << 27) >> 28;
    // At most 26 · 2^16, which clippy sees.
    let z = z.min(26 << 16) as u32;
    let (whole, index, rest) = (z >> 16, (z >> 8 & 255) as usize, z & 255);
    let (high, low) = (EXP2[index], EXP2[index + 1]);
    let value = high.wrapping_sub(high.wrapping_sub(low).wrapping_mul(rest).wrapping_add(128) >> 8);
    // At z = 26 · 2^16 the shift is out of range and the value is not used.
    let shift = whole.wrapping_add(6) & 31;
    if whole > 25 { 0 } else { value.wrapping_add(1 << (shift.wrapping_sub(1) & 31)) >> shift }
}

/// `rdiv(2^54, d)` for d = 2^24 + e, in [2^29, 2^30], without a division: Newton's iteration, which ends at the quotient or at most two below
/// it (a test tries every d), and then the remainder decides. Every factor fits 32 bits, so that vectors of 32-bit products serve.
///
/// x is 2^54 / d to within 2^-4 at first, 2^-8, 2^-16, 2^-30 after each turn.
#[inline(always)]
fn sigmoid(e: u32) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "the low half of what fits 32 bits")]
    let product = |a: i64, b: i64| i64::from(a as i32).wrapping_mul(i64::from(b as i32));
    let d = i64::from(e.wrapping_add(1 << 24));
    // 2^54 / d is near (48 - 32 · d / 2^25) / 17 · 2^29 for 2^24 <= d <= 2^25.
    let mut x = 1_515_870_810i64.wrapping_sub(product(d, 1_010_580_540) >> 25);
    for _ in 0..3 {
        // 2 - d · x in Q30, times x.
        let two_less = (1i64 << 55).wrapping_sub(product(d, x)) >> 24;
        x = product(x, two_less) >> 30;
    }
    // floor((2^55 + d) / 2d): the greatest x with 2 · d · x <= 2^55 + d.
    let double = d.wrapping_mul(2);
    let rest = (1i64 << 55).wrapping_add(d).wrapping_sub(product(double, x));
    x.wrapping_add(i64::from(rest >= double)).wrapping_add(i64::from(rest >= double.wrapping_mul(2)))
}

#[cfg(test)]
mod tests {
    use super::sigmoid;

    #[test]
    fn quotient_without_division_is_the_rounded_quotient_for_every_divisor() {
        for e in 0..=1u32 << 24 {
            let d = (1i64 << 24) + i64::from(e);
            assert_eq!(sigmoid(e), ((1i64 << 55) + d) / (2 * d), "divisor {d}");
        }
    }
}
