//! Attention by AVX-512: `vpdpwssd` on pairs of int16, 16 positions or dims side by side.
//!
//! As in the products of matrices, what touches the accumulators is unrolled with constant indices.

use std::{
    arch::x86_64::{
        __m512i, _mm_loadl_epi64, _mm256_storeu_si256, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_castsi256_si512,
        _mm512_castsi512_si256, _mm512_cmpge_epi64_mask, _mm512_cmplt_epi64_mask, _mm512_cvtepi32_epi16, _mm512_cvtepi32_epi64,
        _mm512_cvtepi64_epi32, _mm512_cvtepu8_epi64, _mm512_dpwssd_epi32, _mm512_extracti64x4_epi64, _mm512_i32gather_epi64,
        _mm512_inserti64x4, _mm512_loadu_si512, _mm512_mask_add_epi64, _mm512_mask_cvtepi64_storeu_epi32, _mm512_mask_max_epi64,
        _mm512_mask_storeu_epi64, _mm512_mask_sub_epi64, _mm512_maskz_loadu_epi64, _mm512_maskz_mov_epi32, _mm512_min_epi64,
        _mm512_mul_epi32, _mm512_mul_epu32, _mm512_mullo_epi32, _mm512_mullo_epi64, _mm512_permutex2var_epi32, _mm512_reduce_add_epi64,
        _mm512_reduce_max_epi64, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setr_epi32, _mm512_setzero_si512, _mm512_slli_epi64,
        _mm512_sllv_epi64, _mm512_srav_epi64, _mm512_srli_epi32, _mm512_srli_epi64, _mm512_srlv_epi32, _mm512_storeu_si512,
        _mm512_sub_epi32, _mm512_sub_epi64,
    },
    ops::Range,
};

use super::{LANES, Pairs, RUN, Weights, mean::Mean};
use crate::{kernels::unroll::unroll, tables::EXP2};

