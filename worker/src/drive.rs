//! Drives one job from its acceptance to its end: asks the table in [`crate::life`], does what it says, journals it, asks again.
//!
//! Everything with an effect is behind [`Hands`], so that tests can kill the driver at any point and look at what two lives of it did together.
//!
//! What makes a restart harmless, effect by effect:
//!
//! | effect | done twice |
//! |---|---|
//! | claim, submit | one key, one nonce, one transaction: the sender's journal knows it |
//! | fetch, compute | the same bits |
//! | store, pin | the same content id; read back before the receipt leaves and while it stands, and stored again where the disk lost it |
//! | sign | the receipt is journalled with its signature before it is sent, and never made anew |
//! | complete | the contract skips what is completed already |

use std::time::{Duration, Instant};

use async_trait::async_trait;
use quern_db::journal::Step;
use quern_types::{B256, ContentId, JobId, JobSpec, Receipt, SignedReceipt};

use crate::{
    Error, Result, Severity,
    energy::Energy,
    life::{Next, Seen, Situation, next},
};

/// Name of the journal's fact that holds the result of the computation: [`Work`] without its blob, as JSON.
pub(crate) const FACT_WORK: &str = "work";
/// Name of the journal's fact that holds the signed receipt, as JSON.
pub(crate) const FACT_RECEIPT: &str = "receipt";
/// Times that a claim or submission may be refused or reverted, each for another reason, before a person is told.
const MAX_ROUNDS: u32 = 4;

/// How often a result that others may ask for is read back from the store.
const READ_BACK_EVERY: Duration = Duration::from_secs(600);

/// What was computed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Work {
    /// Root of the output tree.
    pub(crate) output_root: B256,
    /// Its count.
    pub(crate) output_len: u64,
    /// Work root; the digest binds it to provider and job.
    pub(crate) work_root: B256,
    /// Energy of the computation.
    pub(crate) energy: Energy,
    /// Where the blob is.
    pub(crate) output: ContentId,
}

/// A result in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) work: Work,
    pub(crate) blob: Vec<u8>,
}

/// A job in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) step: Step,
    pub(crate) spec: JobSpec,
    pub(crate) work: Option<Work>,
    pub(crate) receipt: Option<SignedReceipt>,
}

/// A transaction for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Intention {
    Claim,
    Submit(SignedReceipt),
}

impl Intention {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Submit(_) => "submit",
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Mined in this block, and it did what it should.
    Done(u64),
    /// Mined in this block and reverted: its key is used up.
    Reverted(u64, String),
    /// Not sent, because it would revert now.
    Refused(String),
}

