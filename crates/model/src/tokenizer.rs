//! Text to ids and back, by the model's own tokenizer.json. Never truncates and never pads, whatever the file asks for.

use std::path::Path;

use crate::ModelError;

/// The tokenizer of a package or a model folder.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a tokenizer.json, given its bytes; `path` is for messages.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path, vocabulary: u32) -> Result<Self, ModelError> {
        let refuse = |reason: String| ModelError::Tokenizer { path: path.to_owned(), reason };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| refuse(error.to_string()))?;
        inner.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        inner.with_padding(None);
        let largest = inner.get_vocab(true).into_values().max();
        if let Some(largest) = largest.filter(|id| *id >= vocabulary) {
            return Err(refuse(format!("it has id {largest}, and the model's vocabulary ends before {vocabulary}")));
        }
        Ok(Self { inner })
    }

    /// The ids of a text, with the special ids that the model expects around it. An empty text has the special ids only.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`] if the tokenizer has no id for a part of the text and none for "unknown" either.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| ModelError::Tokenize { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The number of ids of a text, special ones included.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn count(&self, text: &str) -> Result<usize, ModelError> {
        self.encode(text).map(|ids| ids.len())
    }

    /// The text that ids stand for, without special ids. Not the inverse of [`Tokenizer::encode`]: an uncased model's text comes back
    /// in lower case, and ids outside of the vocabulary stand for nothing.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`] if the decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(ids, true).map_err(|error| ModelError::Tokenize { reason: error.to_string() })
    }

    /// The one id put before each text, if the tokenizer puts any.
    pub(crate) fn prefix_id(&self) -> Result<Option<u32>, ModelError> {
        self.encode("").map(|ids| ids.first().copied())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} ids)", self.inner.get_vocab_size(true))
    }
}