/// Dot products of `count` queries with every key: `[query][position]`.
///
/// With at most 256 dims, |Σ high · k| <= 256 · 128 · 32767 < 2^31 and |Σ low · k| <= 256 · 255 · 32767 < 2^31.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn dots(keys: &[Pairs], digits: &[[[i16; 2]; 2]], count: usize, out: &mut [i64]) {
    match count {
        1 => dots_of::<1, 4>(keys, digits, out),
        2 => dots_of::<2, 2>(keys, digits, out),
        3 => dots_of::<3, 2>(keys, digits, out),
        4 => dots_of::<4, 1>(keys, digits, out),
        5 => dots_of::<5, 1>(keys, digits, out),
        6 => dots_of::<6, 1>(keys, digits, out),
        7 => dots_of::<7, 1>(keys, digits, out),
        8 => dots_of::<8, 1>(keys, digits, out),
        count => unreachable!("a tile of {count} queries"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dots_of<const N: usize, const CHAINS: usize>(keys: &[Pairs], digits: &[[[i16; 2]; 2]], out: &mut [i64]) {
    let digits = digits.as_chunks::<N>().0;
    let stride = out.len() / N;
    assert!(stride >= keys.len() / digits.len() * LANES, "room for every dot product");
    for (block, keys) in keys.chunks_exact(digits.len()).enumerate() {
        let mut products = [[[_mm512_setzero_si512(); 2]; N]; CHAINS];
        for (keys, digits) in keys.chunks_exact(CHAINS).zip(digits.chunks_exact(CHAINS)) {
            unroll!(CHAIN < CHAINS, {
                let keys = load_pairs(&keys[CHAIN]);
                unroll!(AT < N, {
                    let [high, low] = digits[CHAIN][AT];
                    products[CHAIN][AT][0] = _mm512_dpwssd_epi32(products[CHAIN][AT][0], keys, broadcast(high));
                    products[CHAIN][AT][1] = _mm512_dpwssd_epi32(products[CHAIN][AT][1], keys, broadcast(low));
                });
            });
        }
        let whole = digits.len() / CHAINS * CHAINS;
        for (keys, digits) in keys[whole..].iter().zip(&digits[whole..]) {
            let keys = load_pairs(keys);
            unroll!(AT < N, {
                let [high, low] = digits[AT];
                products[0][AT][0] = _mm512_dpwssd_epi32(products[0][AT][0], keys, broadcast(high));
                products[0][AT][1] = _mm512_dpwssd_epi32(products[0][AT][1], keys, broadcast(low));
            });
        }
        let products = together(products);
        unroll!(AT < N, {
            let [[first, second], [first_low, second_low]] = [widen(products[AT][0]), widen(products[AT][1])];
            let out = out[AT * stride + block * LANES..][..LANES].as_mut_ptr();
            // SAFETY: 16 int64 are writable at `out`; the stores need no alignment.
            unsafe {
                _mm512_storeu_si512(out.cast(), _mm512_add_epi64(_mm512_slli_epi64::<8>(first), first_low));
                _mm512_storeu_si512(out.add(8).cast(), _mm512_add_epi64(_mm512_slli_epi64::<8>(second), second_low));
            }
        });
    }
}

/// Sums of weight times value over a run of positions, added to `sums`: `[query]` every `stride`, 16 dims each.
///
/// 256 positions: |Σ high · v| <= 256 · 256 · 32767 < 2^31, and the other digits are below 256.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn mix(values: &[Pairs], weights: &[Weights], sums: &mut [i64], stride: usize) {
    match weights.len() {
        1 => mix_of::<1, 4>(values, weights, sums, stride),
        2 => mix_of::<2, 2>(values, weights, sums, stride),
        3 => mix_of::<3, 2>(values, weights, sums, stride),
        4 => mix_of::<4, 1>(values, weights, sums, stride),
        5 => mix_of::<5, 1>(values, weights, sums, stride),
        6 => mix_of::<6, 1>(values, weights, sums, stride),
        7 => mix_of::<7, 1>(values, weights, sums, stride),
        8 => mix_of::<8, 1>(values, weights, sums, stride),
        count => unreachable!("a tile of {count} queries"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn mix_of<const N: usize, const CHAINS: usize>(values: &[Pairs], weights: &[Weights], sums: &mut [i64], stride: usize) {
    let weights = &weights.as_chunks::<N>().0[0];
    assert!(values.len() <= RUN / 2 && values.len().is_multiple_of(CHAINS), "at most a run of positions, in blocks");
    let mut products = [[[_mm512_setzero_si512(); 3]; N]; CHAINS];
    // Whole blocks of 16 positions are eight lines, which every number of chains divides.
    for (first, values) in values.chunks_exact(CHAINS).enumerate() {
        unroll!(CHAIN < CHAINS, {
            let (pair, values) = (first * CHAINS + CHAIN, load_pairs(&values[CHAIN]));
            unroll!(AT < N, {
                let [high, middle, low] = &weights[AT];
                let digit = |digits: &[i16; RUN]| broadcast(digits.as_chunks::<2>().0[pair]);
                let sums = &mut products[CHAIN][AT];
                sums[0] = _mm512_dpwssd_epi32(sums[0], values, digit(high));
                sums[1] = _mm512_dpwssd_epi32(sums[1], values, digit(middle));
                sums[2] = _mm512_dpwssd_epi32(sums[2], values, digit(low));
            });
        });
    }
    let products = together(products);
    unroll!(AT < N, {
        let [high, middle, low] = [widen(products[AT][0]), widen(products[AT][1]), widen(products[AT][2])];
        let sums = sums[AT * stride..][..LANES].as_mut_ptr();
        for half in 0..2 {
            let upper = _mm512_add_epi64(_mm512_slli_epi64::<16>(high[half]), _mm512_slli_epi64::<8>(middle[half]));
            // SAFETY: 16 int64 are readable and writable at `sums`; neither needs alignment.
            unsafe {
                let sums = sums.add(half * 8);
                let sum = _mm512_add_epi64(_mm512_loadu_si512(sums.cast()), _mm512_add_epi64(upper, low[half]));
                _mm512_storeu_si512(sums.cast(), sum);
            }
        }
    });
}

/// Scores from dot products, in place: `rs(dot · c, 36 - s_q - s_k)`. Returns the greatest.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn scale(scores: &mut [i64], key_shifts: &[u8], query_shift: u32, score_scale: u32) -> i64 {
    assert_eq!(scores.len(), key_shifts.len(), "a shift for each key");
    let (scale, base) = (_mm512_set1_epi64(i64::from(score_scale)), _mm512_set1_epi64(36 - i64::from(query_shift)));
    let mut max = _mm512_set1_epi64(i64::MIN);
    let mut step = |scores: &mut [i64], shifts: &[u8; 8]| {
        let live = u8::MAX >> (8 - scores.len());
        // SAFETY: 8 shifts are readable; of the scores only those of the slice are read.
        let (shifts, dots) = unsafe { (_mm_loadl_epi64(shifts.as_ptr().cast()), _mm512_maskz_loadu_epi64(live, scores.as_ptr())) };
        // 4 <= n <= 36.
        let n = _mm512_sub_epi64(base, _mm512_cvtepu8_epi64(shifts));
        let half = _mm512_srli_epi64::<1>(_mm512_sllv_epi64(_mm512_set1_epi64(1), n));
        let score = _mm512_srav_epi64(_mm512_add_epi64(_mm512_mullo_epi64(dots, scale), half), n);
        max = _mm512_mask_max_epi64(max, live, max, score);
        // SAFETY: only the scores of the slice are written.
        unsafe { _mm512_mask_storeu_epi64(scores.as_mut_ptr(), live, score) };
    };
    let (scores, last_scores) = scores.as_chunks_mut::<8>();
    let (shifts, last_shifts) = key_shifts.as_chunks::<8>();
    for (scores, shifts) in scores.iter_mut().zip(shifts) {
        step(scores, shifts);
    }
    if !last_scores.is_empty() {
        let mut shifts = [0; 8];
        shifts[..last_shifts.len()].copy_from_slice(last_shifts);
        step(last_scores, &shifts);
    }
    _mm512_reduce_max_epi64(max)
}

/// Each entry of [`EXP2`] with what it is above the next one in the upper half: one look-up where two would be needed.
static EXP2_STEPS: [u64; 256] = {
    let mut steps = [0; 256];
    let mut at = 0;
    while at < 256 {
        steps[at] = EXP2[at] as u64 | ((EXP2[at] - EXP2[at + 1]) as u64) << 32;
        at += 1;
    }
    steps
};

/// The weights of a run of positions, of those that are live; 0 for the others. Returns the weights' sum.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn weigh(scores: &[i64], live: &Range<usize>, max: i64, weights: &mut Weights) -> i64 {
    assert!(scores.len() <= RUN, "at most a run of positions");
    let [high, middle, low] = weights;
    let max = _mm512_set1_epi64(max);
    // 16 weights of at most 2^24 a lane.
    let mut total = _mm512_setzero_si512();
    let slots = high.as_chunks_mut::<LANES>().0.iter_mut().zip(middle.as_chunks_mut().0.iter_mut().zip(low.as_chunks_mut().0));
    for (block, (scores, (high, (middle, low)))) in scores.as_chunks::<LANES>().0.iter().zip(slots).enumerate() {
        // SAFETY: 16 int64 are readable; the loads need no alignment.
        let [first, second] = unsafe { [_mm512_loadu_si512(scores.as_ptr().cast()), _mm512_loadu_si512(scores.as_ptr().add(8).cast())] };
        let below = |scores| _mm512_cvtepi64_epi32(_mm512_min_epi64(_mm512_sub_epi64(max, scores), _mm512_set1_epi64(26 << 16)));
        let z = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(below(first)), below(second));
        let start = live.start.saturating_sub(block * LANES).min(LANES);
        let end = live.end.saturating_sub(block * LANES).min(LANES);
        let mask = (first_lanes(end) & !first_lanes(start)).to_le_bytes();
        let e = _mm512_maskz_mov_epi32(u16::from_le_bytes([mask[0], mask[1]]), exp2_negative(z));
        total = _mm512_add_epi32(total, e);
        let byte = _mm512_set1_epi32(255);
        let digits = [_mm512_srli_epi32::<16>(e), _mm512_and_si512(_mm512_srli_epi32::<8>(e), byte), _mm512_and_si512(e, byte)];
        for (slot, digits) in [high, middle, low].into_iter().zip(digits) {
            // SAFETY: 16 int16 are writable; the store needs no alignment.
            unsafe { _mm256_storeu_si256(slot.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(digits)) };
        }
    }
    let [first, second] = widen(total);
    _mm512_reduce_add_epi64(_mm512_add_epi64(first, second))
}

/// 2^-z in Q24 for 0 <= z <= 26 · 2^16 in Q16; anything for others.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
pub(super) fn exp2_negative(z: __m512i) -> __m512i {
    let byte = _mm512_set1_epi32(255);
    let index = _mm512_and_si512(_mm512_srli_epi32::<8>(z), byte);
    // SAFETY: the table has 256 entries, and an index is at most 255.
    let (first, second) = unsafe {
        (
            _mm512_i32gather_epi64::<8>(_mm512_castsi512_si256(index), EXP2_STEPS.as_ptr().cast()),
            _mm512_i32gather_epi64::<8>(_mm512_extracti64x4_epi64::<1>(index), EXP2_STEPS.as_ptr().cast()),
        )
    };
    let lower = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let upper = _mm512_add_epi32(lower, _mm512_set1_epi32(1));
    let high = _mm512_permutex2var_epi32(first, lower, second);
    let step = _mm512_mullo_epi32(_mm512_permutex2var_epi32(first, upper, second), _mm512_and_si512(z, byte));
    let value = _mm512_sub_epi32(high, _mm512_srli_epi32::<8>(_mm512_add_epi32(step, _mm512_set1_epi32(128))));
    // rs(x, n) = ((x >> (n - 1)) + 1) >> 1, 5 <= n - 1 <= 31.
    let twice = _mm512_srlv_epi32(value, _mm512_add_epi32(_mm512_srli_epi32::<16>(z), _mm512_set1_epi32(5)));
    _mm512_srli_epi32::<1>(_mm512_add_epi32(twice, _mm512_set1_epi32(1)))
}

/// Means of some dims, for |sum| <= 32767 · total, shift <= 15 and bits + shift <= 48.
///
/// |numerator| < 2 · total · 2^(15 + shift) then fits 64 bits. The reciprocal becomes r <= 2^(30 + bits) / 2 · total of 31 bits, which lacks less
/// than 2^max(0, bits - 33); numerator · r / 2^(30 + bits) so lacks less than one, and the quotient ends at most one from its place.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn means(sums: &[i64], mean: &Mean, out: &mut [i32]) {
    let bits = mean.bits();
    let reciprocal = if bits > 33 { mean.reciprocal << (bits - 33) } else { mean.reciprocal >> (33 - bits) };
    let parts = [mean.total, i64::from(mean.shift + 1), i64::from(bits - 2), reciprocal];
    let [total, shift, bits, reciprocal] = parts.map(|part| _mm512_set1_epi64(part));
    let divisor = _mm512_add_epi64(total, total);
    let (zero, one) = (_mm512_setzero_si512(), _mm512_set1_epi64(1));
    for (sums, out) in sums.chunks(8).zip(out.chunks_mut(8)) {
        let live = u8::MAX >> (8 - sums.len().min(out.len()));
        // SAFETY: only the sums of the slice are read.
        let sums = unsafe { _mm512_maskz_loadu_epi64(live, sums.as_ptr()) };
        let numerator = _mm512_add_epi64(_mm512_sllv_epi64(sums, shift), total);
        // floor(numerator · reciprocal / 2^32): below 2^62.
        let upper = _mm512_mul_epi32(_mm512_srli_epi64::<32>(numerator), reciprocal);
        let lower = _mm512_srli_epi64::<32>(_mm512_mul_epu32(numerator, reciprocal));
        let near = _mm512_srav_epi64(_mm512_add_epi64(upper, lower), bits);
        let rest = _mm512_sub_epi64(numerator, _mm512_mullo_epi64(near, divisor));
        let near = _mm512_mask_add_epi64(near, _mm512_cmpge_epi64_mask(rest, divisor), near, one);
        let near = _mm512_mask_sub_epi64(near, _mm512_cmplt_epi64_mask(rest, zero), near, one);
        // SAFETY: only the results of the slice are written; a mean is at most 2^30.
        unsafe { _mm512_mask_cvtepi64_storeu_epi32(out.as_mut_ptr().cast(), live, near) };
    }
}

