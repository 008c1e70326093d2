//! Decoders: one pass, tensor after tensor, each handed on as soon as it is converted, so that no more than one is in memory.

use quern_exact::{
    format::{Q8Matrix, TableI32, VectorI32},
    header::Header,
    layout::{LayerTensor, Tensor, TensorName, TensorShape, TensorSpec},
};

use super::{MatrixSource, elements_of, fixed, fixed_of_one_more, malformed, matrix, rotary::rotary_tables, values::NormBound};
use crate::{
    ModelError,
    source::{DecoderSource, Stored},
};

/// Converts every tensor of a checkpoint in the order in which they are hashed, and hands each to `on_tensor`. `on_elements` is told how many numbers
/// were converted, piece by piece, and may end the work.
pub(crate) fn convert_decoder(
    source: &DecoderSource,
    header: &Header,
    specs: &[TensorSpec],
    on_elements: &mut dyn FnMut(u64) -> Result<(), ModelError>,
    mut on_tensor: impl FnMut(TensorName, Tensor) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut pass = Pass { source, header, on_elements, rotary: None, gain: Vec::new(), value_shifts: Vec::new() };
    for spec in specs {
        let tensor = pass.tensor(*spec)?;
        on_tensor(spec.name, tensor)?;
    }
    Ok(())
}

/// What is carried from tensor to tensor.
struct Pass<'a> {
    source: &'a DecoderSource,
    header: &'a Header,
    on_elements: &'a mut dyn FnMut(u64) -> Result<(), ModelError>,
    /// The sines, computed with the cosines.
    rotary: Option<TableI32>,
    /// Of the layer's norm before attention.
    gain: Vec<i32>,
    value_shifts: Vec<i32>,
}

impl Pass<'_> {
    fn tensor(&mut self, TensorSpec { name, shape }: TensorSpec) -> Result<Tensor, ModelError> {
        let tensor = match (name, shape) {
            (_, TensorShape::Matrix { rows, cols, bias }) => return Ok(Tensor::Matrix(self.matrix(name, rows, cols, bias)?)),
            (TensorName::RotaryCos, _) => {
                let tables = rotary_tables(&self.source.config.rope, self.header.rotary_dims, self.header.context);
                let (cos, sin) = tables.ok_or_else(|| ModelError::Header { reason: "a rotation is too near to a tie".to_owned() })?;
                self.rotary = Some(sin);
                Tensor::Table(cos)
            }
            (TensorName::RotarySin, _) => {
                Tensor::Table(self.rotary.take().ok_or_else(|| ModelError::Header { reason: "sines come before cosines".to_owned() })?)
            }
            (_, TensorShape::Table { rows, width }) => {
                Tensor::Table(TableI32::new(rows, width, std::mem::take(&mut self.value_shifts)).map_err(malformed(name))?)
            }
            (_, TensorShape::Vector { len }) => {
                let floats = self.source.tensors.floats(&self.stored(name)?.name, &[len])?;
                let gain = if self.source.config.gains_less_one { fixed_of_one_more(&floats)? } else { fixed(&floats)? };
                if matches!(name, TensorName::Layer(_, LayerTensor::AttentionGain)) {
                    self.gain.clone_from(&gain);
                }
                Tensor::Vector(VectorI32::from(gain))
            }
        };
        (self.on_elements)(elements_of(shape))?;
        Ok(tensor)
    }

    fn stored(&self, name: TensorName) -> Result<Stored, ModelError> {
        self.source.stored(name).ok_or_else(|| ModelError::Header { reason: format!("{name} is in no checkpoint of a decoder") })
    }

    fn matrix(&mut self, name: TensorName, rows: usize, cols: usize, bias: bool) -> Result<Q8Matrix, ModelError> {
        let Stored { name: stored, first, of } = self.stored(name)?;
        let [weights, biases] = [".weight", ".bias"].map(|part| format!("{stored}{part}"));
        let of = of.unwrap_or(rows);
        let bias = match (bias, self.source.has_bias(name)) {
            (true, true) => Some(fixed(&self.source.tensors.rows(&biases, &[of], first..first + rows)?)?),
            (true, false) => Some(vec![0; rows]),
            (false, _) => None,
        };
        let from = MatrixSource { tensors: &*self.source.tensors, name: &weights, first, of, rows, cols, bias, importance: None };
        let matrix = matrix(name, from, self.on_elements)?;
        if let TensorName::Layer(layer, LayerTensor::Value) = name {
            self.push_value_shifts(layer, &matrix)?;
        }
        Ok(matrix)
    }

    /// One static shift per kv head, from the value product and the norm before it, which has no bias.
    fn push_value_shifts(&mut self, layer: u32, value: &Q8Matrix) -> Result<(), ModelError> {
        let offset = vec![0; self.gain.len()];
        let bound = NormBound::new(&self.gain, &offset).ok_or(ModelError::ValuesUnbounded { layer: layer as usize })?;
        let head_dim = self.header.head_dim as usize;
        for head in 0..self.header.kv_heads as usize {
            self.value_shifts.push(bound.head_shift((head * head_dim..(head + 1) * head_dim).filter_map(|row| value.row(row))));
        }
        Ok(())
    }
}
