//! The audit of one job: what was attested, computed again and compared to the bit.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Instant};

use quern_chain::{Client, deployment::Deployment, proof::verified_header};
use quern_commit::{
    blob::{BlobError, Expected, OutputRecord, OutputSet},
    model::model_id,
    sum_tree::SumNode,
    work::work_digest,
};
use quern_exact::header::Header;
use quern_model::available_memory;
use quern_store::{ContentStore, GatewayConfig, GatewayStore, LayeredStore, MemoryStore, Severity, StoreError};
use quern_types::{Address, B256, BlockRef, Head, JobId, JobKind, JobSpec, JobState, PackageRoot, Receipt};

use super::{
    AuditAt, JobDifference, JobVerdict, generated,
    history::{find_block, history},
    receipt::{self, Submission},
};
use crate::{
    Error, Result,
    compute::{Computed, Task},
    content::{input_bytes, read_input},
    event::{Event, Logged},
    generate::Generation,
    load::longest,
    models::{self, Engine},
};

/// What an audit of a job works with.
#[derive(Debug, Clone)]
pub struct JobAudit {
    /// Packages at hand; the one with the root of the job's model is verified and used.
    pub packages: Vec<PathBuf>,
    /// Gateways that have the input and the output, in order of preference. The one that the provider has announced is asked last.
    pub gateways: Vec<String>,
    /// A store that is asked before any gateway; `None`: none.
    pub store: Option<Arc<dyn ContentStore>>,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Longest time for one block of content from one gateway, in milliseconds.
    pub fetch_timeout_ms: u64,
    /// Hash of a block by another source than the node: the receipt is proven by that block's state. `None`: by the node's newest block.
    pub block_hash: Option<B256>,
    /// Longest input and longest output that are fetched, in bytes. Both are held in memory.
    pub max_bytes: u64,
}

/// What the chain says of the job.
#[derive(Debug, Clone)]
struct Attested {
    spec: JobSpec,
    receipt: Receipt,
    submission: Submission,
    package: PackageRoot,
    gateway: Option<String>,
}

/// Proves the receipt of a job against the chain's state, computes the job again and compares every bit of what was attested.
///
/// # Errors
/// Nothing can be compared: no such job or receipt, no package of its model, an input that cannot be had, a file past the limit, a node that does not
/// answer. An output that cannot be had is a verdict of its own.
pub async fn audit_job(client: &Client, deployment: &Deployment, job: JobId, audit: &JobAudit) -> Result<JobVerdict> {
    let block = match audit.block_hash {
        None => find_block(client, AuditAt::Head(Head::Latest)).await?,
        Some(hash) => {
            let header = verified_header(client, hash).await?;
            BlockRef { number: header.number, hash, timestamp: header.timestamp }
        }
    };
    let events = match history(client, deployment, block).await? {
        Ok(events) => events,
        Err(difference) => return Err(Error::Content { job, what: "the node's history", fault: difference.to_string() }),
    };
    let attested = attested(&events, deployment, job)?;
    let verdict = |receipt, output_root, seconds, difference: Option<JobDifference>| JobVerdict {
        job,
        equal: match &difference {
            Some(JobDifference::OutputUnavailable { .. }) => None,
            other => Some(other.is_none()),
        },
        block,
        receipt,
        package: attested.package,
        provider: attested.receipt.provider,
        items: attested.spec.item_count,
        output_root,
        seconds,
        difference,
    };
    let market = deployment.contracts.job_market;
    let proof = match receipt::prove(client, market, &attested.receipt, attested.submission, block).await? {
        Ok(proof) => Some(proof),
        Err(difference) => return Ok(verdict(None, None, 0.0, Some(difference))),
    };

    let (packages, wanted, threads) = (audit.packages.clone(), attested.package, audit.threads);
    let engine = tokio::task::spawn_blocking(move || package(&packages, wanted, threads)).await.map_err(|_| Error::ComputeGone)??;
    let Some(engine) = engine else { return Err(Error::PackageNotHeld { job, package: attested.package }) };

    let store = store(audit, attested.gateway.as_ref())?;
    bounded(job, "the input", input_bytes(&attested.spec), audit.max_bytes)?;
    let items = read_input(&store, &attested.spec).await.map_err(|error| Error::InputUnavailable { job, fault: error.to_string() })?;
    let most = output_bytes(&attested, engine.header(), &items);
    bounded(job, "the output", most, audit.max_bytes)?;
    let blob = match store.get_ours(attested.receipt.output, most).await {
        Ok(blob) => Ok(blob),
        Err(error) => Err(unread(error)?),
    };
    let Some(task) = Task::new(&engine, attested.package, &attested.spec, items) else {
        return Err(Error::Content { job, what: "the model", fault: "it does not do this kind of job".into() });
    };
    if let Task::Generate(generation) = &task {
        has_memory(job, generation, available_memory())?;
    }

    let (began, own) = (Instant::now(), attested.clone());
    let recomputing = tokio::task::spawn_blocking(move || recompute(job, &own, &task, blob, threads));
    let (output_root, difference) = recomputing.await.map_err(|_| Error::ComputeGone)??;
    Ok(verdict(proof, output_root, began.elapsed().as_secs_f64(), difference))
}

