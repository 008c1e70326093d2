//! Tiles of R blocks of 16 rows times N positions, by `vpdpbusd`: int8 weights times unsigned digits of q + 32768.
//!
//! A group's sum is 256 · Σ high · w + Σ low · w, |·| <= 128 · 65535 · 127 < 2^31. Up to 24 accumulators live in registers through a group; at
//! its end they are multiplied by the mantissas into int64. Up to four positions both digits run side by side; with more, one after the
//! other over the same group, which is in the first-level cache.
//!
//! Everything that touches the accumulators is unrolled with constant indices: a loop that the compiler leaves rolled keeps them in
//! memory, at half the speed.
#![allow(clippy::needless_range_loop, reason = "constant indices")]

use std::{
    arch::x86_64::{
        __m512i, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm256_loadu_si256, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512,
        _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_dpbusd_epi32, _mm512_load_si512, _mm512_loadu_si512, _mm512_mask_blend_epi32,
        _mm512_mask_storeu_epi32, _mm512_max_epi64, _mm512_min_epi64, _mm512_mul_epi32, _mm512_permutex2var_epi64, _mm512_set1_epi32,
        _mm512_set1_epi64, _mm512_setr_epi64, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_slli_epi64, _mm512_sllv_epi64,
        _mm512_srai_epi64, _mm512_srav_epi64, _mm512_srli_epi64, _mm512_store_si512, _mm512_sub_epi64,
    },
    ops::Range,
};

use super::{
    Job,
    packed::{BLOCK, GROUP_QUADS, MANTISSA_BYTES, QUAD, QUAD_BYTES, TAIL_BIAS, TAIL_BYTES, TAIL_SHIFTS},
};
use crate::{
    arith::MAX_I32,
    kernels::{Operands, unroll::unroll},
};

/// How far ahead weights are fetched into the second-level cache, in bytes of each block. Into the first level it costs a fifth of the bandwidth
/// on Zen 4, further ahead a fourth.
const AHEAD: usize = 1024;

/// Products of some blocks with some panels of positions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn run(job: &Job<'_>, blocks: Range<usize>, x: &Operands, panels: Range<usize>) {
    let mut block = blocks.start;
    while block < blocks.end {
        let left = blocks.end - block;
        // Tiles of 24 accumulators where there are rows for them; in decoding, six streams of weights.
        let rows = match (if panels.len() == 1 { x.panel(panels.start).len() } else { 8 }, left) {
            (1, 6..) => 6,
            (1..=3, 4..) => 4,
            (1, 2..) => 2,
            (4.., 3..) => 3,
            _ => 1,
        };
        fetch_rest(job, block + rows..blocks.end.min(block + 2 * rows));
        for panel in panels.clone() {
            let positions = x.panel(panel);
            match (rows, positions.len()) {
                (6, 1) => tile::<6, 1, false>(job, block, x, positions),
                (4, 1) => tile::<4, 1, false>(job, block, x, positions),
                (2, 1) => tile::<2, 1, false>(job, block, x, positions),
                (4, 2) => tile::<4, 2, false>(job, block, x, positions),
                (4, 3) => tile::<4, 3, false>(job, block, x, positions),
                (3, 4) => tile::<3, 4, false>(job, block, x, positions),
                (3, 5) => tile::<3, 5, true>(job, block, x, positions),
                (3, 6) => tile::<3, 6, true>(job, block, x, positions),
                (3, 7) => tile::<3, 7, true>(job, block, x, positions),
                (3, 8) => tile::<3, 8, true>(job, block, x, positions),
                (_, 1) => tile::<1, 1, false>(job, block, x, positions),
                (_, 2) => tile::<1, 2, false>(job, block, x, positions),
                (_, 3) => tile::<1, 3, false>(job, block, x, positions),
                (_, 4) => tile::<1, 4, false>(job, block, x, positions),
                (_, 5) => tile::<1, 5, false>(job, block, x, positions),
                (_, 6) => tile::<1, 6, false>(job, block, x, positions),
                (_, 7) => tile::<1, 7, false>(job, block, x, positions),
                (_, 8) => tile::<1, 8, false>(job, block, x, positions),
                (rows, positions) => unreachable!("a tile of {rows} blocks and {positions} positions"),
            }
        }
        block += rows;
    }
}

