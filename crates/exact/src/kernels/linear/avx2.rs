//! Tiles of one block of 16 rows times up to three positions, by `vpmaddwd` on the operands' int16. A group's sum is the plain one,
//! |·| < 2^29, in two halves per row.

use std::{
    arch::x86_64::{
        __m128i, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_add_epi32, _mm256_add_epi64, _mm256_cvtepi8_epi16,
        _mm256_cvtepu16_epi32, _mm256_hadd_epi32, _mm256_madd_epi16, _mm256_mul_epi32, _mm256_permute4x64_epi64, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256,
    },
    ops::Range,
};

use super::{
    Job,
    packed::{BLOCK, GROUP_QUADS, MANTISSA_BYTES, QUAD, QUAD_BYTES},
};
use crate::kernels::Operands;

/// How far ahead weights are fetched, in bytes.
const AHEAD: usize = 1024;
/// The row of its half block that each sum of [`Sums`] belongs to: even lanes, then odd ones, of pairwise sums.
const ROWS: [usize; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// Products of some blocks with some panels of positions.
#[target_feature(enable = "avx2")]
pub(super) fn run(job: &Job<'_>, blocks: Range<usize>, x: &Operands, panels: Range<usize>) {
    for block in blocks {
        for panel in panels.clone() {
            let positions = x.panel(panel);
            match positions.len() {
                1 => tile::<1>(job, block, x, positions),
                2 => tile::<2>(job, block, x, positions),
                3 => tile::<3>(job, block, x, positions),
                positions => unreachable!("a tile of {positions} positions"),
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn tile<const N: usize>(job: &Job<'_>, block: usize, x: &Operands, positions: Range<usize>) {
    let zero = _mm256_setzero_si256();
    let mut rows: [&[[i16; QUAD]]; N] = [&[]; N];
    for (row, position) in rows.iter_mut().zip(positions.clone()) {
        *row = x.elements(position).as_chunks().0;
    }
    let mut sums = [[zero; 4]; N];
    let weights = job.view.block_weights(block).chunks(GROUP_QUADS * QUAD_BYTES);
    let mantissas = job.view.block_mantissas(block).as_chunks::<MANTISSA_BYTES>().0;
    for (group, (weights, mantissas)) in weights.zip(mantissas).enumerate() {
        let weights = weights.as_chunks::<QUAD_BYTES>().0;
        let operands = rows.map(|row| &row[group * GROUP_QUADS..][..weights.len()]);
        let mut products = [[zero; 4]; N];
        for (quad, w) in weights.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(AHEAD).cast());
            let w = widen(w);
            for n in 0..N {
                let x = broadcast(operands[n][quad]);
                for (product, w) in products[n].iter_mut().zip(w) {
                    *product = _mm256_add_epi32(*product, _mm256_madd_epi16(w, x));
                }
            }
        }
        let mantissas = halves(mantissas);
        for n in 0..N {
            for (half, mantissas) in mantissas.into_iter().enumerate() {
                let whole = _mm256_hadd_epi32(products[n][2 * half], products[n][2 * half + 1]);
                let even = _mm256_mul_epi32(whole, mantissas);
                let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(whole), _mm256_srli_epi64::<32>(mantissas));
                sums[n][2 * half] = _mm256_add_epi64(sums[n][2 * half], even);
                sums[n][2 * half + 1] = _mm256_add_epi64(sums[n][2 * half + 1], odd);
            }
        }
    }
    for (position, sums) in positions.zip(&sums) {
        job.finish(block, position, &in_order(sums), x.shift(position));
    }
}

/// 16 rows of 4 int8 as int16, four rows each.
#[target_feature(enable = "avx2")]
#[inline]
fn widen(w: &[u8; QUAD_BYTES]) -> [__m256i; 4] {
    let at = w.as_ptr().cast::<__m128i>();
    // SAFETY: 64 bytes are readable at `w`; the loads need no alignment.
    std::array::from_fn(|four| _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(at.add(four)) }))
}

/// A block's mantissas as uint32, each half in the order of the pairwise sums: rows 0, 1, 4, 5, 2, 3, 6, 7.
#[target_feature(enable = "avx2")]
#[inline]
fn halves(mantissas: &[u8; MANTISSA_BYTES]) -> [__m256i; 2] {
    let at = mantissas.as_ptr().cast::<__m128i>();
    std::array::from_fn(|half| {
        // SAFETY: 32 bytes are readable; the loads need no alignment.
        let rows = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(at.add(half)) });
        _mm256_permute4x64_epi64::<0b11_01_10_00>(rows)
    })
}

#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(x: [i16; QUAD]) -> __m256i {
    let [a, b, c, d] = x.map(i16::to_le_bytes);
    _mm256_set1_epi64x(i64::from_le_bytes([a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]]))
}

#[target_feature(enable = "avx2")]
#[inline]
fn in_order(sums: &[__m256i; 4]) -> [i64; BLOCK] {
    let mut lanes = [0i64; BLOCK];
    let at = lanes.as_mut_ptr().cast::<__m256i>();
    for (four, &sums) in sums.iter().enumerate() {
        // SAFETY: `lanes` holds four times 32 bytes; the stores need no alignment.
        unsafe { _mm256_storeu_si256(at.add(four), sums) };
    }
    let mut rows = [0; BLOCK];
    for (at, &sum) in lanes.iter().enumerate() {
        rows[at / 8 * 8 + ROWS[at % 8]] = sum;
    }
    rows
}