fn bounded(job: JobId, what: &'static str, bytes: u64, limit: u64) -> Result<()> {
    if bytes > limit { Err(Error::TooLargeToAudit { job, what, bytes, limit }) } else { Ok(()) }
}

/// What it means that an output cannot be read: that it is not here now, or that what its receipt names can be no output of this job.
fn unread(error: StoreError) -> Result<JobDifference> {
    match error {
        StoreError::TooLarge { .. } | StoreError::BadDag { .. } | StoreError::BlockTooLarge { .. } => {
            Ok(JobDifference::OutputBlob { fault: error.to_string() })
        }
        error if error.severity() == Severity::Retry => Ok(JobDifference::OutputUnavailable { fault: error.to_string() }),
        error => Err(error.into()),
    }
}

/// Whether the keys and values of the longest sequence fit: sequences are checked one after the other.
fn has_memory(job: JobId, generation: &Generation, free: u64) -> Result<()> {
    let Generation { decoder, items, samples, rule, .. } = generation;
    let bytes = longest(decoder.header(), items, *samples, rule.max_output.get(), u64::MAX).kv_bytes;
    if bytes > free { Err(Error::AuditMemory { job, bytes, free }) } else { Ok(()) }
}

/// The root that follows, where it was computed, and the first difference. Embeddings are computed anew; generated ids are fed to the model, and each must
/// be its choice.
fn recompute(
    job: JobId,
    attested: &Attested,
    task: &Task,
    blob: Result<Vec<u8>, JobDifference>,
    threads: NonZeroUsize,
) -> Result<(Option<B256>, Option<JobDifference>)> {
    match task {
        Task::Embed { encoder, items } => {
            let computed = Computed::of_embeddings(encoder, items, threads);
            Ok((Some(computed.output_root), compare(job, attested, blob, &computed)))
        }
        Task::Generate(generation) => {
            let outputs = match open(attested, blob) {
                Ok(outputs) => outputs,
                Err(difference) => return Ok((None, Some(difference))),
            };
            let OutputSet::Generate { outputs: records, .. } = &outputs else {
                return Ok((None, other_kind(outputs.kind(), JobKind::Generate)));
            };
            Ok(match generated::check(generation, records)? {
                Err(difference) => (None, Some(difference)),
                Ok(work_root) => {
                    // The set was read from a blob, by its tree.
                    let root = outputs.tree().unwrap_or_else(|error| unreachable!("{error}")).root();
                    (Some(root.hash), totals(job, attested, root, &work_root))
                }
            })
        }
    }
}

