//! Batches and unwinds from the stream into the database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quern_chain::{BlockSource, EventStream, Step};
use quern_db::{
    Index, Severity,
    index::{Applied, Audit},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{Error, State, translate};

/// Wait before a write is tried again that found the file busy.
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// Follows the chain until told to stop. A write that has begun is ended first.
///
/// # Errors
/// Only what a person must look at: the stream or the database cannot go on.
pub async fn follow<S: BlockSource>(
    index: Arc<Index>,
    mut stream: EventStream<S>,
    state: Arc<State>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    state.follow(stream.health());
    state.stand_on(index.position().await?.cursor);
    loop {
        let step = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            step = stream.next() => step?,
        };
        match step {
            Step::Batch(batch) => {
                let batch = translate::batch(batch);
                let begun = Instant::now();
                let applied = persist(&shutdown, || index.apply(&batch)).await?;
                let Some(applied) = applied else { return Ok(()) };
                metrics::histogram!("quern_indexer_commit_seconds").record(begun.elapsed().as_secs_f64());
                metrics::counter!("quern_indexer_blocks_total").increment(batch.blocks.len() as u64);
                for event in &batch.events {
                    metrics::counter!("quern_indexer_events_total", "event" => event.change.name().to_owned()).increment(1);
                }
                moved(&state, &applied, batch.heads.latest.number);
                if let Some(last) = batch.blocks.last() {
                    info!(block = last.at.number, events = batch.events.len(), latest = batch.heads.latest.number, "index.applied");
                }
            }
            Step::Unwind(unwind) => {
                let from = *state.cursor().borrow();
                let applied = persist(&shutdown, || index.unwind(unwind.to, unwind.heads)).await?;
                let Some(applied) = applied else { return Ok(()) };
                metrics::counter!("quern_indexer_reorganisations_total").increment(1);
                warn!(from = from.map(|block| block.number), block = unwind.to.number, block_hash = %unwind.to.hash, "index.unwound");
                moved(&state, &applied, unwind.heads.latest.number);
            }
        }
    }
}

/// Tries a write until the file is free; `None` if told to stop meanwhile.
async fn persist<T, F>(shutdown: &CancellationToken, write: impl Fn() -> F) -> Result<Option<T>, Error>
where
    F: Future<Output = quern_db::Result<T>>,
{
    loop {
        match write().await {
            Ok(done) => return Ok(Some(done)),
            Err(error) if error.severity() == Severity::Retry => warn!(%error, "index.busy"),
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(BUSY_WAIT) => {}
        }
    }
}

fn moved(state: &State, applied: &Applied, latest: u64) {
    state.stand_on(applied.cursor);
    let stand = applied.cursor.map_or(0, |block| block.number);
    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float; block numbers stay far below 2^52")]
    {
        metrics::gauge!("quern_indexer_block").set(stand as f64);
        metrics::gauge!("quern_indexer_lag_blocks").set(latest.saturating_sub(stand) as f64);
    }
    for alarm in &applied.alarms {
        metrics::counter!("quern_indexer_alarms_total", "kind" => alarm.kind).increment(1);
        error!(kind = alarm.kind, block = alarm.at.number, log_index = alarm.at.log_index, detail = alarm.detail, "index.alarm");
    }
}

/// Replays the stored ledger at once and then again and again, until told to stop.
///
/// # Errors
/// The database cannot go on.
pub(crate) async fn audit(index: Arc<Index>, state: Arc<State>, every: Duration, shutdown: CancellationToken) -> Result<(), Error> {
    loop {
        match index.audit().await {
            Ok(audit) => found(&state, audit),
            Err(error) if error.severity() == Severity::Retry => warn!(%error, "index.busy"),
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(every) => {}
        }
    }
}

fn found(state: &State, audit: Audit) {
    let differs = !audit.differences.is_empty();
    metrics::gauge!("quern_indexer_ledger_differs").set(if differs { 1.0 } else { 0.0 });
    if let Some(first) = audit.differences.first() {
        error!(entries = audit.entries, first, "index.ledger_differs");
    } else {
        info!(entries = audit.entries, head = %audit.head, "index.ledger_agrees");
    }
    state.audited(audit);
}
