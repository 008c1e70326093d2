//! Text to ids and back, by the model's own tokenizer.json. Never truncates and never pads, whatever the file asks for.

use std::path::Path;

use crate::{ModelError, guard::guarded};

/// The tokenizer of a package or a model folder.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a tokenizer.json, given its bytes; `path` is for messages.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path, vocabulary: u32) -> Result<Self, ModelError> {
        let refuse = |reason: String| ModelError::Tokenizer { path: path.to_owned(), reason };
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(refuse)?;
        let mut inner = inner.map_err(|error| refuse(error.to_string()))?;
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
        self.ids(text, true)
    }

    /// The ids of a text that has its special tokens in it already, as a rendered chat template does: none is put around it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.ids(text, false)
    }

    /// TRUST: the rules are a stranger's; some that load break on the first text.
    fn ids(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        let refuse = |reason: String| ModelError::Tokenize { reason };
        let encoding = guarded(|| self.inner.encode_fast(text, special)).map_err(refuse)?;
        Ok(encoding.map_err(|error| refuse(error.to_string()))?.get_ids().to_vec())
    }

    /// The text of ids that come one by one.
    #[must_use]
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), first: 0, told: 0 }
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
        let refuse = |reason: String| ModelError::Tokenize { reason };
        guarded(|| self.inner.decode(ids, true)).map_err(refuse)?.map_err(|error| refuse(error.to_string()))
    }

    /// The one id put before each text, if the tokenizer puts any.
    pub(crate) fn prefix_id(&self) -> Result<Option<u32>, ModelError> {
        self.encode("").map(|ids| ids.first().copied())
    }
}

/// Turns ids into text as they come. What several ids make together, a letter of several bytes for instance, comes with the last of them.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// From here on ids are decoded: those before cannot change the text that follows.
    first: usize,
    /// Ids whose text was handed out.
    told: usize,
}

impl TextStream<'_> {
    /// The text that this id completes; often empty.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`] if the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        self.ids.push(id);
        let (old, new) = (self.tokenizer.decode(&self.ids[self.first..self.told])?, self.tokenizer.decode(&self.ids[self.first..])?);
        if new.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        (self.first, self.told) = (self.told, self.ids.len());
        Ok(new.strip_prefix(&old).unwrap_or_default().to_owned())
    }

    /// The text of ids that are still incomplete at the end.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`] if the decoder fails.
    pub fn finish(self) -> Result<String, ModelError> {
        let (old, new) = (self.tokenizer.decode(&self.ids[self.first..self.told])?, self.tokenizer.decode(&self.ids[self.first..])?);
        Ok(new.strip_prefix(&old).unwrap_or_default().to_owned())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} ids)", self.inner.get_vocab_size(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizer_of_an_enemy_that_breaks_its_library_is_an_error() {
        let json = |normalizer: &str| {
            format!(
                r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":{normalizer},"pre_tokenizer":null,
                "post_processor":null,"decoder":null,"model":{{"type":"WordLevel","vocab":{{"a":0}},"unk_token":"a"}}}}"#
            )
        };
        let read = |normalizer: &str| Tokenizer::from_bytes(json(normalizer).as_bytes(), Path::new("tokenizer.json"), 1);
        assert_eq!(read("null").expect("sound").encode("a").expect("sound"), [0]);
        // A map of characters whose trie has no node.
        let error =
            read(r#"{"type":"Precompiled","precompiled_charsmap":"AAAAAA=="}"#).and_then(|broken| broken.encode("a")).expect_err("no trie");
        assert!(matches!(error, ModelError::Tokenize { .. } | ModelError::Tokenizer { .. }), "{error}");
    }
}