/// The job's specification, receipt, package and provider's gateway, out of events. Nothing is believed that does not hash to what it belongs to.
fn attested(events: &[Logged], deployment: &Deployment, job: JobId) -> Result<Attested> {
    let domain = deployment.domain();
    let mut spec = None;
    let mut submitted = None;
    let mut state = JobState::Open;
    for logged in events.iter().filter(|logged| logged.event.job_id() == Some(job)) {
        match &logged.event {
            Event::JobPosted { spec: posted, .. } if posted.id(&domain) == job => spec = Some((**posted).clone()),
            Event::JobClaimed { .. } => state = JobState::Claimed,
            Event::ReceiptSubmitted { receipt, receipt_digest, .. }
                if receipt.job_id == job && receipt.digest(&domain) == *receipt_digest =>
            {
                submitted = Some((**receipt, Submission { block: logged.block, tx: logged.tx, digest: *receipt_digest }));
            }
            Event::JobCancelled { .. } | Event::JobExpired { .. } | Event::JobUndelivered { .. } => state = JobState::Refunded,
            _ => {}
        }
    }
    let spec = spec.ok_or(Error::NoSuchJob { job })?;
    let (receipt, submission) = submitted.ok_or(Error::NoReceipt { job, state: state.name() })?;
    let package = events.iter().find_map(|logged| match &logged.event {
        Event::ModelRegistered { model_id: id, package_root, publisher, registration, .. }
            if *id == spec.model_id && model_id(*package_root, *publisher, registration.royalty_bps) == *id =>
        {
            Some(*package_root)
        }
        _ => None,
    });
    let package = package.ok_or(Error::NoSuchModel { model: spec.model_id })?;
    Ok(Attested { gateway: gateway(events, receipt.provider), spec, receipt, submission, package })
}

/// Where a provider says now that it serves content.
fn gateway(events: &[Logged], of: Address) -> Option<String> {
    let announced = events.iter().rev().find_map(|logged| match &logged.event {
        Event::ProviderAnnounced { provider, gateway } if *provider == of => Some(gateway.clone()),
        _ => None,
    });
    announced.filter(|gateway| !gateway.is_empty())
}

fn package(paths: &[PathBuf], wanted: PackageRoot, threads: NonZeroUsize) -> Result<Option<Engine>> {
    let pool = models::pool(threads);
    for path in paths {
        let (root, engine) = models::load(path, &pool)?;
        if root == wanted {
            return Ok(Some(engine));
        }
    }
    Ok(None)
}

fn store(audit: &JobAudit, announced: Option<&String>) -> Result<LayeredStore> {
    let mut gateways = audit.gateways.clone();
    if let Some(gateway) = announced.filter(|gateway| !gateways.contains(gateway)) {
        // A stranger's text: an address that cannot be used is as good as none.
        if GatewayStore::new(&GatewayConfig { gateways: vec![gateway.clone()], block_timeout_ms: audit.fetch_timeout_ms }).is_ok() {
            gateways.push(gateway.clone());
        }
    }
    let remote: Arc<dyn ContentStore> = Arc::new(GatewayStore::new(&GatewayConfig { gateways, block_timeout_ms: audit.fetch_timeout_ms })?);
    // Input, output, and the nodes above them.
    let memory = Arc::new(MemoryStore::with_limit(audit.max_bytes.saturating_mul(2).saturating_add(64 << 20)));
    Ok(match &audit.store {
        None => LayeredStore::new(memory, remote),
        Some(own) => LayeredStore::new(memory, Arc::new(FirstOf { own: own.clone(), remote })),
    })
}

/// Reads from a store of one's own without changing it, then from gateways.
#[derive(Debug)]
struct FirstOf {
    own: Arc<dyn ContentStore>,
    remote: Arc<dyn ContentStore>,
}

#[async_trait::async_trait]
impl ContentStore for FirstOf {
    fn kind(&self) -> &'static str {
        "audit"
    }

    async fn get_block(&self, id: quern_types::ContentId) -> Result<bytes::Bytes, StoreError> {
        match self.own.get_block(id).await {
            Ok(block) => Ok(block),
            Err(_) => self.remote.get_block(id).await,
        }
    }

    async fn put_block(&self, id: quern_types::ContentId, _: bytes::Bytes) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly { store: self.kind(), action: "put", id })
    }

    async fn has_block(&self, id: quern_types::ContentId) -> Result<bool, StoreError> {
        Ok(self.get_block(id).await.is_ok())
    }

    async fn pin(&self, id: quern_types::ContentId) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly { store: self.kind(), action: "pin", id })
    }

    async fn unpin(&self, id: quern_types::ContentId) -> Result<bool, StoreError> {
        Err(StoreError::ReadOnly { store: self.kind(), action: "unpin", id })
    }

    async fn pins(&self) -> Result<Vec<quern_types::ContentId>, StoreError> {
        Ok(Vec::new())
    }
}

