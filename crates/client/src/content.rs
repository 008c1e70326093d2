//! Inputs and outputs as they are committed to, stored and fetched.

use quern_commit::{
    CommitError,
    blob::{BlobError, Expected, InputSet, OutputSet},
    sum_tree::SumNode,
};
use quern_store::ContentStore;
use quern_types::{JobId, JobKind, JobSpec, Receipt};

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
pub async fn fetch_output(id: JobId, job: &JobLife, store: &dyn ContentStore) -> Result<OutputSet, ClientError> {
    let receipt = job.receipt.ok_or(ClientError::NoReceipt { job: id })?;
    let bytes = store.get(receipt.output, output_bytes(&job.spec, &receipt)).await?;
    check_output(id, &job.spec, &receipt, &bytes)
}

/// Most bytes that the output of a job can have.
fn output_bytes(spec: &JobSpec, receipt: &Receipt) -> u64 {
    let count = u64::from(spec.output_count());
    let elements = match spec.kind {
        JobKind::Embed => count * 2 * MAX_WIDTH,
        // The contract takes no receipt of more ids than the job asks for.
        JobKind::Generate => receipt.output_len.min(count.saturating_mul(spec.max_output.into())).saturating_mul(4),
    };
    (9 + 5 * count).saturating_add(elements)
}

/// Holds the bytes of an output to a receipt.
///
/// # Errors
/// [`ClientError::WrongOutput`].
pub fn check_output(id: JobId, spec: &JobSpec, receipt: &Receipt, bytes: &[u8]) -> Result<OutputSet, ClientError> {
    let wrong = |reason: String| ClientError::WrongOutput { job: id, content: receipt.output, reason };
    let expected = Expected { root: SumNode { hash: receipt.output_root, count: receipt.output_len }, leaves: spec.output_count() };
    let set = OutputSet::from_blob(bytes, spec.samples_per_item, &expected).map_err(|error: BlobError| wrong(error.to_string()))?;
    if set.kind() != spec.kind {
        return Err(wrong(format!("it holds outputs of kind {}, and the job is of kind {}", set.kind().name(), spec.kind.name())));
    }
    // The root counts the ids of all outputs together; each alone is bounded by the job.
    if let OutputSet::Generate { outputs, .. } = &set
        && let Some(long) = outputs.iter().position(|output| output.elements.len() > spec.max_output as usize)
    {
        return Err(wrong(format!(
            "output {long} has {} ids, and the job asks for at most {}",
            outputs[long].elements.len(),
            spec.max_output
        )));
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use quern_commit::blob::OutputRecord;
    use quern_types::{Address, Amount, B256, ContentCodec, ContentId, EnergyMethod, FinishReason, ModelId};

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
        assert_eq!(check_output(id, &spec(2), &receipt, &blob).expect("attested"), honest);

        let swapped = OutputSet::Embed(vec![record(5), record(1)]).to_blob().expect("blob");
        let fewer = OutputSet::Embed(vec![record(1)]).to_blob().expect("blob");
        let longer = [blob.as_slice(), &[0]].concat();
        for bytes in [swapped.as_slice(), &fewer, &longer, &blob[..blob.len() - 1], &[]] {
            assert!(matches!(check_output(id, &spec(2), &receipt, bytes), Err(ClientError::WrongOutput { .. })));
        }
    }

    #[test]
    fn generated_output_of_another_kind_or_past_its_bound_is_refused() {
        let job = JobSpec { kind: JobKind::Generate, samples_per_item: 2, max_output: 3, ..spec(1) };
        let record = |ids: &[u32]| OutputRecord { reason: FinishReason::MaxOutput, elements: ids.to_vec() };
        let set = |outputs| OutputSet::Generate { samples: 2, outputs };
        let check = |job: &JobSpec, set: &OutputSet| {
            check_output(JobId::default(), job, &receipt(set.tree().expect("tree").root()), &set.to_blob().expect("blob"))
        };
        let honest = set(vec![record(&[1, 2, 3]), record(&[4])]);
        assert_eq!(check(&job, &honest).expect("attested"), honest);
        let long = set(vec![record(&[1, 2, 3, 4]), record(&[])]);
        assert!(check(&job, &long).expect_err("4 ids").to_string().contains("output 0 has 4 ids"));
        let vectors = OutputSet::Embed(vec![OutputRecord { reason: FinishReason::Complete, elements: vec![1] }; 2]);
        assert!(check(&job, &vectors).expect_err("vectors").to_string().contains("Embed"));
    }
}
