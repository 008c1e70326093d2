//! The recent blocks that we delivered, to find out where another chain leaves ours.

use std::collections::VecDeque;

use quern_types::BlockRef;

/// Consecutive blocks, ascending, at most `capacity`. INVARIANT: numbers have no gaps.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    blocks: VecDeque<BlockRef>,
    capacity: usize,
}

impl Window {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { blocks: VecDeque::new(), capacity: capacity.max(1) }
    }

    /// Appends the block after the last one; a block that does not follow replaces everything.
    pub(crate) fn push(&mut self, block: BlockRef) {
        if self.blocks.back().is_some_and(|last| last.number + 1 != block.number) {
            self.blocks.clear();
        }
        if self.blocks.len() == self.capacity {
            self.blocks.pop_front();
        }
        self.blocks.push_back(block);
    }

    pub(crate) fn get(&self, number: u64) -> Option<BlockRef> {
        let first = self.blocks.front()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        self.blocks.get(index).copied()
    }

    pub(crate) fn first(&self) -> Option<BlockRef> {
        self.blocks.front().copied()
    }

    pub(crate) fn last(&self) -> Option<BlockRef> {
        self.blocks.back().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn clear(&mut self) {
        self.blocks.clear();
    }

    /// Drops blocks above `number`.
    pub(crate) fn truncate_above(&mut self, number: u64) {
        while self.blocks.back().is_some_and(|block| block.number > number) {
            self.blocks.pop_back();
        }
    }

    /// Drops blocks below `number`, but never the last one.
    pub(crate) fn forget_below(&mut self, number: u64) {
        while self.blocks.len() > 1 && self.blocks.front().is_some_and(|block| block.number < number) {
            self.blocks.pop_front();
        }
    }
}
