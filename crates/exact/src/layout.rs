//! Which tensors a model has, in the one order that is hashed and stored (EXACT.md, section 3), and why tensors do not fit a header.

use std::fmt;

use thiserror::Error;

use crate::{
    bounds, decoder, encoder,
    format::{Q8Matrix, TableI32, VectorI32},
    header::{FAMILY_DECODER, Header, HeaderError},
    kernels::Packed,
};

/// A tensor's place in a model. Its text is the tensor's name in packages and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorName {
    /// Word embedding, one row per id.
    Words,
    /// Position embedding, one row per position. Encoders.
    Positions,
    /// Token type embedding. Encoders.
    TokenTypes,
    /// Gain of the norm behind the embedding. Encoders.
    EmbeddingGain,
    /// Bias of the norm behind the embedding. Encoders.
    EmbeddingBias,
    /// Cosines of the rotation, one row per position, Q30. Decoders.
    RotaryCos,
    /// Sines of the rotation, one row per position, Q30. Decoders.
    RotarySin,
    /// A tensor of a layer; layers count from 0.
    Layer(u32, LayerTensor),
    /// Gain of the norm behind the last layer. Decoders.
    FinalGain,
    /// Product that makes logits, unless it is [`TensorName::Words`] itself. Decoders.
    Head,
    /// Static shifts of values: one row per layer, one element per kv head.
    ValueShifts,
}

/// A tensor within a layer. The norms stand behind attention and ffn in an encoder, before them in a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerTensor {
    /// Query product.
    Query,
    /// Key product.
    Key,
    /// Value product.
    Value,
    /// Gain of the norm of each query head. Decoders.
    QueryGain,
    /// Gain of the norm of each key head. Decoders.
    KeyGain,
    /// Output product of attention.
    Output,
    /// Gain of attention's norm.
    AttentionGain,
    /// Bias of attention's norm. Encoders.
    AttentionBias,
    /// Product whose activation gates the ffn. Decoders.
    Gate,
    /// First product of the ffn.
    Up,
    /// Second product of the ffn.
    Down,
    /// Gain of the ffn's norm.
    FfnGain,
    /// Bias of the ffn's norm. Encoders.
    FfnBias,
}

impl LayerTensor {
    const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::QueryGain => "query_norm.gain",
            Self::KeyGain => "key_norm.gain",
            Self::Output => "output",
            Self::AttentionGain => "attention_norm.gain",
            Self::AttentionBias => "attention_norm.bias",
            Self::Gate => "gate",
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
            Self::RotaryCos => f.write_str("rotary.cos"),
            Self::RotarySin => f.write_str("rotary.sin"),
            Self::Layer(layer, tensor) => write!(f, "layers.{layer}.{}", tensor.name()),
            Self::FinalGain => f.write_str("final_norm.gain"),
            Self::Head => f.write_str("head"),
            Self::ValueShifts => f.write_str("value_shifts"),
        }
    }
}

/// What a tensor must be: its kind and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorShape {
    /// A [`Q8Matrix`].
    Matrix {
        /// Output rows.
        rows: usize,
        /// Columns, K.
        cols: usize,
        /// Whether it has a bias.
        bias: bool,
    },
    /// A [`TableI32`].
    Table {
        /// Rows.
        rows: usize,
        /// Elements of a row.
        width: usize,
    },
    /// A [`VectorI32`].
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

/// One line of a model's tensor list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    /// Which tensor.
    pub name: TensorName,
    /// What it must be.
    pub shape: TensorShape,
}