/// Most bytes that the output blob of a right result can have, by its items and by what its receipt bills.
fn output_bytes(attested: &Attested, header: &Header, items: &[Vec<u32>]) -> u64 {
    let Attested { spec, receipt, .. } = attested;
    let longest = |item: &Vec<u32>| match header.refuse(item) {
        Some(_) => 0,
        None => u64::from(spec.max_output).min(u64::from(header.context).saturating_sub(item.len() as u64) + 1),
    };
    let elements = match spec.kind {
        JobKind::Embed => u64::from(spec.output_count()) * 2 * u64::from(header.dim),
        JobKind::Generate => (u64::from(spec.samples_per_item) * items.iter().map(longest).sum::<u64>()).min(receipt.output_len) * 4,
    };
    9 + 5 * u64::from(spec.output_count()) + elements
}

/// The outputs in a blob, also where it is another one than attested: what is in it may still tell where. Whoever takes them must compare the root.
fn open(attested: &Attested, blob: Result<Vec<u8>, JobDifference>) -> Result<OutputSet, JobDifference> {
    let Attested { spec, receipt, .. } = attested;
    let blob = blob?;
    let root = SumNode { hash: receipt.output_root, count: receipt.output_len };
    let read = |root| OutputSet::from_blob(&blob, spec.samples_per_item, &Expected { root, leaves: spec.output_count() });
    let faulty = |error: BlobError| JobDifference::OutputBlob { fault: error.to_string() };
    match read(root) {
        Err(BlobError::Root { actual, .. }) => read(actual).map_err(faulty),
        read => read.map_err(faulty),
    }
}

/// The first difference between what was attested and what follows. Where the blob itself is right, the attested root is wrong, and is named.
fn compare(job: JobId, attested: &Attested, blob: Result<Vec<u8>, JobDifference>, computed: &Computed) -> Option<JobDifference> {
    let outputs = match open(attested, blob) {
        Ok(outputs) => outputs,
        Err(difference) => return Some(difference),
    };
    let root = SumNode { hash: computed.output_root, count: computed.output_len };
    first_element(&outputs, &computed.outputs).or_else(|| totals(job, attested, root, &computed.work_root))
}

/// The first of the receipt's figures that does not follow from outputs that are right.
fn totals(job: JobId, attested: &Attested, root: SumNode, work_root: &B256) -> Option<JobDifference> {
    let receipt = &attested.receipt;
    if receipt.output_len != root.count {
        return Some(JobDifference::OutputLen { expected: root.count, found: receipt.output_len });
    }
    if receipt.output_root != root.hash {
        return Some(JobDifference::OutputRoot { expected: root.hash, found: receipt.output_root });
    }
    let digest = work_digest(work_root, receipt.provider, job);
    (digest != receipt.work_digest).then_some(JobDifference::WorkDigest { expected: digest, found: receipt.work_digest })
}

fn other_kind(found: JobKind, asked: JobKind) -> Option<JobDifference> {
    Some(JobDifference::OutputBlob { fault: format!("it holds outputs of kind {}, the job is of kind {}", found.name(), asked.name()) })
}

fn first_element(found: &OutputSet, expected: &OutputSet) -> Option<JobDifference> {
    match (found, expected) {
        (OutputSet::Embed(found), OutputSet::Embed(expected)) => first_record(found, expected),
        (found, expected) => other_kind(found.kind(), expected.kind()),
    }
}

