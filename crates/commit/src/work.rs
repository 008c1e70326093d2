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
};

/// The leaf of one output: the tensor hash of its final norm N. An output that was not computed has no rows.
#[must_use]
pub fn work_leaf(output: &Output) -> B256 {
    TensorTree::of_table(&output.norm_rows).hash()
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
