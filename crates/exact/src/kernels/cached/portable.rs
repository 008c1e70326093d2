//! The products of attention in plain Rust.

use super::{LANES, Pairs, Weights};

/// With at most 256 dims, |Σ high · k| <= 256 · 128 · 32767 < 2^31 and |Σ low · k| <= 256 · 255 · 32767 < 2^31.
pub(super) fn dots(keys: &[Pairs], digits: &[[[i16; 2]; 2]], count: usize, out: &mut [i64]) {
    let pairs = digits.len() / count;
    let stride = out.len() / count;
    for (block, keys) in keys.chunks_exact(pairs).enumerate() {
        for query in 0..count {
            let mut sums = [[0i32; LANES]; 2];
            for (keys, digits) in keys.iter().zip(digits[query..].iter().step_by(count)) {
                for (sums, digits) in sums.iter_mut().zip(digits) {
                    multiply_add(sums, keys, *digits);
                }
            }
            let [high, low] = sums;
            let out = &mut out[query * stride + block * LANES..][..LANES];
            for (out, (high, low)) in out.iter_mut().zip(high.into_iter().zip(low)) {
                *out = (i64::from(high) << 8).wrapping_add(i64::from(low));
            }
        }
    }
}

/// 256 positions at a time: |Σ high · v| <= 256 · 256 · 32767 < 2^31, and the other digits are below 256.
pub(super) fn mix(values: &[Pairs], weights: &[Weights], sums: &mut [i64], stride: usize) {
    for (weights, sums) in weights.iter().zip(sums.chunks_mut(stride)) {
        let mut run = [[0i32; LANES]; 3];
        for (run, weights) in run.iter_mut().zip(weights) {
            for (values, &weights) in values.iter().zip(weights.as_chunks::<2>().0) {
                multiply_add(run, values, weights);
            }
        }
        let [high, middle, low] = run;
        for (sum, (high, (middle, low))) in sums[..LANES].iter_mut().zip(high.into_iter().zip(middle.into_iter().zip(low))) {
            let product = (i64::from(high) << 16).wrapping_add(i64::from(middle) << 8).wrapping_add(i64::from(low));
            *sum = sum.wrapping_add(product);
        }
    }
}

#[inline(always)]
fn multiply_add(sums: &mut [i32; LANES], pairs: &Pairs, digits: [i16; 2]) {
    for (sum, pair) in sums.iter_mut().zip(pairs.as_chunks::<2>().0) {
        let product = |at: usize| i32::from(pair[at]).wrapping_mul(i32::from(digits[at]));
        *sum = sum.wrapping_add(product(0).wrapping_add(product(1)));
    }
}