/// Few queries are summed in several chains, for an instruction waits for the one before it in its chain.
#[target_feature(enable = "avx512f")]
#[inline]
fn together<const M: usize, const N: usize, const CHAINS: usize>(chains: [[[__m512i; M]; N]; CHAINS]) -> [[__m512i; M]; N] {
    let mut sums = chains[0];
    for chain in &chains[1..] {
        for (sums, chain) in sums.as_flattened_mut().iter_mut().zip(chain.as_flattened()) {
            *sums = _mm512_add_epi32(*sums, *chain);
        }
    }
    sums
}

const fn first_lanes(count: usize) -> u32 {
    (1 << count) - 1
}

/// 16 int32 as int64: the first eight, and the others.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub(super) fn widen(lanes: __m512i) -> [__m512i; 2] {
    [_mm512_cvtepi32_epi64(_mm512_castsi512_si256(lanes)), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(lanes))]
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load_pairs(pairs: &Pairs) -> __m512i {
    // SAFETY: 64 bytes are readable; the load needs no alignment.
    unsafe { _mm512_loadu_si512(pairs.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(pair: [i16; 2]) -> __m512i {
    let [a, b] = pair.map(i16::to_le_bytes);
    _mm512_set1_epi32(i32::from_le_bytes([a[0], a[1], b[0], b[1]]))
}
