//! The only calls of this module into the kernels, one per op: what a faster kernel replaces.

use super::Rotary;
use crate::{
    format::VectorI32,
    header::Header,
    kernels::{self, AttentionScratch, Operands, Packed, Pool, Reach, Sequence},
    reference::{self, Attention},
};

/// Ops over rows of one step, on one pool.
pub(super) struct Compute<'a> {
    pub(super) pool: &'a Pool,
    pub(super) header: &'a Header,
}

impl Compute<'_> {
    /// The words' rows of these ids, which are below the vocabulary.
    pub(super) fn embed(&self, words: &Packed, ids: &[u32], out: &mut [i32]) {
        let width = words.cols();
        kernels::each_piece(self.pool, out, width, |first, rows| {
            for (row, &id) in rows.chunks_exact_mut(width).zip(&ids[first..]) {
                words.embed_word(id as usize, self.header.embedding_scale, row);
            }
        });
    }

    /// RMSNorm of each row of the gain's length, in place.
    pub(super) fn norm(&self, rows: &mut [i32], epsilon: u64, gain: &[i32]) {
        kernels::each_piece(self.pool, rows, gain.len(), |_, rows| kernels::rms_norm(self.pool.isa(), rows, epsilon, gain));
    }

    /// Products of several matrices with the operands of the same rows, each into its own rows.
    pub(super) fn products<const N: usize>(&self, operands: &mut Operands, rows: &[i32], products: [(&Packed, &mut Vec<i32>); N]) {
        let Some(cols) = products.first().map(|(matrix, _)| matrix.cols()) else { return };
        operands.fill(self.pool, rows, cols);
        let count = rows.len() / cols;
        let mut products = products.map(|(matrix, out)| {
            out.resize(count * matrix.rows(), 0);
            (matrix, out.as_mut_slice())
        });
        kernels::linear_into(self.pool, &mut products, operands);
    }

    /// Norm of each head, where the layer has one, and rotation. `positions` has one element per row of `heads` heads.
    pub(super) fn turn(&self, rows: &mut [i32], heads: u32, gain: Option<&VectorI32>, rotary: Option<&Rotary>, positions: &[u32]) {
        let head_dim = self.header.head_dim as usize;
        let epsilon = reference::head_epsilon(self.header.epsilon, self.header.head_dim, self.header.dim);
        let width = heads as usize * head_dim;
        kernels::each_piece(self.pool, rows, width, |first, rows| {
            if let Some(gain) = gain {
                kernels::rms_norm(self.pool.isa(), rows, epsilon, gain.as_slice());
            }
            let Some(rotary) = rotary else { return };
            for (row, &position) in rows.chunks_exact_mut(width).zip(&positions[first..]) {
                if let Some((cos, sin)) = rotary.cos.row(position as usize).zip(rotary.sin.row(position as usize)) {
                    kernels::rotate(self.pool.isa(), row, head_dim, cos, sin);
                }
            }
        });
    }

    /// Causal attention of the sequences' rows to their caches.
    pub(super) fn attend(
        &self,
        sequences: &[Sequence<'_>],
        value_shifts: &[i32],
        q: &[i32],
        out: &mut [i32],
        scratch: &mut AttentionScratch,
    ) {
        let attention = Attention {
            heads: self.header.heads as usize,
            kv_heads: self.header.kv_heads as usize,
            head_dim: self.header.head_dim as usize,
            score_scale: self.header.score_scale,
            value_shifts,
        };
        let reach = Reach::Causal { window: self.header.window as usize };
        kernels::attend(self.pool, &attention, reach, sequences, q, out, scratch);
    }

    /// Activation of the gate times up, into `gate`.
    pub(super) fn gate(&self, gate: &mut [i32], up: &[i32]) {
        kernels::each_piece(self.pool, gate, 1, |first, gate| {
            kernels::gate(self.pool.isa(), self.header.activation, gate, &up[first..first + gate.len()]);
        });
    }

    /// Residual add, into `x`.
    pub(super) fn add(&self, x: &mut [i32], y: &[i32]) {
        kernels::each_piece(self.pool, x, 1, |first, x| kernels::add(self.pool.isa(), x, &y[first..]));
    }
}
