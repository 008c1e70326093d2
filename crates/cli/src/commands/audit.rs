//! `quern audit`: trust nobody.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Subcommand;
use quern_client::{Follower, MAX_OUTPUT_BYTES, Market, Scope};
use quern_types::{B256, Head, JobId};
use quern_worker::audit::{
    AuditAt, JobAudit, JobDifference, JobVerdict, LedgerAudit, LedgerVerdict, ReceiptProof, audit_job, audit_ledger,
};
use serde::Serialize;

use crate::{
    app::Context,
    args,
    commands::buy,
    failure::{Exit, Failure},
    session::{self, Content, in_tokens},
};

/// Longest time for one block of content from one gateway.
const FETCH_TIMEOUT_MS: u64 = 30_000;

/// Commands of `quern audit`. They need no key.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Derive the whole ledger again from events and prove it against the chain's state
    #[command(after_long_help = LEDGER_HELP)]
    Ledger {
        /// Up to which block: the one that is now latest, safe or finalized. Finalized never goes back
        #[arg(long, value_name = "HEAD", default_value = "finalized", value_parser = args::head)]
        head: Head,
        /// Up to this height, in place of --head
        #[arg(long, value_name = "NUMBER", conflicts_with = "head")]
        block: Option<u64>,
        /// Hash of that block from another source: then nothing is taken on the node's word
        #[arg(long, value_name = "HASH")]
        block_hash: Option<B256>,
        /// Output root of that block as the L1 holds it, to compare with
        #[arg(long, value_name = "HASH")]
        output_root: Option<B256>,
    },
    /// Compute a job again and compare every bit with what was attested
    #[command(after_long_help = JOB_HELP)]
    Job {
        /// The job
        id: JobId,
        /// Directory of the model's package; repeatable: the one that fits is used; default: fetched once into HOME/packages
        #[arg(long = "package", value_name = "DIR")]
        packages: Vec<PathBuf>,
        /// Threads that compute; default: all processors
        #[arg(long, value_name = "N")]
        threads: Option<NonZeroUsize>,
        /// Hash of a block from another source: the receipt is proven by its state; default: the node's newest block
        #[arg(long, value_name = "HASH")]
        block_hash: Option<B256>,
        /// Longest input and longest output that are fetched into memory
        #[arg(long, value_name = "BYTES", default_value_t = MAX_OUTPUT_BYTES)]
        max_bytes: u64,
    },
}

const LEDGER_HELP: &str = "Every amount is derived again: fees, royalties, refunds, penalties from the jobs' specifications; every entry is hashed into the head; \
head, number of entries and every balance are proven by Merkle proofs against the block.

Exit code 0: not one unit differs. 3: the first difference is shown.

Example:
  quern audit ledger --head finalized

