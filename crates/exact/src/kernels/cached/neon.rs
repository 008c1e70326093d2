//! The products of attention by NEON: widening multiply-adds on int16, which every aarch64 has, sixteen positions or dims side by side. Widths as
//! in plain Rust.

use std::arch::aarch64::{int16x8x2_t, int32x4_t, vdupq_n_s32, vget_high_s16, vget_low_s16, vld2q_s16, vmlal_n_s16, vst1q_s32};

use super::{LANES, Pairs, RUN, Weights};

/// Dot products of `count` queries with every key: `[query][position]`.
pub(super) fn dots(keys: &[Pairs], digits: &[[[i16; 2]; 2]], count: usize, out: &mut [i64]) {
    let (pairs, stride) = (digits.len() / count, out.len() / count);
    for (block, keys) in keys.chunks_exact(pairs).enumerate() {
        for query in 0..count {
            let mut sums = [zero(); 2];
            for (keys, &[high, low]) in keys.iter().zip(digits[query..].iter().step_by(count)) {
                let keys = load(keys);
                add(&mut sums[0], &keys, high);
                add(&mut sums[1], &keys, low);
            }
            let [high, low] = sums.map(store);
            let out = &mut out[query * stride + block * LANES..][..LANES];
            for (out, (high, low)) in out.iter_mut().zip(high.into_iter().zip(low)) {
                *out = (i64::from(high) << 8).wrapping_add(i64::from(low));
            }
        }
    }
}

/// Sums of weight times value over a run of positions, added to `sums`: `[query]` every `stride`, 16 dims each.
pub(super) fn mix(values: &[Pairs], weights: &[Weights], sums: &mut [i64], stride: usize) {
    for (weights, sums) in weights.iter().zip(sums.chunks_mut(stride)) {
        let mut products = [zero(); 3];
        let [high, middle, low] = weights.each_ref().map(|digits: &[i16; RUN]| digits.as_chunks::<2>().0);
        for (pair, values) in values.iter().enumerate() {
            let values = load(values);
            add(&mut products[0], &values, high[pair]);
            add(&mut products[1], &values, middle[pair]);
            add(&mut products[2], &values, low[pair]);
        }
        let [high, middle, low] = products.map(store);
        for (sum, (high, (middle, low))) in sums[..LANES].iter_mut().zip(high.into_iter().zip(middle.into_iter().zip(low))) {
            let product = (i64::from(high) << 16).wrapping_add(i64::from(middle) << 8).wrapping_add(i64::from(low));
            *sum = sum.wrapping_add(product);
        }
    }
}

/// Sums of sixteen lanes.
type Sums = [int32x4_t; 4];

#[inline(always)]
fn zero() -> Sums {
    // SAFETY: NEON is part of the target.
    [unsafe { vdupq_n_s32(0) }; 4]
}

/// The first elements of the pairs of eight lanes, and the second ones; twice.
#[inline(always)]
fn load(pairs: &Pairs) -> [int16x8x2_t; 2] {
    // SAFETY: NEON is part of the target; 16 int16 are readable at each half of the 32.
    unsafe { [vld2q_s16(pairs.as_ptr()), vld2q_s16(pairs.as_ptr().add(LANES))] }
}

#[inline(always)]
fn add(sums: &mut Sums, pairs: &[int16x8x2_t; 2], digits: [i16; 2]) {
    for (sums, pairs) in sums.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
        for (elements, digit) in [pairs.0, pairs.1].into_iter().zip(digits) {
            // SAFETY: NEON is part of the target.
            unsafe {
                sums[0] = vmlal_n_s16(sums[0], vget_low_s16(elements), digit);
                sums[1] = vmlal_n_s16(sums[1], vget_high_s16(elements), digit);
            }
        }
    }
}

#[inline(always)]
fn store(sums: Sums) -> [i32; LANES] {
    let mut out = [0; LANES];
    for (out, sums) in out.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        // SAFETY: NEON is part of the target; four int32 are writable.
        unsafe { vst1q_s32(out.as_mut_ptr(), sums) };
    }
    out
}
