//! quern's own small model: business sentences to JSON. The data, the tokenizer, the model, its training and its measure.
//!
//! | part | what |
//! |---|---|
//! | [`Generator`] | sentences and what they say, from a seed |
//! | [`Vocabulary`] | the tokenizer: byte-level BPE, every digit by itself |
//! | [`Llama`] | the decoder, in floats, with gradients |
//! | [`train`] | from a seed to a Hugging Face folder |
//! | [`evaluate`] | greedy answers to held-out sentences, field by field |

mod error;
mod evaluate;
mod folder;
mod fused;
mod generate;
mod model;
mod optimiser;
mod train;
mod vocabulary;

pub use error::TrainError;
pub use evaluate::{Question, Report, Scored, evaluate};
pub use folder::{load, save};
pub use generate::{Facts, Generator, Language, Sample, Split};
pub use model::{Llama, Shape};
pub use train::{Pace, Settings, train};
pub use vocabulary::Vocabulary;
