//! Tiles by NEON: one block of 16 rows times one position by widening multiplies on the operands' int16, which every aarch64 has; and half
//! a block times up to four positions by `sdot` on signed digits of q - 128, where the machine has it.

use std::{
    arch::{
        aarch64::{
            int8x16_t, int32x4_t, vaddq_s32, vdupq_n_s32, vget_high_s8, vget_high_s16, vget_low_s8, vget_low_s16, vld1_s16, vld1q_s8,
            vmlal_s16, vmovl_s8, vpaddq_s32, vshlq_n_s32, vst1q_s32,
        },
        asm,
    },
    ops::Range,
};

use super::{
    Job,
    packed::{BLOCK, GROUP_QUADS, MANTISSA_BYTES, QUAD, QUAD_BYTES},
};
use crate::kernels::Operands;

/// Products of some blocks with some panels of positions, by widening multiplies. A group's sum is the plain one in four parts per row.
pub(super) fn run(job: &Job<'_>, blocks: Range<usize>, x: &Operands, panels: Range<usize>) {
    for block in blocks {
        for position in panels.clone().flat_map(|panel| x.panel(panel)) {
            let sums = one_position(job, block, x.elements(position));
            job.finish(block, position, &sums, x.shift(position));
        }
    }
}

fn one_position(job: &Job<'_>, block: usize, x: &[i16]) -> [i64; BLOCK] {
    let mut sums = [0i64; BLOCK];
    let weights = job.view.block_weights(block).chunks(GROUP_QUADS * QUAD_BYTES);
    let mantissas = job.view.block_mantissas(block).as_chunks::<MANTISSA_BYTES>().0;
    for ((weights, x), mantissas) in weights.zip(x.chunks(GROUP_QUADS * QUAD)).zip(mantissas) {
        // SAFETY: NEON is part of the target.
        let mut rows = unsafe { [vdupq_n_s32(0); BLOCK] };
        for (weights, x) in weights.as_chunks::<QUAD_BYTES>().0.iter().zip(x.as_chunks::<QUAD>().0) {
            // SAFETY: NEON is part of the target; four int16 are readable at `x`, 16 bytes at each quarter of the 64 weights.
            unsafe {
                let x = vld1_s16(x.as_ptr());
                for (four, rows) in rows.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let w = vld1q_s8(weights.as_ptr().add(four * 16).cast());
                    let (low, high) = (vmovl_s8(vget_low_s8(w)), vmovl_s8(vget_high_s8(w)));
                    rows[0] = vmlal_s16(rows[0], vget_low_s16(low), x);
                    rows[1] = vmlal_s16(rows[1], vget_high_s16(low), x);
                    rows[2] = vmlal_s16(rows[2], vget_low_s16(high), x);
                    rows[3] = vmlal_s16(rows[3], vget_high_s16(high), x);
                }
            }
        }
        let mut group = [0i32; BLOCK];
        for (rows, group) in rows.as_chunks::<4>().0.iter().zip(group.as_chunks_mut::<4>().0) {
            // SAFETY: NEON is part of the target; four int32 are writable.
            unsafe { vst1q_s32(group.as_mut_ptr(), vpaddq_s32(vpaddq_s32(rows[0], rows[1]), vpaddq_s32(rows[2], rows[3]))) };
        }
        scale(&mut sums, &group, mantissas);
    }
    sums
}

/// Adds a group's sums times its mantissas.
#[inline(always)]
fn scale(sums: &mut [i64], group: &[i32], mantissas: &[u8]) {
    for ((sum, &group), m) in sums.iter_mut().zip(group).zip(mantissas.as_chunks::<2>().0) {
        *sum = sum.wrapping_add(i64::from(group).wrapping_mul(i64::from(u16::from_le_bytes(*m))));
    }
}

/// Products of some blocks with some panels of positions, by `sdot`.
///
/// A group's sum is 256 · Σ high · w + Σ low · w for q - 128, |·| <= 128 · 32895 · 127 < 2^31; 128 · Σ m · Σ w is added back per row.
#[target_feature(enable = "dotprod")]
pub(super) fn run_dot_product(job: &Job<'_>, blocks: Range<usize>, x: &Operands, panels: Range<usize>) {
    for block in blocks {
        for panel in panels.clone() {
            let positions = x.panel(panel);
            match positions.len() {
                1 => tile::<1>(job, block, x, positions),
                2 => tile::<2>(job, block, x, positions),
                3 => tile::<3>(job, block, x, positions),
                4 => tile::<4>(job, block, x, positions),
                positions => unreachable!("a tile of {positions} positions"),
            }
        }
    }
}

#[target_feature(enable = "dotprod")]
fn tile<const N: usize>(job: &Job<'_>, block: usize, x: &Operands, positions: Range<usize>) {
    let [high, low] = x.digits(&positions);
    let tail = job.view.block_tail(block);
    let mut sums: [[i64; BLOCK]; N] = [std::array::from_fn(|lane| tail.sum(lane) << 7); N];
    let weights = job.view.block_weights(block).chunks(GROUP_QUADS * QUAD_BYTES);
    let mantissas = job.view.block_mantissas(block).as_chunks::<MANTISSA_BYTES>().0;
    let digits = high.chunks(GROUP_QUADS * N * QUAD).zip(low.chunks(GROUP_QUADS * N * QUAD));
    for ((weights, (high, low)), mantissas) in weights.zip(digits).zip(mantissas) {
        for half in 0..2 {
            let zero = vdupq_n_s32(0);
            let (mut highs, mut lows) = ([[zero; 2]; N], [[zero; 2]; N]);
            let steps = high.chunks_exact(N * QUAD).zip(low.chunks_exact(N * QUAD));
            for (weights, (high, low)) in weights.as_chunks::<QUAD_BYTES>().0.iter().zip(steps) {
                // SAFETY: 32 bytes are readable at each half of the 64 weights.
                let w: [int8x16_t; 2] = std::array::from_fn(|four| unsafe { vld1q_s8(weights.as_ptr().add(half * 32 + four * 16).cast()) });
                for n in 0..N {
                    let (high, low) = (repeat(&high[n * QUAD..]), repeat(&low[n * QUAD..]));
                    for four in 0..2 {
                        highs[n][four] = sdot(highs[n][four], w[four], high);
                        lows[n][four] = sdot(lows[n][four], w[four], low);
                    }
                }
            }
            for n in 0..N {
                let mut group = [0i32; BLOCK / 2];
                for four in 0..2 {
                    let whole = vaddq_s32(vshlq_n_s32::<8>(highs[n][four]), lows[n][four]);
                    // SAFETY: four int32 are writable at each half of the eight.
                    unsafe { vst1q_s32(group.as_mut_ptr().add(four * 4), whole) };
                }
                scale(&mut sums[n][half * 8..][..8], &group, &mantissas[half * 16..][..16]);
            }
        }
    }
    for (position, sums) in positions.zip(&sums) {
        job.finish(block, position, sums, x.shift(position));
    }
}

/// Four bytes, four times.
#[inline(always)]
fn repeat(bytes: &[u8]) -> int8x16_t {
    let four = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    // SAFETY: NEON is part of the target; any bits are a value of either type.
    unsafe { std::mem::transmute(vdupq_n_s32(four)) }
}

/// Adds the dot products of fours of int8.
#[target_feature(enable = "dotprod")]
#[inline]
fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers only, and the function's target has it.
    unsafe {
        asm!("sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b", sums = inout(vreg) sums, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}
