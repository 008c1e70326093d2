//! What can go wrong between a seed and a model.

use std::path::PathBuf;

use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A grammar file does not parse.
    #[error("{name}:{line}: {reason}")]
    Grammar {
        /// The file.
        name: &'static str,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A grammar names a slot that is neither a rule of its file nor known to the generator.
    #[error("the grammar names the slot {{{slot}}}, which is neither a rule of its file nor a slot of the generator")]
    Slot {
        /// The slot.
        slot: String,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file is not what its reader expects.
    #[error("{path} is not valid")]
    Json {
        /// The file.
        path: PathBuf,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// A checkpoint was made by a run with other settings.
    #[error("{path} is a checkpoint of a run with other settings ({found}); resume it with those, or give another folder")]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// Its settings.
        found: String,
    },
    /// The tokenizer library failed.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What it says.
        reason: String,
    },
    /// A sentence with its answer is longer than the context.
    #[error("a sentence has {found} tokens with its answer, and the context is {context}: shorten the grammar or raise the context")]
    TooLong {
        /// Tokens of the sentence and its answer.
        found: usize,
        /// The context, in tokens.
        context: usize,
    },
    /// A tensor operation failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
    /// The loss is not a number any more.
    #[error("the loss is {loss} at step {step}: lower the learning rate")]
    Diverged {
        /// The step.
        step: usize,
        /// The loss, nats per token.
        loss: f64,
    },
}
