//! The weights of an encoder by name, and as the flat list that is hashed and stored.

use super::{
    EncoderError,
    layout::{LayerTensor, TensorName, TensorShape, TensorSpec, tensor_specs},
};
use crate::{
    bounds,
    format::{Q8Matrix, TableI32, VectorI32},
    header::Header,
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

/// A tensor, borrowed, as one leaf of the weights tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorRef<'a> {
    /// Quantised matrix.
    Matrix(&'a Q8Matrix),
    /// int32 table.
    Table(&'a TableI32),
    /// int32 vector.
    Vector(&'a VectorI32),
}

/// A tensor, owned, as it is read from a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tensor {
    /// Quantised matrix.
    Matrix(Q8Matrix),
    /// int32 table.
    Table(TableI32),
    /// int32 vector.
    Vector(VectorI32),
}

impl TensorRef<'_> {
    /// Kind and size.
    #[must_use]
    pub fn shape(&self) -> TensorShape {
        match self {
            Self::Matrix(matrix) => TensorShape::Matrix { rows: matrix.rows(), cols: matrix.cols(), bias: matrix.has_bias() },
            Self::Table(table) => TensorShape::Table { rows: table.rows(), width: table.width() },
            Self::Vector(vector) => TensorShape::Vector { len: vector.len() },
        }
    }
}

impl Tensor {
    /// A view of the tensor.
    #[must_use]
    pub const fn as_ref(&self) -> TensorRef<'_> {
        match self {
            Self::Matrix(matrix) => TensorRef::Matrix(matrix),
            Self::Table(table) => TensorRef::Table(table),
            Self::Vector(vector) => TensorRef::Vector(vector),
        }
    }
}

impl Norm {
    fn tensors(&self) -> [TensorRef<'_>; 2] {
        [TensorRef::Vector(&self.gain), TensorRef::Vector(&self.bias)]
    }
}

impl LayerWeights {
    /// In the order of [`LayerTensor::ALL`].
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
            LayerTensor::ALL.into_iter().zip(weights.tensors()).map(move |(name, tensor)| (TensorName::Layer(layer, name), tensor))
        });
        let last = [(TensorName::ValueShifts, TensorRef::Table(&self.value_shifts))];
        before.into_iter().chain(types).chain(norm).chain(layers).chain(last)
    }

    /// Builds the weights from tensors in the order of [`tensor_specs`], checking each against the header.
    ///
    /// # Errors
    /// The header is invalid or unsupported, a tensor is missing, left over, or of another kind or size, or a value shift is out of bounds.
    pub fn from_tensors(header: &Header, tensors: impl IntoIterator<Item = Tensor>) -> Result<Self, EncoderError> {
        let specs = tensor_specs(header)?;
        let mut reader = Reader { specs: specs.into_iter(), tensors: tensors.into_iter() };
        let words = reader.matrix()?;
        let positions = reader.table()?;
        let token_types = if header.token_types > 0 { Some(reader.table()?) } else { None };
        let embedding_norm = reader.norm()?;
        let layers = (0..header.layers).map(|_| reader.layer()).collect::<Result<_, _>>()?;
        let value_shifts = reader.table()?;
        if reader.tensors.next().is_some() {
            return Err(EncoderError::LeftOver);
        }
        let weights = Self { words, positions, token_types, embedding_norm, layers, value_shifts };
        weights.check_value_shifts()?;
        Ok(weights)
    }

    /// Checks that every tensor has the kind and size that the header asks for, and that the value shifts are within bounds.
    ///
    /// # Errors
    /// As [`EncoderWeights::from_tensors`].
    pub fn check(&self, header: &Header) -> Result<(), EncoderError> {
        let mut tensors = self.tensors();
        for spec in tensor_specs(header)? {
            match tensors.next() {
                Some((name, tensor)) if name == spec.name => fits(spec, tensor.shape())?,
                _ => return Err(EncoderError::Missing { name: spec.name }),
            }
        }
        if tensors.next().is_some() {
            return Err(EncoderError::LeftOver);
        }
        self.check_value_shifts()
    }

    fn check_value_shifts(&self) -> Result<(), EncoderError> {
        for (layer, row) in self.value_shifts.iter_rows().enumerate() {
            if let Some((head, &shift)) = row.iter().enumerate().find(|(_, shift)| !(0..=bounds::VALUE_SHIFT_MAX).contains(*shift)) {
                return Err(EncoderError::ValueShift { layer, head, shift });
            }
        }
        Ok(())
    }
}

fn fits(spec: TensorSpec, actual: TensorShape) -> Result<(), EncoderError> {
    if actual == spec.shape { Ok(()) } else { Err(EncoderError::Shape { name: spec.name, actual, expected: spec.shape }) }
}

struct Reader<S, T> {
    specs: S,
    tensors: T,
}

impl<S: Iterator<Item = TensorSpec>, T: Iterator<Item = Tensor>> Reader<S, T> {
    fn next(&mut self) -> Result<Tensor, EncoderError> {
        let spec = self.specs.next().ok_or(EncoderError::LeftOver)?;
        let tensor = self.tensors.next().ok_or(EncoderError::Missing { name: spec.name })?;
        fits(spec, tensor.as_ref().shape())?;
        Ok(tensor)
    }

    fn matrix(&mut self) -> Result<Q8Matrix, EncoderError> {
        match self.next()? {
            Tensor::Matrix(matrix) => Ok(matrix),
            Tensor::Table(_) | Tensor::Vector(_) => Err(EncoderError::LeftOver),
        }
    }

    fn table(&mut self) -> Result<TableI32, EncoderError> {
        match self.next()? {
            Tensor::Table(table) => Ok(table),
            Tensor::Matrix(_) | Tensor::Vector(_) => Err(EncoderError::LeftOver),
        }
    }

    fn vector(&mut self) -> Result<VectorI32, EncoderError> {
        match self.next()? {
            Tensor::Vector(vector) => Ok(vector),
            Tensor::Matrix(_) | Tensor::Table(_) => Err(EncoderError::LeftOver),
        }
    }

    fn norm(&mut self) -> Result<Norm, EncoderError> {
        Ok(Norm { gain: self.vector()?, bias: self.vector()? })
    }

    fn layer(&mut self) -> Result<LayerWeights, EncoderError> {
        Ok(LayerWeights {
            query: self.matrix()?,
            key: self.matrix()?,
            value: self.matrix()?,
            output: self.matrix()?,
            attention_norm: self.norm()?,
            up: self.matrix()?,
            down: self.matrix()?,
            ffn_norm: self.norm()?,
        })
    }
}
