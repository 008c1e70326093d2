//! Blocks as files in a directory.
//!
//! ```text
//! VERSION            "quern content store 1"
//! LOCK               advisory lock: shared while writing or pinning, exclusive while opening or collecting
//! USED, USED.lock    bytes of all blocks, u64 big-endian, under a lock of its own
//! blocks/ab/<cid>    one block each, in the directory of the two characters before the CID's last
//! pins/<cid>         an empty file for each pin
//! tmp/               blocks that are being written
//! ```
//!
//! **Crashes.** A block is written to `tmp/`, synced, renamed into place, and its directory is synced, before `put_block` returns; so
//! under its final name a block is whole. A pin is a file that is there or not. `USED` is raised before the rename, so a crash can only
//! make it too high, and opening and collecting count anew.
//!
//! **Two processes.** Blocks never change and their names are their hashes, so writers cannot disturb each other: both write the same
//! bytes and the second one finds the first one's file. What destroys (collection, cleaning `tmp/`) holds `LOCK` exclusively; what relies
//! on blocks staying (a pin between its check and its file, a put that finds the block there) holds it shared. So whoever holds it
//! exclusively knows that no write is under way, and that everything in `tmp/` was left by a crash. The locks are the operating system's
//! and go with the process.

mod collect;
mod disk;

use std::{path::Path, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use quern_types::ContentId;

pub use self::collect::GcReport;
use self::disk::Disk;
use crate::{ContentStore, StoreError, dag};

const KIND: &str = "embedded";

/// Default of [`EmbeddedConfig::grace_secs`]: an hour, long beyond what lies between a put and its pin.
pub const DEFAULT_GRACE_SECS: u64 = 3600;

/// How an [`EmbeddedStore`] keeps house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Most bytes of blocks, of all processes that share the directory; each gives its own number. Default 64 GiB.
    pub max_bytes: u64,
    /// Collection leaves blocks alone that were put within so many seconds. Default [`DEFAULT_GRACE_SECS`].
    pub grace_secs: u64,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { max_bytes: 64 << 30, grace_secs: DEFAULT_GRACE_SECS }
    }
}

/// Blocks as files in a directory: durable, verified on read, pinned, bounded, collected. The layout, and how crashes and
/// several processes are survived, is told at the top of its source file. Needs a tokio runtime.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    disk: Arc<Disk>,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, which is made if it is not there; removes what crashed writes left and counts its bytes.
    ///
    /// Errors: [`StoreError::Layout`] where the directory is not empty and not a store of this version.
    pub async fn open(directory: impl AsRef<Path>, config: EmbeddedConfig) -> Result<Self, StoreError> {
        let directory = directory.as_ref().to_owned();
        let disk = on_disk(move || Disk::open(directory, config.max_bytes, Duration::from_secs(config.grace_secs))).await?;
        tracing::info!(directory = %disk.root().display(), max_bytes = config.max_bytes, "store.open");
        Ok(Self { disk: Arc::new(disk) })
    }

    /// Where it lives.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.disk.root()
    }

    /// The file of a block, whether or not it is there.
    #[must_use]
    pub fn block_path(&self, id: ContentId) -> PathBuf {
        self.disk.block_path(id)
    }

    /// Bytes of all blocks. Right but for crashes since it was last opened or collected, after which it may be too high.
    pub async fn used_bytes(&self) -> Result<u64, StoreError> {
        let disk = self.disk.clone();
        on_disk(move || disk.used()).await
    }

    /// Removes blocks that no pin needs and that were put longer ago than the grace period; counts the bytes anew. Waits for writes under
    /// way and holds up new ones.
    ///
    /// Errors: [`StoreError::PinBroken`] where an inner node of a pinned file is missing or damaged; nothing was removed then.
    pub async fn collect_garbage(&self) -> Result<GcReport, StoreError> {
        collect::collect(&self.disk, self).await
    }
}

/// Runs `work` where it may block. Once begun it ends, even where the caller is dropped.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Interrupted { store: KIND }),
        },
    }
}

#[async_trait]
impl ContentStore for EmbeddedStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn get_block(&self, id: ContentId) -> Result<Bytes, StoreError> {
        let disk = self.disk.clone();
        on_disk(move || disk.get(id)).await
    }

    async fn put_block(&self, id: ContentId, bytes: Bytes) -> Result<(), StoreError> {
        let disk = self.disk.clone();
        on_disk(move || disk.put(id, &bytes)).await
    }

    async fn has_block(&self, id: ContentId) -> Result<bool, StoreError> {
        let disk = self.disk.clone();
        on_disk(move || disk.has(id)).await
    }

    async fn pin(&self, id: ContentId) -> Result<(), StoreError> {
        let disk = self.disk.clone();
        // Held until the pin is on disk: nothing may be collected between the check and the pin.
        let shared = on_disk(move || disk.lock_shared()).await?;
        dag::walk(self, id, dag::Leaves::Verified).await?;
        let disk = self.disk.clone();
        on_disk(move || disk.pin(id, &shared)).await
    }

    async fn unpin(&self, id: ContentId) -> Result<bool, StoreError> {
        let disk = self.disk.clone();
        on_disk(move || disk.unpin(id)).await
    }

    async fn pins(&self) -> Result<Vec<ContentId>, StoreError> {
        let disk = self.disk.clone();
        on_disk(move || disk.pins()).await
    }
}
