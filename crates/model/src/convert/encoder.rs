//! Encoders: all tensors in memory, and twice, because the mantissas of the second pass follow what the first one computes.

use quern_exact::{
    encoder::EncoderWeights,
    format::{TableI32, VectorI32},
    header::Header,
    layout::{LayerTensor, Tensor, TensorName, TensorShape, TensorSpec},
};

use super::{
    MatrixSource, elements_of, fixed,
    importance::{LayerImportance, importance},
    malformed, matrix,
    values::NormBound,
};
use crate::{
    ModelError,
    source::{EncoderSource, TensorSource as _},
};

/// Converts every tensor of a folder; `ids` are what the tokenizer makes of the empty text. `on_elements` is told how many numbers were converted, piece
/// by piece, and may end the work.
///
/// Twice: the second time the mantissas of the layers' matrices follow the importance of their channels for `ids`, which the first
/// conversion tells. Without such ids once is all.
pub(crate) fn convert_encoder(
    source: &EncoderSource,
    header: &Header,
    specs: &[TensorSpec],
    ids: &[u32],
    on_elements: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<EncoderWeights, ModelError> {
    let plain = convert_once(source, header, specs, None, on_elements)?;
    match importance(header, &plain, ids) {
        Some((layers, _)) => convert_once(source, header, specs, Some(&layers), on_elements),
        None => Ok(plain),
    }
}

fn convert_once(
    source: &EncoderSource,
    header: &Header,
    specs: &[TensorSpec],
    importance: Option<&[LayerImportance]>,
    on_elements: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<EncoderWeights, ModelError> {
    let mut tensors = Vec::with_capacity(specs.len());
    for spec in specs {
        let Some(name) = source.checkpoint_name(spec.name) else {
            let shifts = value_shifts(header, specs, &tensors)?;
            tensors.push(Tensor::Table(shifts));
            on_elements(elements_of(spec.shape))?;
            continue;
        };
        let tensor = match spec.shape {
            TensorShape::Matrix { rows, cols, bias } => {
                let [weights, biases] = [".weight", ".bias"].map(|part| format!("{name}{part}"));
                let bias = if bias { Some(fixed(&source.tensors.floats(&biases, &[rows])?)?) } else { None };
                let importance = input_importance(importance, spec.name);
                let from = MatrixSource { tensors: &source.tensors, name: &weights, first: 0, of: rows, rows, cols, bias, importance };
                tensors.push(Tensor::Matrix(matrix(spec.name, from, on_elements)?));
                continue;
            }
            TensorShape::Table { rows, width } => {
                let floats = source.tensors.floats(&name, &[rows, width])?;
                Tensor::Table(TableI32::new(rows, width, fixed(&floats)?).map_err(malformed(spec.name))?)
            }
            TensorShape::Vector { len } => Tensor::Vector(VectorI32::from(fixed(&source.tensors.floats(&name, &[len])?)?)),
        };
        tensors.push(tensor);
        on_elements(elements_of(spec.shape))?;
    }
    EncoderWeights::from_tensors(header, tensors).map_err(|error| ModelError::Header { reason: error.to_string() })
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

    use super::{super::importance::MAX_IDS, *};

    #[test]
    fn importance_is_taken_from_the_encoder_as_it_runs() {
        let header = sample::small_header();
        let encoder = sample::encoder(&header, 5).expect("the sample header is valid");
        let ids = [3, 1, 4, 1];
        let (layers, rows) = importance(&header, encoder.weights(), &ids).expect("legal ids");
        assert_eq!(layers.len(), header.layers as usize);
        assert_eq!(rows.concat(), Encoder::forward(&encoder, &ids).norm_rows.data());
        for refused in [&[][..], &[1; MAX_IDS + 1], &[header.vocabulary]] {
            assert!(importance(&header, encoder.weights(), refused).is_none());
        }
    }
}
