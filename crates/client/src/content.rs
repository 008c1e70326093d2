//! Inputs and outputs as they are committed to, stored and fetched.

use quern_commit::{
    CommitError,
    blob::{BlobError, Expected, InputSet, OutputRecord, OutputSet},
    sum_tree::SumNode,
};
use quern_store::ContentStore;
use quern_types::{JobId, JobSpec, Receipt};

use crate::{ClientError, InputRef, Item, JobLife};

/// Widest embedding of any model (PROTOCOL, section 2: dim).
const MAX_WIDTH: u64 = 16_384;

/// An input that can be stored and posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedInput {
    /// The bytes to store.
    pub blob: Vec<u8>,
    /// Root of the sum tree.
    pub root: SumNode,
    /// Items.
    pub items: u32,
}

impl PreparedInput {
    /// The blob and the tree of items.
    ///
    /// # Errors
    /// No items, or more than a tree takes.
    pub fn new(items: &[Item]) -> Result<Self, CommitError> {
        let count = items.len();
        let set = InputSet::new(items.iter().map(|item| item.ids.clone()).collect())?;
        let items = u32::try_from(count).unwrap_or_else(|_| unreachable!("InputSet::new refuses more"));
        Ok(Self { root: set.tree()?.root(), blob: set.to_blob(), items })
    }

    /// Stores and pins the blob; from then on a job may name it.
    ///
    /// # Errors
    /// The store's.
    pub async fn store(&self, store: &dyn ContentStore) -> Result<InputRef, ClientError> {
        let content = store.put(&self.blob).await?;
        store.pin(content).await?;
        Ok(InputRef { root: self.root.hash, len: self.root.count, items: self.items, content })
    }
}

/// Fetches the output of a delivered job and holds it to its receipt. What is returned is what the provider attested to, or nothing is.
///
/// TRUST: that the provider computed it rightly is a matter of recomputing it.
///
/// # Errors
/// [`ClientError::NoReceipt`]; [`ClientError::WrongOutput`] where the content is not what was attested to; the store's, while no gateway has it.
pub async fn fetch_output(id: JobId, job: &JobLife, store: &dyn ContentStore) -> Result<Vec<OutputRecord<i16>>, ClientError> {
    let receipt = job.receipt.ok_or(ClientError::NoReceipt { job: id })?;
    let limit = 9 + u64::from(job.spec.output_count()) * (5 + 2 * MAX_WIDTH);
    let bytes = store.get(receipt.output, limit).await?;
    check_output(id, &job.spec, &receipt, &bytes)
}

/// Holds the bytes of an output to a receipt.
///
/// # Errors
/// [`ClientError::WrongOutput`].
pub fn check_output(id: JobId, spec: &JobSpec, receipt: &Receipt, bytes: &[u8]) -> Result<Vec<OutputRecord<i16>>, ClientError> {
    let wrong = |reason: String| ClientError::WrongOutput { job: id, content: receipt.output, reason };
    let expected = Expected { root: SumNode { hash: receipt.output_root, count: receipt.output_len }, leaves: spec.output_count() };
    let set = OutputSet::from_blob(bytes, spec.samples_per_item, &expected).map_err(|error: BlobError| wrong(error.to_string()))?;
    match set {
        OutputSet::Embed(outputs) => Ok(outputs),
        OutputSet::Generate { .. } => Err(wrong("it holds generated ids, and embeddings were asked for".into())),
    }
}

#[cfg(test)]
mod tests {
    use quern_types::{Address, Amount, B256, ContentCodec, ContentId, EnergyMethod, FinishReason, JobKind, ModelId};

    use super::*;
    use crate::Origin;

    fn item(ids: &[u32]) -> Item {
        Item { origin: Origin { line: 1, part: 0, parts: 1 }, ids: ids.to_vec() }
    }

    fn spec(items: u32) -> JobSpec {
        JobSpec {
            client: Address::ZERO,
            model_id: ModelId::default(),
            kind: JobKind::Embed,
            item_count: items,
            samples_per_item: 1,
            input_root: B256::ZERO,
            input_len: 0,
            max_output: 0,
            stop_ids: [0; 8],
            temperature: 0,
            min_p: 0,
            seed: B256::ZERO,
            base_price: Amount::ZERO,
            input_price: Amount::ZERO,
            output_price: Amount::ZERO,
            item_price: Amount::ZERO,
            ramp_floor_bps: 10_000,
            ramp_secs: 0,
            claim_by: 0,
            deliver_within: 0,
            designated: Address::ZERO,
            input: ContentId { codec: ContentCodec::Raw, digest: B256::ZERO },
            salt: B256::ZERO,
        }
    }

    fn receipt(root: SumNode) -> Receipt {
        Receipt {
            job_id: JobId::default(),
            provider: Address::ZERO,
            output_root: root.hash,
            output_len: root.count,
            output: ContentId { codec: ContentCodec::Raw, digest: B256::ZERO },
            work_digest: B256::ZERO,
            energy_millijoules: 0,
            energy_method: EnergyMethod::Estimated,
        }
    }

    #[test]
    fn prepared_input_is_what_a_worker_reads_back() {
        let items = [item(&[101, 7, 102]), item(&[]), item(&[9])];
        let prepared = PreparedInput::new(&items).expect("prepared");
        assert_eq!((prepared.items, prepared.root.count), (3, 4));
        let expected = Expected { root: prepared.root, leaves: 3 };
        let read = InputSet::from_blob(&prepared.blob, &expected).expect("read");
        assert_eq!(read.items(), items.map(|item| item.ids));
    }

    #[tokio::test]
    async fn stored_input_is_pinned_and_has_the_id_that_the_job_names() {
        let store = quern_store::MemoryStore::new();
        let prepared = PreparedInput::new(&[item(&[1, 2])]).expect("prepared");
        let input = prepared.store(&store).await.expect("stored");
        assert_eq!(store.pins().await.expect("pins"), [input.content]);
        assert_eq!(store.get(input.content, 1_000).await.expect("there"), prepared.blob);
    }

    #[test]
    fn output_that_is_not_the_attested_one_is_refused() {
        let record = |first: i16| OutputRecord { reason: FinishReason::Complete, elements: vec![first, 2, 3] };
        let honest = OutputSet::Embed(vec![record(1), record(5)]);
        let receipt = receipt(honest.tree().expect("tree").root());
        let blob = honest.to_blob().expect("blob");
        let id = JobId::default();
        assert_eq!(check_output(id, &spec(2), &receipt, &blob).expect("attested").len(), 2);

        let swapped = OutputSet::Embed(vec![record(5), record(1)]).to_blob().expect("blob");
        let fewer = OutputSet::Embed(vec![record(1)]).to_blob().expect("blob");
        let longer = [blob.as_slice(), &[0]].concat();
        for bytes in [swapped.as_slice(), &fewer, &longer, &blob[..blob.len() - 1], &[]] {
            assert!(matches!(check_output(id, &spec(2), &receipt, bytes), Err(ClientError::WrongOutput { .. })));
        }
    }
}