fn first_record<T: Copy + PartialEq + Into<i64>>(found: &[OutputRecord<T>], expected: &[OutputRecord<T>]) -> Option<JobDifference> {
    (0u32..).zip(found.iter().zip(expected)).find_map(|(output, (found, expected))| {
        if found.reason != expected.reason {
            return Some(JobDifference::Reason { output, expected: expected.reason, found: found.reason });
        }
        if found.elements.len() != expected.elements.len() {
            let [expected, found] = [expected, found].map(|record| record.elements.len() as u64);
            return Some(JobDifference::Length { output, expected, found });
        }
        let differs = (0u32..).zip(found.elements.iter().zip(&expected.elements)).find(|(_, (found, expected))| found != expected);
        differs.map(|(element, (found, expected))| JobDifference::Element {
            output,
            element,
            expected: (*expected).into(),
            found: (*found).into(),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use quern_exact::{
        decoder::{Cache, Decoder, Rule},
        header::NO_ID,
        kernels::{Isa, Pool},
        sample,
    };
    use quern_types::{ContentCodec, ContentId, EnergyMethod, FinishReason};

    use super::*;
    use crate::fixture;

    fn outputs(first: [i16; 2], second: FinishReason) -> OutputSet {
        OutputSet::Embed(vec![
            OutputRecord { reason: FinishReason::Complete, elements: first.to_vec() },
            OutputRecord { reason: second, elements: vec![0, 0] },
            OutputRecord { reason: FinishReason::Complete, elements: vec![5, -6] },
        ])
    }

    fn computed() -> Computed {
        let outputs = outputs([1, -2], FinishReason::EmptyItem);
        let root = outputs.tree().expect("a tree").root();
        Computed {
            blob: outputs.to_blob().expect("a blob"),
            outputs,
            output_root: root.hash,
            output_len: root.count,
            work_root: B256::repeat_byte(9),
        }
    }

    fn job() -> JobId {
        JobId(B256::repeat_byte(1))
    }

    /// A provider that attests to these outputs, and keeps them.
    fn attests(outputs: &OutputSet) -> (Attested, Vec<u8>) {
        let provider = Address::repeat_byte(7);
        let root = outputs.tree().expect("a tree").root();
        let receipt = Receipt {
            job_id: job(),
            provider,
            output_root: root.hash,
            output_len: root.count,
            output: ContentId { codec: ContentCodec::Raw, digest: B256::ZERO },
            work_digest: work_digest(&computed().work_root, provider, job()),
            energy_millijoules: 1,
            energy_method: EnergyMethod::Estimated,
        };
        let submission = Submission { block: fixture::block(1, 0), tx: B256::ZERO, digest: B256::ZERO };
        let attested = Attested { spec: fixture::spec(1), receipt, submission, package: PackageRoot::default(), gateway: None };
        (attested, outputs.to_blob().expect("a blob"))
    }

    #[test]
    fn honest_result_is_equal() {
        let (attested, blob) = attests(&computed().outputs);
        assert_eq!(compare(job(), &attested, Ok(blob), &computed()), None);
    }

    #[test]
    fn one_wrong_bit_is_named_by_output_and_element() {
        let (attested, blob) = attests(&outputs([1, -1], FinishReason::EmptyItem));
        let expected = JobDifference::Element { output: 0, element: 1, expected: -2, found: -1 };
        assert_eq!(compare(job(), &attested, Ok(blob), &computed()), Some(expected));
    }

    #[test]
    fn wrong_reason_is_named() {
        let (attested, blob) = attests(&outputs([1, -2], FinishReason::UnknownId));
        let expected = JobDifference::Reason { output: 1, expected: FinishReason::EmptyItem, found: FinishReason::UnknownId };
        assert_eq!(compare(job(), &attested, Ok(blob), &computed()), Some(expected));
    }

    #[test]
    fn right_root_over_a_wrong_blob_is_still_a_difference() {
        let (attested, _) = attests(&computed().outputs);
        let (_, other) = attests(&outputs([9, -2], FinishReason::EmptyItem));
        let found = compare(job(), &attested, Ok(other), &computed());
        assert_eq!(found, Some(JobDifference::Element { output: 0, element: 0, expected: 1, found: 9 }));
        let cut = compare(job(), &attested, Ok(vec![1, 2, 3]), &computed());
        assert!(matches!(cut, Some(JobDifference::OutputBlob { .. })), "{cut:?}");
    }

    #[test]
    fn wrong_root_over_a_right_blob_is_named_as_the_root() {
        let (mut attested, blob) = attests(&computed().outputs);
        attested.receipt.output_root = B256::repeat_byte(3);
        let found = compare(job(), &attested, Ok(blob), &computed());
        assert_eq!(found, Some(JobDifference::OutputRoot { expected: computed().output_root, found: B256::repeat_byte(3) }));
    }

    #[test]
    fn billed_length_that_the_outputs_do_not_have_is_named() {
        let (mut attested, blob) = attests(&computed().outputs);
        attested.receipt.output_len = 5;
        assert_eq!(compare(job(), &attested, Ok(blob), &computed()), Some(JobDifference::OutputLen { expected: 0, found: 5 }));
    }

    #[test]
    fn copied_result_shows_in_its_work_digest() {
        let (mut attested, blob) = attests(&computed().outputs);
        attested.receipt.work_digest = work_digest(&computed().work_root, Address::repeat_byte(8), job());
        assert!(matches!(compare(job(), &attested, Ok(blob), &computed()), Some(JobDifference::WorkDigest { .. })));
    }

    #[test]
    fn output_that_nobody_has_now_is_no_difference_of_its_provider() {
        let (attested, _) = attests(&computed().outputs);
        let gone = unread(StoreError::NotFound { id: attested.receipt.output, store: "gateway" }).expect("no error of ours");
        assert!(matches!(compare(job(), &attested, Err(gone), &computed()), Some(JobDifference::OutputUnavailable { .. })));
        let endless = unread(StoreError::TooLarge { id: attested.receipt.output, size: 1 << 60, limit: 9 }).expect("no error of ours");
        assert!(matches!(endless, JobDifference::OutputBlob { .. }), "no output of this job is so long");
        let ours = StoreError::Full { store: "memory", used: 0, needed: 1, limit: 0 };
        assert!(unread(ours).is_err(), "a full store is no verdict");
    }

    #[test]
    fn output_that_an_enemy_bills_without_end_is_bounded_by_what_its_items_allow() {
        let (mut attested, _) = attests(&computed().outputs);
        let header = Header { context: 64, vocabulary: 100, ..quern_exact::sample::small_decoder_header() };
        attested.spec = JobSpec { kind: JobKind::Generate, item_count: 3, samples_per_item: 2, max_output: 32_768, ..attested.spec };
        attested.receipt.output_len = u64::MAX;
        // An empty item, one past the context, and one with room for 62 ids more.
        let items = [vec![], vec![1; 65], vec![1; 3]];
        assert_eq!(output_bytes(&attested, &header, &items), 9 + 5 * 6 + 4 * 2 * 62);
        attested.receipt.output_len = 7;
        assert_eq!(output_bytes(&attested, &header, &items), 9 + 5 * 6 + 4 * 7);
        let refused = bounded(job(), "the output", 2 << 40, 1 << 30);
        assert!(matches!(refused, Err(Error::TooLargeToAudit { bytes, limit, .. }) if (bytes, limit) == (2 << 40, 1 << 30)));
    }

    #[test]
    fn audit_without_memory_for_the_longest_sequence_is_refused_with_both_figures() {
        let model = sample::decoder(&sample::small_decoder_header(), 5).expect("a decoder");
        let decoder = Decoder::new(&model, Arc::new(Pool::single(Isa::detect())));
        let rule = Rule::greedy(NonZeroU32::MIN, [NO_ID; 8]);
        let generation = Generation { package: PackageRoot::default(), decoder, items: vec![vec![1; 9], vec![2; 3]], samples: 1, rule };
        let bytes = Cache::bytes(&sample::small_decoder_header(), 9) as u64;
        assert!(has_memory(job(), &generation, bytes).is_ok());
        let refused = has_memory(job(), &generation, bytes - 1);
        assert!(matches!(refused, Err(Error::AuditMemory { free, .. }) if free == bytes - 1), "{refused:?}");
    }
}
