//! The tokenizer: byte-level BPE, so every text has ids. Words never merge across blanks, blanks and digits stand by themselves: a name has the
//! same tokens in the sentence and in the answer, and an amount is its digits.

use std::path::Path;

use tokenizers::{
    AddedToken, Tokenizer,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::{byte_level::ByteLevel, sequence::Sequence, split::Split},
    tokenizer::SplitDelimiterBehavior,
};

use crate::{Sample, TrainError};

/// Ends an answer; also what shorter sequences of a batch are filled up with.
pub(crate) const END: u32 = 0;
const TEXT: u32 = 1;
const JSON: u32 = 2;
const SPECIAL: [&str; 3] = ["<|end|>", "<|text|>", "<|json|>"];
/// The answer's keys and the values of closed lists, one token each.
const SCAFFOLD: [&str; 18] = [
    "{\"who\":",
    ",\"what\":",
    ",\"amount\":",
    ",\"currency\":",
    ",\"date\":",
    "\"invoice\"",
    "\"payment\"",
    "\"order\"",
    "\"transfer\"",
    "\"refund\"",
    "\"EUR\"",
    "\"USD\"",
    "\"GBP\"",
    "\"CHF\"",
    "\"SEK\"",
    "\"PLN\"",
    "\"CAD\"",
    "\"AUD\"",
];

/// The prompt as Hugging Face's chat templates write it: what [`Vocabulary::prompt`] does, for several turns.
pub(crate) const CHAT_TEMPLATE: &str = "{% for message in messages %}{% if message['role'] == 'user' %}<|text|>{{ message['content'] | trim }}\
     {% elif message['role'] == 'assistant' %}<|json|>{{ message['content'] }}<|end|>{% endif %}{% endfor %}\
     {% if add_generation_prompt %}<|json|>{% endif %}";

/// Text to ids and back.
pub struct Vocabulary {
    inner: Tokenizer,
}

impl Vocabulary {
    /// Learns `size` tokens from sentences and their answers; there must be that many to learn.
    ///
    /// # Errors
    /// [`TrainError::Tokenizer`] if the library fails.
    pub fn learn(size: usize, samples: &[Sample]) -> Result<Self, TrainError> {
        let mut inner = Tokenizer::new(BPE::default());
        let pattern = tokenizers::pre_tokenizers::split::SplitPattern::Regex(r"\p{L}+|[^\p{L}]".to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
        let bytes = ByteLevel::new(false, false, false);
        inner.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
        inner.with_decoder(Some(bytes));
        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(size - SCAFFOLD.len())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)).to_vec())
            .build()
            .into();
        let texts = samples.iter().flat_map(|sample| [sample.sentence.clone(), sample.facts.values().join(" ")]);
        inner.train(&mut trainer, texts).map_err(failed)?;
        inner.add_tokens(SCAFFOLD.map(|token| AddedToken::from(token, false).normalized(false))).map_err(failed)?;
        let found = inner.get_vocab_size(true);
        if found != size {
            return Err(TrainError::Tokenizer {
                reason: format!("{found} tokens instead of {size}: give it more sentences to learn from"),
            });
        }
        Ok(Self { inner })
    }

    /// Reads a tokenizer.json.
    ///
    /// # Errors
    /// [`TrainError::Tokenizer`] if it is missing or not valid.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        Ok(Self { inner: Tokenizer::from_file(path).map_err(failed)? })
    }

    /// Number of tokens.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The ids that ask for the answer to a sentence.
    ///
    /// # Errors
    /// [`TrainError::Tokenizer`] if the library fails.
    pub fn prompt(&self, sentence: &str) -> Result<Vec<u32>, TrainError> {
        let ids = self.encode(sentence.trim())?;
        Ok([&[TEXT], ids.as_slice(), &[JSON]].concat())
    }

    /// The ids of an answer, with its end.
    ///
    /// # Errors
    /// [`TrainError::Tokenizer`] if the library fails.
    pub fn answer(&self, answer: &str) -> Result<Vec<u32>, TrainError> {
        let mut ids = self.encode(answer)?;
        ids.push(END);
        Ok(ids)
    }

    /// The text of ids, without the special ones.
    ///
    /// # Errors
    /// [`TrainError::Tokenizer`] if the library fails.
    pub fn text(&self, ids: &[u32]) -> Result<String, TrainError> {
        self.inner.decode(ids, true).map_err(failed)
    }

    /// tokenizer.json, to the byte.
    ///
    /// # Errors
    /// [`TrainError::Tokenizer`] if the library fails.
    pub fn to_json(&self) -> Result<String, TrainError> {
        self.inner.to_string(true).map_err(failed)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        Ok(self.inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocabulary({} tokens)", self.size())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn failed(error: tokenizers::Error) -> TrainError {
    TrainError::Tokenizer { reason: error.to_string() }
}
