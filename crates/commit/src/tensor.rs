//! Tensors: a matrix of activations, one row per position, as a 32-ary tree over row hashes (PROTOCOL.md, section 1).

use alloy_primitives::B256;
use quern_exact::format::TableI32;

use crate::{
    CommitError,
    error::as_u32,
    preimage::{Preimage, Tag},
    vector::{ElementType, Elements},
};

/// Children of a full node.
pub const FAN_OUT: usize = 32;

/// Hash of an inner node: up to 32 children.
#[must_use]
pub fn node_hash(children: &[B256]) -> B256 {
    Preimage::new(Tag::TensorNode).hashes(children).finish()
}

fn tensor_hash(element_type: ElementType, rows: u32, width: u32, top: Option<B256>) -> B256 {
    Preimage::new(Tag::Tensor).u8(element_type.code()).u32(rows).u32(width).hash(&top.unwrap_or_default()).finish()
}

/// A tensor with all its nodes, for openings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorTree {
    element_type: ElementType,
    width: u32,
    rows: u32,
    /// Level 0: the row hashes; the last level has one node, or none for no row.
    levels: Vec<Vec<B256>>,
}

/// The way from one row to a tensor hash: on each level all children of the node above, the one below among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorOpening {
    /// The row, from 0.
    pub row: usize,
    /// From the rows up.
    pub levels: Vec<Vec<B256>>,
}

impl TensorTree {
    /// The tree over these row hashes.
    ///
    /// # Errors
    /// [`CommitError::TooMany`] if width or rows have no u32.
    pub fn new(element_type: ElementType, width: usize, row_hashes: Vec<B256>) -> Result<Self, CommitError> {
        let rows = as_u32("rows", row_hashes.len())?;
        let width = as_u32("elements", width)?;
        let mut levels = vec![row_hashes];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below.chunks(FAN_OUT).map(node_hash).collect();
            levels.push(above);
        }
        Ok(Self { element_type, width, rows, levels })
    }

    /// The tree over a table's rows, type int32.
    #[must_use]
    pub fn of_table(table: &TableI32) -> Self {
        let rows = table.iter_rows().map(|row| Elements::I32(row).hash()).collect();
        Self::new(ElementType::I32, table.width(), rows).unwrap_or_else(|error| unreachable!("a table in memory: {error}"))
    }

    /// The tensor hash.
    #[must_use]
    pub fn hash(&self) -> B256 {
        tensor_hash(self.element_type, self.rows, self.width, self.levels.last().and_then(|level| level.first()).copied())
    }

    /// The children of a node: level 1 is above the rows. Empty where there is no such node.
    #[must_use]
    pub fn children(&self, level: usize, index: usize) -> &[B256] {
        let below = level.checked_sub(1).and_then(|below| self.levels.get(below)).map_or(&[][..], Vec::as_slice);
        below.chunks(FAN_OUT).nth(index).filter(|_| level < self.levels.len()).unwrap_or_default()
    }

    /// The way from a row to the tensor hash.
    ///
    /// # Errors
    /// [`CommitError::NoSuchLeaf`].
    pub fn open(&self, row: usize) -> Result<TensorOpening, CommitError> {
        if row >= self.rows as usize {
            return Err(CommitError::NoSuchLeaf { index: row, leaves: self.rows as usize });
        }
        let mut index = row;
        let levels = (1..self.levels.len()).map(|level| {
            index /= FAN_OUT;
            self.children(level, index).to_vec()
        });
        Ok(TensorOpening { row, levels: levels.collect() })
    }
}

impl TensorOpening {
    /// The tensor hash that follows from this row hash and this way in a tensor of `rows` rows of `width` elements.
    ///
    /// # Errors
    /// The row does not exist, the way has another length than `rows` says, or a node does not hold the one below at its place or has another number of children.
    pub fn tensor_hash(&self, element_type: ElementType, rows: u32, width: u32, row_hash: B256) -> Result<B256, CommitError> {
        let (mut nodes, mut index, mut node) = (rows as usize, self.row, row_hash);
        if index >= nodes {
            return Err(CommitError::NoSuchLeaf { index, leaves: nodes });
        }
        let expected = levels_above(nodes);
        if self.levels.len() != expected {
            return Err(CommitError::PathLength { leaves: nodes, expected, actual: self.levels.len() });
        }
        for (level, children) in self.levels.iter().enumerate() {
            let first = index / FAN_OUT * FAN_OUT;
            if children.len() != (nodes - first).min(FAN_OUT) || children.get(index - first) != Some(&node) {
                return Err(CommitError::TensorPath { level });
            }
            node = node_hash(children);
            (nodes, index) = (nodes.div_ceil(FAN_OUT), index / FAN_OUT);
        }
        Ok(tensor_hash(element_type, rows, width, Some(node)))
    }
}

/// Levels above this many nodes.
fn levels_above(mut nodes: usize) -> usize {
    let mut levels = 0;
    while nodes > 1 {
        nodes = nodes.div_ceil(FAN_OUT);
        levels += 1;
    }
    levels
}
