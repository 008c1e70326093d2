//! Which tensors an encoder has, in the one order that is hashed and stored (EXACT.md, section 3).

use std::fmt;

use super::EncoderError;
use crate::header::{self, Header, flag};

/// A tensor's place in an encoder. Its text is the tensor's name in packages and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorName {
    /// Word embedding, one row per id.
    Words,
    /// Position embedding, one row per position.
    Positions,
    /// Token type embedding.
    TokenTypes,
    /// Gain of the norm behind the embedding.
    EmbeddingGain,
    /// Bias of the norm behind the embedding.
    EmbeddingBias,
    /// A tensor of a layer; layers count from 0.
    Layer(u32, LayerTensor),
    /// Static shifts of values: one row per layer, one element per kv head.
    ValueShifts,
}

/// A tensor within a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerTensor {
    /// Query product.
    Query,
    /// Key product.
    Key,
    /// Value product.
    Value,
    /// Output product of attention.
    Output,
    /// Gain of the norm behind attention.
    AttentionGain,
    /// Bias of the norm behind attention.
    AttentionBias,
    /// First product of the ffn.
    Up,
    /// Second product of the ffn.
    Down,
    /// Gain of the norm behind the ffn.
    FfnGain,
    /// Bias of the norm behind the ffn.
    FfnBias,
}

impl LayerTensor {
    /// A layer's tensors in their order.
    pub const ALL: [Self; 10] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::AttentionGain,
        Self::AttentionBias,
        Self::Up,
        Self::Down,
        Self::FfnGain,
        Self::FfnBias,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Output => "output",
            Self::AttentionGain => "attention_norm.gain",
            Self::AttentionBias => "attention_norm.bias",
            Self::Up => "up",
            Self::Down => "down",
            Self::FfnGain => "ffn_norm.gain",
            Self::FfnBias => "ffn_norm.bias",
        }
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words => f.write_str("words"),
            Self::Positions => f.write_str("positions"),
            Self::TokenTypes => f.write_str("token_types"),
            Self::EmbeddingGain => f.write_str("embedding_norm.gain"),
            Self::EmbeddingBias => f.write_str("embedding_norm.bias"),
            Self::Layer(layer, tensor) => write!(f, "layers.{layer}.{}", tensor.name()),
            Self::ValueShifts => f.write_str("value_shifts"),
        }
    }
}

/// What a tensor must be: its kind and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorShape {
    /// A [`Q8Matrix`](crate::format::Q8Matrix).
    Matrix {
        /// Output rows.
        rows: usize,
        /// Columns, K.
        cols: usize,
        /// Whether it has a bias.
        bias: bool,
    },
    /// A [`TableI32`](crate::format::TableI32).
    Table {
        /// Rows.
        rows: usize,
        /// Elements of a row.
        width: usize,
    },
    /// A [`VectorI32`](crate::format::VectorI32).
    Vector {
        /// Elements.
        len: usize,
    },
}

impl fmt::Display for TensorShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matrix { rows, cols, bias: true } => write!(f, "a matrix of {rows} x {cols} with bias"),
            Self::Matrix { rows, cols, bias: false } => write!(f, "a matrix of {rows} x {cols} without bias"),
            Self::Table { rows, width } => write!(f, "an int32 table of {rows} x {width}"),
            Self::Vector { len } => write!(f, "an int32 vector of {len}"),
        }
    }
}

/// One line of an encoder's tensor list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    /// Which tensor.
    pub name: TensorName,
    /// What it must be.
    pub shape: TensorShape,
}

/// The tensor list of an encoder with this header, in the order that is hashed and stored.
///
/// # Errors
/// The header is invalid, or names an encoder that this release cannot run.
pub fn tensor_specs(header: &Header) -> Result<Vec<TensorSpec>, EncoderError> {
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

    let mut specs = Vec::with_capacity(6 + layers * LayerTensor::ALL.len());
    let mut push = |name, shape| specs.push(TensorSpec { name, shape });
    push(TensorName::Words, matrix(vocabulary, dim, false));
    push(TensorName::Positions, TensorShape::Table { rows: context, width: dim });
    if types > 0 {
        push(TensorName::TokenTypes, TensorShape::Table { rows: types, width: dim });
    }
    push(TensorName::EmbeddingGain, vector);
    push(TensorName::EmbeddingBias, vector);
    for layer in 0..header.layers {
        for tensor in LayerTensor::ALL {
            let shape = match tensor {
                LayerTensor::Query => matrix(heads * head_dim, dim, qkv_bias),
                LayerTensor::Key | LayerTensor::Value => matrix(kv_heads * head_dim, dim, qkv_bias),
                LayerTensor::Output => matrix(dim, heads * head_dim, output_bias),
                LayerTensor::Up => matrix(ffn, dim, output_bias),
                LayerTensor::Down => matrix(dim, ffn, output_bias),
                LayerTensor::AttentionGain | LayerTensor::AttentionBias | LayerTensor::FfnGain | LayerTensor::FfnBias => vector,
            };
            push(TensorName::Layer(layer, tensor), shape);
        }
    }
    push(TensorName::ValueShifts, TensorShape::Table { rows: layers, width: kv_heads });
    Ok(specs)
}

/// What this release can run: the BERT encoder. Other legal headers are refused here, by field.
fn supported(header: &Header) -> Result<(), EncoderError> {
    let only = |field, value: u32, supported: u32| {
        if value == supported { Ok(()) } else { Err(EncoderError::Unsupported { field, value, supported }) }
    };
    only("family", header.family, header::FAMILY_ENCODER)?;
    only("norm", header.norm, header::NORM_LAYER)?;
    only("activation", header.activation, header::ACTIVATION_GELU_ERF)?;
    let shape = flag::GATED_FFN | flag::POST_NORM | flag::LEARNED_POSITIONS;
    only("flags (bits 0, 5 and 7)", header.flags & shape, flag::POST_NORM | flag::LEARNED_POSITIONS)
}