/// Sums of the even or of the odd rows of a block.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Eight(pub(super) [i64; 8]);

impl Eight {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn load(&self) -> __m512i {
        // SAFETY: 64 bytes are readable, aligned by the type.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn store(&mut self, sums: __m512i) {
        // SAFETY: 64 bytes are writable, aligned by the type.
        unsafe { _mm512_store_si512(self.0.as_mut_ptr().cast(), sums) };
    }
}

/// One tile over the whole of K. `TWICE`: one digit after the other.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile<const R: usize, const N: usize, const TWICE: bool>(job: &Job<'_>, block: usize, x: &Operands, positions: Range<usize>) {
    let view = job.view;
    let (quads, groups) = (view.quads, view.groups);
    let [high, low] = x.digits(&positions);
    // What the loads below rely on.
    assert!(
        positions.len() == N
            && high.len() == quads * N * QUAD
            && low.len() == quads * N * QUAD
            && view.weights.len() >= (block + R) * quads * QUAD_BYTES
            && view.mantissas.len() >= (block + R) * groups * MANTISSA_BYTES
            && view.tails.len() >= (block + R) * TAIL_BYTES
            && groups == quads.div_ceil(GROUP_QUADS),
        "a tile within its matrix and operands"
    );
    // SAFETY: blocks block..block + R lie within the parts of the matrix, by the assertion.
    let weights: [*const u8; R] = std::array::from_fn(|r| unsafe { view.weights.as_ptr().add((block + r) * quads * QUAD_BYTES) });
    // SAFETY: as above.
    let mantissas: [*const u8; R] = std::array::from_fn(|r| unsafe { view.mantissas.as_ptr().add((block + r) * groups * MANTISSA_BYTES) });
    let (high, low) = (high.as_ptr(), low.as_ptr());
    let zero = _mm512_setzero_si512();

    // For each position and block, the even rows, then the odd ones.
    let mut sums = [[[Eight([0; 8]); 2]; R]; N];
    for r in 0..R {
        let [even, odd] = correction(view.tails, block + r);
        for n in 0..N {
            sums[n][r][0].store(even);
            sums[n][r][1].store(odd);
        }
    }
    for group in 0..groups {
        let (first, last) = (group * GROUP_QUADS, quads.min((group + 1) * GROUP_QUADS));
        let mut products = [[zero; N]; R];
        if TWICE {
            // The lines ahead are fetched evenly over both passes.
            for quad in first..last {
                if (quad - first).is_multiple_of(2) {
                    fetch(&weights, quads, first + (quad - first) / 2);
                }
                // SAFETY: quad < quads, so the weights and digits read are those of this tile.
                unsafe { multiply_add(&mut products, &weights, high, quad) };
            }
            // The shift is part of the first step: in a loop of its own it would cost the accumulators their registers.
            unroll!(AT < R, { unroll!(OF < N, { products[AT][OF] = _mm512_slli_epi32::<8>(products[AT][OF]) }) });
            for quad in first..last {
                if (quad - first).is_multiple_of(2) {
                    fetch(&weights, quads, first + (last - first) / 2 + (quad - first) / 2);
                }
                // SAFETY: as above.
                unsafe { multiply_add(&mut products, &weights, low, quad) };
            }
        } else {
            let mut lows = [[zero; N]; R];
            for quad in first..last {
                fetch(&weights, quads, quad);
                // SAFETY: quad < quads, so the weights and digits read are those of this tile.
                unsafe { multiply_add_both(&mut products, &mut lows, &weights, [high, low], quad) };
            }
            unroll!(AT < R, {
                unroll!(OF < N, { products[AT][OF] = _mm512_add_epi32(_mm512_slli_epi32::<8>(products[AT][OF]), lows[AT][OF]) });
            });
        }
        unroll!(AT < R, {
            // SAFETY: group < groups, so 32 bytes of this block's mantissas are readable here; the load needs no alignment.
            let even = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(mantissas[AT].add(group * MANTISSA_BYTES).cast()) });
            let odd = _mm512_srli_epi64::<32>(even);
            unroll!(OF < N, {
                let product = products[AT][OF];
                let [evens, odds] = &mut sums[OF][AT];
                evens.store(_mm512_add_epi64(evens.load(), _mm512_mul_epi32(product, even)));
                odds.store(_mm512_add_epi64(odds.load(), _mm512_mul_epi32(_mm512_srli_epi64::<32>(product), odd)));
            });
        });
    }
    let mut shifts = [0; N];
    for (shift, position) in shifts.iter_mut().zip(positions.clone()) {
        *shift = x.shift(position);
    }
    for r in 0..R {
        let tail = Finish::new(view.tails, block + r);
        for (position, (sums, &shift)) in positions.clone().zip(sums.iter().zip(&shifts)) {
            let [even, odd] = &sums[r];
            tail.write(job.results(block + r, position), [even.load(), odd.load()], shift);
        }
    }
}

