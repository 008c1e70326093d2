//! Models: from a Hugging Face folder to an exact package, and from text to vectors. candle-core lives here and nowhere else.
//!
//! | part | what |
//! |---|---|
//! | [`Package`] | a model as it is hashed, stored and run: import, open, verify |
//! | [`Tokenizer`] | text to ids and back |
//! | [`Reference`] | the same model in floats, for comparison |
//! | [`fidelity`] | how far the two are apart, over a corpus |

mod convert;
mod error;
mod fidelity;
mod package;
mod reference;
mod source;
mod tokenizer;

pub use error::ModelError;
pub use fidelity::{Corpus, Stratum, StratumReport, fidelity};
pub use package::{ConversionRecord, Package, SourceRecord, TensorRecord};
pub use reference::Reference;
pub use tokenizer::Tokenizer;
