use quern_types::{FinishReason, JobKind};

use super::{BlobError, Expected, reader::Reader};
use crate::{
    CommitError,
    error::as_u32,
    sum_tree::{SumNode, SumTree},
    vector::Elements,
};

const MAGIC: &str = "QOU1";

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord<T> {
    /// How it ended.
    pub reason: FinishReason,
    /// Ids, or the int16 elements of an embedding in Q15.
    pub elements: Vec<T>,
}

/// The outputs of a job, item-major, then sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputSet {
    /// One vector per item.
    Embed(Vec<OutputRecord<i16>>),
    /// `samples` lists of ids per item.
    Generate {
        /// Samples per item, at least 1.
        samples: u32,
        /// Items times samples.
        outputs: Vec<OutputRecord<u32>>,
    },
}

impl OutputSet {
    /// The kind of job that these are outputs of.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::Embed(_) => JobKind::Embed,
            Self::Generate { .. } => JobKind::Generate,
        }
    }

    /// The embeddings, if they are.
    #[must_use]
    pub fn embeddings(&self) -> Option<&[OutputRecord<i16>]> {
        match self {
            Self::Embed(outputs) => Some(outputs),
            Self::Generate { .. } => None,
        }
    }

    /// The output tree.
    ///
    /// # Errors
    /// No outputs, more than a u32 counts, or outputs that are no whole number of items.
    pub fn tree(&self) -> Result<SumTree, BlobError> {
        let leaves: Result<Vec<SumNode>, CommitError> = match self {
            Self::Embed(outputs) => (0..).zip(outputs).map(|(item, output)| embed_leaf(item, output)).collect(),
            Self::Generate { samples, outputs } => {
                let count = as_u32("outputs", outputs.len())?;
                if *samples == 0 || !count.is_multiple_of(*samples) {
                    return Err(BlobError::Samples { outputs: count, samples: *samples });
                }
                (0..).zip(outputs).map(|(at, output): (u32, _)| generate_leaf(at / samples, at % samples, output)).collect()
            }
        };
        Ok(SumTree::new(leaves?)?)
    }

    /// The blob: "QOU1", kind, output count, then per output its reason, length and elements.
    ///
    /// # Errors
    /// More outputs or elements than a u32 counts.
    pub fn to_blob(&self) -> Result<Vec<u8>, CommitError> {
        let mut blob = MAGIC.as_bytes().to_vec();
        blob.push(self.kind().code());
        match self {
            Self::Embed(outputs) => write_outputs(&mut blob, outputs, i16::to_be_bytes)?,
            Self::Generate { outputs, .. } => write_outputs(&mut blob, outputs, u32::to_be_bytes)?,
        }
        Ok(blob)
    }

    /// Reads a blob and holds it to the receipt's root and length. `samples` is the job's samples per item (1 for an embedding).
    ///
    /// # Errors
    /// The bytes are malformed, or are not what the receipt committed to.
    pub fn from_blob(bytes: &[u8], samples: u32, expected: &Expected) -> Result<Self, BlobError> {
        let mut reader = Reader::new(bytes, MAGIC)?;
        let at = reader.offset();
        let code = reader.u8("the output kind")?;
        let kind = JobKind::try_from(code).map_err(|_| BlobError::Code { what: "output kind", offset: at, code })?;
        let count = reader.u32("the output count")?;
        expected.check_leaves("outputs", count)?;
        let set = match kind {
            JobKind::Embed => Self::Embed(read_outputs(&mut reader, kind, count, i16::from_be_bytes)?),
            JobKind::Generate => Self::Generate { samples, outputs: read_outputs(&mut reader, kind, count, u32::from_be_bytes)? },
        };
        reader.end()?;
        expected.check_root(set.tree()?.root())?;
        Ok(set)
    }
}

fn embed_leaf(item: u32, output: &OutputRecord<i16>) -> Result<SumNode, CommitError> {
    let width = as_u32("elements", output.elements.len())?;
    Ok(SumNode::embed(item, output.reason, width, &Elements::I16(&output.elements).hash()))
}

fn generate_leaf(item: u32, sample: u32, output: &OutputRecord<u32>) -> Result<SumNode, CommitError> {
    let length = as_u32("ids", output.elements.len())?;
    Ok(SumNode::generate(item, sample, output.reason, length, &Elements::U32(&output.elements).hash()))
}

fn write_outputs<T: Copy, const WIDTH: usize>(
    blob: &mut Vec<u8>,
    outputs: &[OutputRecord<T>],
    to_bytes: fn(T) -> [u8; WIDTH],
) -> Result<(), CommitError> {
    blob.extend(as_u32("outputs", outputs.len())?.to_be_bytes());
    for output in outputs {
        blob.push(output.reason.code());
        blob.extend(as_u32("elements", output.elements.len())?.to_be_bytes());
        blob.extend(output.elements.iter().flat_map(|&element| to_bytes(element)));
    }
    Ok(())
}

fn read_outputs<T, const WIDTH: usize>(
    reader: &mut Reader<'_>,
    kind: JobKind,
    count: u32,
    from_bytes: fn([u8; WIDTH]) -> T,
) -> Result<Vec<OutputRecord<T>>, BlobError> {
    // Grows with the bytes that are there, not with the count that is claimed.
    let mut outputs = Vec::new();
    for _ in 0..count {
        let offset = reader.offset();
        let code = reader.u8("a finish reason")?;
        let reason = FinishReason::try_from(code).ok().filter(|&reason| fits(kind, reason));
        let reason = reason.ok_or(BlobError::Code { what: "finish reason of this kind", offset, code })?;
        let length = reader.u32("the length of an output")?;
        let elements = reader.numbers::<WIDTH>("the elements of an output", length)?;
        outputs.push(OutputRecord { reason, elements: elements.iter().map(|&element| from_bytes(element)).collect() });
    }
    Ok(outputs)
}

/// Whether an output of this kind can end this way.
const fn fits(kind: JobKind, reason: FinishReason) -> bool {
    match reason {
        FinishReason::Complete => matches!(kind, JobKind::Embed),
        FinishReason::Stop | FinishReason::MaxOutput | FinishReason::Context => matches!(kind, JobKind::Generate),
        FinishReason::EmptyItem | FinishReason::ItemTooLong | FinishReason::UnknownId => true,
    }
}
