//! Product of a matrix and many operands; twin of [`reference::linear`](crate::reference::linear), whose widths hold here.
//!
//! A matrix is repacked into blocks of 16 rows, pairs of columns together: `[block][pair][lane][2]`, so that one multiply-add of
//! 16-bit pairs serves eight rows. Lane j of each half block holds row (j mod 2) · 4 + j / 2 of it: splitting even from odd lanes, as the
//! 32-bit multiply does, then yields the rows in order.

use super::{Isa, operand::Operands};
use crate::{
    arith::clamp32,
    bounds::{GROUP, ROW_SHIFT_MIN},
    format::Q8Matrix,
};

/// Rows of a block.
const BLOCK: usize = 16;
/// Most positions of one tile: 12 accumulators of eight lanes, in 16 registers.
const TILE: usize = 6;
/// Positions that are multiplied with one block before the next block: their operands stay in the second-level cache.
const CHUNK: usize = 96;

/// A matrix packed for the kernels of this machine. Derived; never hashed.
#[derive(Debug, Clone)]
pub struct Packed {
    rows: usize,
    cols: usize,
    /// `[block][pair][lane][2]`.
    weights: Vec<i8>,
    /// `[block][group][lane]`.
    mantissas: Vec<i32>,
    /// t of each row, padded to whole blocks.
    shifts: Vec<u32>,
    /// Bias of each row, padded to whole blocks.
    bias: Vec<i32>,
}

/// The row of its block that a lane holds.
const fn row_of_lane(lane: usize) -> usize {
    let (half, lane) = (lane / 8, lane % 8);
    half * 8 + (lane % 2) * 4 + lane / 2
}

impl Packed {
    /// Packs a matrix. Rows beyond the last are zero.
    #[must_use]
    pub fn new(matrix: &Q8Matrix) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let (pairs, blocks, groups) = (cols.div_ceil(2), rows.div_ceil(BLOCK), matrix.groups());
        let mut packed = Self {
            rows,
            cols,
            weights: Vec::with_capacity(blocks * pairs * BLOCK * 2),
            mantissas: Vec::with_capacity(blocks * groups * BLOCK),
            shifts: matrix.shifts().iter().map(|&shift| u32::from(shift)).collect(),
            bias: matrix.bias().map_or_else(|| vec![0; rows], <[i32]>::to_vec),
        };
        packed.shifts.resize(blocks * BLOCK, u32::from(ROW_SHIFT_MIN));
        packed.bias.resize(blocks * BLOCK, 0);
        for block in 0..blocks {
            let lanes: [_; BLOCK] = std::array::from_fn(|lane| matrix.row(block * BLOCK + row_of_lane(lane)));
            for pair in 0..pairs {
                for row in &lanes {
                    let weight = |col: usize| row.and_then(|row| row.weights.get(col).copied()).unwrap_or(0);
                    packed.weights.extend([weight(2 * pair), weight(2 * pair + 1)]);
                }
            }
            for group in 0..groups {
                packed.mantissas.extend(lanes.iter().map(|row| row.map_or(1, |row| i32::from(row.mantissas[group]))));
            }
        }
        packed
    }

    /// Output rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of one block of weights.
    const fn block_bytes(&self) -> usize {
        self.cols.div_ceil(2) * BLOCK * 2
    }

    fn block(&self, block: usize) -> Block<'_> {
        let (bytes, lanes) = (self.block_bytes(), self.cols.div_ceil(GROUP) * BLOCK);
        Block {
            weights: &self.weights[block * bytes..(block + 1) * bytes],
            mantissas: &self.mantissas[block * lanes..(block + 1) * lanes],
            shifts: &self.shifts[block * BLOCK..(block + 1) * BLOCK],
            bias: &self.bias[block * BLOCK..(block + 1) * BLOCK],
        }
    }
}

/// 16 rows of a packed matrix.
#[derive(Clone, Copy)]
struct Block<'a> {
    weights: &'a [i8],
    mantissas: &'a [i32],
    shifts: &'a [u32],
    bias: &'a [i32],
}

