//! Generation on this machine, one sequence at a time: prompts in, ids out as they are chosen.

use std::time::{Duration, Instant};

use quern_exact::{
    decoder::{Cache, Choose, Decoder, OutputKey, Rule, Run, Workspace},
    header::Header,
};
use quern_types::FinishReason;

use crate::{ModelError, memory::check_memory};

/// Rows of a prompt that are computed together.
const ROWS: usize = 256;
/// Of everything that is generated outside of a job.
const KEY: OutputKey = OutputKey { item: 0, sample: 0 };

/// A decoder with the memory for one sequence. What a prompt has in common with the sequence before it is not computed again.
#[derive(Debug)]
pub struct Session {
    decoder: Decoder,
    work: Workspace,
    cache: Cache,
}

/// What came of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The ids that were chosen, the one that stopped it included.
    pub ids: Vec<u32>,
    /// Why it ended; `None` if the caller ended it.
    pub reason: Option<FinishReason>,
    /// Ids of the prompt that were computed; the others were in memory.
    pub prompt_computed: usize,
    /// Time until the first id was chosen.
    pub prefill: Duration,
    /// Time for all further ids.
    pub decode: Duration,
}

impl Generation {
    /// Ids per second behind the first one; 0 if there was only one.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
    pub fn decode_per_second(&self) -> f64 {
        if self.ids.len() < 2 { 0.0 } else { (self.ids.len() - 1) as f64 / self.decode.as_secs_f64() }
    }

    /// Ids of the prompt per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
    pub fn prefill_per_second(&self) -> f64 {
        self.prompt_computed as f64 / self.prefill.as_secs_f64()
    }
}

impl Session {
    /// Takes memory for the keys and values of so many positions; more than the context is the context.
    ///
    /// # Errors
    /// [`ModelError::Memory`] if there is not that much memory; [`ModelError::Decoder`] if the system refuses it all the same.
    pub fn new(decoder: Decoder, positions: usize) -> Result<Self, ModelError> {
        check_memory(decoder.header(), positions)?;
        let cache = decoder.cache(positions)?;
        let work = Workspace::new(decoder.header(), ROWS.min(cache.capacity()));
        Ok(Self { decoder, work, cache })
    }

    /// The header of the model.
    #[must_use]
    pub fn header(&self) -> &Header {
        self.decoder.header()
    }

    /// Chooses ids behind a prompt by the rule of a job, item 0, sample 0: a job with the same rule has the same output. `on_id` gets each, and ends the
    /// generation by returning false.
    ///
    /// # Errors
    /// A prompt that the model computes nothing of: [`ModelError::EmptyPrompt`], [`ModelError::PromptTooLong`], [`ModelError::Decoder`] for an
    /// unknown id.
    pub fn generate(&mut self, prompt: &[u32], rule: &Rule, on_id: &mut dyn FnMut(u32) -> bool) -> Result<Generation, ModelError> {
        let start = Instant::now();
        let room = self.cache.capacity();
        if prompt.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        if prompt.len() > room {
            return Err(ModelError::PromptTooLong { tokens: prompt.len(), room });
        }
        let same = self.cache.ids().iter().zip(&prompt[..prompt.len() - 1]).take_while(|(a, b)| a == b).count();
        self.cache.truncate(same);
        let mut next = None;
        let mut pieces = prompt[same..].chunks(self.work.rows()).peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            next = self.step(piece, last.then_some(rule))?;
        }
        let prefill = start.elapsed();
        let mut ids = Vec::new();
        let reason = loop {
            let Some(id) = next else { break None };
            ids.push(id);
            if !on_id(id) {
                break None;
            }
            if let Some(reason) = rule.end(self.header(), prompt.len(), ids.len(), id) {
                break Some(reason);
            }
            if self.cache.len() == room {
                break Some(FinishReason::Context);
            }
            next = self.step(&[id], Some(rule))?;
        };
        Ok(Generation { ids, reason, prompt_computed: prompt.len() - same, prefill, decode: start.elapsed() - prefill })
    }

    /// Computes ids; the choice behind the last of them if there is a rule.
    fn step(&mut self, ids: &[u32], rule: Option<&Rule>) -> Result<Option<u32>, ModelError> {
        let choose = rule.map(|rule| Choose { rule, key: KEY, from: ids.len() - 1 });
        self.decoder.step(&mut self.work, &mut [Run { cache: &mut self.cache, ids, choose }])?;
        Ok(self.work.choices().last().copied().flatten())
    }
}
