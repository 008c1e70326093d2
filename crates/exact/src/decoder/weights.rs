//! The weights of a decoder by name, and as the flat list that is hashed and stored.

use super::layout::specs;
use crate::{
    format::{Q8Matrix, TableI32, VectorI32},
    header::{Header, flag},
    layout::{self, LayerTensor, Reader, Tensor, TensorName, TensorRef, WeightsError},
};

/// The rotation of queries and keys: rows of rotary dims / 2, one per position of the context, Q30. Element i turns dims i and
/// i + rotary dims / 2 of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotary {
    /// Cosines.
    pub cos: TableI32,
    /// Sines.
    pub sin: TableI32,
}

/// Gains of the norms of single heads, head dim elements each, Q14.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadNorms {
    /// For queries.
    pub query: VectorI32,
    /// For keys.
    pub key: VectorI32,
}

/// One layer of a decoder. K of each product in brackets; gains are Q14.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerWeights {
    /// Norm before attention.
    pub attention_gain: VectorI32,
    /// Query product (dim).
    pub query: Q8Matrix,
    /// Key product (dim).
    pub key: Q8Matrix,
    /// Value product (dim).
    pub value: Q8Matrix,
    /// Norms of query and key heads, where the model has them.
    pub head_norms: Option<HeadNorms>,
    /// Output product of attention (heads · head dim).
    pub output: Q8Matrix,
    /// Norm before the ffn.
    pub ffn_gain: VectorI32,
    /// Product whose activation gates the ffn (dim).
    pub gate: Q8Matrix,
    /// First product of the ffn (dim).
    pub up: Q8Matrix,
    /// Second product of the ffn (ffn).
    pub down: Q8Matrix,
}

/// All weights of a decoder. The parts are well formed each; [`DecoderWeights::check`] says whether they fit a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderWeights {
    /// Word embedding, one row per id; also the head of a model without one.
    pub words: Q8Matrix,
    /// Rotation of queries and keys; none if the header's rotary dims are 0.
    pub rotary: Option<Rotary>,
    /// The layers in order.
    pub layers: Vec<LayerWeights>,
    /// Norm behind the last layer, Q14.
    pub final_gain: VectorI32,
    /// Product that makes logits (dim); none if it is `words`.
    pub head: Option<Q8Matrix>,
    /// Static shift of the values, 0 to 16: one row per layer, one element per kv head.
    pub value_shifts: TableI32,
}

impl LayerWeights {
    fn tensors(&self) -> impl Iterator<Item = (LayerTensor, TensorRef<'_>)> {
        let (matrix, vector) = (TensorRef::Matrix, TensorRef::Vector);
        let first = [
            (LayerTensor::AttentionGain, vector(&self.attention_gain)),
            (LayerTensor::Query, matrix(&self.query)),
            (LayerTensor::Key, matrix(&self.key)),
            (LayerTensor::Value, matrix(&self.value)),
        ];
        let norms = self.head_norms.iter();
        let norms = norms.flat_map(move |n| [(LayerTensor::QueryGain, vector(&n.query)), (LayerTensor::KeyGain, vector(&n.key))]);
        let last = [
            (LayerTensor::Output, matrix(&self.output)),
            (LayerTensor::FfnGain, vector(&self.ffn_gain)),
            (LayerTensor::Gate, matrix(&self.gate)),
            (LayerTensor::Up, matrix(&self.up)),
            (LayerTensor::Down, matrix(&self.down)),
        ];
        first.into_iter().chain(norms).chain(last)
    }
}

impl DecoderWeights {
    /// The product that makes logits: the head, or the words where the header ties them.
    #[must_use]
    pub fn logits(&self) -> &Q8Matrix {
        self.head.as_ref().unwrap_or(&self.words)
    }

    /// Every tensor with its name, in the order that is hashed and stored.
    pub fn tensors(&self) -> impl Iterator<Item = (TensorName, TensorRef<'_>)> {
        let words = [(TensorName::Words, TensorRef::Matrix(&self.words))];
        let rotary = self.rotary.iter();
        let rotary =
            rotary.flat_map(|r| [(TensorName::RotaryCos, TensorRef::Table(&r.cos)), (TensorName::RotarySin, TensorRef::Table(&r.sin))]);
        let layers = (0u32..).zip(&self.layers);
        let layers =
            layers.flat_map(|(layer, weights)| weights.tensors().map(move |(name, tensor)| (TensorName::Layer(layer, name), tensor)));
        let last = [(TensorName::FinalGain, TensorRef::Vector(&self.final_gain))];
        let head = self.head.iter().map(|head| (TensorName::Head, TensorRef::Matrix(head)));
        let shifts = [(TensorName::ValueShifts, TensorRef::Table(&self.value_shifts))];
        words.into_iter().chain(rotary).chain(layers).chain(last).chain(head).chain(shifts)
    }

    /// Builds the weights from tensors in the order of [`tensor_specs`](crate::layout::tensor_specs), checking each against the header.
    ///
    /// # Errors
    /// The header is invalid or unsupported, a tensor is missing, left over, or of another kind or size, or a value shift is out of bounds.
    pub fn from_tensors(header: &Header, tensors: impl IntoIterator<Item = Tensor>) -> Result<Self, WeightsError> {
        let mut reader = Reader::new(specs(header)?, tensors);
        let words = reader.matrix()?;
        let rotary = if header.rotary_dims > 0 { Some(Rotary { cos: reader.table()?, sin: reader.table()? }) } else { None };
        let layers = (0..header.layers).map(|_| layer(header, &mut reader)).collect::<Result<_, _>>()?;
        let final_gain = reader.vector()?;
        let head = if header.has(flag::TIED_HEAD) { None } else { Some(reader.matrix()?) };
        let value_shifts = reader.table()?;
        reader.finish()?;
        layout::check_value_shifts(&value_shifts)?;
        Ok(Self { words, rotary, layers, final_gain, head, value_shifts })
    }

    /// Checks that every tensor has the kind and size that the header asks for, and that the value shifts are within bounds.
    ///
    /// # Errors
    /// As [`DecoderWeights::from_tensors`].
    pub fn check(&self, header: &Header) -> Result<(), WeightsError> {
        layout::check(specs(header)?, self.tensors())?;
        layout::check_value_shifts(&self.value_shifts)
    }
}

fn layer<T: Iterator<Item = Tensor>>(header: &Header, reader: &mut Reader<T>) -> Result<LayerWeights, WeightsError> {
    Ok(LayerWeights {
        attention_gain: reader.vector()?,
        query: reader.matrix()?,
        key: reader.matrix()?,
        value: reader.matrix()?,
        head_norms: if header.has(flag::QK_NORM) { Some(HeadNorms { query: reader.vector()?, key: reader.vector()? }) } else { None },
        output: reader.matrix()?,
        ffn_gain: reader.vector()?,
        gate: reader.matrix()?,
        up: reader.matrix()?,
        down: reader.matrix()?,
    })
}
