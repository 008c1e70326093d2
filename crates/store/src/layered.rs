//! A store of one's own that fetches what it lacks.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quern_types::ContentId;

use crate::{ContentStat, ContentStore, StoreError, dag};

/// Reads from `local`; what is missing or damaged there is fetched from `remote`, verified, and kept in `local`.
///
/// Only reading a block, and so [`ContentStore::get`], [`ContentStore::get_to`] and [`LayeredStore::fetch`], goes to `remote`, and each
/// of these takes a limit: whoever names a CID cannot make us fetch without end. Everything else is about `local` alone: `has`, `stat`,
/// `export_car`, pins. To keep a foreign file, fetch it and then pin it.
#[derive(Clone, Debug)]
pub struct LayeredStore {
    local: Arc<dyn ContentStore>,
    remote: Arc<dyn ContentStore>,
}

impl LayeredStore {
    /// Reads `local` first, then `remote`.
    #[must_use]
    pub fn new(local: Arc<dyn ContentStore>, remote: Arc<dyn ContentStore>) -> Self {
        Self { local, remote }
    }

    /// The store that keeps. Give this one, not the layered store, to [`crate::gateway::router`].
    #[must_use]
    pub fn local(&self) -> &Arc<dyn ContentStore> {
        &self.local
    }

    /// Brings the whole file, of at most `limit` bytes, into the local store; returns its length in bytes. Errors as [`ContentStore::get`].
    pub async fn fetch(&self, id: ContentId, limit: u64) -> Result<u64, StoreError> {
        dag::read(self, id, limit, dag::Builder::Anybody, &mut tokio::io::sink()).await
    }
}

#[async_trait]
impl ContentStore for LayeredStore {
    fn kind(&self) -> &'static str {
        "layered"
    }

    async fn get_block(&self, id: ContentId) -> Result<Bytes, StoreError> {
        match self.local.get_block(id).await {
            Err(StoreError::NotFound { .. }) => {}
            Err(damaged @ StoreError::Corrupt { .. }) => tracing::warn!(%id, error = %damaged, "content.damaged"),
            other => return other,
        }
        let block = self.remote.get_block(id).await?;
        self.local.put_block(id, block.clone()).await?;
        tracing::debug!(%id, bytes = block.len(), from = self.remote.kind(), "content.fetched");
        Ok(block)
    }

    async fn put_block(&self, id: ContentId, bytes: Bytes) -> Result<(), StoreError> {
        self.local.put_block(id, bytes).await
    }

    async fn has_block(&self, id: ContentId) -> Result<bool, StoreError> {
        self.local.has_block(id).await
    }

    async fn pin(&self, id: ContentId) -> Result<(), StoreError> {
        self.local.pin(id).await
    }

    async fn unpin(&self, id: ContentId) -> Result<bool, StoreError> {
        self.local.unpin(id).await
    }

    async fn pins(&self) -> Result<Vec<ContentId>, StoreError> {
        self.local.pins().await
    }

    async fn has(&self, id: ContentId) -> Result<bool, StoreError> {
        self.local.has(id).await
    }

    async fn stat(&self, id: ContentId) -> Result<ContentStat, StoreError> {
        self.local.stat(id).await
    }

    async fn export_car(&self, id: ContentId, writer: &mut (dyn tokio::io::AsyncWrite + Send + Unpin)) -> Result<u64, StoreError> {
        self.local.export_car(id, writer).await
    }
}