/// Asks for the weights [`AHEAD`] of a quad: at the end of its block those of the next tile, which begin R - 1 blocks further. No memory is
/// read: an address beyond the end does nothing.
#[target_feature(enable = "avx512f")]
#[inline]
fn fetch<const R: usize>(weights: &[*const u8; R], quads: usize, quad: usize) {
    let (block, ahead) = (quads * QUAD_BYTES, quad * QUAD_BYTES + AHEAD);
    let ahead = if ahead < block { ahead } else { ahead + (R - 1) * block };
    for at in weights {
        _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
    }
}

/// Asks for the mantissas and tails of blocks: too few bytes at a time for the processor to see that they follow each other.
#[target_feature(enable = "avx512f")]
#[inline]
fn fetch_rest(job: &Job<'_>, blocks: Range<usize>) {
    let of = |part: &[u8], bytes: usize| {
        for line in (blocks.start * bytes..blocks.end * bytes).step_by(64) {
            _mm_prefetch::<_MM_HINT_T1>(part.as_ptr().wrapping_add(line).cast());
        }
    };
    of(job.view.mantissas, job.view.groups * MANTISSA_BYTES);
    of(job.view.tails, TAIL_BYTES);
}

/// One digit of N positions times one quad of R blocks.
///
/// # Safety
/// `quad` is one of the tile's: 64 bytes are readable at each block's quad, 4 · N at the digits'.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
#[expect(clippy::needless_range_loop, reason = "the positions of all blocks, one after the other")]
unsafe fn multiply_add<const R: usize, const N: usize>(
    products: &mut [[__m512i; N]; R],
    weights: &[*const u8; R],
    digits: *const u8,
    quad: usize,
) {
    // SAFETY: by this function's contract; the loads need no alignment.
    let w: [__m512i; R] = std::array::from_fn(|r| unsafe { _mm512_loadu_si512(weights[r].add(quad * QUAD_BYTES).cast()) });
    for n in 0..N {
        // SAFETY: as above.
        let digit = unsafe { broadcast(digits.add((quad * N + n) * QUAD)) };
        for r in 0..R {
            products[r][n] = _mm512_dpbusd_epi32(products[r][n], digit, w[r]);
        }
    }
}

