//! What a job says about the ids that a decoder may output (EXACT.md, sections 4.14 and 5).

use std::num::NonZeroU32;

use quern_types::FinishReason;

use crate::{
    header::{Header, NO_ID},
    reference::{Draw, choose},
};

/// The part of a job that, with the model and an item, decides every id of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Most ids of an output.
    pub max_output: NonZeroU32,
    /// Ids that end an output; unused ones are [`NO_ID`].
    pub stop_ids: [u32; 8],
    /// Q16; 0 is greedy.
    pub temperature: u32,
    /// Least share of the likeliest id's probability, Q16; 0 to 65,536, and more counts as 65,536.
    pub min_p: u32,
    /// Of the sampling; public.
    pub seed: [u8; 32],
}

/// Which output of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutputKey {
    /// Index of the item.
    pub item: u32,
    /// Index of the sample of the item.
    pub sample: u32,
}

impl Rule {
    /// Always the likeliest id, until `max_output`, a stop id, or the end of the context.
    #[must_use]
    pub const fn greedy(max_output: NonZeroU32, stop_ids: [u32; 8]) -> Self {
        Self { max_output, stop_ids, temperature: 0, min_p: 0, seed: [0; 32] }
    }

    /// What the choice at a position of an output depends on besides its logits.
    #[must_use]
    pub const fn draw(&self, key: OutputKey, position: u32) -> Draw<'_> {
        Draw { temperature: self.temperature, min_p: self.min_p, seed: &self.seed, item: key.item, sample: key.sample, position }
    }

    /// The id chosen from the logits of a position (EXACT.md, section 4.14).
    #[must_use]
    pub fn choose(&self, key: OutputKey, position: u32, logits: &[i32]) -> u32 {
        choose(logits, &self.draw(key, position))
    }

    /// Why an output ends with its last id, if it does: stop id, `max_output`, context, in this order. `item_len` is the length of the
    /// item, `output_len` that of the output including `last`.
    #[must_use]
    pub fn end(&self, header: &Header, item_len: usize, output_len: usize, last: u32) -> Option<FinishReason> {
        if last != NO_ID && self.stop_ids.contains(&last) {
            Some(FinishReason::Stop)
        } else if output_len >= self.max_output.get() as usize {
            Some(FinishReason::MaxOutput)
        } else if item_len + output_len > header.context as usize {
            Some(FinishReason::Context)
        } else {
            None
        }
    }
}
