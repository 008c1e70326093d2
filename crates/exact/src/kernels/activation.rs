//! GELU of many elements; twin of [`reference::gelu_erf`](crate::reference::gelu_erf).

use super::{Isa, isa::multiversion};
use crate::{arith::clamp32, tables::NORMAL_CDF};

/// GELU (erf) of each element, in place.
pub fn gelu_erf(isa: Isa, elements: &mut [i32]) {
    match isa {
        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::gelu_erf(elements) },
        _ => plain(isa, elements),
    }
}

multiversion! { fn plain(elements: &mut [i32]) -> () = body }

#[inline(always)]
fn body(elements: &mut [i32]) {
    for x in elements {
        let a = x.unsigned_abs().min((1 << 17) - 1);
        let (index, rest) = ((a >> 8) as usize, i64::from(a & 255));
        let (low, high) = (i64::from(NORMAL_CDF[index]), i64::from(NORMAL_CDF[index + 1]));
        let positive = low.wrapping_add(high.wrapping_sub(low).wrapping_mul(rest).wrapping_add(128) >> 8);
        let p = if *x < 0 { (1i64 << 30).wrapping_sub(positive) } else { positive };
        *x = clamp32(i64::from(*x).wrapping_mul(p).wrapping_add(1 << 29) >> 30);
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_abs_epi32, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_castsi512_si256, _mm512_extracti64x4_epi64,
        _mm512_i32gather_epi64, _mm512_loadu_si512, _mm512_mask_sub_epi32, _mm512_min_epu32, _mm512_movepi32_mask, _mm512_mul_epi32,
        _mm512_mullo_epi32, _mm512_permutex2var_epi32, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setr_epi32, _mm512_slli_epi64,
        _mm512_srli_epi32, _mm512_srli_epi64, _mm512_storeu_si512,
    };

    use super::{
        super::wide::{join, split},
        body,
    };
    use crate::tables::{NORMAL_CDF, TANH_CDF};

    /// Each entry with what it is below the next one in the upper half: one look-up where two would be needed.
    const fn steps(table: &[u32; 513]) -> [u64; 512] {
        let mut steps = [0; 512];
        let mut at = 0;
        while at < 512 {
            steps[at] = table[at] as u64 | ((table[at + 1] - table[at]) as u64) << 32;
            at += 1;
        }
        steps
    }

    pub(in super::super) static NORMAL_STEPS: [u64; 512] = steps(&NORMAL_CDF);
    pub(in super::super) static TANH_STEPS: [u64; 512] = steps(&TANH_CDF);

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn gelu_erf(elements: &mut [i32]) {
        let (blocks, rest) = elements.as_chunks_mut::<16>();
        for block in blocks {
            // SAFETY: 16 int32 are readable; the load needs no alignment.
            let y = gelu(&NORMAL_STEPS, unsafe { _mm512_loadu_si512(block.as_ptr().cast()) });
            // SAFETY: 16 int32 are writable; the store needs no alignment.
            unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), y) };
        }
        body(rest);
    }

    /// GELU of 16 elements, by the steps of a table of the distribution's.
    ///
    /// A step of the table is below 2^23, so times 255 below 2^31; the result is not larger than x, so 32 bits of `x · p >> 30` are all of it.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    pub(in super::super) fn gelu(steps: &[u64; 512], x: __m512i) -> __m512i {
        let lower = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let upper = _mm512_add_epi32(lower, _mm512_set1_epi32(1));
        let a = _mm512_min_epu32(_mm512_abs_epi32(x), _mm512_set1_epi32((1 << 17) - 1));
        let index = _mm512_srli_epi32::<8>(a);
        // SAFETY: the table has 512 entries, and an index is below 512.
        let [first, second] = [_mm512_castsi512_si256(index), _mm512_extracti64x4_epi64::<1>(index)]
            .map(|index| unsafe { _mm512_i32gather_epi64::<8>(index, steps.as_ptr().cast()) });
        let step = _mm512_mullo_epi32(_mm512_permutex2var_epi32(first, upper, second), _mm512_and_si512(a, _mm512_set1_epi32(255)));
        let step = _mm512_srli_epi32::<8>(_mm512_add_epi32(step, _mm512_set1_epi32(128)));
        let positive = _mm512_add_epi32(_mm512_permutex2var_epi32(first, lower, second), step);
        let p = _mm512_mask_sub_epi32(positive, _mm512_movepi32_mask(x), _mm512_set1_epi32(1 << 30), positive);
        let ([x_even, x_odd], [p_even, p_odd]) = (split(x), split(p));
        let product = |x, p| _mm512_add_epi64(_mm512_mul_epi32(x, p), _mm512_set1_epi64(1 << 29));
        join(_mm512_srli_epi64::<30>(product(x_even, p_even)), _mm512_slli_epi64::<2>(product(x_odd, p_odd)))
    }
}
