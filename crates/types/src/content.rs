//! Content addresses as the chain stores them: a codec byte and a sha2-256 digest. The text form (CIDv1, base32) is `quern-store`'s.

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

/// Multicodec of a block that a job or receipt may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ContentCodec {
    /// 0x55: the block is the content (files up to 1 MiB).
    Raw = 0x55,
    /// 0x70: the block is a UnixFS node that links to the content's chunks.
    DagPb = 0x70,
}

/// A CIDv1 with sha2-256: what `inputCodec, inputDigest` and `outputCodec, outputDigest` hold on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentId {
    /// What kind of block the digest is of.
    pub codec: ContentCodec,
    /// sha2-256 of the block.
    pub digest: B256,
}

/// The byte is no codec that a job or receipt may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("content codec 0x{0:02x} is neither 0x55 (raw) nor 0x70 (dag-pb)")]
pub struct ContentIdError(pub u8);

impl TryFrom<u8> for ContentCodec {
    type Error = ContentIdError;

    fn try_from(code: u8) -> Result<Self, Self::Error> {
        match code {
            0x55 => Ok(Self::Raw),
            0x70 => Ok(Self::DagPb),
            other => Err(ContentIdError(other)),
        }
    }
}

impl From<ContentCodec> for u8 {
    fn from(codec: ContentCodec) -> Self {
        codec as Self
    }
}
