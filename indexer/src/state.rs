//! How the indexer is doing: what /health, /v1/status and the metrics say.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use quern_chain::StreamHealth;
use quern_db::index::Audit;
use quern_types::{BlockRef, Heads};
use tokio::sync::watch;

/// What is known of the chain.
#[derive(Debug, Clone)]
pub struct ChainStatus {
    /// Its heads when the node answered last; `None` before the first answer.
    pub heads: Option<Heads>,
    /// Since the node last gave an answer that could be used.
    pub silent: Duration,
    /// Why it does not, while it does not.
    pub last_error: Option<String>,
}

/// Shared between the part that follows the chain and the part that answers.
#[derive(Debug)]
pub struct State {
    started: Instant,
    stream: Mutex<Option<watch::Receiver<StreamHealth>>>,
    cursor: watch::Sender<Option<BlockRef>>,
    audit: Mutex<Option<Audit>>,
}

impl Default for State {
    fn default() -> Self {
        Self { started: Instant::now(), stream: Mutex::new(None), cursor: watch::channel(None).0, audit: Mutex::new(None) }
    }
}

impl State {
    /// How long the process runs.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Names the stream that is followed.
    pub fn follow(&self, health: watch::Receiver<StreamHealth>) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(health);
    }

    /// What is known of the chain now.
    #[must_use]
    pub fn chain(&self) -> ChainStatus {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match stream.as_ref() {
            None => ChainStatus { heads: None, silent: self.uptime(), last_error: None },
            Some(health) => {
                let health = health.borrow();
                ChainStatus { heads: health.heads, silent: health.last_success.elapsed(), last_error: health.last_error.clone() }
            }
        }
    }

    /// The last block that is in the database; changes wake whoever waits on it.
    #[must_use]
    pub fn cursor(&self) -> watch::Receiver<Option<BlockRef>> {
        self.cursor.subscribe()
    }

    /// A block was written, or blocks were taken back.
    pub fn stand_on(&self, cursor: Option<BlockRef>) {
        self.cursor.send_replace(cursor);
    }

    /// What the last replay of the ledger found; `None` before the first.
    #[must_use]
    pub fn audit(&self) -> Option<Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ledger was replayed.
    pub fn audited(&self, audit: Audit) {
        *self.audit.lock().unwrap_or_else(PoisonError::into_inner) = Some(audit);
    }
}
