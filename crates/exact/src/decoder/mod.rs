//! The Llama decoder: its weights, their order, and the function from ids to ids.

mod layout;
mod weights;

pub(crate) use layout::specs;
pub use weights::{DecoderWeights, HeadNorms, LayerWeights, Rotary};
