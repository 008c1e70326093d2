//! The forward pass by kernels: the same ops in the same order as [`reference::forward`](crate::reference::forward).

use super::{Isa, Packed, bidirectional, gelu_erf, layer_norm, linear, to_operands};
use crate::{
    arith::clamp32,
    encoder::{EncoderWeights, LayerWeights, Output},
    format::TableI32,
    header::{Header, POOLING_FIRST},
    reference::{self, Attention},
};

/// The matrices of an encoder, packed for this machine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    isa: Isa,
    layers: Vec<PackedLayer>,
}

#[derive(Debug, Clone)]
struct PackedLayer {
    query: Packed,
    key: Packed,
    value: Packed,
    output: Packed,
    up: Packed,
    down: Packed,
}

impl PackedLayer {
    fn new(layer: &LayerWeights) -> Self {
        Self {
            query: Packed::new(&layer.query),
            key: Packed::new(&layer.key),
            value: Packed::new(&layer.value),
            output: Packed::new(&layer.output),
            up: Packed::new(&layer.up),
            down: Packed::new(&layer.down),
        }
    }
}

impl Engine {
    pub(crate) fn new(isa: Isa, weights: &EncoderWeights) -> Self {
        Self { isa, layers: weights.layers.iter().map(PackedLayer::new).collect() }
    }

    /// The ids must have passed [`Header::refuse`].
    pub(crate) fn forward(&self, header: &Header, weights: &EncoderWeights, ids: &[u32]) -> Output {
        let dim = header.dim as usize;
        let mut x = embed(weights, ids);
        layer_norm(self.isa, &mut x, header.epsilon, &weights.embedding_norm);
        for ((layer, packed), value_shifts) in weights.layers.iter().zip(&self.layers).zip(weights.value_shifts.iter_rows()) {
            let attention = Attention {
                heads: header.heads as usize,
                kv_heads: header.kv_heads as usize,
                head_dim: header.head_dim as usize,
                score_scale: header.score_scale,
                value_shifts,
            };
            let operands = to_operands(self.isa, &x, dim);
            let [q, k, v] = [&packed.query, &packed.key, &packed.value].map(|matrix| linear(self.isa, matrix, &operands));
            let mixed = bidirectional(self.isa, &attention, &q, &k, &v);
            add(&mut x, &self.project(&packed.output, &mixed, attention.heads * attention.head_dim));
            layer_norm(self.isa, &mut x, header.epsilon, &layer.attention_norm);
            let mut inner = self.project(&packed.up, &x, dim);
            gelu_erf(self.isa, &mut inner);
            add(&mut x, &self.project(&packed.down, &inner, packed.up.rows()));
            layer_norm(self.isa, &mut x, header.epsilon, &layer.ffn_norm);
        }
        let rows = TableI32::new(ids.len(), dim, x).unwrap_or_else(|error| unreachable!("{error}"));
        let vector = if header.pooling == POOLING_FIRST {
            reference::unit_length(&rows.row(0).unwrap_or_default().iter().map(|&x| i64::from(x)).collect::<Vec<_>>())
        } else {
            reference::unit_length(&reference::pool(&rows))
        };
        Output::computed(vector, rows)
    }

    fn project(&self, matrix: &Packed, rows: &[i32], cols: usize) -> Vec<i32> {
        linear(self.isa, matrix, &to_operands(self.isa, rows, cols))
    }
}

fn embed(weights: &EncoderWeights, ids: &[u32]) -> Vec<i32> {
    let token_type = weights.token_types.as_ref().and_then(|types| types.row(0));
    let positions = ids.iter().zip(weights.positions.iter_rows());
    let rows = positions.filter_map(|(&id, position)| Some(reference::embed(weights.words.row(id as usize)?, position, token_type)));
    rows.flatten().collect()
}

fn add(x: &mut [i32], y: &[i32]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x = clamp32(i64::from(*x).wrapping_add(i64::from(y)));
    }
}
