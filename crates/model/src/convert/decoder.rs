//! Decoders: one pass, tensor after tensor, each handed on as soon as it is converted, so that no more than one is in memory.

use std::collections::BTreeSet;

use quern_exact::{
    format::{Q8Matrix, TableI32, VectorI32},
    header::Header,
    layout::{LayerTensor, Tensor, TensorName, TensorShape, TensorSpec, tensor_specs},
};

use super::{MatrixSource, fixed, malformed, matrix, rotary::rotary_tables, values::NormBound};
use crate::{ImportProgress, ModelError, source::DecoderSource};

/// Converts every tensor of a checkpoint in the order in which they are hashed, and hands each to `on_tensor`. Also says which tensors
/// of the checkpoint nobody knows.
pub(crate) fn convert_decoder(
    source: &DecoderSource,
    header: &Header,
    progress: &mut dyn FnMut(ImportProgress) -> Result<(), ModelError>,
    mut on_tensor: impl FnMut(TensorName, Tensor) -> Result<(), ModelError>,
) -> Result<Vec<String>, ModelError> {
    let specs = tensor_specs(header).map_err(|error| ModelError::Header { reason: error.to_string() })?;
    let mut pass = Pass {
        source,
        header,
        done: ImportProgress { elements: 0, total: specs.iter().map(|spec| elements(spec.shape)).sum() },
        progress,
        used: BTreeSet::new(),
        rotary: None,
        gain: Vec::new(),
        value_shifts: Vec::new(),
    };
    for spec in specs {
        let tensor = pass.tensor(spec)?;
        on_tensor(spec.name, tensor)?;
    }
    Ok(source.unknown_tensors(&pass.used))
}

fn elements(shape: TensorShape) -> u64 {
    let elements = match shape {
        TensorShape::Matrix { rows, cols, .. } => rows * cols,
        TensorShape::Table { rows, width } => rows * width,
        TensorShape::Vector { len } => len,
    };
    elements as u64
}

/// What is carried from tensor to tensor.
struct Pass<'a> {
    source: &'a DecoderSource,
    header: &'a Header,
    done: ImportProgress,
    progress: &'a mut dyn FnMut(ImportProgress) -> Result<(), ModelError>,
    /// Names in the checkpoint that were converted.
    used: BTreeSet<String>,
    /// The sines, computed with the cosines.
    rotary: Option<TableI32>,
    /// Of the layer's norm before attention.
    gain: Vec<i32>,
    value_shifts: Vec<i32>,
}

impl Pass<'_> {
    fn tensor(&mut self, TensorSpec { name, shape }: TensorSpec) -> Result<Tensor, ModelError> {
        let tensor = match (name, shape) {
            (_, TensorShape::Matrix { rows, cols, bias }) => Tensor::Matrix(self.matrix(name, rows, cols, bias)?),
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
                let checkpoint_name = self.source.checkpoint_name(name).unwrap_or_default();
                let vector = fixed(&self.source.tensors.floats(&checkpoint_name, &[len])?)?;
                self.used.insert(checkpoint_name);
                if matches!(name, TensorName::Layer(_, LayerTensor::AttentionGain)) {
                    self.gain.clone_from(&vector);
                }
                Tensor::Vector(VectorI32::from(vector))
            }
        };
        if !matches!(tensor, Tensor::Matrix(_)) {
            self.done.elements += elements(shape);
            (self.progress)(self.done)?;
        }
        Ok(tensor)
    }

    fn matrix(&mut self, name: TensorName, rows: usize, cols: usize, bias: bool) -> Result<Q8Matrix, ModelError> {
        let checkpoint_name = self.source.checkpoint_name(name).unwrap_or_default();
        let [weights, biases] = [".weight", ".bias"].map(|part| format!("{checkpoint_name}{part}"));
        let stored = matches!(name, TensorName::Layer(_, tensor) if self.source.has_bias(tensor));
        let bias = match (bias, stored) {
            (true, true) => Some(fixed(&self.source.tensors.floats(&biases, &[rows])?)?),
            (true, false) => Some(vec![0; rows]),
            (false, _) => None,
        };
        let from = MatrixSource { tensors: &*self.source.tensors, name: &weights, rows, cols, bias, importance: None };
        let (done, progress) = (&mut self.done, &mut self.progress);
        let matrix = matrix(name, from, &mut |elements| {
            done.elements += elements as u64;
            progress(*done)
        })?;
        self.used.insert(weights);
        if stored {
            self.used.insert(biases);
        }
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
