//! Removing what no pin needs.

use std::{sync::Arc, time::SystemTime};

use super::{Disk, EmbeddedStore, on_disk};
use crate::{
    StoreError,
    dag::{Leaves, Seen, Walk},
};

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blocks that a pin needs.
    pub pinned_blocks: u64,
    /// Blocks that no pin needs and that are still in their grace period.
    pub young_blocks: u64,
    /// Blocks removed.
    pub removed_blocks: u64,
    /// Their length, in bytes.
    pub removed_bytes: u64,
    /// Length of the blocks that are left, in bytes.
    pub used_bytes: u64,
}

/// Marks from the pins, then sweeps, under the exclusive lock from the first pin read to the last block removed.
pub(super) async fn collect(disk: &Arc<Disk>, store: &EmbeddedStore) -> Result<GcReport, StoreError> {
    let exclusive = {
        let disk = disk.clone();
        on_disk(move || disk.lock_exclusive()).await?
    };
    let pins = {
        let disk = disk.clone();
        on_disk(move || disk.pins()).await?
    };
    let mut needed = Seen::new();
    for root in pins {
        // INVARIANT: all inner nodes of all pins are read before anything is removed; a leaf's name comes from the node above it.
        let mut walk = Walk::new(root, Leaves::Named, needed);
        loop {
            match walk.next(store).await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(source) => return Err(StoreError::PinBroken { root, source: Box::new(source) }),
            }
        }
        needed = walk.into_seen();
    }
    let disk = disk.clone();
    let report = on_disk(move || {
        let mut report = GcReport::default();
        let now = SystemTime::now();
        disk.each_block(|id, bytes, put_at| {
            // A time in the future is a clock that was set back: not known to be old.
            let old = now.duration_since(put_at).is_ok_and(|age| age >= disk.grace());
            if needed.contains_key(&id) {
                report.pinned_blocks += 1;
            } else if !old {
                report.young_blocks += 1;
            } else {
                disk.remove_block(id, &exclusive)?;
                report.removed_blocks += 1;
                report.removed_bytes += bytes;
                return Ok(());
            }
            report.used_bytes += bytes;
            Ok(())
        })?;
        disk.clear_temporary(&exclusive)?;
        disk.recount(report.used_bytes, &exclusive)?;
        Ok(report)
    })
    .await?;
    tracing::info!(?report, "store.collected");
    Ok(report)
}
