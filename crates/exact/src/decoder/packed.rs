//! A decoder's weights in the form in which this machine computes. Derived; never hashed.

use super::{HeadNorms, LayerWeights, Model, Rotary};
use crate::{
    format::{Q8Matrix, TableI32, VectorI32},
    kernels::Packed,
};

/// The weights of a decoder, its products packed for the kernels.
#[derive(Debug, Clone)]
pub(super) struct PackedWeights {
    /// Rows are looked up; as the head of a model without one it is packed in `head`.
    pub(super) words: Q8Matrix,
    pub(super) rotary: Option<Rotary>,
    pub(super) layers: Vec<PackedLayer>,
    pub(super) final_gain: VectorI32,
    pub(super) head: Packed,
    pub(super) value_shifts: TableI32,
}

#[derive(Debug, Clone)]
pub(super) struct PackedLayer {
    pub(super) attention_gain: VectorI32,
    pub(super) query: Packed,
    pub(super) key: Packed,
    pub(super) value: Packed,
    pub(super) head_norms: Option<HeadNorms>,
    pub(super) output: Packed,
    pub(super) ffn_gain: VectorI32,
    pub(super) gate: Packed,
    pub(super) up: Packed,
    pub(super) down: Packed,
}

impl PackedWeights {
    pub(super) fn new(model: &Model) -> Self {
        let weights = model.weights();
        Self {
            words: weights.words.clone(),
            rotary: weights.rotary.clone(),
            layers: weights.layers.iter().map(PackedLayer::new).collect(),
            final_gain: weights.final_gain.clone(),
            head: Packed::new(weights.logits()),
            value_shifts: weights.value_shifts.clone(),
        }
    }
}

impl PackedLayer {
    fn new(layer: &LayerWeights) -> Self {
        Self {
            attention_gain: layer.attention_gain.clone(),
            query: Packed::new(&layer.query),
            key: Packed::new(&layer.key),
            value: Packed::new(&layer.value),
            head_norms: layer.head_norms.clone(),
            output: Packed::new(&layer.output),
            ffn_gain: layer.ffn_gain.clone(),
            gate: Packed::new(&layer.gate),
            up: Packed::new(&layer.up),
            down: Packed::new(&layer.down),
        }
    }
}
