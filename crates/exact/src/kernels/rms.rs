//! RMSNorm of many rows; twin of [`reference::rms_norm`](crate::reference::rms_norm), whose widths hold here.

use super::{Isa, isa::multiversion};
use crate::arith::{bit_length, clamp32, floor_sqrt};

/// RMSNorm of each row of as many elements as the gain has, in place. `epsilon` is E of the header, or that of a head.
pub fn rms_norm(isa: Isa, rows: &mut [i32], epsilon: u64, gain: &[i32]) {
    match isa {
        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::rms_norm(rows, epsilon, gain) },
        _ => plain(isa, rows, epsilon, gain),
    }
}

multiversion! { fn plain(rows: &mut [i32], epsilon: u64, gain: &[i32]) -> () = body }

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
    let reciprocal = reciprocal(row.len(), square.wrapping_add(epsilon >> (2 * shift)));
    for (x, &gain) in row.iter_mut().zip(gain) {
        let unit = i64::from(*x).wrapping_mul(reciprocal).wrapping_add(1 << 27) >> 28;
        *x = clamp32(unit.wrapping_mul(i64::from(gain)).wrapping_add(1 << 15) >> 16);
    }
}

/// r = floor(sqrt(n · 2^88 / v)), at most 2^51, of n elements whose squares, with epsilon, add up to v.
#[inline(always)]
fn reciprocal(count: usize, square: u64) -> i64 {
    let root = floor_sqrt(((count as u128) << 88) / u128::from(square.max(1)));
    i64::try_from(root).unwrap_or(i64::MAX)
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm_cvtsi32_si128, _mm512_abs_epi32, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_mul_epi32,
        _mm512_or_si512, _mm512_reduce_add_epi64, _mm512_reduce_or_epi32, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_si512,
        _mm512_slli_epi64, _mm512_sra_epi32, _mm512_srli_epi64,
    };

    use super::{
        super::wide::{load, narrow, split, store},
        bit_length, reciprocal,
    };

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn rms_norm(rows: &mut [i32], epsilon: u64, gain: &[i32]) {
        for row in rows.chunks_exact_mut(gain.len().max(1)) {
            let mut sums = Sums::of(row);
            let shift = bit_length(u64::from(sums.bits())).saturating_sub(24);
            if shift > 0 {
                shift_all(row, shift);
                sums = Sums::of(row);
            }
            let reciprocal = reciprocal(row.len(), sums.square().wrapping_add(epsilon >> (2 * shift)));
            if reciprocal < 1 << 31 {
                scale(row, gain, |c| _mm512_mul_epi32(c, _mm512_set1_epi64(reciprocal)));
            } else {
                let [low, high] = [reciprocal & 0x7fff_ffff, reciprocal >> 31].map(|part| _mm512_set1_epi64(part));
                scale(row, gain, |c| _mm512_add_epi64(_mm512_mul_epi32(c, low), _mm512_slli_epi64::<31>(_mm512_mul_epi32(c, high))));
            }
        }
    }

    /// Of a row: which bits its magnitudes have, and the sum of its squares, which holds if they have 24 or are 2^24.
    struct Sums {
        bits: __m512i,
        squares: [__m512i; 2],
    }

    impl Sums {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline]
        fn of(row: &[i32]) -> Self {
            let zero = _mm512_setzero_si512();
            let mut sums = Self { bits: zero, squares: [zero; 2] };
            for part in row.chunks(16) {
                let magnitude = _mm512_abs_epi32(load(part));
                sums.bits = _mm512_or_si512(sums.bits, magnitude);
                for (sum, c) in sums.squares.iter_mut().zip(split(magnitude)) {
                    *sum = _mm512_add_epi64(*sum, _mm512_mul_epi32(c, c));
                }
            }
            sums
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline]
        fn bits(&self) -> u32 {
            _mm512_reduce_or_epi32(self.bits).cast_unsigned()
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline]
        fn square(&self) -> u64 {
            _mm512_reduce_add_epi64(_mm512_add_epi64(self.squares[0], self.squares[1])).cast_unsigned()
        }
    }

    /// `rs(x, shift)` of each element, for a shift of at least 1: `(x >> n) + ((x >> (n - 1)) & 1)`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn shift_all(row: &mut [i32], shift: u32) {
        let [shift, before] = [shift, shift - 1].map(|count| _mm_cvtsi32_si128(count.cast_signed()));
        for part in row.chunks_mut(16) {
            let x = load(part);
            let carry = _mm512_and_si512(_mm512_sra_epi32(x, before), _mm512_set1_epi32(1));
            store(part, _mm512_add_epi32(_mm512_sra_epi32(x, shift), carry));
        }
    }

    /// `clamp32(rs(rs(c · r, 28) · gain, 16))` of each element c, by its product with r in 64 bits. What the first rounding leaves is at most 2^23.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn scale(row: &mut [i32], gain: &[i32], product: impl Fn(__m512i) -> __m512i) {
        for (part, gain) in row.chunks_mut(16).zip(gain.chunks(16)) {
            let scaled = |c, gain| {
                let unit = _mm512_srli_epi64::<28>(_mm512_add_epi64(product(c), _mm512_set1_epi64(1 << 27)));
                _mm512_add_epi64(_mm512_mul_epi32(unit, gain), _mm512_set1_epi64(1 << 15))
            };
            let ([even, odd], [gain_even, gain_odd]) = (split(load(part)), split(load(gain)));
            store(part, narrow::<16, 16>([scaled(even, gain_even), scaled(odd, gain_odd)]));
        }
    }
}
