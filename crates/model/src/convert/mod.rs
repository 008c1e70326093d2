//! From a checkpoint's floats to the integers of a package, exactly: docs/EXACT.md, "Conversion".
//!
//! Every float is taken as the dyadic rational that it is; there is no float operation here and no mathematical library, so the
//! result is the same to the byte on every machine.

mod constants;
mod importance;
mod number;
mod row;
mod values;

use std::{collections::BTreeSet, num::NonZeroUsize};

pub(crate) use constants::{Decimal, attention_scale, norm_epsilon};
pub(crate) use number::{f32_bits_of_bf16, f32_bits_of_f16, is_finite};

use importance::{LayerImportance, importance};
use number::Dyadic;
use quern_exact::{
    bounds::GROUP,
    encoder::EncoderWeights,
    format::{FormatError, Q8Matrix, TableI32, VectorI32},
    header::Header,
    layout::{LayerTensor, Tensor, TensorName, TensorShape, TensorSpec, tensor_specs},
};
use row::{WeightTooLarge, quantize_row};
use values::NormBound;

use crate::{
    ModelError,
    source::{Floats, Source},
};

/// Fraction bits of biases, norms and tables.
const FRACTION_BITS: u32 = 14;
const WEIGHT_LIMIT: &str = "63.5";
const FIXED_LIMIT: &str = "131072";

/// Converts every tensor of a folder; `ids` are what the tokenizer makes of the empty text. Also says which tensors of the folder nobody
/// knows.
///
/// Twice: the second time the mantissas of the layers' matrices follow the importance of their channels for `ids`, which the first
/// conversion tells. Without such ids once is all.
pub(crate) fn convert(source: &Source, header: &Header, ids: &[u32]) -> Result<(EncoderWeights, Vec<String>), ModelError> {
    let (plain, unknown) = convert_once(source, header, None)?;
    match importance(header, &plain, ids) {
        Some((layers, _)) => convert_once(source, header, Some(&layers)),
        None => Ok((plain, unknown)),
    }
}

fn convert_once(
    source: &Source,
    header: &Header,
    importance: Option<&[LayerImportance]>,
) -> Result<(EncoderWeights, Vec<String>), ModelError> {
    let specs = tensor_specs(header).map_err(|error| ModelError::Header { reason: error.to_string() })?;
    let mut used = BTreeSet::new();
    let mut tensors = Vec::with_capacity(specs.len());
    for spec in &specs {
        let Some(name) = source.checkpoint_name(spec.name) else {
            let shifts = value_shifts(header, &specs, &tensors)?;
            tensors.push(Tensor::Table(shifts));
            continue;
        };
        tensors.push(match spec.shape {
            TensorShape::Matrix { rows, cols, bias } => {
                let weight = source.tensors.floats(&format!("{name}.weight"), &[rows, cols])?;
                let bias = if bias { Some(source.tensors.floats(&format!("{name}.bias"), &[rows])?) } else { None };
                used.insert(weight.name.clone());
                used.extend(bias.as_ref().map(|bias| bias.name.clone()));
                Tensor::Matrix(matrix(spec.name, &weight, bias.as_ref(), input_importance(importance, spec.name))?)
            }
            TensorShape::Table { rows, width } => {
                let floats = source.tensors.floats(&name, &[rows, width])?;
                used.insert(name);
                Tensor::Table(TableI32::new(rows, width, fixed(&floats)?).map_err(malformed(spec.name))?)
            }
            TensorShape::Vector { len } => {
                let floats = source.tensors.floats(&name, &[len])?;
                used.insert(name);
                Tensor::Vector(VectorI32::from(fixed(&floats)?))
            }
        });
    }
    let weights = EncoderWeights::from_tensors(header, tensors).map_err(|error| ModelError::Header { reason: error.to_string() })?;
    Ok((weights, source.unknown_tensors(&used)))
}

/// The importance of a matrix's input channels; words have none, they are looked up.
fn input_importance(layers: Option<&[LayerImportance]>, name: TensorName) -> Option<&[u128]> {
    let TensorName::Layer(layer, tensor) = name else { return None };
    let layer = layers?.get(layer as usize)?;
    match tensor {
        LayerTensor::Query | LayerTensor::Key | LayerTensor::Value => Some(&layer.attention),
        LayerTensor::Output => Some(&layer.mixed),
        LayerTensor::Up => Some(&layer.ffn),
        LayerTensor::Down => Some(&layer.inner),
        LayerTensor::AttentionGain | LayerTensor::AttentionBias | LayerTensor::FfnGain | LayerTensor::FfnBias => None,
        // No encoder has these.
        LayerTensor::QueryGain | LayerTensor::KeyGain | LayerTensor::Gate => None,
    }
}

