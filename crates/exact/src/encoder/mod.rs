//! The BERT encoder: its weights, their order, and the function from ids to a vector.

mod forward;
mod layout;
mod weights;

pub use forward::{Encoder, Output};
pub(crate) use layout::specs;
pub use weights::{EncoderWeights, LayerWeights, Norm};
