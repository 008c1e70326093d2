//! The product in plain Rust: the same sums in the same layout.

use std::ops::Range;

use super::{
    Job,
    packed::{BLOCK, GROUP_QUADS, MANTISSA_BYTES, QUAD, QUAD_BYTES},
};
use crate::kernels::Operands;

pub(super) fn run(job: &Job<'_>, blocks: Range<usize>, x: &Operands, panels: Range<usize>) {
    for block in blocks {
        for position in panels.clone().flat_map(|panel| x.panel(panel)) {
            let sums = block_sums(job, block, x.elements(position));
            job.finish(block, position, &sums, x.shift(position));
        }
    }
}

/// Σ m · Σ q · w of the 16 rows of a block.
fn block_sums(job: &Job<'_>, block: usize, x: &[i16]) -> [i64; BLOCK] {
    let mut sums = [0i64; BLOCK];
    let weights = job.view.block_weights(block).chunks(GROUP_QUADS * QUAD_BYTES);
    let mantissas = job.view.block_mantissas(block).as_chunks::<MANTISSA_BYTES>().0;
    for ((weights, x), mantissas) in weights.zip(x.chunks(GROUP_QUADS * QUAD)).zip(mantissas) {
        let mut group = [0i32; BLOCK];
        for (weights, x) in weights.as_chunks::<QUAD_BYTES>().0.iter().zip(x.as_chunks::<QUAD>().0) {
            for (sum, weights) in group.iter_mut().zip(weights.as_chunks::<QUAD>().0) {
                for (&w, &q) in weights.iter().zip(x) {
                    *sum = sum.wrapping_add(i32::from(i8::from_le_bytes([w])).wrapping_mul(i32::from(q)));
                }
            }
        }
        for ((sum, &group), m) in sums.iter_mut().zip(&group).zip(mantissas.as_chunks::<2>().0) {
            *sum = sum.wrapping_add(i64::from(group).wrapping_mul(i64::from(u16::from_le_bytes(*m))));
        }
    }
    sums
}
