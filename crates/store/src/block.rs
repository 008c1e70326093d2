//! One block: its size bound and its name.

use bytes::Bytes;
use quern_types::{ContentCodec, ContentId};
use sha2::{Digest, Sha256};

use crate::StoreError;

/// No block is longer, in bytes: 2 MiB, the bound of Bitswap and of Kubo's `block put`. Ours have at most 1 MiB.
pub const MAX_BLOCK_BYTES: usize = 2 << 20;

/// The id of a block: its sha2-256 under `codec`.
#[must_use]
pub fn block_id(codec: ContentCodec, bytes: &[u8]) -> ContentId {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    ContentId { codec, digest: digest.into() }
}

/// Refuses bytes that a caller offers under an id that is not theirs, or that are too long for a block.
pub(crate) fn check_offered(id: ContentId, bytes: &[u8]) -> Result<(), StoreError> {
    if bytes.len() > MAX_BLOCK_BYTES {
        return Err(StoreError::BlockTooLarge { id, size: bytes.len() as u64 });
    }
    let found = block_id(id.codec, bytes);
    if found == id { Ok(()) } else { Err(StoreError::WrongBytes { id, found, len: bytes.len() }) }
}

/// Passes on bytes that a store read back, where they are the block's.
pub(crate) fn check_read(id: ContentId, bytes: Bytes, store: &'static str, place: impl FnOnce() -> String) -> Result<Bytes, StoreError> {
    let found = block_id(id.codec, &bytes);
    if found == id && bytes.len() <= MAX_BLOCK_BYTES {
        return Ok(bytes);
    }
    Err(StoreError::Corrupt { id, store, place: place(), len: bytes.len() as u64, found })
}
