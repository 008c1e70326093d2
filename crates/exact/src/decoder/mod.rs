//! The Llama decoder: its weights, their order, and the function from ids to ids.

mod batch;
mod cache;
mod compute;
mod emptied;
mod engine;
mod error;
mod generate;
mod lane;
mod layout;
mod model;
mod packed;
mod rule;
mod weights;
mod workspace;

pub use batch::{Batch, Event, Ticket};
pub use cache::Cache;
pub use engine::{Choose, Decoder, Run};
pub use error::DecoderError;
pub use generate::{Departure, Expected, Given};
pub(crate) use layout::specs;
pub use model::{Generated, Model};
pub use packed::PackedWeights;
pub use rule::{OutputKey, Rule};
pub use weights::{DecoderWeights, HeadNorms, LayerWeights, Rotary};
pub use workspace::Workspace;
