//! Preimages: a tag, then big-endian integers and bytes, without padding (PROTOCOL.md, section 1).

use alloy_primitives::{B256, Keccak256};

/// The first byte of every preimage. No two kinds share one.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Tag {
    Chunk = 0x01,
    Vector = 0x02,
    TensorNode = 0x03,
    Tensor = 0x04,
    InputLeaf = 0x10,
    OutputGenerate = 0x11,
    OutputEmbed = 0x12,
    SumNode = 0x13,
    SumEmpty = 0x14,
    WeightRow = 0x20,
    TreeNode = 0x21,
    TreeEmpty = 0x22,
    Matrix = 0x23,
    Weights = 0x24,
    Package = 0x30,
    ModelId = 0x31,
    WorkRoot = 0x40,
    WorkDigest = 0x41,
}

/// A preimage in the making.
pub(crate) struct Preimage(Keccak256);

impl Preimage {
    pub(crate) fn new(tag: Tag) -> Self {
        Self(Keccak256::new()).bytes(&[tag as u8])
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    pub(crate) fn u8(self, x: u8) -> Self {
        self.bytes(&[x])
    }

    pub(crate) fn u16(self, x: u16) -> Self {
        self.bytes(&x.to_be_bytes())
    }

    pub(crate) fn u32(self, x: u32) -> Self {
        self.bytes(&x.to_be_bytes())
    }

    pub(crate) fn u64(self, x: u64) -> Self {
        self.bytes(&x.to_be_bytes())
    }

    pub(crate) fn i32(self, x: i32) -> Self {
        self.bytes(&x.to_be_bytes())
    }

    pub(crate) fn hash(self, hash: &B256) -> Self {
        self.bytes(hash.as_slice())
    }

    pub(crate) fn hashes(self, hashes: &[B256]) -> Self {
        hashes.iter().fold(self, Self::hash)
    }

    pub(crate) fn finish(self) -> B256 {
        self.0.finalize()
    }
}
