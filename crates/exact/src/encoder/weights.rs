//! The weights of an encoder by name, and as the flat list that is hashed and stored.

use super::layout::{LAYER, specs};
use crate::{
    format::{Q8Matrix, TableI32, VectorI32},
    header::Header,
    layout::{self, Reader, Tensor, TensorName, TensorRef, WeightsError},
};

/// A norm's parameters, one element per channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Norm {
    /// Factor per channel, Q14.
    pub gain: VectorI32,
    /// Offset per channel, Q14.
    pub bias: VectorI32,
}

/// One layer of an encoder. K of each product in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerWeights {
    /// Query product (dim).
    pub query: Q8Matrix,
    /// Key product (dim).
    pub key: Q8Matrix,
    /// Value product (dim).
    pub value: Q8Matrix,
    /// Output product of attention (heads · head dim).
    pub output: Q8Matrix,
    /// Norm behind attention's residual add.
    pub attention_norm: Norm,
    /// First product of the ffn (dim).
    pub up: Q8Matrix,
    /// Second product of the ffn (ffn).
    pub down: Q8Matrix,
    /// Norm behind the ffn's residual add.
    pub ffn_norm: Norm,
}

/// All weights of an encoder. The parts are well formed each; [`EncoderWeights::check`] says whether they fit a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderWeights {
    /// Word embedding, one row per id.
    pub words: Q8Matrix,
    /// Position embedding in Q14, one row per position of the context.
    pub positions: TableI32,
    /// Token type embedding in Q14, if the model has one; row 0 is added at every position.
    pub token_types: Option<TableI32>,
    /// Norm behind the embedding.
    pub embedding_norm: Norm,
    /// The layers in order.
    pub layers: Vec<LayerWeights>,
    /// Static shift of the values, 0 to 16: one row per layer, one element per kv head.
    pub value_shifts: TableI32,
}

impl Norm {
    fn tensors(&self) -> [TensorRef<'_>; 2] {
        [TensorRef::Vector(&self.gain), TensorRef::Vector(&self.bias)]
    }
}

impl LayerWeights {
    /// In the order of [`LAYER`].
    fn tensors(&self) -> [TensorRef<'_>; 10] {
        let [attention_gain, attention_bias] = self.attention_norm.tensors();
        let [ffn_gain, ffn_bias] = self.ffn_norm.tensors();
        let [query, key, value, output] = [&self.query, &self.key, &self.value, &self.output].map(TensorRef::Matrix);
        let [up, down] = [&self.up, &self.down].map(TensorRef::Matrix);
        [query, key, value, output, attention_gain, attention_bias, up, down, ffn_gain, ffn_bias]
    }
}

impl EncoderWeights {
    /// Every tensor with its name, in the order that is hashed and stored.
    pub fn tensors(&self) -> impl Iterator<Item = (TensorName, TensorRef<'_>)> {
        let [gain, bias] = self.embedding_norm.tensors();
        let before = [(TensorName::Words, TensorRef::Matrix(&self.words)), (TensorName::Positions, TensorRef::Table(&self.positions))];
        let types = self.token_types.iter().map(|types| (TensorName::TokenTypes, TensorRef::Table(types)));
        let norm = [(TensorName::EmbeddingGain, gain), (TensorName::EmbeddingBias, bias)];
        let layers = (0u32..).zip(&self.layers).flat_map(|(layer, weights)| {
            LAYER.into_iter().zip(weights.tensors()).map(move |(name, tensor)| (TensorName::Layer(layer, name), tensor))
        });
        let last = [(TensorName::ValueShifts, TensorRef::Table(&self.value_shifts))];
        before.into_iter().chain(types).chain(norm).chain(layers).chain(last)
    }

    /// Builds the weights from tensors in the order of [`tensor_specs`](crate::layout::tensor_specs), checking each against the header.
    ///
    /// # Errors
    /// The header is invalid or unsupported, a tensor is missing, left over, or of another kind or size, or a value shift is out of bounds.
    pub fn from_tensors(header: &Header, tensors: impl IntoIterator<Item = Tensor>) -> Result<Self, WeightsError> {
        let mut reader = Reader::new(specs(header)?, tensors);
        let words = reader.matrix()?;
        let positions = reader.table()?;
        let token_types = if header.token_types > 0 { Some(reader.table()?) } else { None };
        let embedding_norm = norm(&mut reader)?;
        let layers = (0..header.layers).map(|_| layer(&mut reader)).collect::<Result<_, _>>()?;
        let value_shifts = reader.table()?;
        reader.finish()?;
        layout::check_value_shifts(&value_shifts)?;
        Ok(Self { words, positions, token_types, embedding_norm, layers, value_shifts })
    }

    /// Checks that every tensor has the kind and size that the header asks for, and that the value shifts are within bounds.
    ///
    /// # Errors
    /// As [`EncoderWeights::from_tensors`].
    pub fn check(&self, header: &Header) -> Result<(), WeightsError> {
        layout::check(specs(header)?, self.tensors())?;
        layout::check_value_shifts(&self.value_shifts)
    }
}

fn norm<T: Iterator<Item = Tensor>>(reader: &mut Reader<T>) -> Result<Norm, WeightsError> {
    Ok(Norm { gain: reader.vector()?, bias: reader.vector()? })
}

fn layer<T: Iterator<Item = Tensor>>(reader: &mut Reader<T>) -> Result<LayerWeights, WeightsError> {
    Ok(LayerWeights {
        query: reader.matrix()?,
        key: reader.matrix()?,
        value: reader.matrix()?,
        output: reader.matrix()?,
        attention_norm: norm(reader)?,
        up: reader.matrix()?,
        down: reader.matrix()?,
        ffn_norm: norm(reader)?,
    })
}