JSON: {\"ok\":BOOL,\"entries\",\"accounts\",\"jobs\",\"block\":{\"number\",\"hash\",\"timestamp\"},\"ledger\",\"chainId\",\"head\",\"total\",\"tokenBalance\",
  \"proven\":{\"slots\",\"tokenBalance\",\"outputRoot\"},\"difference\":null|{\"seq\",\"block\",\"job\",\"what\",\"expected\",\"found\"}}";

const JOB_HELP: &str = "Embeddings are computed anew; generated ids are fed to the model, and each must be its choice, which takes a fraction of the time of generating. The input and the output are fetched from the store of this machine, from --gateway URL and from the gateway that the provider announced; \
the package, given or fetched from where its publisher says that it is, is verified, every hash of it.

What is proven of the receipt, against the block's hash (the node's newest, or --block-hash HASH from another source, and then nothing is taken on the node's word):
  \"receipt\":\"state\"      the market's storage holds this very receipt: in the block while the job is submitted or challenged, else in the block of its submission,
                         where the node keeps that state and at most 4,096 blocks lie between, all of whose headers are checked
  \"receipt\":\"signature\"  the market's storage holds the key that claimed the job, and that key signed this receipt. A provider that signed two receipts and a node
                         that helps it can show the other one: audit within the challenge window, or ask a node that keeps history
A receipt that cannot be proven at all is an error (exit code 1). A node that shows another receipt than the market holds is a difference (\"at\":\"node\").

Exit code 0: equal to the last bit. 3: the first difference is shown. 5: nobody gives the output now (\"equal\":null).

Examples:
  quern audit job 0x12…
  quern audit job 0x12… --package models/minilm --gateway http://127.0.0.1:8480

JSON: {\"job\",\"equal\":BOOL|null,\"block\":{\"number\",\"hash\",\"timestamp\"},\"receipt\":TEXT|null,\"package\",\"provider\",\"items\",\"outputRoot\",\"seconds\",\"difference\":null|{\"at\",…}}
  outputRoot is null where a wrong id ended the audit. Of generated ids a difference names item, sample and position, all from 0:
  {\"at\":\"id\",\"item\",\"sample\",\"position\",\"expected\":ID,\"found\":ID|null} or {\"at\":\"end\",\"item\",\"sample\",\"position\",\"expected\":REASON,\"found\":REASON,\"ids\"}";

/// Runs `quern audit`.
///
/// # Errors
/// A difference (exit code 3); nothing can be compared.
pub async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let auditing = async {
        match command {
            Command::Ledger { head, block, block_hash, output_root } => {
                let at = block.map_or(AuditAt::Head(head), AuditAt::Block);
                ledger(context, &LedgerAudit { at, block_hash, output_root }).await
            }
            Command::Job { id, packages, threads, block_hash, max_bytes } => {
                job(context, id, packages, threads, (block_hash, max_bytes)).await
            }
        }
    };
    tokio::select! {
        result = auditing => result,
        () = context.cancel.cancelled() => Err(Failure::new("interrupted: nothing was found, and nothing was shown to be right", "").with_exit(Exit::Interrupted).into()),
    }
}

async fn ledger(context: &Context, audit: &LedgerAudit) -> anyhow::Result<()> {
    let market = session::market(&context.config).await?;
    let verdict = audit_ledger(market.client(), market.deployment(), audit).await?;
    report(context, &verdict, verdict.ok, || ledger_text(&verdict))
}

async fn job(
    context: &Context,
    id: JobId,
    packages: Vec<PathBuf>,
    threads: Option<NonZeroUsize>,
    (block_hash, max_bytes): (Option<B256>, u64),
) -> anyhow::Result<()> {
    let market = session::market(&context.config).await?;
    let content = session::content(&context.config, &[]).await?;
    let packages = if packages.is_empty() { vec![fetched(context, &market, &content, id).await?] } else { packages };
    let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let audit = JobAudit {
        packages,
        gateways: context.config.gateways.clone(),
        store: Some(content.local),
        threads: threads.unwrap_or(all),
        fetch_timeout_ms: FETCH_TIMEOUT_MS,
        block_hash,
        max_bytes,
    };
    let verdict = audit_job(market.client(), market.deployment(), id, &audit).await?;
    let Some(equal) = verdict.equal else {
        context.out.result(&verdict, || job_text(&verdict))?;
        let remedy = "ask again later, or name a gateway that has the output with --gateway URL; whoever withholds it may be somebody else than its provider";
        return Err(Failure::new("there is no output to compare: nothing is shown to be right or wrong", remedy)
            .with_exit(Exit::Unavailable)
            .into());
    };
    report(context, &verdict, equal, || job_text(&verdict))
}

/// The folder of the package of a job's model. TRUST: none; the audit proves it again, against the model's id in the job.
async fn fetched(context: &Context, market: &Market, content: &Content, id: JobId) -> anyhow::Result<PathBuf> {
    let mut follower = Follower::new(market.client().clone(), market.deployment(), Scope::Jobs([id].into()), session::stream_config())?;
    let facts = follower.catch_up().await?;
    let life = facts.job(id).ok_or(quern_worker::Error::NoSuchJob { job: id })?;
    let package = buy::package(context, market, facts, content, life.spec.model_id, life.spec.kind, None).await?;
    Ok(package.path().to_owned())
}

/// A verdict is a result, whatever it says: it goes to standard output, and a difference into the exit code.
fn report(context: &Context, verdict: &impl Serialize, holds: bool, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    context.out.result(verdict, text)?;
    if holds {
        return Ok(());
    }
    let remedy = "ask another node (--rpc URL) to see who is wrong: this one, or the chain; keep this output";
    Err(Failure::new("the audit found a difference", remedy).with_exit(Exit::Difference).into())
}

fn ledger_text(verdict: &LedgerVerdict) -> String {
    let LedgerVerdict { ledger, block, entries, accounts, jobs, total, proven, difference, .. } = verdict;
    let mut lines = vec![
        format!("ledger   {ledger} on chain {}", verdict.chain_id),
        format!("block    {} ({:#x})", block.number, block.hash),
        format!("derived  {entries} entries, {accounts} accounts, {jobs} jobs, {} in all", in_tokens(*total)),
        format!("proven   {} storage slots against the block's state root", proven.slots),
    ];
    if let Some(held) = verdict.token_balance {
        let how =
            if proven.token_balance { "proven" } else { "as the node says: the token is none of ours and keeps its balances elsewhere" };
        lines.push(format!("token    {} held by the Ledger, {how}", in_tokens(held)));
    }
    lines.push(match difference {
        None => "result   every unit is accounted for".into(),
        Some(difference) => format!("result   DIFFERENCE: {difference}"),
    });
    lines.join("\n")
}

fn job_text(verdict: &JobVerdict) -> String {
    let JobVerdict { job, block, receipt, package, provider, items, seconds, difference, .. } = verdict;
    let result = match difference {
        None => "equal to the last bit".into(),
        Some(JobDifference::OutputUnavailable { fault }) => format!("UNAVAILABLE: {fault}"),
        Some(JobDifference::Node { what, expected, found }) => format!("THE NODE DIFFERS: {what}: expected {expected}, found {found}"),
        Some(JobDifference::Id { item, sample, position, expected, found }) => {
            let found = found.map_or_else(|| "it ends".to_owned(), |id| format!("it has {id}"));
            format!("DIFFERENT: item {item}, sample {sample}, position {position}: id {expected} follows, and {found}")
        }
        Some(JobDifference::End { item, sample, position, expected, found, ids }) => {
            let (expected, found) = (expected.name(), found.name());
            format!("DIFFERENT: item {item}, sample {sample}: it ends after {position} ids ({expected}), and not after {ids} ({found})")
        }
        Some(difference) => format!("DIFFERENT: {}", serde_json::to_string(difference).unwrap_or_else(|_| format!("{difference:?}"))),
    };
    let proof = match receipt {
        Some(ReceiptProof::State) => "by the market's state",
        Some(ReceiptProof::Signature) => "by the signature of the key that claimed",
        None => "not",
    };
    let block = format!("{} ({:#x})", block.number, block.hash);
    format!(
        "job       {job}\nblock     {block}\nreceipt   proven {proof}\nprovider  {provider}\npackage   {package}\ncomputed  {items} items in {seconds:.1} s\nresult    {result}"
    )
}
