//! The products of attention by AVX2: `vpmaddwd` on pairs of int16, eight positions or dims side by side. Widths as in plain Rust.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::{LANES, Pairs, RUN, Weights};

/// Dot products of `count` queries with every key: `[query][position]`.
#[target_feature(enable = "avx2")]
pub(super) fn dots(keys: &[Pairs], digits: &[[[i16; 2]; 2]], count: usize, out: &mut [i64]) {
    let (pairs, stride) = (digits.len() / count, out.len() / count);
    for (block, keys) in keys.chunks_exact(pairs).enumerate() {
        for query in 0..count {
            let mut sums = [[_mm256_setzero_si256(); 2]; 2];
            for (keys, &[high, low]) in keys.iter().zip(digits[query..].iter().step_by(count)) {
                let keys = load(keys);
                add(&mut sums[0], keys, high);
                add(&mut sums[1], keys, low);
            }
            let [high, low] = sums.map(|sums| store(sums));
            let out = &mut out[query * stride + block * LANES..][..LANES];
            for (out, (high, low)) in out.iter_mut().zip(high.into_iter().zip(low)) {
                *out = (i64::from(high) << 8).wrapping_add(i64::from(low));
            }
        }
    }
}

/// Sums of weight times value over a run of positions, added to `sums`: `[query]` every `stride`, 16 dims each.
#[target_feature(enable = "avx2")]
pub(super) fn mix(values: &[Pairs], weights: &[Weights], sums: &mut [i64], stride: usize) {
    for (weights, sums) in weights.iter().zip(sums.chunks_mut(stride)) {
        let mut products = [[_mm256_setzero_si256(); 2]; 3];
        let [high, middle, low] = weights.each_ref().map(|digits: &[i16; RUN]| digits.as_chunks::<2>().0);
        for (pair, values) in values.iter().enumerate() {
            let values = load(values);
            add(&mut products[0], values, high[pair]);
            add(&mut products[1], values, middle[pair]);
            add(&mut products[2], values, low[pair]);
        }
        let [high, middle, low] = products.map(|sums| store(sums));
        for (sum, (high, (middle, low))) in sums[..LANES].iter_mut().zip(high.into_iter().zip(middle.into_iter().zip(low))) {
            let product = (i64::from(high) << 16).wrapping_add(i64::from(middle) << 8).wrapping_add(i64::from(low));
            *sum = sum.wrapping_add(product);
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn add(sums: &mut [__m256i; 2], pairs: [__m256i; 2], digits: [i16; 2]) {
    let [a, b] = digits.map(i16::to_le_bytes);
    let digits = _mm256_set1_epi32(i32::from_le_bytes([a[0], a[1], b[0], b[1]]));
    for (sum, pairs) in sums.iter_mut().zip(pairs) {
        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, digits));
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(pairs: &Pairs) -> [__m256i; 2] {
    let at = pairs.as_ptr().cast::<__m256i>();
    // SAFETY: 64 bytes are readable; the loads need no alignment.
    unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(sums: [__m256i; 2]) -> [i32; LANES] {
    let mut out = [0; LANES];
    let at = out.as_mut_ptr().cast::<__m256i>();
    // SAFETY: 64 bytes are writable; the stores need no alignment.
    unsafe {
        _mm256_storeu_si256(at, sums[0]);
        _mm256_storeu_si256(at.add(1), sums[1]);
    }
    out
}
