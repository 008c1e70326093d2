//! The bytes of a job's input and output in the content store (PROTOCOL.md, section 3, "Content"). Decoding is strict: one set of items
//! has one blob, and a blob that does not hash to the root it belongs to is as good as absent.

mod input;
mod output;
mod reader;

pub use input::InputSet;
pub use output::{OutputRecord, OutputSet};

use thiserror::Error;

use crate::{CommitError, sum_tree::SumNode};

/// What a blob must hash to, as the job or the receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Root hash and total count of the sum tree.
    pub root: SumNode,
    /// Leaves of the tree: items of an input; items times samples of an output.
    pub leaves: u32,
}

/// Why bytes are not the blob that they should be. Offsets count from 0.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The bytes end in the middle of something.
    #[error("the blob ends at byte {len}, in the middle of {what} at byte {offset}, which needs {needed} bytes")]
    Truncated {
        /// What stands there.
        what: &'static str,
        /// Where it begins.
        offset: usize,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes of the blob.
        len: usize,
    },
    /// Another file altogether.
    #[error("the blob begins with {actual:02x?}, a blob of this kind begins with {expected:?}")]
    Magic {
        /// First bytes found.
        actual: [u8; 4],
        /// First bytes expected, as text.
        expected: &'static str,
    },
    /// Bytes after the end.
    #[error("the blob ends at byte {end}, but {extra} bytes follow")]
    Trailing {
        /// Where the content ends.
        end: usize,
        /// Bytes that follow.
        extra: usize,
    },
    /// Another number of items or outputs than the job says.
    #[error("the blob holds {actual} {what}, the job has {expected}")]
    Leaves {
        /// "items" or "outputs".
        what: &'static str,
        /// Number in the blob.
        actual: u32,
        /// Number in the job.
        expected: u32,
    },
    /// A byte that names nothing.
    #[error("byte {offset} of the blob is {code}, which is no {what}")]
    Code {
        /// "output kind" or "finish reason of this kind".
        what: &'static str,
        /// Where it stands.
        offset: usize,
        /// The byte.
        code: u8,
    },
    /// Samples per item that do not divide the outputs.
    #[error("{outputs} outputs are no whole number of items with {samples} samples each")]
    Samples {
        /// Outputs of the blob.
        outputs: u32,
        /// Samples per item.
        samples: u32,
    },
    /// Well formed, but not what was committed to.
    #[error("the blob hashes to {:?} with {} ids, it should be {:?} with {}", actual.hash, actual.count, expected.hash, expected.count)]
    Root {
        /// Root of this blob.
        actual: SumNode,
        /// Root in the job or the receipt.
        expected: SumNode,
    },
    /// No tree over this many.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Expected {
    fn check_leaves(&self, what: &'static str, actual: u32) -> Result<(), BlobError> {
        if actual == self.leaves { Ok(()) } else { Err(BlobError::Leaves { what, actual, expected: self.leaves }) }
    }

    fn check_root(&self, actual: SumNode) -> Result<(), BlobError> {
        if actual == self.root { Ok(()) } else { Err(BlobError::Root { actual, expected: self.root }) }
    }
}
