//! The BERT encoder: its weights, their order, and the function from ids to a vector.

mod forward;
mod layout;
mod weights;

pub use forward::{Encoder, Output};
pub use layout::{LayerTensor, TensorName, TensorShape, TensorSpec, tensor_specs};
pub use weights::{EncoderWeights, LayerWeights, Norm, Tensor, TensorRef};

use thiserror::Error;

use crate::{bounds, header::HeaderError};

/// Why a header and weights are not an encoder that can run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// The header breaks a bound.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A legal header of a model that this release does not run.
    #[error("this release runs BERT encoders only: {field} is {value}, it runs {supported}")]
    Unsupported {
        /// Name of the header field.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The only value that is implemented.
        supported: u32,
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
