//! Inputs and outputs as they are committed to, stored and fetched.

use quern_commit::{
    CommitError,
    blob::{BlobError, Expected, InputSet, OutputSet},
    sum_tree::SumNode,
};
use quern_store::{ContentStore, StoreError};
use quern_types::{JobId, JobKind, JobSpec, Receipt};

use crate::{ClientError, InputRef, Item, JobLife};

/// Longest output that is fetched, in bytes: it is held in memory.
pub const MAX_OUTPUT_BYTES: u64 = 1 << 30;

/// What of a model bounds the outputs of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputShape {
    /// Width of its embeddings.
    pub dim: u32,
    /// Ids of a sequence, item and output together.
    pub context: u32,
}

impl OutputShape {
    /// Out of a registered header (PROTOCOL, section 2); `None` where it is none.
    pub fn of_header(header: &[u8]) -> Option<Self> {
        let word = |at: usize| header.get(4 * at..).and_then(<[u8]>::first_chunk::<4>).map(|bytes| u32::from_be_bytes(*bytes));
        Some(Self { dim: word(3)?, context: word(9)? })
    }
}

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
/// [`ClientError::NoReceipt`]; [`ClientError::WrongOutput`] where the content is not what was attested to; [`ClientError::OutputTooLarge`]; the store's,
/// while no gateway has it.
pub async fn fetch_output(id: JobId, job: &JobLife, shape: OutputShape, store: &dyn ContentStore) -> Result<OutputSet, ClientError> {
    let receipt = job.receipt.ok_or(ClientError::NoReceipt { job: id })?;
    let most = output_bytes(&job.spec, &receipt, shape);
    if most > MAX_OUTPUT_BYTES {
        return Err(ClientError::OutputTooLarge { job: id, bytes: most, limit: MAX_OUTPUT_BYTES });
    }
    let bytes = store.get_ours(receipt.output, most).await.map_err(|error| match error {
        StoreError::TooLarge { .. } | StoreError::BadDag { .. } | StoreError::BlockTooLarge { .. } => {
            ClientError::WrongOutput { job: id, content: receipt.output, reason: error.to_string() }
        }
        error => error.into(),
    })?;
    check_output(id, &job.spec, &receipt, shape, &bytes)
}

/// Most bytes that the output of a job can have.
fn output_bytes(spec: &JobSpec, receipt: &Receipt, shape: OutputShape) -> u64 {
    let count = u64::from(spec.output_count());
    let elements = match spec.kind {
        JobKind::Embed => count * 2 * u64::from(shape.dim),
        // No item is empty that has an output, so none has more ids than the context.
        JobKind::Generate => receipt.output_len.min(count.saturating_mul(spec.max_output.min(shape.context).into())).saturating_mul(4),
    };
    (9 + 5 * count).saturating_add(elements)
}

/// Holds the bytes of an output to a receipt.
///
/// # Errors
/// [`ClientError::WrongOutput`].
pub fn check_output(id: JobId, spec: &JobSpec, receipt: &Receipt, shape: OutputShape, bytes: &[u8]) -> Result<OutputSet, ClientError> {
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
    if let Some(outputs) = set.embeddings()
        && let Some(odd) = outputs.iter().position(|output| output.elements.len() != shape.dim as usize)
    {
        let found = outputs[odd].elements.len();
        return Err(wrong(format!("output {odd} has {found} elements, and the model's embeddings have {}", shape.dim)));
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use quern_commit::blob::OutputRecord;
    use quern_types::{Address, B256, ContentCodec, ContentId, EnergyMethod, FinishReason};

    use super::*;
    use crate::{Origin, fixture};

    const SHAPE: OutputShape = OutputShape { dim: 3, context: 8 };

    fn item(ids: &[u32]) -> Item {
        Item { origin: Origin { line: 1, part: 0, parts: 1 }, ids: ids.to_vec() }
    }

    fn spec(items: u32) -> JobSpec {
        JobSpec { item_count: items, input_len: 0, ..fixture::spec() }
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
        assert_eq!(check_output(id, &spec(2), &receipt, SHAPE, &blob).expect("attested"), honest);

        let swapped = OutputSet::Embed(vec![record(5), record(1)]).to_blob().expect("blob");
        let fewer = OutputSet::Embed(vec![record(1)]).to_blob().expect("blob");
        let longer = [blob.as_slice(), &[0]].concat();
        for bytes in [swapped.as_slice(), &fewer, &longer, &blob[..blob.len() - 1], &[]] {
            assert!(matches!(check_output(id, &spec(2), &receipt, SHAPE, bytes), Err(ClientError::WrongOutput { .. })));
        }
    }

    #[test]
    fn embedding_of_another_width_that_an_enemy_attests_to_is_refused() {
        for widths in [[3, 16_384], [2, 2], [0, 3]] {
            let record = |width: usize| OutputRecord { reason: FinishReason::Complete, elements: vec![1; width] };
            let set = OutputSet::Embed(widths.map(record).to_vec());
            let receipt = receipt(set.tree().expect("tree").root());
            let checked = check_output(JobId::default(), &spec(2), &receipt, SHAPE, &set.to_blob().expect("blob"));
            assert!(matches!(checked, Err(ClientError::WrongOutput { .. })), "{widths:?}");
        }
    }

    #[test]
    fn output_that_an_enemy_bills_without_end_is_bounded_by_the_model_and_by_memory() {
        let node = SumNode { hash: B256::ZERO, count: u64::MAX };
        let greatest = JobSpec { kind: JobKind::Generate, samples_per_item: 256, max_output: 32_768, ..spec(65_536) };
        let outputs = 65_536 * 256;
        assert_eq!(output_bytes(&greatest, &receipt(node), SHAPE), 9 + 5 * outputs + 4 * outputs * 8);
        assert!(output_bytes(&greatest, &receipt(node), OutputShape { context: 32_768, ..SHAPE }) > MAX_OUTPUT_BYTES);
        assert_eq!(output_bytes(&spec(2), &receipt(node), SHAPE), 9 + 5 * 2 + 2 * 2 * 3);
    }

    #[test]
    fn shape_is_read_out_of_a_registered_header() {
        let header: Vec<u8> = (0..40u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(OutputShape::of_header(&header), Some(OutputShape { dim: 3, context: 9 }));
        assert_eq!(OutputShape::of_header(&header[..39]), None);
    }

    #[test]
    fn generated_output_of_another_kind_or_past_its_bound_is_refused() {
        let job = JobSpec { kind: JobKind::Generate, samples_per_item: 2, max_output: 3, ..spec(1) };
        let record = |ids: &[u32]| OutputRecord { reason: FinishReason::MaxOutput, elements: ids.to_vec() };
        let set = |outputs| OutputSet::Generate { samples: 2, outputs };
        let check = |job: &JobSpec, set: &OutputSet| {
            check_output(JobId::default(), job, &receipt(set.tree().expect("tree").root()), SHAPE, &set.to_blob().expect("blob"))
        };
        let honest = set(vec![record(&[1, 2, 3]), record(&[4])]);
        assert_eq!(check(&job, &honest).expect("attested"), honest);
        let long = set(vec![record(&[1, 2, 3, 4]), record(&[])]);
        assert!(check(&job, &long).expect_err("4 ids").to_string().contains("output 0 has 4 ids"));
        let vectors = OutputSet::Embed(vec![OutputRecord { reason: FinishReason::Complete, elements: vec![1] }; 2]);
        assert!(check(&job, &vectors).expect_err("vectors").to_string().contains("Embed"));
    }
}
