//! The tensors of a decoder in their order (EXACT.md, section 3).

use crate::{
    header::{self, Header, flag},
    layout::{LayerTensor, TensorName, TensorShape, TensorSpec, WeightsError},
};

/// The tensor list of a decoder with this header.
pub(crate) fn specs(header: &Header) -> Result<Vec<TensorSpec>, WeightsError> {
    header.validate()?;
    supported(header)?;
    let [vocabulary, dim, heads, kv_heads, head_dim, ffn, context, layers, rotary] = [
        header.vocabulary,
        header.dim,
        header.heads,
        header.kv_heads,
        header.head_dim,
        header.ffn,
        header.context,
        header.layers,
        header.rotary_dims,
    ]
    .map(|n| n as usize);
    let matrix = |rows, cols, bias| TensorShape::Matrix { rows, cols, bias };
    let (vector, head) = (TensorShape::Vector { len: dim }, TensorShape::Vector { len: head_dim });
    let [qkv_bias, output_bias] = [flag::QKV_BIAS, flag::OUTPUT_BIAS].map(|bit| header.has(bit));

    let mut specs = Vec::with_capacity(6 + 11 * layers);
    let mut push = |name, shape| specs.push(TensorSpec { name, shape });
    push(TensorName::Words, matrix(vocabulary, dim, false));
    if rotary > 0 {
        let table = TensorShape::Table { rows: context, width: rotary / 2 };
        push(TensorName::RotaryCos, table);
        push(TensorName::RotarySin, table);
    }
    for layer in 0..header.layers {
        let mut push = |tensor, shape| push(TensorName::Layer(layer, tensor), shape);
        push(LayerTensor::AttentionGain, vector);
        push(LayerTensor::Query, matrix(heads * head_dim, dim, qkv_bias));
        push(LayerTensor::Key, matrix(kv_heads * head_dim, dim, qkv_bias));
        push(LayerTensor::Value, matrix(kv_heads * head_dim, dim, qkv_bias));
        if header.has(flag::QK_NORM) {
            push(LayerTensor::QueryGain, head);
            push(LayerTensor::KeyGain, head);
        }
        push(LayerTensor::Output, matrix(dim, heads * head_dim, output_bias));
        push(LayerTensor::FfnGain, vector);
        push(LayerTensor::Gate, matrix(ffn, dim, output_bias));
        push(LayerTensor::Up, matrix(ffn, dim, output_bias));
        push(LayerTensor::Down, matrix(dim, ffn, output_bias));
    }
    push(TensorName::FinalGain, vector);
    if !header.has(flag::TIED_HEAD) {
        push(TensorName::Head, matrix(vocabulary, dim, false));
    }
    push(TensorName::ValueShifts, TensorShape::Table { rows: layers, width: kv_heads });
    Ok(specs)
}

/// What this release can run: RMSNorm before attention and before a gated ffn, causal attention, rotations or no positions at all.
/// Other legal headers are refused here, by field.
fn supported(header: &Header) -> Result<(), WeightsError> {
    let only = |field, value: u32, implemented: u32, supported| {
        let family = "a decoder";
        if value == implemented { Ok(()) } else { Err(WeightsError::Unsupported { family, field, value, supported }) }
    };
    only("family", header.family, header::FAMILY_DECODER, "2 (Llama)")?;
    only("norm", header.norm, header::NORM_RMS, "2 (RMSNorm)")?;
    let shape = flag::GATED_FFN | flag::POST_NORM | flag::CAUSAL | flag::LEARNED_POSITIONS;
    only("flags (bits 0, 5, 6 and 7)", header.flags & shape, flag::GATED_FFN | flag::CAUSAL, "0x41 (bits 0 and 6)")
}
