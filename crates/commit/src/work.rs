//! The work digest: nobody has it without running the model, and nobody can copy it (PROTOCOL.md, section 1).

use alloy_primitives::{Address, B256};
use quern_exact::encoder::Output;
use quern_types::JobId;

use crate::{
    CommitError,
    error::as_u32,
    preimage::{Preimage, Tag},
    tensor::TensorTree,
    tree::Tree,
    vector::{ElementType, Elements},
};

/// The leaf of one output: the tensor hash of its final norm N. An output that was not computed has no rows.
#[must_use]
pub fn work_leaf(output: &Output) -> B256 {
    TensorTree::of_table(&output.norm_rows).hash()
}

/// The leaf of an output whose rows of N come piece by piece, as a decoder makes them. Keeps 32 bytes per position; a clone is the beginning
/// that several samples of one item share.
#[derive(Debug, Clone)]
pub struct WorkLeaf {
    width: usize,
    rows: Vec<B256>,
}

impl WorkLeaf {
    /// No rows yet, of `width` elements each: dim of the model.
    #[must_use]
    pub const fn new(width: usize) -> Self {
        Self { width, rows: Vec::new() }
    }

    /// The next rows, row-major in Q14.
    ///
    /// # Panics
    /// If the width is 0, or these are not whole rows.
    pub fn push(&mut self, rows: &[i32]) {
        assert!(rows.len().is_multiple_of(self.width), "whole rows of {} elements", self.width);
        self.rows.extend(rows.chunks_exact(self.width).map(|row| Elements::I32(row).hash()));
    }

    /// Positions so far.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The leaf. Without rows it is that of an output that was not computed.
    ///
    /// # Errors
    /// More rows than a u32 counts.
    pub fn finish(self) -> Result<B256, CommitError> {
        Ok(TensorTree::new(ElementType::I32, self.width, self.rows)?.hash())
    }
}

/// Work root over the leaves of all outputs, in the order of the output tree.
///
/// # Errors
/// No outputs, or too many.
pub fn work_root(leaves: Vec<B256>) -> Result<B256, CommitError> {
    let count = as_u32("outputs", leaves.len())?;
    Ok(Preimage::new(Tag::WorkRoot).u32(count).hash(&Tree::new(leaves)?.top()).finish())
}

/// The work digest of a receipt.
#[must_use]
pub fn work_digest(work_root: &B256, provider: Address, job: JobId) -> B256 {
    Preimage::new(Tag::WorkDigest).hash(work_root).bytes(provider.as_slice()).hash(&job.0).finish()
}
