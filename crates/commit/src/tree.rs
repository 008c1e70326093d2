//! Binary trees over hashes, padded on the right with the empty leaf to a power of two (PROTOCOL.md, section 1).

use alloy_primitives::B256;

use crate::{
    CommitError,
    preimage::{Preimage, Tag},
};

/// A tree with all its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    leaves: usize,
    /// Level 0: the leaves with their padding; the last level is the top alone.
    levels: Vec<Vec<B256>>,
}

/// The way from one leaf to the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The leaf, from 0.
    pub index: usize,
    /// From the leaf up.
    pub siblings: Vec<B256>,
}

/// Hash of an inner node.
#[must_use]
pub fn node_hash(left: &B256, right: &B256) -> B256 {
    Preimage::new(Tag::TreeNode).hash(left).hash(right).finish()
}

/// Hash of the empty leaf.
#[must_use]
pub fn empty_leaf() -> B256 {
    Preimage::new(Tag::TreeEmpty).finish()
}

impl Tree {
    /// The tree over these leaves.
    ///
    /// # Errors
    /// [`CommitError::NoLeaves`], or [`CommitError::TooMany`] past 2^32 - 1.
    pub fn new(mut leaves: Vec<B256>) -> Result<Self, CommitError> {
        let count = leaves.len();
        leaves.resize(padded(count)?, empty_leaf());
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
            levels.push(above);
        }
        Ok(Self { leaves: count, levels })
    }

    /// Leaves without the padding.
    #[must_use]
    pub const fn leaves(&self) -> usize {
        self.leaves
    }

    /// The top.
    #[must_use]
    pub fn top(&self) -> B256 {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or_default()
    }

    /// The way from a leaf to the top.
    ///
    /// # Errors
    /// [`CommitError::NoSuchLeaf`].
    pub fn open(&self, index: usize) -> Result<Opening, CommitError> {
        if index >= self.leaves {
            return Err(CommitError::NoSuchLeaf { index, leaves: self.leaves });
        }
        let inner = self.levels.iter().take(self.levels.len() - 1).enumerate();
        let siblings = inner.filter_map(|(height, level)| level.get((index >> height) ^ 1).copied()).collect();
        Ok(Opening { index, siblings })
    }
}

impl Opening {
    /// The top that follows from this leaf in a tree of `leaves` leaves.
    ///
    /// # Errors
    /// The leaf does not exist, or the way has another length than `leaves` says.
    pub fn top(&self, leaf: B256, leaves: usize) -> Result<B256, CommitError> {
        check_path(self.index, leaves, self.siblings.len())?;
        let step = |node: B256, (height, sibling): (usize, &B256)| {
            if (self.index >> height) & 1 == 0 { node_hash(&node, sibling) } else { node_hash(sibling, &node) }
        };
        Ok(self.siblings.iter().enumerate().fold(leaf, step))
    }
}

/// Leaves with the padding.
pub(crate) fn padded(leaves: usize) -> Result<usize, CommitError> {
    match leaves {
        0 => Err(CommitError::NoLeaves),
        _ if u32::try_from(leaves).is_err() => Err(CommitError::TooMany { what: "leaves", count: leaves }),
        _ => Ok(leaves.next_power_of_two()),
    }
}

/// Checks that a path of this length can open this leaf.
pub(crate) fn check_path(index: usize, leaves: usize, actual: usize) -> Result<(), CommitError> {
    let expected = padded(leaves)?.trailing_zeros() as usize;
    if index >= leaves {
        return Err(CommitError::NoSuchLeaf { index, leaves });
    }
    if actual != expected {
        return Err(CommitError::PathLength { leaves, expected, actual });
    }
    Ok(())
}