/// Products of the matrix with every operand, row-major: one row of `matrix.rows()` int32 in Q14 per operand.
///
/// # Panics
/// If the operands do not have as many elements as the matrix has columns.
#[must_use]
pub fn linear(isa: Isa, matrix: &Packed, x: &Operands) -> Vec<i32> {
    assert_eq!(x.cols, matrix.cols, "an operand has as many elements as the matrix has columns");
    let mut out = vec![0; x.rows() * matrix.rows];
    for first in (0..x.rows()).step_by(CHUNK) {
        let chunk = first..x.rows().min(first + CHUNK);
        // Tiles of nearly equal size: 20 positions are four fives, not three sixes and a two.
        let tiles = chunk.len().div_ceil(TILE);
        for block in 0..matrix.rows.div_ceil(BLOCK) {
            let panel = matrix.block(block);
            for tile in 0..tiles {
                let start = chunk.start + chunk.len() * tile / tiles;
                let end = chunk.start + chunk.len() * (tile + 1) / tiles;
                let sink = Sink { out: &mut out, rows: matrix.rows, first_row: block * BLOCK };
                match end - start {
                    1 => run_tile::<1>(isa, panel, x, start, sink),
                    2 => run_tile::<2>(isa, panel, x, start, sink),
                    3 => run_tile::<3>(isa, panel, x, start, sink),
                    4 => run_tile::<4>(isa, panel, x, start, sink),
                    5 => run_tile::<5>(isa, panel, x, start, sink),
                    _ => run_tile::<6>(isa, panel, x, start, sink),
                }
            }
        }
    }
    out
}

/// Where the results of a block go.
struct Sink<'a> {
    out: &'a mut [i32],
    rows: usize,
    first_row: usize,
}

impl Sink<'_> {
    /// `clamp32(rs(sum, t - s) + bias)` for the 16 rows of a block, in order; rows beyond the last are dropped.
    #[inline(always)]
    fn write(&mut self, position: usize, sums: &[i64; BLOCK], block: Block<'_>, shift: u32) {
        let mut finished = [0; BLOCK];
        for (slot, ((&sum, &t), &bias)) in finished.iter_mut().zip(sums.iter().zip(block.shifts).zip(block.bias)) {
            // 1 <= n <= 62.
            let n = t.wrapping_sub(shift) & 63;
            let rounded = sum.wrapping_add(1 << (n.wrapping_sub(1) & 63)) >> n;
            *slot = clamp32(rounded.wrapping_add(i64::from(bias)));
        }
        let real = (self.rows - self.first_row).min(BLOCK);
        let at = position * self.rows + self.first_row;
        self.out[at..at + real].copy_from_slice(&finished[..real]);
    }
}

fn run_tile<const N: usize>(isa: Isa, block: Block<'_>, x: &Operands, start: usize, sink: Sink<'_>) {
    match isa {
        Isa::Portable => tile_portable::<N>(block, x, start, sink),
        // SAFETY: a value of `Avx2` exists only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) | Isa::Avx512(_) => unsafe { avx2::tile::<N>(block, x, start, sink) },
    }
}

