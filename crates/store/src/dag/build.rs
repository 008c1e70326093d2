//! From bytes to blocks.

use bytes::Bytes;
use quern_types::{ContentCodec, ContentId};
use rust_unixfs::file::adder::{BalancedCollector, Chunker, FileAdder};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{ContentStore, DagFault, StoreError, block_id};

/// Bytes per chunk of the profile; every chunk but the last is exactly this long.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Links per inner node of the profile.
pub const MAX_LINKS: usize = 1024;

/// Turns a stream of bytes into the blocks of a file, leaves first, top node last. Holds at most one chunk and one node per level.
pub struct FileBuilder {
    adder: FileAdder,
    // A file of exactly one chunk gets its only block from `push` and nothing from `finish`.
    last: Option<ContentId>,
}

impl FileBuilder {
    /// A builder for one file.
    #[must_use]
    pub fn new() -> Self {
        let adder = FileAdder::builder()
            .with_chunker(Chunker::Size(CHUNK_BYTES))
            .with_collector(BalancedCollector::with_branching_factor(MAX_LINKS))
            .build();
        Self { adder, last: None }
    }

    /// Takes more of the content, of any length; returns the blocks that are complete now.
    pub fn push(&mut self, mut content: &[u8]) -> Result<Vec<(ContentId, Bytes)>, StoreError> {
        let mut ready = Vec::new();
        while !content.is_empty() {
            let (blocks, taken) = self.adder.push(content);
            let blocks: Vec<_> = blocks.collect();
            content = &content[taken..];
            self.name(blocks, &mut ready)?;
        }
        Ok(ready)
    }

    /// Ends the content; returns the last blocks and the id of the file.
    pub fn finish(mut self) -> Result<(Vec<(ContentId, Bytes)>, ContentId), StoreError> {
        let mut ready = Vec::new();
        let blocks: Vec<_> = std::mem::take(&mut self.adder).finish().collect();
        self.name(blocks, &mut ready)?;
        // The empty file is one empty leaf, so there always is a last block.
        let top = self.last.unwrap_or_else(|| block_id(ContentCodec::Raw, b""));
        Ok((ready, top))
    }

    fn name(&mut self, blocks: Vec<(cid::Cid, Vec<u8>)>, ready: &mut Vec<(ContentId, Bytes)>) -> Result<(), StoreError> {
        for (cid, block) in blocks {
            let id = ContentId::from_bytes(&cid.to_bytes()).map_err(|source| StoreError::BadDag {
                id: block_id(ContentCodec::DagPb, &block),
                fault: DagFault::Link { index: 0, source },
            })?;
            self.last = Some(id);
            ready.push((id, block.into()));
        }
        Ok(())
    }
}

impl Default for FileBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// The id that `content` has in every store, computed without one.
pub fn content_id(content: &[u8]) -> Result<ContentId, StoreError> {
    let mut builder = FileBuilder::new();
    for chunk in content.chunks(CHUNK_BYTES) {
        builder.push(chunk)?;
    }
    Ok(builder.finish()?.1)
}

/// The id that the rest of `reader` has in every store, computed without one in a few MiB of memory; and its length in bytes.
pub async fn content_id_of(reader: &mut (dyn AsyncRead + Send + Unpin)) -> Result<(ContentId, u64), StoreError> {
    let mut builder = FileBuilder::new();
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let mut size = 0;
    while fill(reader, &mut chunk).await? {
        size += chunk.len() as u64;
        builder.push(&chunk)?;
    }
    Ok((builder.finish()?.1, size))
}

/// Stores the rest of `reader` as a file in `store` and returns its id. Leaves go before the nodes above them and the top node goes
/// last, so whatever stops this, no node that was stored by it lacks its children.
pub async fn import<S: ContentStore + ?Sized>(store: &S, reader: &mut (dyn AsyncRead + Send + Unpin)) -> Result<ContentId, StoreError> {
    let mut builder = FileBuilder::new();
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    while fill(reader, &mut chunk).await? {
        for (id, block) in builder.push(&chunk)? {
            store.put_block(id, block).await?;
        }
    }
    let (rest, top) = builder.finish()?;
    for (id, block) in rest {
        store.put_block(id, block).await?;
    }
    tracing::debug!(id = %top, store = store.kind(), "content.put");
    Ok(top)
}

/// Reads the next chunk, short only at the end; false where there is none.
async fn fill(reader: &mut (dyn AsyncRead + Send + Unpin), chunk: &mut Vec<u8>) -> Result<bool, StoreError> {
    chunk.clear();
    reader
        .take(CHUNK_BYTES as u64)
        .read_to_end(chunk)
        .await
        .map_err(|source| StoreError::Stream { action: "read the content to put", source })?;
    Ok(!chunk.is_empty())
}
