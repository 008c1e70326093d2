//! The tensors of an encoder in their order (EXACT.md, section 3).

use crate::{
    header::{self, Header, flag},
    layout::{LayerTensor, TensorName, TensorShape, TensorSpec, WeightsError},
};

/// A layer's tensors in their order.
pub(super) const LAYER: [LayerTensor; 10] = [
    LayerTensor::Query,
    LayerTensor::Key,
    LayerTensor::Value,
    LayerTensor::Output,
    LayerTensor::AttentionGain,
    LayerTensor::AttentionBias,
    LayerTensor::Up,
    LayerTensor::Down,
    LayerTensor::FfnGain,
    LayerTensor::FfnBias,
];

/// The tensor list of an encoder with this header.
pub(crate) fn specs(header: &Header) -> Result<Vec<TensorSpec>, WeightsError> {
    header.validate()?;
    supported(header)?;
    let [vocabulary, dim, heads, kv_heads, head_dim, ffn, context, layers, types] = [
        header.vocabulary,
        header.dim,
        header.heads,
        header.kv_heads,
        header.head_dim,
        header.ffn,
        header.context,
        header.layers,
        header.token_types,
    ]
    .map(|n| n as usize);
    let matrix = |rows, cols, bias| TensorShape::Matrix { rows, cols, bias };
    let vector = TensorShape::Vector { len: dim };
    let [qkv_bias, output_bias] = [flag::QKV_BIAS, flag::OUTPUT_BIAS].map(|bit| header.has(bit));

    let mut specs = Vec::with_capacity(6 + layers * LAYER.len());
    let mut push = |name, shape| specs.push(TensorSpec { name, shape });
    push(TensorName::Words, matrix(vocabulary, dim, false));
    push(TensorName::Positions, TensorShape::Table { rows: context, width: dim });
    if types > 0 {
        push(TensorName::TokenTypes, TensorShape::Table { rows: types, width: dim });
    }
    push(TensorName::EmbeddingGain, vector);
    push(TensorName::EmbeddingBias, vector);
    for layer in 0..header.layers {
        let mut push = |tensor, shape| push(TensorName::Layer(layer, tensor), shape);
        push(LayerTensor::Query, matrix(heads * head_dim, dim, qkv_bias));
        push(LayerTensor::Key, matrix(kv_heads * head_dim, dim, qkv_bias));
        push(LayerTensor::Value, matrix(kv_heads * head_dim, dim, qkv_bias));
        push(LayerTensor::Output, matrix(dim, heads * head_dim, output_bias));
        push(LayerTensor::AttentionGain, vector);
        push(LayerTensor::AttentionBias, vector);
        push(LayerTensor::Up, matrix(ffn, dim, output_bias));
        push(LayerTensor::Down, matrix(dim, ffn, output_bias));
        push(LayerTensor::FfnGain, vector);
        push(LayerTensor::FfnBias, vector);
    }
    push(TensorName::ValueShifts, TensorShape::Table { rows: layers, width: kv_heads });
    Ok(specs)
}

/// What this release can run: the BERT encoder. Other legal headers are refused here, by field.
fn supported(header: &Header) -> Result<(), WeightsError> {
    let only = |field, value: u32, implemented: u32, supported| {
        let family = "an encoder";
        if value == implemented { Ok(()) } else { Err(WeightsError::Unsupported { family, field, value, supported }) }
    };
    only("family", header.family, header::FAMILY_ENCODER, "1 (BERT)")?;
    only("norm", header.norm, header::NORM_LAYER, "1 (LayerNorm)")?;
    only("activation", header.activation, header::ACTIVATION_GELU_ERF, "1 (GELU, erf)")?;
    let shape = flag::GATED_FFN | flag::POST_NORM | flag::LEARNED_POSITIONS;
    let bert = flag::POST_NORM | flag::LEARNED_POSITIONS;
    only("flags (bits 0, 5 and 7)", header.flags & shape, bert, "0xa0 (bits 5 and 7)")
}
