//! The measure: greedy answers to held-out sentences, compared field by field.

use std::collections::BTreeMap;

use candle_core::{D, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Facts, Llama, Sample, TrainError, Vocabulary, model::Cache, vocabulary::END};

/// Longest answer, tokens.
const LONGEST_ANSWER: usize = 96;
/// Sentences decoded at once.
const BATCH: usize = 32;

/// A sentence with its right answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The sentence.
    #[serde(rename = "prompt")]
    pub sentence: String,
    /// The right answer, to the byte.
    pub answer: String,
}

impl From<&Sample> for Question {
    fn from(sample: &Sample) -> Self {
        Self { sentence: sample.sentence.clone(), answer: sample.facts.answer() }
    }
}

/// The model's answer to a sentence.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The answer, as decoded.
    pub answer: String,
    /// Whether it is the right one, to the byte.
    pub exact: bool,
    /// Which of [`Facts::FIELDS`] are right.
    pub fields: [bool; 5],
}

/// How many answers are right.
#[derive(Clone, Debug)]
pub struct Report {
    /// In the order of the questions.
    pub scored: Vec<Scored>,
}

impl Report {
    /// Answers that are right to the byte.
    #[must_use]
    pub fn exact(&self) -> usize {
        self.scored.iter().filter(|scored| scored.exact).count()
    }

    /// Answers whose value of this field, by its place in [`Facts::FIELDS`], is right.
    #[must_use]
    pub fn field(&self, field: usize) -> usize {
        self.scored.iter().filter(|scored| scored.fields[field]).count()
    }
}

/// Decodes greedily, with a cache of keys and values, and compares.
///
/// # Errors
/// [`TrainError::Tokenizer`], [`TrainError::Tensor`].
pub fn evaluate(model: &Llama, vocabulary: &Vocabulary, questions: &[Question]) -> Result<Report, TrainError> {
    // Sentences of one length go together: nothing needs filling up.
    let mut by_length: BTreeMap<usize, Vec<(usize, Vec<u32>)>> = BTreeMap::new();
    for (index, question) in questions.iter().enumerate() {
        let prompt = vocabulary.prompt(&question.sentence)?;
        by_length.entry(prompt.len()).or_default().push((index, prompt));
    }
    let mut scored: Vec<Option<Scored>> = vec![None; questions.len()];
    for group in by_length.values().flat_map(|group| group.chunks(BATCH)) {
        let prompts: Vec<&[u32]> = group.iter().map(|(_, prompt)| prompt.as_slice()).collect();
        for ((index, _), ids) in group.iter().zip(decode(model, &prompts)?) {
            scored[*index] = Some(score(&questions[*index].answer, vocabulary.text(&ids)?));
        }
    }
    Ok(Report { scored: scored.into_iter().flatten().collect() })
}

/// Greedy continuations of prompts of one length, without their ends.
fn decode(model: &Llama, prompts: &[&[u32]]) -> Result<Vec<Vec<u32>>, TrainError> {
    let length = prompts.first().map_or(0, |prompt| prompt.len());
    let mut ids = Tensor::from_vec(prompts.concat(), (prompts.len(), length), &Device::Cpu)?;
    let mut cache = Cache::default();
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut open = vec![true; prompts.len()];
    for _ in 0..LONGEST_ANSWER.min(model.shape.max_position_embeddings.saturating_sub(length)) {
        let width = ids.dim(1)?;
        #[allow(clippy::cast_possible_truncation, reason = "a batch is small")]
        let last = Tensor::from_iter((0..prompts.len()).map(|prompt| ((prompt + 1) * width - 1) as u32), &Device::Cpu)?;
        let next = model.logits(&model.hidden(&ids, Some(&mut cache), Some(&last))?)?.argmax(D::Minus1)?.detach();
        for ((id, answer), open) in next.to_vec1::<u32>()?.into_iter().zip(&mut answers).zip(&mut open) {
            *open &= id != END;
            if *open {
                answer.push(id);
            }
        }
        if !open.contains(&true) {
            break;
        }
        ids = next.unsqueeze(1)?;
    }
    Ok(answers)
}

/// Compares an answer with the right one.
fn score(right: &str, answer: String) -> Scored {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (given, wanted) = (parse(&answer), parse(right));
    let fields = Facts::FIELDS.map(|field| given.get(field).is_some() && given.get(field) == wanted.get(field));
    Scored { exact: answer == right, fields, answer }
}
