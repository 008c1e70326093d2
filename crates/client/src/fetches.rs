//! Fetches of outputs, each in a task of its own: a provider whose gateway drips holds up its own jobs and no others.

use std::{collections::BTreeMap, sync::Arc};

use quern_commit::blob::OutputSet;
use quern_store::ContentStore;
use quern_types::{Address, JobId, Receipt};
use tokio_util::task::AbortOnDropHandle;

use crate::{ClientError, JobLife, OutputShape, fetch_output};

/// Fetches at once: each may hold an output in memory.
const AT_ONCE: usize = 16;
/// Of these, from one provider.
const FROM_ONE_PROVIDER: usize = 4;

/// The fetches that are under way. Dropped, they end.
#[derive(Debug, Default)]
pub(crate) struct Fetches(BTreeMap<JobId, Fetch>);

#[derive(Debug)]
struct Fetch {
    receipt: Receipt,
    task: AbortOnDropHandle<Result<OutputSet, ClientError>>,
}

impl Fetches {
    /// What became of a job's fetch, once it has ended. REORG: the fetch of a receipt that is not the job's any more is dropped.
    pub(crate) async fn take(&mut self, id: JobId, receipt: Option<Receipt>) -> Option<Result<OutputSet, ClientError>> {
        let fetch = self.0.get(&id)?;
        if Some(fetch.receipt) != receipt {
            self.0.remove(&id);
            return None;
        }
        if !fetch.task.is_finished() {
            return None;
        }
        // A task that died was cancelled: nothing else ends it.
        Some(self.0.remove(&id)?.task.await.unwrap_or(Err(ClientError::Interrupted)))
    }

    /// Begins to fetch a job's output, unless that is under way or too much else is: then it is asked for again.
    pub(crate) fn begin(&mut self, id: JobId, job: &JobLife, shape: OutputShape, store: Arc<dyn ContentStore>) {
        let Some(receipt) = job.receipt.filter(|receipt| self.has_room(receipt.provider) && !self.0.contains_key(&id)) else { return };
        let job = job.clone();
        let task = tokio::spawn(async move { fetch_output(id, &job, shape, &*store).await });
        self.0.insert(id, Fetch { receipt, task: AbortOnDropHandle::new(task) });
    }

    fn has_room(&self, provider: Address) -> bool {
        let of_provider = self.0.values().filter(|fetch| fetch.receipt.provider == provider).count();
        self.0.len() < AT_ONCE && of_provider < FROM_ONE_PROVIDER
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quern_commit::blob::OutputRecord;
    use quern_store::{MemoryStore, StoreError};
    use quern_types::{Amount, B256, ContentId, EnergyMethod, FinishReason, JobState};

    use super::*;
    use crate::fixture;

    const SHAPE: OutputShape = OutputShape { dim: 2, context: 8 };

    /// Gives nothing for a week.
    #[derive(Debug)]
    struct Dripping;

    #[async_trait::async_trait]
    impl ContentStore for Dripping {
        fn kind(&self) -> &'static str {
            "dripping"
        }

        async fn get_block(&self, id: ContentId) -> Result<alloy_primitives::bytes::Bytes, StoreError> {
            tokio::time::sleep(Duration::from_secs(7 * 86_400)).await;
            Err(StoreError::NotFound { id, store: "dripping" })
        }

        async fn put_block(&self, _: ContentId, _: alloy_primitives::bytes::Bytes) -> Result<(), StoreError> {
            Ok(())
        }

        async fn has_block(&self, _: ContentId) -> Result<bool, StoreError> {
            Ok(false)
        }

        async fn pin(&self, _: ContentId) -> Result<(), StoreError> {
            Ok(())
        }

        async fn unpin(&self, _: ContentId) -> Result<bool, StoreError> {
            Ok(false)
        }

        async fn pins(&self) -> Result<Vec<ContentId>, StoreError> {
            Ok(Vec::new())
        }
    }

    /// A delivered job of one item, its output in `store`.
    async fn delivered(store: &dyn ContentStore, provider: u8) -> JobLife {
        let set = OutputSet::Embed(vec![OutputRecord { reason: FinishReason::Complete, elements: vec![1, 2] }]);
        let root = set.tree().expect("a tree").root();
        let spec = fixture::spec();
        let receipt = Receipt {
            job_id: JobId::default(),
            provider: Address::repeat_byte(provider),
            output_root: root.hash,
            output_len: root.count,
            output: store.put(&set.to_blob().expect("a blob")).await.expect("put"),
            work_digest: B256::ZERO,
            energy_millijoules: 0,
            energy_method: EnergyMethod::Estimated,
        };
        JobLife {
            spec,
            state: JobState::Submitted,
            steps: Vec::new(),
            posted_at: 0,
            max_fee: Amount::ZERO,
            claim: None,
            receipt: Some(receipt),
            window_end: None,
            settled: None,
        }
    }

    fn job(n: u8) -> JobId {
        JobId(B256::repeat_byte(n))
    }

    #[tokio::test(start_paused = true)]
    async fn gateway_that_an_enemy_drips_from_holds_up_no_other_job() {
        let good: Arc<dyn ContentStore> = Arc::new(MemoryStore::new());
        let (slow, fast) = (delivered(&*good, 1).await, delivered(&*good, 2).await);
        let mut fetches = Fetches::default();
        for n in 0..32 {
            fetches.begin(job(n), &slow, SHAPE, Arc::new(Dripping));
        }
        assert_eq!(fetches.0.len(), FROM_ONE_PROVIDER);
        fetches.begin(job(99), &fast, SHAPE, good);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(fetches.take(job(0), slow.receipt).await.is_none(), "under way");
        assert!(fetches.take(job(99), fast.receipt).await.expect("ended").is_ok());
        // The time of one file, and the next try.
        tokio::time::sleep(Duration::from_secs(600)).await;
        let error = fetches.take(job(0), slow.receipt).await.expect("ended").expect_err("too slow");
        assert!(matches!(error, ClientError::Store(StoreError::TooSlow { .. })), "{error}");
    }

    #[tokio::test]
    async fn fetch_of_a_receipt_that_a_reorganisation_replaced_is_dropped() {
        let store: Arc<dyn ContentStore> = Arc::new(MemoryStore::new());
        let life = delivered(&*store, 1).await;
        let mut fetches = Fetches::default();
        fetches.begin(job(1), &life, SHAPE, store);
        let other = life.receipt.map(|receipt| Receipt { energy_millijoules: 1, ..receipt });
        assert!(fetches.take(job(1), other).await.is_none());
        assert!(fetches.0.is_empty());
    }
}