/// The tile in plain Rust: the same sums in the same layout. Weights become int16 once per tile.
fn tile_portable<const N: usize>(block: Block<'_>, x: &Operands, start: usize, mut sink: Sink<'_>) {
    let mut sums = [[0i64; BLOCK]; N];
    let groups = block.weights.chunks(GROUP * BLOCK).zip(block.mantissas.as_chunks::<BLOCK>().0);
    for (group, (weights, mantissas)) in groups.enumerate() {
        let weights = weights.as_chunks::<{ 2 * BLOCK }>().0;
        let mut operands: [&[[i16; 2]]; N] = [&[]; N];
        for (position, row) in operands.iter_mut().enumerate() {
            *row = &x.row(start + position).as_chunks::<2>().0[group * (GROUP / 2)..][..weights.len()];
        }
        let mut lanes = [[0i32; BLOCK]; N];
        for (pair, weights) in weights.iter().enumerate() {
            let wide: [i16; 2 * BLOCK] = weights.map(i16::from);
            for (lanes, row) in lanes.iter_mut().zip(&operands) {
                let x = row[pair];
                for (lane, w) in lanes.iter_mut().zip(wide.as_chunks::<2>().0) {
                    let product = |at: usize| i32::from(w[at]).wrapping_mul(i32::from(x[at]));
                    *lane = lane.wrapping_add(product(0).wrapping_add(product(1)));
                }
            }
        }
        for (sums, lanes) in sums.iter_mut().zip(&lanes) {
            for (lane, (&sum, &mantissa)) in lanes.iter().zip(mantissas).enumerate() {
                let row = row_of_lane(lane);
                sums[row] = sums[row].wrapping_add(i64::from(sum).wrapping_mul(i64::from(mantissa)));
            }
        }
    }
    for (position, sums) in sums.iter().enumerate() {
        sink.write(start + position, sums, block, x.shifts[start + position]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_add_epi64, _mm256_cvtepi8_epi16, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_mul_epi32, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256,
    };

    use super::{BLOCK, Block, GROUP, Operands, Sink};

    /// One block of 16 rows times N positions. 2N accumulators of eight int32 live in registers through a group; at its end they
    /// are multiplied by the mantissas into int64.
    #[target_feature(enable = "avx2")]
    pub(super) fn tile<const N: usize>(block: Block<'_>, x: &Operands, start: usize, mut sink: Sink<'_>) {
        let mut rows: [&[[i16; 2]]; N] = [&[]; N];
        for (position, row) in rows.iter_mut().enumerate() {
            *row = x.row(start + position).as_chunks::<2>().0;
        }
        let zero = _mm256_setzero_si256();
        let mut sums = [[zero; 4]; N];
        let groups = block.weights.chunks(GROUP * BLOCK).zip(block.mantissas.as_chunks::<BLOCK>().0);
        for (group, (weights, mantissas)) in groups.enumerate() {
            let weights = weights.as_chunks::<{ 2 * BLOCK }>().0;
            let mut operands = rows;
            for row in &mut operands {
                *row = &row[group * (GROUP / 2)..][..weights.len()];
            }
            let mut low = [zero; N];
            let mut high = [zero; N];
            for (pair, w) in weights.iter().enumerate() {
                let [w_low, w_high] = widen(w);
                for position in 0..N {
                    let both = broadcast(operands[position][pair]);
                    low[position] = _mm256_add_epi32(low[position], _mm256_madd_epi16(w_low, both));
                    high[position] = _mm256_add_epi32(high[position], _mm256_madd_epi16(w_high, both));
                }
            }
            let [m_low, m_high] = load(mantissas);
            for position in 0..N {
                let products =
                    [even(low[position], m_low), odd(low[position], m_low), even(high[position], m_high), odd(high[position], m_high)];
                for (sum, product) in sums[position].iter_mut().zip(products) {
                    *sum = _mm256_add_epi64(*sum, product);
                }
            }
        }
        for (position, sums) in sums.iter().enumerate() {
            sink.write(start + position, &store(sums), block, x.shifts[start + position]);
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn widen(w: &[i8; 2 * BLOCK]) -> [__m256i; 2] {
        let at = w.as_ptr().cast::<__m128i>();
        // SAFETY: 32 bytes are readable at `w`; the loads need no alignment.
        let [low, high] = unsafe { [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))] };
        [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)]
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load(lanes: &[i32; BLOCK]) -> [__m256i; 2] {
        let at = lanes.as_ptr().cast::<__m256i>();
        // SAFETY: 64 bytes are readable at `lanes`; the loads need no alignment.
        unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn store(sums: &[__m256i; 4]) -> [i64; BLOCK] {
        let mut out = [0i64; BLOCK];
        let at = out.as_mut_ptr().cast::<__m256i>();
        for (four, &sum) in sums.iter().enumerate() {
            // SAFETY: `out` holds four times 32 bytes; the stores need no alignment.
            unsafe { _mm256_storeu_si256(at.add(four), sum) };
        }
        out
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn broadcast(pair: [i16; 2]) -> __m256i {
        let [a, b] = pair.map(i16::to_le_bytes);
        _mm256_set1_epi32(i32::from_le_bytes([a[0], a[1], b[0], b[1]]))
    }

    /// Products of the even 32-bit lanes: rows 0 to 3 of the half block.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn even(a: __m256i, b: __m256i) -> __m256i {
        _mm256_mul_epi32(a, b)
    }

    /// Products of the odd 32-bit lanes: rows 4 to 7 of the half block.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn odd(a: __m256i, b: __m256i) -> __m256i {
        _mm256_mul_epi32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b))
    }
}