/// Everything that a driver does to the world.
#[async_trait]
pub(crate) trait Hands: Send + Sync {
    /// The job in the journal.
    async fn entry(&self, job: JobId) -> Result<Entry>;
    /// Moves the job in the journal, if it is at `from`, with what the step leaves behind.
    async fn advance(&self, job: JobId, from: Step, to: Step, note: &str, fact: Option<(&'static str, Vec<u8>)>) -> Result<()>;
    /// What the canonical chain says of the job, and whether that is finalized.
    fn look(&self, job: JobId, spec: &JobSpec) -> (Seen, bool);
    /// The receipt that stands on the chain.
    fn receipt(&self, job: JobId) -> Option<Receipt>;
    /// The least timestamp that the next block can have.
    fn now(&self) -> u64;
    /// Returns when the chain says something new, or the second has come, or after a moment.
    async fn pause(&self, until: Option<u64>) -> Result<()>;
    /// Returns when the view has taken this block, or the chain has gone another way.
    async fn reach(&self, block: u64) -> Result<()>;
    /// Carries an intention out, at most once per key, and waits until it is mined.
    async fn send(&self, job: JobId, spec: &JobSpec, intention: &Intention, round: u32) -> Result<Sent>;
    /// Completes the job, possibly with others in one transaction; returns when that is mined, with its block.
    async fn complete(&self, job: JobId, spec: &JobSpec, receipt: &Receipt) -> Result<u64>;
    /// The input's items, out of the local store and checked.
    async fn fetch(&self, job: JobId, spec: &JobSpec) -> Result<Vec<Vec<u32>>>;
    /// Computes; `None` where the job was lost meanwhile.
    async fn compute(&self, job: JobId, spec: &JobSpec, items: Vec<Vec<u32>>) -> Result<Option<Output>>;
    /// Stores and pins the output.
    async fn store(&self, job: JobId, output: &Output) -> Result<()>;
    /// Whether every block of the output is in the store and whole.
    async fn holds(&self, work: &Work) -> Result<bool>;
    /// Makes and signs the receipt.
    fn sign(&self, job: JobId, work: &Work) -> SignedReceipt;
    /// Gives the content of a job that is over up.
    async fn forget(&self, job: JobId, entry: &Entry) -> Result<()>;
}

/// What a driver holds in memory; all of it can be lost.
#[derive(Debug, Default)]
struct Memory {
    items: Option<Vec<Vec<u32>>>,
    output: Option<Output>,
    claim_round: u32,
    submit_round: u32,
    /// When the stored output was last read back.
    read_back: Option<Instant>,
}

/// Drives a job until nothing is left to do.
///
/// # Errors
/// [`Error::Stopping`]; what is fatal. What can be retried is retried here.
pub(crate) async fn drive(hands: &dyn Hands, job: JobId) -> Result<()> {
    let mut memory = Memory::default();
    loop {
        match once(hands, job, &mut memory).await {
            Ok(false) => {}
            Ok(true) => return Ok(()),
            // Somebody moved the job under our feet: another driver, or a test. The journal says where it is.
            Err(Error::Journal(quern_db::Error::StepMoved { .. })) => {}
            Err(error) if error.severity() == Severity::Retry => {
                tracing::warn!(%job, error = error.chain(), "job.retry");
                hands.pause(None).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// One look at the table and one thing done. True where the job is over for good.
async fn once(hands: &dyn Hands, job: JobId, memory: &mut Memory) -> Result<bool> {
    let entry = hands.entry(job).await?;
    let Entry { step, spec, .. } = &entry;
    let step = *step;
    let (seen, finalized) = hands.look(job, spec);
    let situation = Situation {
        step,
        seen,
        finalized,
        now: hands.now(),
        claim_by: spec.claim_by,
        has_receipt: entry.receipt.is_some(),
        has_output: memory.output.is_some(),
    };
    if let Some(work) = entry.work.as_ref().filter(|_| is_asked_for(step, seen))
        && memory.read_back.is_none_or(|last| last.elapsed() >= READ_BACK_EVERY)
    {
        match keep_whole(hands, job, spec, work).await {
            Ok(()) => memory.read_back = Some(Instant::now()),
            // A receipt that stands must still be completed; the next look at the store comes in its time.
            Err(error) if error.severity() == Severity::Retry && !matches!(seen, Seen::Claimed { .. }) => {
                tracing::error!(%job, error = error.chain(), "output.lost");
                memory.read_back = Some(Instant::now());
            }
            Err(error) => return Err(error),
        }
    }
    match next(&situation) {
        Next::Advance(to, note) => hands.advance(job, step, to, note, None).await?,
        Next::Wait(until) => hands.pause(until).await?,
        Next::Claim => claim(hands, job, &entry, memory).await?,
        Next::Fetch => {
            memory.items = Some(hands.fetch(job, spec).await?);
            hands.advance(job, step, Step::Fetched, "", None).await?;
        }
        Next::Compute => {
            let items = match memory.items.take() {
                Some(items) => items,
                // Killed after fetching: the local store has it.
                None => hands.fetch(job, spec).await?,
            };
            // `None`: the chain has moved on meanwhile, and says more at the next look.
            if let Some(output) = hands.compute(job, spec, items).await? {
                let fact = fact(&output.work);
                memory.output = Some(output);
                if step != Step::Computed {
                    hands.advance(job, step, Step::Computed, "", Some((FACT_WORK, fact))).await?;
                }
            }
        }
        Next::Store => {
            if let Some(output) = &memory.output {
                hands.store(job, output).await?;
                // Written again: a second life may have spent other energy than the one that was killed.
                hands.advance(job, step, Step::Stored, "", Some((FACT_WORK, fact(&output.work)))).await?;
            }
            memory.output = None;
        }
        Next::Sign => {
            let Some(work) = &entry.work else {
                return Err(Error::Fact { job, fact: FACT_WORK, fault: "it is missing".into() });
            };
            let signed = hands.sign(job, work);
            hands.advance(job, step, Step::Signed, "", Some((FACT_RECEIPT, fact(&signed)))).await?;
        }
        Next::Submit => submit(hands, job, &entry, memory).await?,
        Next::Complete => {
            // The receipt on the chain is the one that counts, whoever relayed it.
            if let Some(receipt) = hands.receipt(job) {
                let block = hands.complete(job, spec, &receipt).await?;
                hands.reach(block).await?;
                if hands.look(job, spec).0 == seen {
                    hands.pause(None).await?;
                }
            }
        }
        Next::Forget => {
            hands.forget(job, &entry).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether others may ask for the output, now or as soon as the receipt stands.
const fn is_asked_for(step: Step, seen: Seen) -> bool {
    match seen {
        Seen::Claimed { ours, .. } => ours && matches!(step, Step::Stored | Step::Signed | Step::Submitting),
        Seen::Submitted { ours, .. } | Seen::Challenged { ours } => ours,
        _ => false,
    }
}

/// Reads the stored output back; where a block is lost or damaged, the same bits are computed and stored once more.
async fn keep_whole(hands: &dyn Hands, job: JobId, spec: &JobSpec, work: &Work) -> Result<()> {
    if hands.holds(work).await? {
        return Ok(());
    }
    tracing::warn!(%job, cid = %work.output, "output.damaged");
    let items = hands.fetch(job, spec).await?;
    // `None`: the job was lost meanwhile, and nobody asks any more.
    let Some(output) = hands.compute(job, spec, items).await? else { return Ok(()) };
    if output.work.output != work.output {
        return Err(Error::Content {
            job,
            what: "the output",
            fault: format!("computed again it is {}, not {}", output.work.output, work.output),
        });
    }
    hands.store(job, &output).await
}

async fn claim(hands: &dyn Hands, job: JobId, entry: &Entry, memory: &mut Memory) -> Result<()> {
    match hands.send(job, &entry.spec, &Intention::Claim, memory.claim_round).await? {
        Sent::Done(block) => hands.reach(block).await,
        Sent::Reverted(block, revert) => {
            tracing::warn!(%job, block, revert, "claim.reverted");
            memory.claim_round += 1;
            hands.reach(block).await?;
            give_up_claim(hands, job, entry, memory, &revert).await
        }
        Sent::Refused(revert) => {
            tracing::info!(%job, revert, "claim.refused");
            memory.claim_round += 1;
            hands.pause(None).await?;
            give_up_claim(hands, job, entry, memory, &revert).await
        }
    }
}

/// A claim that failed although the job is still open for all that we can see: not ours to take.
async fn give_up_claim(hands: &dyn Hands, job: JobId, entry: &Entry, memory: &Memory, revert: &str) -> Result<()> {
    let still_open = hands.look(job, &entry.spec).0 == Seen::Open;
    if still_open && memory.claim_round >= MAX_ROUNDS {
        let note = format!("the contract refused the claim: {revert}");
        hands.advance(job, entry.step, Step::Refused, &note, None).await?;
    }
    Ok(())
}

async fn submit(hands: &dyn Hands, job: JobId, entry: &Entry, memory: &mut Memory) -> Result<()> {
    let Some(receipt) = &entry.receipt else {
        return Err(Error::Fact { job, fact: FACT_RECEIPT, fault: "it is missing".into() });
    };
    let intention = Intention::Submit(receipt.clone());
    match hands.send(job, &entry.spec, &intention, memory.submit_round).await? {
        Sent::Done(block) => hands.reach(block).await,
        Sent::Reverted(block, revert) => {
            tracing::warn!(%job, block, revert, "submit.reverted");
            memory.submit_round += 1;
            hands.reach(block).await?;
            match hands.look(job, &entry.spec).0 {
                Seen::Claimed { ours: true, deadline } if hands.now() <= deadline && memory.submit_round >= MAX_ROUNDS => {
                    Err(Error::Rejected { job, intention: intention.name().into(), revert })
                }
                _ => Ok(()),
            }
        }
        // The view lags, or the clock does: look again.
        Sent::Refused(revert) => {
            tracing::info!(%job, revert, "submit.refused");
            hands.pause(None).await
        }
    }
}

fn fact(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("plain data is always JSON: {error}"))
}
