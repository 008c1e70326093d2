//! Models: from a checkpoint to an exact package, and from text to vectors and text. candle-core lives here and nowhere else.
//!
//! | part | what |
//! |---|---|
//! | [`Package`] | a model as it is hashed, stored and run: import, open, verify |
//! | [`Tokenizer`] | text to ids and back |
//! | [`ChatTemplate`] | a conversation to a prompt |
//! | [`Reference`], [`DecoderReference`] | the same model in floats, for comparison |
//! | [`Session`] | generation on this machine, without a job |
//! | [`available_memory`] | how much a computation may take |
//! | [`accuracy`] | how many questions a decoder answers right, exactly and in floats |
//! | [`bench`], [`bench_encoder`] | how fast a model runs here |
//! | [`divergence`], [`fidelity`] | how far the two are apart, over a corpus |

mod accuracy;
mod bench;
mod convert;
mod divergence;
mod error;
mod fidelity;
mod guard;
mod memory;
mod package;
mod prompt;
mod reference;
mod session;
mod source;
mod tokenizer;

pub use accuracy::{Accuracy, Answer, Question, accuracy, right};
pub use bench::{BenchReport, Limits, Op, Part, ProfileLine, Shape, bench, bench_encoder};
pub use divergence::{DivergenceReport, divergence};
pub use error::ModelError;
pub use fidelity::{Corpus, Stratum, StratumReport, fidelity};
pub use memory::{available_memory, check_memory};
pub use package::{ConversionRecord, ImportOptions, ImportProgress, Package, PackedModel, PackedOrigin, SourceRecord, TensorRecord};
pub use prompt::{ChatTemplate, Message};
pub use reference::{DecoderReference, DecoderRows, Reference};
pub use session::{Generation, Session};
pub use tokenizer::{TextStream, Tokenizer};
