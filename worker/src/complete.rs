//! Completions: those that are due at about the same time go into one transaction, where one that cannot complete does not stop the others.

use std::{sync::Arc, time::Duration};

use quern_bindings::abi::JobMarket;
use quern_chain::sender::{Call, Outcome, TxSender};
use quern_db::{Journal, journal::IntentStatus};
use quern_types::{Address, Head, JobId, JobSpec, Receipt, keccak256};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{Error, Result, clock::wall_secs};

/// Name of the journal's fact that holds the key of the last completion that a job was part of.
const FACT_COMPLETION: &str = "completion";

/// A job whose window is over.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) job: JobId,
    pub(crate) spec: JobSpec,
    pub(crate) receipt: Receipt,
    /// Gets the block that holds the transaction.
    pub(crate) reply: oneshot::Sender<Result<u64>>,
}

/// Sends completions.
#[derive(Debug)]
pub(crate) struct Completer {
    pub(crate) market: Address,
    pub(crate) journal: Arc<Journal>,
    pub(crate) sender: Arc<TxSender>,
    /// How long the first of a batch waits for others.
    pub(crate) wait: Duration,
    /// Most jobs of a batch.
    pub(crate) most: usize,
}

impl Completer {
    /// Serves requests until there are no more or it is told to stop.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<CompletionRequest>, stop: CancellationToken) {
        let serving = async {
            while let Some(first) = requests.recv().await {
                let batch = self.gather(first, &mut requests).await;
                self.serve(batch).await;
            }
        };
        // Whatever is on its way is in the journal: nothing is lost by dropping the wait for it.
        tokio::select! {
            () = stop.cancelled() => {}
            () = serving => {}
        }
    }

    async fn gather(&self, first: CompletionRequest, requests: &mut mpsc::Receiver<CompletionRequest>) -> Vec<CompletionRequest> {
        let deadline = Instant::now() + self.wait;
        let mut batch = vec![first];
        while batch.len() < self.most {
            match tokio::time::timeout_at(deadline, requests.recv()).await {
                Ok(Some(request)) => batch.push(request),
                Ok(None) | Err(_) => break,
            }
        }
        batch
    }

    async fn serve(&self, batch: Vec<CompletionRequest>) {
        let mut fresh = Vec::with_capacity(batch.len());
        for request in batch {
            // Killed before the last completion of this job was mined: it is still on its way, under its own key.
            match self.under_way(request.job).await {
                Ok(None) => fresh.push(request),
                Ok(Some((key, call))) => {
                    let mined = self.send(&key, &call, request.job).await;
                    let _ = request.reply.send(mined);
                }
                Err(error) => {
                    let _ = request.reply.send(Err(error));
                }
            }
        }
        let Some(first) = fresh.first() else { return };
        let job = first.job;
        let mined = match self.begin(&fresh).await {
            Ok((key, call)) => self.send(&key, &call, job).await,
            Err(error) => Err(error),
        };
        match mined {
            Ok(block) => {
                metrics::counter!("quern_worker_completions_total").increment(fresh.len() as u64);
                for request in fresh {
                    let _ = request.reply.send(Ok(block));
                }
            }
            Err(error) => {
                tracing::warn!(jobs = fresh.len(), error = error.chain(), "complete.failed");
                let mut requests = fresh.into_iter();
                if let Some(request) = requests.next() {
                    let _ = request.reply.send(Err(error));
                }
                // Block 0 is reached already: the others look again.
                for request in requests {
                    let _ = request.reply.send(Ok(0));
                }
            }
        }
    }

    /// The completion that a job was part of last, where it is not mined yet.
    async fn under_way(&self, job: JobId) -> Result<Option<(String, Call)>> {
        let Some(key) = self.journal.fact(job, FACT_COMPLETION).await? else { return Ok(None) };
        let Ok(key) = String::from_utf8(key) else { return Ok(None) };
        let Some(intent) = self.journal.intent(&key).await? else { return Ok(None) };
        if intent.status != IntentStatus::Open {
            return Ok(None);
        }
        Ok(Some((key, Call { to: intent.to, calldata: intent.calldata.into(), value_wei: intent.value_wei })))
    }

    /// A key for a batch, written down for each of its jobs, and the call.
    async fn begin(&self, batch: &[CompletionRequest]) -> Result<(String, Call)> {
        let mut name = Vec::new();
        for request in batch {
            name.extend_from_slice(request.job.0.as_slice());
        }
        let key = format!("complete/{:?}/{}", keccak256(&name), wall_secs());
        let mut completions = Vec::with_capacity(batch.len());
        for request in batch {
            let rejected = |error: quern_bindings::ConvertError| Error::Rejected {
                job: request.job,
                intention: "complete".into(),
                revert: error.to_string(),
            };
            let spec = JobMarket::JobSpec::try_from(&request.spec).map_err(rejected)?;
            completions.push(JobMarket::Completion { spec, receipt: JobMarket::Receipt::from(&request.receipt) });
            self.journal.put_fact(request.job, FACT_COMPLETION, key.as_bytes()).await?;
        }
        let call = match completions.as_slice() {
            [one] => Call::new(self.market, &JobMarket::completeCall { spec: one.spec.clone(), receipt: one.receipt.clone() }),
            _ => Call::new(self.market, &JobMarket::completeManyCall { completions }),
        };
        Ok((key, call))
    }

    async fn send(&self, key: &str, call: &Call, job: JobId) -> Result<u64> {
        match self.sender.send(key, call, Head::Latest).await? {
            Outcome::Done(receipt) => {
                tracing::info!(tx = %receipt.tx_hash, block = receipt.block.number, gas = receipt.gas_used, intention = "complete", "tx.done");
                metrics::histogram!("quern_worker_gas", "call" => "complete").record(receipt.gas_used as f64);
                Ok(receipt.block.number)
            }
            // Somebody else completed it, or the window was extended: the view tells.
            Outcome::Reverted { receipt, revert } => {
                tracing::info!(%job, %revert, "complete.reverted");
                Ok(receipt.block.number)
            }
            Outcome::Refused { revert } => {
                tracing::info!(%job, %revert, "complete.refused");
                Ok(0)
            }
        }
    }
}
