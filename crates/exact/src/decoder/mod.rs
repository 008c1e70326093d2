//! The Llama decoder: its weights, their order, and the function from ids to ids.

mod cache;
mod compute;
mod engine;
mod error;
mod layout;
mod model;
mod packed;
mod rule;
mod weights;

pub use cache::Cache;
pub use engine::{Choose, Decoder, Run, Workspace};
pub use error::DecoderError;
pub(crate) use layout::specs;
pub use model::{Generated, Model};
pub use packed::PackedWeights;
pub use rule::{OutputKey, Rule};
pub use weights::{DecoderWeights, HeadNorms, LayerWeights, Rotary};
