//! A store that lives as long as the process.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use quern_types::ContentId;

use crate::{
    ContentStore, StoreError,
    block::{check_offered, check_read},
    dag,
};

const KIND: &str = "memory";

/// Blocks in memory, up to a limit. Never collects: what is put stays.
#[derive(Debug)]
pub struct MemoryStore {
    limit: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    blocks: HashMap<ContentId, Bytes>,
    pins: BTreeSet<ContentId>,
    used: u64,
}

impl MemoryStore {
    /// A store of at most 1 GiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(1 << 30)
    }

    /// A store of at most `limit` bytes of blocks.
    #[must_use]
    pub fn with_limit(limit: u64) -> Self {
        Self { limit, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // No code that holds the lock can leave it half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl ContentStore for MemoryStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn get_block(&self, id: ContentId) -> Result<Bytes, StoreError> {
        let block = self.held().blocks.get(&id).cloned().ok_or(StoreError::NotFound { id, store: KIND })?;
        check_read(id, block, KIND, || "memory".into())
    }

    async fn put_block(&self, id: ContentId, bytes: Bytes) -> Result<(), StoreError> {
        check_offered(id, &bytes)?;
        let mut held = self.held();
        if held.blocks.contains_key(&id) {
            return Ok(());
        }
        let (used, needed) = (held.used, bytes.len() as u64);
        if used + needed > self.limit {
            return Err(StoreError::Full { store: KIND, used, needed, limit: self.limit });
        }
        held.used = used + needed;
        // A copy, because `bytes` may be a slice of something much larger.
        held.blocks.insert(id, Bytes::copy_from_slice(&bytes));
        Ok(())
    }

    async fn has_block(&self, id: ContentId) -> Result<bool, StoreError> {
        Ok(self.held().blocks.contains_key(&id))
    }

    async fn pin(&self, id: ContentId) -> Result<(), StoreError> {
        dag::walk(self, id, dag::Leaves::Verified).await?;
        self.held().pins.insert(id);
        Ok(())
    }

    async fn unpin(&self, id: ContentId) -> Result<bool, StoreError> {
        Ok(self.held().pins.remove(&id))
    }

    async fn pins(&self) -> Result<Vec<ContentId>, StoreError> {
        Ok(self.held().pins.iter().copied().collect())
    }
}
