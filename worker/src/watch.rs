//! The view, kept up to date by the event stream and shared with everything that waits for it.

use std::{
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use quern_chain::{Client, EventStream, Step};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Result,
    clock::{next_block_secs, wall_secs},
    event::Logged,
    view::View,
};

/// A [`View`] that many tasks read and one writes.
#[derive(Debug)]
pub(crate) struct Watch {
    view: RwLock<View>,
    /// Counts changes; also tells when the newest block was seen.
    changes: watch::Sender<Change>,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    count: u64,
    newest_seen: Instant,
}

impl Watch {
    pub(crate) fn new(view: View) -> Self {
        Self { view: RwLock::new(view), changes: watch::channel(Change { count: 0, newest_seen: Instant::now() }).0 }
    }

    /// The view now. Do not hold it over an await.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the view without waking anybody.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut View)) {
        edit(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Wakes everybody who waits for a change: something else than the chain has one.
    pub(crate) fn wake(&self) {
        self.changes.send_modify(|change| change.count += 1);
    }

    /// The least timestamp that the next block can have.
    pub(crate) fn now(&self) -> u64 {
        let age = self.changes.borrow().newest_seen.elapsed();
        self.view().latest().map_or(0, |newest| next_block_secs(newest, age, wall_secs()))
    }

    /// Returns when the view changes, or after `longest`.
    pub(crate) async fn change(&self, longest: Duration) {
        let mut changes = self.changes.subscribe();
        let _ = tokio::time::timeout(longest, changes.changed()).await;
    }

    /// Follows the chain until it is told to stop.
    ///
    /// # Errors
    /// What the stream cannot get over by itself.
    pub(crate) async fn follow(&self, mut stream: EventStream<Client>, stop: &CancellationToken) -> Result<()> {
        loop {
            let step = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                step = stream.next() => step.map_err(Error::Chain)?,
            };
            let mut newest_seen = self.changes.borrow().newest_seen;
            match step {
                Step::Batch(batch) => {
                    if !batch.blocks.is_empty() {
                        newest_seen = Instant::now();
                    }
                    let blocks: Vec<_> = batch.blocks.iter().map(|block| block.at).collect();
                    let events: Vec<Logged> = batch.events.into_iter().map(Logged::from).collect();
                    self.edit(|view| view.extend(&blocks, &events, batch.heads));
                }
                Step::Unwind(unwind) => {
                    tracing::warn!(block = unwind.to.number, block_hash = %unwind.to.hash, "chain.unwound");
                    metrics::counter!("quern_worker_unwinds_total").increment(1);
                    newest_seen = Instant::now();
                    self.edit(|view| view.unwind(unwind.to, unwind.heads));
                }
            }
            self.changes.send_modify(|change| *change = Change { count: change.count + 1, newest_seen });
        }
    }
}
