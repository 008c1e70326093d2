//! The trait that every backend implements.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use quern_types::ContentId;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{StoreError, car, dag};

/// A place for content that is named by its hash.
///
/// A backend implements the block and pin methods; files are built and read here, above all backends, so that they cannot differ.
///
/// Every method is cancel safe: a dropped future leaves whole, verified blocks behind or none, never half a block and never half a pin.
/// Blocks that were put and not pinned may be collected once the backend's grace period is over, so pin soon after putting.
///
/// TRUST: no method returns bytes that do not hash to the id they were asked for.
#[async_trait]
pub trait ContentStore: fmt::Debug + Send + Sync {
    /// One word for messages: "embedded", "kubo".
    fn kind(&self) -> &'static str;

    /// The bytes of one block, verified, at most [`crate::MAX_BLOCK_BYTES`].
    ///
    /// Errors: [`StoreError::NotFound`] or [`StoreError::Unavailable`] where it is not there, [`StoreError::Corrupt`] where it is
    /// there and damaged.
    async fn get_block(&self, id: ContentId) -> Result<Bytes, StoreError>;

    /// Stores one block; returns when it would survive a power cut (where the backend has a disk). Idempotent; a damaged copy is mended.
    ///
    /// Errors: [`StoreError::WrongBytes`] where the bytes do not hash to `id`, [`StoreError::Full`] where there is no room.
    async fn put_block(&self, id: ContentId, bytes: Bytes) -> Result<(), StoreError>;

    /// Whether the block is there. Says nothing about its state: [`ContentStore::get_block`] does.
    async fn has_block(&self, id: ContentId) -> Result<bool, StoreError>;

    /// Keeps the file under `id` for good: no collection takes any of its blocks. Reads and verifies all of them first, so a pin is a
    /// promise that was true when it was made. Idempotent, durable.
    ///
    /// Errors: [`StoreError::NotFound`], [`StoreError::Incomplete`] with the name of the missing block, [`StoreError::Corrupt`].
    async fn pin(&self, id: ContentId) -> Result<(), StoreError>;

    /// Gives the pin up; the blocks go with the next collection, unless another pin needs them. Returns whether there was one.
    async fn unpin(&self, id: ContentId) -> Result<bool, StoreError>;

    /// All pins, sorted.
    async fn pins(&self) -> Result<Vec<ContentId>, StoreError>;

    /// Stores a file that is in memory and returns its id. Does not pin it.
    async fn put(&self, content: &[u8]) -> Result<ContentId, StoreError> {
        dag::import(self, &mut &*content).await
    }

    /// Stores a file from a reader, with a few MiB of memory whatever its length, and returns its id. Does not pin it.
    async fn put_reader(&self, reader: &mut (dyn AsyncRead + Send + Unpin)) -> Result<ContentId, StoreError> {
        dag::import(self, reader).await
    }

    /// The whole file, of at most `limit` bytes.
    ///
    /// Errors: [`StoreError::TooLarge`] before anything beyond its top node is read; [`StoreError::BadDag`] where it is not a file;
    /// [`StoreError::TooSlow`]; those of [`ContentStore::get_block`].
    async fn get(&self, id: ContentId, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::new();
        dag::read(self, id, limit, dag::Builder::Anybody, &mut content).await?;
        Ok(content)
    }

    /// As [`ContentStore::get`], for what only a program of ours may have built: a file that does not follow the profile is refused by its first leaf.
    async fn get_ours(&self, id: ContentId, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::new();
        self.get_ours_to(id, limit, &mut content).await?;
        Ok(content)
    }

    /// As [`ContentStore::get_to`], for what only a program of ours may have built.
    async fn get_ours_to(&self, id: ContentId, limit: u64, writer: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<u64, StoreError> {
        dag::read(self, id, limit, dag::Builder::Profile, writer).await
    }

    /// Writes the whole file, of at most `limit` bytes, to `writer`, block by block; returns its length in bytes. Where this fails, the
    /// writer has got a prefix of the file.
    async fn get_to(&self, id: ContentId, limit: u64, writer: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<u64, StoreError> {
        dag::read(self, id, limit, dag::Builder::Anybody, writer).await
    }

    /// Whether all blocks of the file are there. Reads the inner nodes; does not verify the leaves.
    async fn has(&self, id: ContentId) -> Result<bool, StoreError> {
        match dag::walk(self, id, dag::Leaves::Present).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads and verifies all blocks of the file, and says how large it is.
    async fn stat(&self, id: ContentId) -> Result<ContentStat, StoreError> {
        dag::walk(self, id, dag::Leaves::Verified).await
    }

    /// Writes the file as a CAR (version 1, depth first, each block once) to `writer`; returns its length in bytes.
    async fn export_car(&self, id: ContentId, writer: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<u64, StoreError> {
        car::export(self, id, writer).await
    }
}

/// How large a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentStat {
    /// Length of the content, in bytes.
    pub size_bytes: u64,
    /// Distinct blocks that it is stored in.
    pub blocks: u64,
    /// Their total length, in bytes: more than the content by the inner nodes, less where parts repeat. 0 where leaves were not read.
    pub stored_bytes: u64,
}
