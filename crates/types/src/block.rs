//! Blocks and the three heads.

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

/// A block by number and hash: the number alone names nothing while the chain can reorganise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Hash of the header.
    pub hash: B256,
    /// Unix time of the block, in seconds.
    pub timestamp: u64,
}

/// What a block stands under. Ordered by strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// Seen; the sequencer may still take it back.
    Latest,
    /// Derived from data on the L1; goes back only if the L1 does.
    Safe,
    /// Never goes back.
    Finalized,
}

/// The three heads of the L2 at one moment; `finalized.number <= safe.number <= latest.number`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// Newest block.
    pub latest: BlockRef,
    /// Newest block derived from L1 data.
    pub safe: BlockRef,
    /// Newest block that cannot go back.
    pub finalized: BlockRef,
}

impl Heads {
    /// The strongest head that a canonical block of this height stands under.
    pub const fn of(&self, number: u64) -> Head {
        if number <= self.finalized.number {
            Head::Finalized
        } else if number <= self.safe.number {
            Head::Safe
        } else {
            Head::Latest
        }
    }

    /// The block of a head.
    pub const fn get(&self, head: Head) -> BlockRef {
        match head {
            Head::Latest => self.latest,
            Head::Safe => self.safe,
            Head::Finalized => self.finalized,
        }
    }
}
