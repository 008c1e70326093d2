//! A generate job as the computing thread takes it, and what comes out of it.

use quern_commit::blob::OutputRecord;
use quern_exact::decoder::{Decoder, OutputKey, Rule};
use quern_types::{B256, PackageRoot};

use crate::load::Load;

/// Most sequences side by side: by then the products are as fast as with any number of rows.
pub(crate) const SEQUENCES: usize = 32;
/// Most rows of a step: it must be short enough that a look at whether the job is still wanted comes soon.
pub(crate) const STEP_ROWS: usize = 256;

/// The outputs of a generate job to be computed.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    /// Of the model: jobs of one package share a batch.
    pub(crate) package: PackageRoot,
    pub(crate) decoder: Decoder,
    pub(crate) items: Vec<Vec<u32>>,
    pub(crate) samples: u32,
    pub(crate) rule: Rule,
}

/// What came out, item-major, then sample.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) records: Vec<OutputRecord<u32>>,
    /// Work leaf of each output.
    pub(crate) leaves: Vec<B256>,
    /// What was done for it; of steps that it shared with other jobs its part.
    pub(crate) load: Load,
}

impl Generation {
    /// Item and sample of an output.
    pub(crate) fn key(&self, output: usize) -> OutputKey {
        // A job has at most 65,536 items of 256 samples.
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let samples = self.samples as usize;
        OutputKey { item: number(output / samples), sample: number(output % samples) }
    }

    /// All its outputs.
    pub(crate) const fn output_count(&self) -> usize {
        self.items.len() * self.samples as usize
    }
}
