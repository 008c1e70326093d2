//! A decoder's weights in the form in which this machine computes. Derived; never hashed.

use super::{HeadNorms, LayerWeights, Model, Rotary, layout::specs};
use crate::{
    format::{Q8Matrix, TableI32, VectorI32},
    header::{Header, flag},
    kernels::Packed,
    layout::{self, PackedTensor, TensorShape, TensorSpec, WeightsError},
};

/// The weights of a decoder, its matrices packed for the kernels, and its header.
#[derive(Debug, Clone)]
pub struct PackedWeights {
    header: Header,
    /// Where the head is tied, `head` is the same memory.
    pub(super) words: Packed,
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
    /// Packs a model's matrices.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        let weights = model.weights();
        let layers = weights.layers.iter().flat_map(matrices);
        let matrices: Vec<_> = std::iter::once(&weights.words).chain(layers).chain(&weights.head).collect();
        // In the order in which a step reads them, and taken back in the same.
        let mut packed = Packed::all(&matrices).into_iter();
        let mut next = || packed.next().unwrap_or_else(|| unreachable!("as many as were packed"));
        let words = next();
        Self {
            header: model.header().clone(),
            rotary: weights.rotary.clone(),
            layers: weights.layers.iter().map(|layer| PackedLayer::new(layer, &mut next)).collect(),
            final_gain: weights.final_gain.clone(),
            head: weights.head.as_ref().map_or_else(|| words.clone(), |_| next()),
            words,
            value_shifts: weights.value_shifts.clone(),
        }
    }

    /// Takes tensors that are packed already, in the order of [`tensor_specs`](crate::layout::tensor_specs), each checked against the header but
    /// for the biases, which are in the packed matrices.
    ///
    /// TRUST: that these are the weights of the model is whoever derived them from its package to vouch for.
    ///
    /// # Errors
    /// The header is invalid or unsupported, a tensor is missing, left over, or of another kind or size, or a value shift is out of bounds.
    pub fn from_tensors(header: &Header, tensors: impl IntoIterator<Item = PackedTensor>) -> Result<Self, WeightsError> {
        let mut reader = Reader { specs: specs(header)?.into_iter(), tensors: tensors.into_iter() };
        let words = reader.matrix()?;
        let rotary = if header.rotary_dims > 0 { Some(Rotary { cos: reader.table()?, sin: reader.table()? }) } else { None };
        let layers = (0..header.layers).map(|_| reader.layer(header)).collect::<Result<_, _>>()?;
        let final_gain = reader.vector()?;
        let head = if header.has(flag::TIED_HEAD) { words.clone() } else { reader.matrix()? };
        let value_shifts = reader.table()?;
        if reader.tensors.next().is_some() {
            return Err(WeightsError::LeftOver);
        }
        layout::check_value_shifts(&value_shifts)?;
        Ok(Self { header: header.clone(), words, rotary, layers, final_gain, head, value_shifts })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The matrices of each layer in the order in which a step reads them: query, key, value, output, gate, up, down.
    pub fn layers(&self) -> impl Iterator<Item = [&Packed; 7]> {
        self.layers.iter().map(|layer| [&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate, &layer.up, &layer.down])
    }

    /// The product that makes logits.
    #[must_use]
    pub const fn head(&self) -> &Packed {
        &self.head
    }
}

/// The matrices of a layer in the order in which a step reads them.
fn matrices(layer: &LayerWeights) -> [&Q8Matrix; 7] {
    [&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate, &layer.up, &layer.down]
}

impl PackedLayer {
    /// `next` gives the packed matrices of a layer, in the order of [`matrices`].
    fn new(layer: &LayerWeights, mut next: impl FnMut() -> Packed) -> Self {
        let [query, key, value, output, gate, up, down] = std::array::from_fn(|_| next());
        Self {
            attention_gain: layer.attention_gain.clone(),
            query,
            key,
            value,
            head_norms: layer.head_norms.clone(),
            output,
            ffn_gain: layer.ffn_gain.clone(),
            gate,
            up,
            down,
        }
    }
}

struct Reader<S, T> {
    specs: S,
    tensors: T,
}

impl<S: Iterator<Item = TensorSpec>, T: Iterator<Item = PackedTensor>> Reader<S, T> {
    /// The next tensor, if it fits its line; a matrix whether it has a bias or not.
    fn next(&mut self) -> Result<PackedTensor, WeightsError> {
        let TensorSpec { name, shape: expected } = self.specs.next().ok_or(WeightsError::LeftOver)?;
        let tensor = self.tensors.next().ok_or(WeightsError::Missing { name })?;
        let actual = match (&tensor, expected) {
            (PackedTensor::Matrix(matrix), TensorShape::Matrix { bias, .. }) => {
                TensorShape::Matrix { rows: matrix.rows(), cols: matrix.cols(), bias }
            }
            (PackedTensor::Matrix(matrix), _) => TensorShape::Matrix { rows: matrix.rows(), cols: matrix.cols(), bias: false },
            (PackedTensor::Table(table), _) => TensorShape::Table { rows: table.rows(), width: table.width() },
            (PackedTensor::Vector(vector), _) => TensorShape::Vector { len: vector.len() },
        };
        if actual == expected { Ok(tensor) } else { Err(WeightsError::Shape { name, actual, expected }) }
    }

    fn matrix(&mut self) -> Result<Packed, WeightsError> {
        match self.next()? {
            PackedTensor::Matrix(matrix) => Ok(matrix),
            PackedTensor::Table(_) | PackedTensor::Vector(_) => Err(WeightsError::LeftOver),
        }
    }

    fn table(&mut self) -> Result<TableI32, WeightsError> {
        match self.next()? {
            PackedTensor::Table(table) => Ok(table),
            PackedTensor::Matrix(_) | PackedTensor::Vector(_) => Err(WeightsError::LeftOver),
        }
    }

    fn vector(&mut self) -> Result<VectorI32, WeightsError> {
        match self.next()? {
            PackedTensor::Vector(vector) => Ok(vector),
            PackedTensor::Matrix(_) | PackedTensor::Table(_) => Err(WeightsError::LeftOver),
        }
    }

    fn layer(&mut self, header: &Header) -> Result<PackedLayer, WeightsError> {
        Ok(PackedLayer {
            attention_gain: self.vector()?,
            query: self.matrix()?,
            key: self.matrix()?,
            value: self.matrix()?,
            head_norms: if header.has(flag::QK_NORM) { Some(HeadNorms { query: self.vector()?, key: self.vector()? }) } else { None },
            output: self.matrix()?,
            ffn_gain: self.vector()?,
            gate: self.matrix()?,
            up: self.matrix()?,
            down: self.matrix()?,
        })
    }
}