/// Both digits of N positions times one quad of R blocks.
///
/// # Safety
/// As [`multiply_add`], for both digits.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn multiply_add_both<const R: usize, const N: usize>(
    highs: &mut [[__m512i; N]; R],
    lows: &mut [[__m512i; N]; R],
    weights: &[*const u8; R],
    [high, low]: [*const u8; 2],
    quad: usize,
) {
    // SAFETY: by this function's contract; the loads need no alignment.
    let w: [__m512i; R] = std::array::from_fn(|r| unsafe { _mm512_loadu_si512(weights[r].add(quad * QUAD_BYTES).cast()) });
    for n in 0..N {
        // SAFETY: as above.
        let [high, low] = unsafe { [broadcast(high.add((quad * N + n) * QUAD)), broadcast(low.add((quad * N + n) * QUAD))] };
        for r in 0..R {
            highs[r][n] = _mm512_dpbusd_epi32(highs[r][n], high, w[r]);
            lows[r][n] = _mm512_dpbusd_epi32(lows[r][n], low, w[r]);
        }
    }
}

/// # Safety
/// Four bytes are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn broadcast(four: *const u8) -> __m512i {
    // SAFETY: by this function's contract.
    _mm512_set1_epi32(unsafe { four.cast::<i32>().read_unaligned() })
}

/// What multiplying by q + 32768 added, negated: -32768 · Σ m · Σ w of each row, even rows and odd rows. |·| < 2^53.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn correction(tails: &[u8], block: usize) -> [__m512i; 2] {
    let sums = tails[block * TAIL_BYTES..][..8 * BLOCK].as_ptr();
    // SAFETY: 128 bytes are readable; the loads need no alignment.
    let (first, second) = unsafe { (_mm512_loadu_si512(sums.cast()), _mm512_loadu_si512(sums.add(64).cast())) };
    let (even, odd) = (_mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15));
    [even, odd].map(|rows| {
        let sums = _mm512_permutex2var_epi64(first, rows, second);
        _mm512_sub_epi64(_mm512_setzero_si512(), _mm512_slli_epi64::<15>(sums))
    })
}

/// What turns sums into results, for the even and the odd rows of a block: shifts and biases as int64.
pub(super) struct Finish {
    shifts: [__m512i; 2],
    biases: [__m512i; 2],
}

impl Finish {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    pub(super) fn new(tails: &[u8], block: usize) -> Self {
        let tail = tails[block * TAIL_BYTES..][..TAIL_BYTES].as_ptr();
        // SAFETY: the tail's 16 shifts and 16 biases are readable; the loads need no alignment.
        let (shifts, biases) = unsafe {
            (_mm512_cvtepu8_epi32(_mm_loadu_si128(tail.add(TAIL_SHIFTS).cast())), _mm512_loadu_si512(tail.add(TAIL_BIAS).cast()))
        };
        Self {
            shifts: [_mm512_and_si512(shifts, _mm512_set1_epi64(0xffff_ffff)), _mm512_srli_epi64::<32>(shifts)],
            biases: [_mm512_srai_epi64::<32>(_mm512_slli_epi64::<32>(biases)), _mm512_srai_epi64::<32>(biases)],
        }
    }

    /// `clamp32(rs(sum, t - s) + bias)` of the block's rows at one position.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    pub(super) fn write(&self, out: &mut [i32], sums: [__m512i; 2], shift: u32) {
        let shift = _mm512_set1_epi64(i64::from(shift));
        let [even, odd] = std::array::from_fn(|half| {
            // 1 <= n <= 62.
            let n = _mm512_sub_epi64(self.shifts[half], shift);
            let rounding = _mm512_srli_epi64::<1>(_mm512_sllv_epi64(_mm512_set1_epi64(1), n));
            let y = _mm512_add_epi64(_mm512_srav_epi64(_mm512_add_epi64(sums[half], rounding), n), self.biases[half]);
            _mm512_max_epi64(_mm512_min_epi64(y, _mm512_set1_epi64(MAX_I32)), _mm512_set1_epi64(-MAX_I32))
        });
        let rows = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd));
        // SAFETY: as many int32 are written as the slice has, at most 16; the store needs no alignment.
        unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr(), lanes(out.len()), rows) };
    }
}

/// The first lanes of 16.
const fn lanes(count: usize) -> u16 {
    u16::MAX >> (BLOCK - count)
}