/// The tensor list of a model with this header, in the order that is hashed and stored.
///
/// # Errors
/// The header is invalid, or names a model that this release does not run.
pub fn tensor_specs(header: &Header) -> Result<Vec<TensorSpec>, WeightsError> {
    match header.family {
        FAMILY_DECODER => decoder::specs(header),
        _ => encoder::specs(header),
    }
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

/// A tensor as the kernels of this machine read it.
#[derive(Debug, Clone)]
pub enum PackedTensor {
    /// Packed matrix, its bias in it.
    Matrix(Packed),
    /// int32 table.
    Table(TableI32),
    /// int32 vector.
    Vector(VectorI32),
}

/// Why a header and weights are not a model that can run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The header breaks a bound.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A legal header of a model that this release does not run.
    #[error("this release runs {family} with {field} {supported} only; the header has {value}")]
    Unsupported {
        /// What was to run: "an encoder" or "a decoder".
        family: &'static str,
        /// Name of the header field.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The value that is implemented.
        supported: &'static str,
    },
    /// A tensor of another kind or size than the header asks for.
    #[error("tensor {name} is {actual}, the header asks for {expected}")]
    Shape {
        /// Which tensor.
        name: TensorName,
        /// What it is.
        actual: TensorShape,
        /// What it must be.
        expected: TensorShape,
    },
    /// A tensor that the header asks for and nobody gave.
    #[error("tensor {name} is missing")]
    Missing {
        /// Which tensor.
        name: TensorName,
    },
    /// More tensors than the header asks for.
    #[error("there are more tensors than the header asks for")]
    LeftOver,
    /// A static shift of values outside 0 to 16.
    #[error("layer {layer}, head {head}: the static value shift is {shift}, must be 0 to {}", bounds::VALUE_SHIFT_MAX)]
    ValueShift {
        /// Layer, from 0.
        layer: usize,
        /// kv head, from 0.
        head: usize,
        /// Shift found.
        shift: i32,
    },
}

/// Checks tensors against a list, name by name and shape by shape.
pub(crate) fn check<'a>(
    specs: Vec<TensorSpec>,
    mut tensors: impl Iterator<Item = (TensorName, TensorRef<'a>)>,
) -> Result<(), WeightsError> {
    for spec in specs {
        match tensors.next() {
            Some((name, tensor)) if name == spec.name => fits(spec, tensor.shape())?,
            _ => return Err(WeightsError::Missing { name: spec.name }),
        }
    }
    if tensors.next().is_some() { Err(WeightsError::LeftOver) } else { Ok(()) }
}

/// Checks that each static shift of values is 0 to 16.
pub(crate) fn check_value_shifts(shifts: &TableI32) -> Result<(), WeightsError> {
    for (layer, row) in shifts.iter_rows().enumerate() {
        if let Some((head, &shift)) = row.iter().enumerate().find(|(_, shift)| !(0..=bounds::VALUE_SHIFT_MAX).contains(*shift)) {
            return Err(WeightsError::ValueShift { layer, head, shift });
        }
    }
    Ok(())
}

fn fits(spec: TensorSpec, actual: TensorShape) -> Result<(), WeightsError> {
    if actual == spec.shape { Ok(()) } else { Err(WeightsError::Shape { name: spec.name, actual, expected: spec.shape }) }
}

/// Takes tensors in the order of a list, each checked against its line.
pub(crate) struct Reader<T> {
    specs: std::vec::IntoIter<TensorSpec>,
    tensors: T,
}

impl<T: Iterator<Item = Tensor>> Reader<T> {
    pub(crate) fn new(specs: Vec<TensorSpec>, tensors: impl IntoIterator<IntoIter = T>) -> Self {
        Self { specs: specs.into_iter(), tensors: tensors.into_iter() }
    }

    fn next(&mut self) -> Result<Tensor, WeightsError> {
        let spec = self.specs.next().ok_or(WeightsError::LeftOver)?;
        let tensor = self.tensors.next().ok_or(WeightsError::Missing { name: spec.name })?;
        fits(spec, tensor.as_ref().shape())?;
        Ok(tensor)
    }

    pub(crate) fn matrix(&mut self) -> Result<Q8Matrix, WeightsError> {
        match self.next()? {
            Tensor::Matrix(matrix) => Ok(matrix),
            Tensor::Table(_) | Tensor::Vector(_) => Err(WeightsError::LeftOver),
        }
    }

    pub(crate) fn table(&mut self) -> Result<TableI32, WeightsError> {
        match self.next()? {
            Tensor::Table(table) => Ok(table),
            Tensor::Matrix(_) | Tensor::Vector(_) => Err(WeightsError::LeftOver),
        }
    }

    pub(crate) fn vector(&mut self) -> Result<VectorI32, WeightsError> {
        match self.next()? {
            Tensor::Vector(vector) => Ok(vector),
            Tensor::Matrix(_) | Tensor::Table(_) => Err(WeightsError::LeftOver),
        }
    }

    /// Nothing may be left.
    pub(crate) fn finish(mut self) -> Result<(), WeightsError> {
        if self.specs.next().is_some() || self.tensors.next().is_some() { Err(WeightsError::LeftOver) } else { Ok(()) }
    }
}