/// int8 rows in groups; the bias in Q14. Rows are converted by all cores, each by itself.
fn matrix(name: TensorName, weight: &Floats, bias: Option<&Floats>, importance: Option<&[u128]>) -> Result<Q8Matrix, ModelError> {
    let (rows, cols) = (weight.shape[0], weight.shape[1]);
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let rows_per_thread = rows.div_ceil(threads);
    let convert = |part: &[u32]| part.chunks(cols).map(|row| quantize_row(row, importance)).collect::<Vec<_>>();
    let converted = std::thread::scope(|scope| {
        let parts: Vec<_> = weight.bits.chunks(rows_per_thread * cols).map(|part| scope.spawn(move || convert(part))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
    });

    let mut elements = Vec::with_capacity(rows * cols);
    let mut mantissas = Vec::with_capacity(rows * cols.div_ceil(GROUP));
    let mut shifts = Vec::with_capacity(rows);
    for (at, row) in converted.into_iter().enumerate() {
        let row = row.map_err(|WeightTooLarge { index }| ModelError::TooLarge {
            path: weight.path.clone(),
            tensor: weight.name.clone(),
            index: vec![at, index],
            limit: WEIGHT_LIMIT,
        })?;
        elements.extend(row.weights);
        mantissas.extend(row.mantissas);
        shifts.push(row.shift);
    }
    let bias = bias.map(fixed).transpose()?;
    Q8Matrix::new(rows, cols, elements, mantissas, shifts, bias).map_err(malformed(name))
}

/// Q14, to nearest, ties away from zero.
fn fixed(floats: &Floats) -> Result<Vec<i32>, ModelError> {
    let to_fixed = |(at, bits): (usize, &u32)| {
        Dyadic::from_f32_bits(*bits).to_fixed(FRACTION_BITS).ok_or_else(|| ModelError::TooLarge {
            path: floats.path.clone(),
            tensor: floats.name.clone(),
            index: floats.index(at),
            limit: FIXED_LIMIT,
        })
    };
    floats.bits.iter().enumerate().map(to_fixed).collect()
}

fn malformed(name: TensorName) -> impl Fn(FormatError) -> ModelError {
    move |error| ModelError::Header { reason: format!("{name}: {error}") }
}

/// One static shift per layer and head, from the value product and the norm before it, all of which precede in the list.
fn value_shifts(header: &Header, specs: &[TensorSpec], tensors: &[Tensor]) -> Result<TableI32, ModelError> {
    let find = |name: TensorName| specs.iter().zip(tensors).find(|(spec, _)| spec.name == name).map(|(_, tensor)| tensor);
    let vector = |name| match find(name) {
        Some(Tensor::Vector(vector)) => Ok(vector.as_slice()),
        _ => Err(ModelError::Header { reason: format!("{name} is not a vector") }),
    };
    let (layers, heads, head_dim) = (header.layers, header.kv_heads as usize, header.head_dim as usize);
    let mut shifts = Vec::with_capacity(layers as usize * heads);
    for layer in 0..layers {
        let (gain, offset) = match layer.checked_sub(1) {
            None => (TensorName::EmbeddingGain, TensorName::EmbeddingBias),
            Some(before) => (TensorName::Layer(before, LayerTensor::FfnGain), TensorName::Layer(before, LayerTensor::FfnBias)),
        };
        let bound = NormBound::new(vector(gain)?, vector(offset)?).ok_or(ModelError::ValuesUnbounded { layer: layer as usize })?;
        let Some(Tensor::Matrix(value)) = find(TensorName::Layer(layer, LayerTensor::Value)) else {
            return Err(ModelError::Header { reason: format!("layer {layer} has no value product") });
        };
        for head in 0..heads {
            shifts.push(bound.head_shift((head * head_dim..(head + 1) * head_dim).filter_map(|row| value.row(row))));
        }
    }
    TableI32::new(layers as usize, heads, shifts).map_err(malformed(TensorName::ValueShifts))
}

#[cfg(test)]
mod tests {
    use quern_exact::{encoder::Encoder, sample};

    use super::*;

    #[test]
    fn importance_is_taken_from_the_encoder_as_it_runs() {
        let header = sample::small_header();
        let encoder = sample::encoder(&header, 5).expect("the sample header is valid");
        let ids = [3, 1, 4, 1];
        let (layers, rows) = importance(&header, encoder.weights(), &ids).expect("legal ids");
        assert_eq!(layers.len(), header.layers as usize);
        assert_eq!(rows.concat(), Encoder::forward(&encoder, &ids).norm_rows.data());
        for refused in [&[][..], &[1; importance::MAX_IDS + 1], &[header.vocabulary]] {
            assert!(importance(&header, encoder.weights(), refused).is_none());
        }
    }
}
