//! The same models in floats, with candle, from the checkpoints' own weights. For comparison only: nothing that is paid for, hashed or compared
//! for equality comes from here.

mod decoder;
mod encoder;

use candle_core::{Device, Tensor};

pub use decoder::{DecoderReference, DecoderRows};
pub use encoder::Reference;

use crate::{ModelError, source::Floats};

/// The same numbers for candle: as many rows of a tensor as there are.
fn tensor(floats: &Floats) -> Result<Tensor, ModelError> {
    let values: Vec<f32> = floats.bits.iter().copied().map(f32::from_bits).collect();
    let mut shape = floats.shape.clone();
    let width: usize = shape.iter().skip(1).product();
    if let Some(rows) = shape.first_mut() {
        *rows = values.len() / width.max(1);
    }
    Tensor::from_vec(values, shape, &Device::Cpu)
        .map_err(|error| ModelError::Reference { doing: format!("loading {}", floats.name), reason: error.to_string() })
}
