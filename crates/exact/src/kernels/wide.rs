//! Sixteen int32 whose products take 64 bits: the even lanes in one vector, the odd ones in another, each in the low half of a lane.

use std::arch::x86_64::{
    __m512i, _mm_cvtsi32_si128, _mm512_cmpneq_epi32_mask, _mm512_loadu_si512, _mm512_mask_blend_epi32, _mm512_mask_shuffle_epi32,
    _mm512_mask_storeu_epi32, _mm512_mask_xor_epi32, _mm512_maskz_loadu_epi32, _mm512_max_epi32, _mm512_set1_epi32, _mm512_slli_epi64,
    _mm512_sra_epi32, _mm512_srai_epi32, _mm512_srli_epi64, _mm512_storeu_si512,
};

/// Up to 16 int32, and zeros beyond.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(part: &[i32]) -> __m512i {
    match part.as_array::<16>() {
        // SAFETY: 16 int32 are readable; the load needs no alignment.
        Some(full) => unsafe { _mm512_loadu_si512(full.as_ptr().cast()) },
        // SAFETY: only the elements of the slice are read.
        None => unsafe { _mm512_maskz_loadu_epi32(first(part.len()), part.as_ptr()) },
    }
}

/// The first lanes, as many as the slice has elements, at most 16.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(part: &mut [i32], x: __m512i) {
    match part.as_mut_array::<16>() {
        // SAFETY: 16 int32 are writable; the store needs no alignment.
        Some(full) => unsafe { _mm512_storeu_si512(full.as_mut_ptr().cast(), x) },
        // SAFETY: only the elements of the slice are written.
        None => unsafe { _mm512_mask_storeu_epi32(part.as_mut_ptr(), first(part.len()), x) },
    }
}

/// A mask of the first lanes, at most 16.
#[inline]
const fn first(lanes: usize) -> u16 {
    if lanes < 16 { (1 << lanes) - 1 } else { u16::MAX }
}

/// The int32 of the even and of the odd lanes; what is above them is of no meaning.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn split(x: __m512i) -> [__m512i; 2] {
    [x, _mm512_srli_epi64::<32>(x)]
}

/// Low halves of the first vector's lanes as the even int32, high halves of the second's as the odd ones.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn join(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_blend_epi32(0xaaaa, even, odd)
}

/// `clamp32(x >> N)` of int64, as int32 in order. `LEFT` is 32 - N; N is 1 to 31.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn narrow<const N: u32, const LEFT: u32>([even, odd]: [__m512i; 2]) -> __m512i {
    const { assert!(N > 0 && LEFT > 0 && N + LEFT == 32, "both shifts are of 32 bits together") };
    let low = join(_mm512_srli_epi64::<N>(even), _mm512_slli_epi64::<LEFT>(odd));
    // x >> N fits 32 bits if all bits of x from N + 31 up are equal, so all of the upper half from N - 1 up.
    let high = _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even);
    let sign = _mm512_srai_epi32::<31>(high);
    let beyond = _mm512_cmpneq_epi32_mask(_mm512_sra_epi32(high, _mm_cvtsi32_si128(N.cast_signed() - 1)), sign);
    let most = _mm512_set1_epi32(i32::MAX);
    _mm512_max_epi32(_mm512_mask_xor_epi32(low, beyond, sign, most), _mm512_set1_epi32(-i32::MAX))
}
