//! Sum trees: every node is a hash with a count, and the count of an inner node is the sum of its children's (PROTOCOL.md, section 1).

use alloy_primitives::B256;
use quern_types::FinishReason;

use crate::{
    CommitError,
    preimage::{Preimage, Tag},
    tree::{check_path, padded},
};

/// A node, a leaf or a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SumNode {
    /// Hash; of an inner node it covers both counts below.
    pub hash: B256,
    /// Ids that lie below.
    pub count: u64,
}

impl SumNode {
    /// Leaf of an input: an item and the vector hash (type u32) of its ids.
    #[must_use]
    pub fn input(item: u32, length: u32, ids: &B256) -> Self {
        let hash = Preimage::new(Tag::InputLeaf).u32(item).u32(length).hash(ids).finish();
        Self { hash, count: u64::from(length) }
    }

    /// Leaf of a generated output, with the vector hash (type u32) of its ids.
    #[must_use]
    pub fn generate(item: u32, sample: u32, reason: FinishReason, length: u32, ids: &B256) -> Self {
        let preimage = Preimage::new(Tag::OutputGenerate).u32(item).u32(sample).u8(reason.code()).u32(length);
        Self { hash: preimage.hash(ids).finish(), count: u64::from(length) }
    }

    /// Leaf of an embedding, with the vector hash (type int16) of its elements.
    #[must_use]
    pub fn embed(item: u32, reason: FinishReason, width: u32, vector: &B256) -> Self {
        Self { hash: Preimage::new(Tag::OutputEmbed).u32(item).u8(reason.code()).u32(width).hash(vector).finish(), count: 0 }
    }

    /// What pads a sum tree.
    #[must_use]
    pub fn empty() -> Self {
        Self { hash: Preimage::new(Tag::SumEmpty).finish(), count: 0 }
    }

    /// The node above two nodes.
    ///
    /// # Errors
    /// [`CommitError::CountOverflow`].
    pub fn above(left: Self, right: Self) -> Result<Self, CommitError> {
        let count = left.count.checked_add(right.count).ok_or(CommitError::CountOverflow)?;
        let preimage = Preimage::new(Tag::SumNode).hash(&left.hash).u64(left.count).hash(&right.hash).u64(right.count);
        Ok(Self { hash: preimage.finish(), count })
    }
}

/// A sum tree with all its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumTree {
    leaves: usize,
    /// Level 0: the leaves with their padding; the last level is the root alone.
    levels: Vec<Vec<SumNode>>,
    root: SumNode,
}

/// The way from one leaf to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumOpening {
    /// The leaf, from 0.
    pub index: usize,
    /// From the leaf up.
    pub siblings: Vec<SumNode>,
}

impl SumTree {
    /// The tree over these leaves.
    ///
    /// # Errors
    /// No leaves, too many, or counts beyond 64 bits.
    pub fn new(mut leaves: Vec<SumNode>) -> Result<Self, CommitError> {
        let count = leaves.len();
        leaves.resize(padded(count)?, SumNode::empty());
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below.as_chunks::<2>().0.iter().map(|&[left, right]| SumNode::above(left, right)).collect::<Result<_, _>>()?;
            levels.push(above);
        }
        let root = levels.last().and_then(|level| level.first()).copied().ok_or(CommitError::NoLeaves)?;
        Ok(Self { leaves: count, levels, root })
    }

    /// Leaves without the padding.
    #[must_use]
    pub const fn leaves(&self) -> usize {
        self.leaves
    }

    /// Root hash and total count.
    #[must_use]
    pub const fn root(&self) -> SumNode {
        self.root
    }

    /// The way from a leaf to the root.
    ///
    /// # Errors
    /// [`CommitError::NoSuchLeaf`].
    pub fn open(&self, index: usize) -> Result<SumOpening, CommitError> {
        if index >= self.leaves {
            return Err(CommitError::NoSuchLeaf { index, leaves: self.leaves });
        }
        let inner = self.levels.iter().take(self.levels.len() - 1).enumerate();
        let siblings = inner.filter_map(|(height, level)| level.get((index >> height) ^ 1).copied()).collect();
        Ok(SumOpening { index, siblings })
    }
}

impl SumOpening {
    /// The root that follows from this leaf in a tree of `leaves` leaves.
    ///
    /// # Errors
    /// The leaf does not exist, the way has another length than `leaves` says, or the counts overflow.
    pub fn root(&self, leaf: SumNode, leaves: usize) -> Result<SumNode, CommitError> {
        check_path(self.index, leaves, self.siblings.len())?;
        self.siblings.iter().enumerate().try_fold(leaf, |node, (height, &sibling)| {
            if (self.index >> height) & 1 == 0 { SumNode::above(node, sibling) } else { SumNode::above(sibling, node) }
        })
    }
}
