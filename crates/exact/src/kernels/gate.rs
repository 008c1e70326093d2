//! Activation of the gate times up; twin of [`reference::gated`](crate::reference::gated) over the three activations, whose widths hold here.

use super::{Isa, isa::multiversion};
use crate::{
    arith::clamp32,
    header::{ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH},
    tables::{EXP2, NORMAL_CDF, TANH_CDF},
};

/// Elements that go through the steps of SiLU together.
const LANES: usize = 16;

/// `gated(activation(gate), up)` of each pair of elements, into `gate`. `activation` is the header's.
pub fn gate(isa: Isa, activation: u32, gate: &mut [i32], up: &[i32]) {
    match isa {
        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::gate(activation, gate, up) },
        _ => plain(isa, activation, gate, up),
    }
}

multiversion! { fn plain(activation: u32, gate: &mut [i32], up: &[i32]) -> () = body }

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

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512d, __m512i, _mm512_abs_epi32, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_castpd_si512, _mm512_castsi512_pd,
        _mm512_fmadd_pd, _mm512_fnmadd_pd, _mm512_i64gather_epi64, _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_maskz_loadu_epi32,
        _mm512_min_epi32, _mm512_mul_epi32, _mm512_mul_epu32, _mm512_rcp14_pd, _mm512_set1_epi64, _mm512_set1_pd, _mm512_setzero_si512,
        _mm512_slli_epi64, _mm512_srli_epi64, _mm512_srlv_epi64, _mm512_storeu_si512, _mm512_sub_epi64, _mm512_sub_pd,
    };

    use super::super::{
        activation::avx512::{NORMAL_STEPS, TANH_STEPS, gelu},
        wide::{join, narrow, split},
    };
    use crate::{
        header::{ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH},
        tables::EXP2,
    };

    /// Each entry of the table with the fall to the next one: `(256 · entry + 127) · 2^22 + fall`, so that the interpolation is
    /// `entry - rs(fall · rest, 8) = (256 · entry + 127 - fall · rest) >> 8`.
    static EXP2_STEPS: [u64; 256] = {
        let mut steps = [0; 256];
        let mut at = 0;
        while at < 256 {
            let fall = EXP2[at] - EXP2[at + 1];
            assert!(fall < 1 << 22, "a fall has 22 bits");
            steps[at] = ((EXP2[at] as u64) << 8 | 127) << 22 | fall as u64;
            at += 1;
        }
        steps
    };

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn gate(activation: u32, gate: &mut [i32], up: &[i32]) {
        match activation {
            ACTIVATION_GELU_ERF => each(gate, up, |x| gelu(&NORMAL_STEPS, x)),
            ACTIVATION_GELU_TANH => each(gate, up, |x| gelu(&TANH_STEPS, x)),
            _ => each(gate, up, |x| silu(x)),
        }
    }

    /// `clamp32(rs(activation · up, 14))`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn each(gate: &mut [i32], up: &[i32], activation: impl Fn(__m512i) -> __m512i) {
        let block = |x, up| {
            let ([even, odd], [up_even, up_odd]) = (split(activation(x)), split(up));
            let product = |x, y| _mm512_add_epi64(_mm512_mul_epi32(x, y), _mm512_set1_epi64(1 << 13));
            narrow::<14, 18>([product(even, up_even), product(odd, up_odd)])
        };
        let len = gate.len().min(up.len());
        let ((blocks, rest), (up_blocks, up_rest)) = (gate[..len].as_chunks_mut::<16>(), up[..len].as_chunks::<16>());
        for (gate, up) in blocks.iter_mut().zip(up_blocks) {
            // SAFETY: 16 int32 are readable; the loads need no alignment.
            let [x, up] = [&*gate, up].map(|part| unsafe { _mm512_loadu_si512(part.as_ptr().cast()) });
            // SAFETY: 16 int32 are writable; the store needs no alignment.
            unsafe { _mm512_storeu_si512(gate.as_mut_ptr().cast(), block(x, up)) };
        }
        let lanes = (1u16 << rest.len()).wrapping_sub(1);
        // SAFETY: only the elements of the slices are read.
        let [x, up] = [&*rest, up_rest].map(|part| unsafe { _mm512_maskz_loadu_epi32(lanes, part.as_ptr()) });
        // SAFETY: only the elements of the slice are written.
        unsafe { _mm512_mask_storeu_epi32(rest.as_mut_ptr(), lanes, block(x, up)) };
    }

    /// `rs(x · p, 30)`, p the share of a positive x or what that lacks of 2^30: `min(x, 0) + rs(|x| · share, 30)`. It is not larger than x.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn silu(x: __m512i) -> __m512i {
        let magnitudes = split(_mm512_abs_epi32(x));
        let positive = magnitudes.map(|a| _mm512_add_epi64(_mm512_mul_epu32(a, quotient(divisor(a))), _mm512_set1_epi64(1 << 29)));
        let [even, odd] = positive;
        let positive = join(_mm512_srli_epi64::<30>(even), _mm512_slli_epi64::<2>(odd));
        _mm512_add_epi32(_mm512_min_epi32(x, _mm512_setzero_si512()), positive)
    }

    /// (2^24 + 2^-z in Q24) · 2^-54 for z = |x| · log2(e): 2^-30 to 2^-29. A lane is |x|, up to 2^31, in its low half.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn divisor(magnitude: __m512i) -> __m512d {
        /// Before the last bit of 2^-z in Q30 + 8 is dropped, with the whole part of z.
        const SHIFT: i64 = 13;
        // z in Q16 and the shift in one number.
        let z = _mm512_mul_epu32(magnitude, _mm512_set1_epi64(1_549_082_005));
        let z = _mm512_srli_epi64::<28>(_mm512_add_epi64(z, _mm512_set1_epi64((SHIFT << 44) + (1 << 27))));
        let byte = _mm512_set1_epi64(255);
        let index = _mm512_and_si512(_mm512_srli_epi64::<8>(z), byte);
        // SAFETY: the table has 256 entries, and an index is below 256.
        let step = unsafe { _mm512_i64gather_epi64::<8>(index, EXP2_STEPS.as_ptr().cast()) };
        let fall = _mm512_and_si512(step, _mm512_set1_epi64((1 << 22) - 1));
        let value = _mm512_sub_epi64(_mm512_srli_epi64::<22>(step), _mm512_mul_epu32(fall, _mm512_and_si512(z, byte)));
        // rs(value, 6 + whole) is ((value >> (5 + whole)) + 1) >> 1, with 8 bits more here. From z = 26 on it is 0: a shift by 64 or more too.
        let twice = _mm512_srlv_epi64(value, _mm512_srli_epi64::<16>(z));
        // 2^-30 is the exponent 993; 2^24 carries into it.
        let bits = _mm512_add_epi64(_mm512_slli_epi64::<27>(twice), _mm512_set1_epi64((993 << 52) + (1 << 27)));
        _mm512_castsi512_pd(_mm512_and_si512(bits, _mm512_set1_epi64(!(1 << 27))))
    }

    /// `rdiv(2^54, d)` in the low half of each lane, for `divisor` = d · 2^-54 with d of 2^24 to 2^25, so that it is 2^29 to 2^30.
    ///
    /// Doubles, but no result depends on how one is rounded. Q = 2^54 / d is never half way between two integers, since 2^55 has no odd
    /// factor: it is 1 / 2d from there at least. The reciprocal is good to 2^-14 of it, so Newton's step to 2^-28, and the integer q near that
    /// to 2^-28 + 2^-30. The rest, 2^54 - d · q, is exact: an integer below 2^28. So q + rest · q · 2^-54, rounded once, was off by
    /// |Q - q| · (2^-28 + 2^-30) < (Q · 2^-28 + 1/2) · 1.25 · 2^-28 < 0.32 / d + 2^-28.6, less than 1 / 2d. (A test tries every d.)
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    pub(super) fn quotient(divisor: __m512d) -> __m512i {
        // From 2^52 to 2^53 a double is an integer, and its low half is that integer's.
        let integer = _mm512_set1_pd(4_503_599_627_370_496.0);
        let x = _mm512_rcp14_pd(divisor);
        let two_less = _mm512_fnmadd_pd(divisor, x, _mm512_set1_pd(2.0));
        let near = _mm512_fmadd_pd(x, two_less, integer);
        let q = _mm512_sub_pd(near, integer);
        let rest = _mm512_fnmadd_pd(divisor, q, _mm512_set1_pd(1.0));
        _mm512_castpd_si512(_mm512_fmadd_pd(rest, q, near))
    }
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

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn quotient_by_reciprocal_is_the_rounded_quotient_for_every_divisor() {
        use crate::kernels::Isa;
        if !Isa::available().iter().any(|isa| matches!(isa, Isa::Avx512(_))) {
            return;
        }
        for first in (1u64 << 24..=1 << 25).step_by(8) {
            let divisors: [u64; 8] = std::array::from_fn(|lane| (first + lane as u64).min(1 << 25));
            // SAFETY: this machine has the instructions, since there is a value of `Avx512`.
            let quotients = unsafe { quotients(divisors) };
            for (d, quotient) in divisors.into_iter().zip(quotients) {
                assert_eq!(quotient & 0xffff_ffff, ((1 << 55) + d) / (2 * d), "divisor {d}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn quotients(divisors: [u64; 8]) -> [u64; 8] {
        use std::arch::x86_64::{_mm512_loadu_pd, _mm512_storeu_si512};
        // d · 2^-54.
        let divisors = divisors.map(|d| f64::from_bits((993 << 52) + ((d - (1 << 24)) << 28)));
        let mut quotients = [0; 8];
        // SAFETY: eight lanes are readable and writable; neither needs alignment.
        unsafe { _mm512_storeu_si512(quotients.as_mut_ptr().cast(), super::avx512::quotient(_mm512_loadu_pd(divisors.as_ptr()))) };
        quotients
    }
}
