//! How many questions a decoder answers right, to the letter: by the exact machine, and by the float model that it was made of.

use std::{num::NonZeroU32, sync::Arc};

use quern_exact::{
    decoder::{Batch, Event, OutputKey, Rule, Ticket},
    kernels::Pool,
};
use serde::{Deserialize, Serialize};

use crate::{DecoderReference, Message, ModelError, Package};

/// Questions that are answered side by side.
const SEQUENCES: usize = 32;
/// Rows of a step.
const ROWS: usize = 256;

/// A prompt with its right answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What is asked. It goes through the model's chat template, where there is one, as a user's message.
    pub prompt: String,
    /// The right answer, to the letter.
    pub answer: String,
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The ids, with the one that stopped it.
    pub ids: Vec<u32>,
    /// Their text, without special ids.
    pub text: String,
    /// Whether it is the right one.
    pub right: bool,
}

/// Answers to all questions, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accuracy {
    /// The exact machine's.
    pub exact: Vec<Answer>,
    /// The float model's, if there is one to compare with.
    pub float: Option<Vec<Answer>>,
}

/// Right answers of all.
#[must_use]
pub fn right(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.right).count()
}

/// Answers every question greedily, each with at most `longest` ids, on the threads of a pool; and once more in floats if there is a reference.
/// `wanted` is asked now and then, and ends it by saying no.
///
/// # Errors
/// A prompt without ids or longer than the context, memory that is not to be had, [`ModelError::Interrupted`].
pub fn accuracy(
    package: &Package,
    reference: Option<&DecoderReference>,
    questions: &[Question],
    longest: NonZeroU32,
    pool: &Arc<Pool>,
    wanted: &dyn Fn() -> bool,
) -> Result<Accuracy, ModelError> {
    let prompts = prompts(package, questions)?;
    let rule = Rule::greedy(longest, package.header().stop_ids);
    let exact = exact(package, questions, &prompts, &rule, pool, wanted)?;
    let in_floats = |reference| float(package, reference, questions, &prompts, &exact, &rule, wanted);
    let float = reference.map(in_floats).transpose()?;
    Ok(Accuracy { exact, float })
}

fn prompts(package: &Package, questions: &[Question]) -> Result<Vec<Vec<u32>>, ModelError> {
    let template = package.chat_template()?;
    let ids = |question: &Question| {
        let ids = match &template {
            Some(template) => {
                let turn = Message { role: "user".to_owned(), content: question.prompt.clone() };
                package.tokenizer().encode_prompt(&template.render(&[turn])?)?
            }
            None => package.tokenizer().encode(&question.prompt)?,
        };
        let room = package.header().context as usize;
        match ids.len() {
            0 => Err(ModelError::EmptyPrompt),
            tokens if tokens > room => Err(ModelError::PromptTooLong { tokens, room }),
            _ => Ok(ids),
        }
    };
    questions.iter().map(ids).collect()
}

fn answer(package: &Package, question: &Question, ids: Vec<u32>) -> Result<Answer, ModelError> {
    let text = package.tokenizer().decode(&ids)?;
    Ok(Answer { right: text == question.answer, text, ids })
}

fn exact(
    package: &Package,
    questions: &[Question],
    prompts: &[Vec<u32>],
    rule: &Rule,
    pool: &Arc<Pool>,
    wanted: &dyn Fn() -> bool,
) -> Result<Vec<Answer>, ModelError> {
    let mut batch = Batch::new(package.decoder(Arc::clone(pool))?, ROWS);
    let mut running: Vec<(Ticket, usize)> = Vec::new();
    let mut outputs = vec![Vec::new(); prompts.len()];
    let mut waiting = (0..prompts.len()).peekable();
    while !batch.is_empty() || waiting.peek().is_some() {
        if !wanted() {
            return Err(ModelError::Interrupted);
        }
        while running.len() < SEQUENCES
            && let Some(at) = waiting.next()
        {
            // Greedy: item and sample decide nothing.
            running.push((batch.join(&prompts[at], rule.clone(), OutputKey { item: 0, sample: 0 })?, at));
        }
        let mut ended = Vec::new();
        batch.step(|event| match event {
            Event::Rows { .. } => {}
            Event::Id { ticket, id } => {
                if let Some((_, at)) = running.iter().find(|(own, _)| *own == ticket) {
                    outputs[*at].push(id);
                }
            }
            Event::End { ticket, .. } => ended.push(ticket),
        })?;
        running.retain(|(ticket, _)| !ended.contains(ticket));
    }
    questions.iter().zip(outputs).map(|(question, ids)| answer(package, question, ids)).collect()
}

/// The float model's answers. One pass over an exact answer tells how far the float model says the same; only behind that it goes id by id.
fn float(
    package: &Package,
    reference: &DecoderReference,
    questions: &[Question],
    prompts: &[Vec<u32>],
    exact: &[Answer],
    rule: &Rule,
    wanted: &dyn Fn() -> bool,
) -> Result<Vec<Answer>, ModelError> {
    let mut answers = Vec::with_capacity(questions.len());
    for ((question, prompt), exact) in questions.iter().zip(prompts).zip(exact) {
        if !wanted() {
            return Err(ModelError::Interrupted);
        }
        // The last id's position is not computed: it may have none.
        let fed = exact.ids.len().saturating_sub(1);
        let rows = reference.rows(&[prompt, &exact.ids[..fed]].concat())?;
        let choices: Vec<u32> = rows.logits[prompt.len() - 1..].iter().map(|logits| likeliest(logits)).collect();
        let same = choices.iter().zip(&exact.ids).take_while(|(choice, id)| choice == id).count();
        let mut ids = exact.ids[..same].to_vec();
        let mut next = choices.get(same).copied().filter(|_| same < exact.ids.len());
        while let Some(id) = next {
            ids.push(id);
            let over = rule.end(package.header(), prompt.len(), ids.len(), id).is_some();
            next = if over {
                None
            } else {
                reference.rows(&[prompt.as_slice(), &ids].concat())?.logits.last().map(|logits| likeliest(logits))
            };
        }
        answers.push(answer(package, question, ids)?);
    }
    Ok(answers)
}

/// The lowest of the ids with the largest logit, as the exact choice.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    best.0
}
