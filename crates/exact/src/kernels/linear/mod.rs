//! Products of matrices and many operands; twin of [`reference::linear`](crate::reference::linear), whose widths hold here.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod portable;

pub use packed::{Packed, PackedError, PackedRow};

use std::ops::Range;

use packed::{BLOCK, Tail, View};

use super::{Isa, Operands, Pool, slots::Slots};
use crate::arith::clamp32;

/// Blocks of rows that stay on one thread: a multiple of the heights of tiles, for one position and for more.
const fn unit(positions: usize) -> usize {
    if positions == 1 { 2 } else { 12 }
}

/// Bytes of operands that are multiplied with all rows of a thread before the next: they stay in the second-level cache.
const CHUNK_BYTES: usize = 512 << 10;
/// Least positions of a chunk: weights come from memory once per chunk.
const CHUNK_MIN: usize = 64;

/// Products of the matrix with every operand, row-major: one row of `matrix.rows()` int32 in Q14 per operand.
///
/// # Panics
/// If the operands do not have as many elements as the matrix has columns, or are laid out for other instructions.
#[must_use]
pub fn linear(isa: Isa, matrix: &Packed, x: &Operands) -> Vec<i32> {
    let mut out = vec![0; x.rows() * matrix.rows()];
    linear_into(&Pool::single(isa), &mut [(matrix, &mut out)], x);
    out
}

/// As [`linear`], for several matrices that take the same operands, on all threads of a pool, into memory of the caller's.
///
/// # Panics
/// As [`linear`]; and if an output does not have one row per operand.
pub fn linear_into(pool: &Pool, products: &mut [(&Packed, &mut [i32])], x: &Operands) {
    /// More than any layer has; a caller with more gets them in turns.
    const MATRICES: usize = 4;
    assert!(x.fits(pool.isa()), "operands of {:?}, kernels of {:?}", x.isa(), pool.isa());
    for products in products.chunks_mut(MATRICES) {
        let unit = unit(x.rows());
        let mut jobs: [Option<Job<'_>>; MATRICES] = [const { None }; MATRICES];
        for (job, (matrix, out)) in jobs.iter_mut().zip(products) {
            assert_eq!(x.cols(), matrix.cols(), "an operand has as many elements as the matrix has columns");
            assert_eq!(out.len(), x.rows() * matrix.rows(), "a result has one row of {} for each of {} operands", matrix.rows(), x.rows());
            let view = matrix.view();
            *job = Some(Job { view, out: Slots::new(out), units: view.blocks().div_ceil(unit) });
        }
        let units: usize = jobs.iter().flatten().map(|job| job.units).sum();
        // Several parts per thread: one that was held up leaves the rest to the others.
        let parts = if pool.width() == 1 { 1 } else { units.min(4 * pool.width()) };
        pool.run(parts, |part| {
            let mut mine = units * part / parts..units * (part + 1) / parts;
            for job in jobs.iter().flatten() {
                let (first, last) = (mine.start.min(job.units), mine.end.min(job.units));
                job.run(pool.isa(), first * unit..job.view.blocks().min(last * unit), x);
                mine = mine.start.saturating_sub(job.units)..mine.end.saturating_sub(job.units);
            }
        });
    }
}

/// One matrix of a step.
struct Job<'a> {
    view: View<'a>,
    out: Slots<'a, i32>,
    units: usize,
}

impl Job<'_> {
    fn run(&self, isa: Isa, blocks: Range<usize>, x: &Operands) {
        if blocks.is_empty() {
            return;
        }
        let chunk = (CHUNK_BYTES / (2 * x.cols())).max(CHUNK_MIN);
        let panels = x.panels();
        let per_chunk = (chunk / x.panel_max()).max(1);
        for first in (0..panels).step_by(per_chunk) {
            let panels = first..panels.min(first + per_chunk);
            match isa {
                Isa::Portable => portable::run(self, blocks.clone(), x, panels),
                // SAFETY: a value of `Avx2` exists only on a machine that has the instructions.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2(_) => unsafe { avx2::run(self, blocks.clone(), x, panels) },
                // SAFETY: a value of `Amx` exists only on a machine that has these instructions and those of `Avx512`.
                #[cfg(target_arch = "x86_64")]
                Isa::Amx(amx) if x.in_tiles() => unsafe { amx::run(amx, self, blocks.clone(), x, panels) },
                // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::run(self, blocks.clone(), x, panels) },
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => neon::run(self, blocks.clone(), x, panels),
                // SAFETY: a value of `DotProd` exists only on a machine that has the instructions.
                #[cfg(target_arch = "aarch64")]
                Isa::DotProd(_) => unsafe { neon::run_dot_product(self, blocks.clone(), x, panels) },
            }
        }
    }

    /// Where the results of a block for one position go: up to 16, in order.
    #[expect(clippy::mut_from_ref, reason = "the output is shared by the parts of a step, each of which owns its piece")]
    fn results(&self, block: usize, position: usize) -> &mut [i32] {
        let (rows, first) = (self.view.rows, block * BLOCK);
        let at = position * rows + first;
        // SAFETY: blocks do not overlap, each belongs to one part of the step, and a part writes it once per position.
        unsafe { self.out.piece(at..at + (rows - first).min(BLOCK)) }
    }

    /// `clamp32(rs(sum, t - s) + bias)` for the 16 rows of a block, in order; rows beyond the last are dropped.
    #[inline(always)]
    fn finish(&self, block: usize, position: usize, sums: &[i64; BLOCK], shift: u32) {
        let tail: Tail<'_> = self.view.block_tail(block);
        for (lane, (slot, &sum)) in self.results(block, position).iter_mut().zip(sums).enumerate() {
            // 1 <= n <= 62.
            let n = u32::from(tail.shift(lane)).wrapping_sub(shift) & 63;
            let rounded = sum.wrapping_add(1 << (n.wrapping_sub(1) & 63)) >> n;
            *slot = clamp32(rounded.wrapping_add(i64::from(tail.bias(lane))));
        }
    }
}
