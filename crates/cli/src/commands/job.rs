//! `quern job`: what became of jobs, and what to do about them.

mod describe;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use quern_bindings::Revert;
use quern_chain::{Client, sender::TxReceipt};
use quern_client::{Action, Actor, ClientError, Facts, Follower, JobLife, Market, Scope, advice, fetch_output, keys, layered};
use quern_types::{Address, Amount, B256, Head, JobId, JobKind, JobState, ModelId};
use serde_json::json;

use self::describe::{Listed, described, show_text};
use crate::{
    app::Context,
    commands::buy::{self, Printer, Results, Waiting},
    failure::{Exit, Failure},
    output,
    session::{self, Content, in_tokens},
};

/// Longest time for one block of an output from one gateway.
const BLOCK_TIMEOUT_MS: u64 = 30_000;

/// Commands of `quern job`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Whose turn it is, and until when: `quern job show ID`.",
    after_long_help = "States: unposted (in the journal, not on the chain) · open · claimed · submitted · challenged · completed · refunded · slashed.
After a deadline anybody may call what silence means:
  open, claim_by over         refund      the escrow comes back
  claimed, deadline over      refund      the escrow comes back, with a part of the provider's stake
  submitted, window over      complete    the provider is paid, the change comes back

Examples:
  quern job list
  quern job show 0x3a…
  quern job refund --all"
)]
pub enum Command {
    /// List the jobs of an account, those in the journal that were never posted too; needs no password
    #[command(after_long_help = describe::LIST_JSON)]
    List {
        /// The account; default: that of the configured key
        #[arg(long, value_name = "ADDRESS", value_parser = crate::args::address)]
        client: Option<Address>,
        /// Only jobs that are not over
        #[arg(long)]
        open: bool,
    },
    /// Show a job: state, times, money, transactions with their gas, who must act; needs no key
    #[command(after_long_help = describe::SHOW_JSON)]
    Show {
        /// The job
        id: JobId,
    },
    /// Fetch the vectors or texts of a delivered job and check them against its receipt; needs no key
    #[command(
        after_long_help = "Prints what `quern embed` and `quern generate` print. line, part and parts are null where the job is not in this journal, text where \
            the model's package cannot be had."
    )]
    Result {
        /// The job
        id: JobId,
        /// Folder of the model's package, for the text of generated ids; default: fetched once into HOME/packages
        #[arg(long, value_name = "DIR")]
        package: Option<PathBuf>,
        /// Print only the texts, one after the other
        #[arg(long)]
        text: bool,
    },
    /// Go on with a run of `quern embed` or `quern generate` that was interrupted: post what is missing, wait, print the results
    #[command(after_long_help = "Without RUN: the latest. Prints what `quern embed` and `quern generate` print. Nothing is posted twice.")]
    Resume {
        /// The run, as `quern job list` shows it
        run: Option<B256>,
        /// Folder of the model's package, for the text of generated ids; default: fetched once into HOME/packages
        #[arg(long, value_name = "DIR")]
        package: Option<PathBuf>,
        /// Print only the texts, one after the other
        #[arg(long)]
        text: bool,
        /// How to wait
        #[command(flatten)]
        waiting: Waiting,
        /// Write the vectors as int16 (items x width) to this .npy file, and print only a summary
        #[arg(long, value_name = "FILE")]
        npy: Option<PathBuf>,
    },
    /// Take unclaimed jobs back: the whole escrow returns
    #[command(after_long_help = ACTED_JSON)]
    Cancel(Which),
    /// Get the escrow of jobs back that nobody claimed, or that were not delivered, in time; anybody may, the money goes to the client
    #[command(after_long_help = ACTED_JSON)]
    Refund(Which),
    /// Pay jobs whose challenge window is over, and get the change; anybody may
    #[command(after_long_help = ACTED_JSON)]
    Complete(Which),
}

const ACTED_JSON: &str = "JSON, one object per job: {\"id\",\"action\":\"cancel\"|\"expire\"|\"refund_undelivered\"|\"complete\",\"tx\",\"block\",\"gasUsed\",\"cost\"}";

/// Which jobs.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The job
    id: Option<JobId>,
    /// Every job of this account for which it is due
    #[arg(long)]
    all: bool,
}

/// Runs `quern job`.
///
/// # Errors
/// No such job; what the contracts refuse; exit code 4 where a result is asked for and there is none.
pub async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { client, open } => list(context, client, open).await,
        Command::Show { id } => show(context, id).await,
        Command::Result { id, package, text } => result(context, id, package.as_deref(), text).await,
        Command::Resume { run, package, text, waiting, npy } => {
            let told = Told { package: package.as_deref(), text, npy };
            resume(context, run, &waiting, told).await
        }
        Command::Cancel(which) => act(context, &which, Wish::Cancel).await,
        Command::Refund(which) => act(context, &which, Wish::Refund).await,
        Command::Complete(which) => act(context, &which, Wish::Complete).await,
    }
}

async fn follow(market: &Market, scope: Scope) -> anyhow::Result<Follower<Client>> {
    let mut follower = Follower::new(market.client().clone(), market.deployment(), scope, session::stream_config())?;
    follower.catch_up().await?;
    Ok(follower)
}

/// A job on the chain.
async fn find(context: &Context, id: JobId) -> anyhow::Result<(Market, Follower<Client>, JobLife)> {
    let market = session::market(&context.config).await?;
    let follower = follow(&market, Scope::Jobs([id].into())).await?;
    let Some(life) = follower.facts().job(id) else { return Err(unknown(context, &market, id)?) };
    Ok((market, follower, life))
}

/// Why a job is not on the chain.
fn unknown(context: &Context, market: &Market, id: JobId) -> anyhow::Result<anyhow::Error> {
    let planned = match session::account(&context.config, None) {
        Ok(account) => session::journal(&context.config, market, account).job(id)?,
        Err(_) => None,
    };
    Ok(match planned {
        Some((run, _)) => Failure::new(
            format!("job {id} is in the journal, but not on the chain: it was never posted, or taken back by a reorganisation"),
            format!("`quern job resume {}` posts it; no money has moved", run.id),
        )
        .into(),
        None => Failure::new(format!("no job {id} is on this chain"), "check the id, and the network with `quern config show`").into(),
    })
}

fn now(facts: &Facts) -> u64 {
    facts.last().map_or(0, |block| block.timestamp)
}

async fn list(context: &Context, client: Option<Address>, only_open: bool) -> anyhow::Result<()> {
    let account = session::account(&context.config, client)?;
    let market = session::market(&context.config).await?;
    let follower = follow(&market, Scope::Client(account)).await?;
    let facts = follower.facts();
    let runs = session::journal(&context.config, &market, account).runs()?;
    let mut listed = Vec::new();
    let mut known = BTreeSet::new();
    for run in &runs {
        for job in &run.jobs {
            known.insert(job.id);
            listed.push(Listed::new(job.id, &job.spec, Some(run), facts.job(job.id).as_ref(), now(facts))?);
        }
    }
    for id in facts.jobs().iter().filter(|id| !known.contains(id)) {
        let Some(life) = facts.job(*id) else { continue };
        listed.push(Listed::new(*id, &life.spec, None, Some(&life), now(facts))?);
    }
    if only_open {
        listed.retain(|job| !matches!(job.state, "completed" | "refunded" | "slashed"));
    }
    if context.out.json {
        for job in &listed {
            context.out.json_line(job)?;
        }
        return Ok(());
    }
    context.out.text(&list_text(&listed))?;
    Ok(())
}

fn list_text(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "no jobs yet: `quern embed FILE --model ID` and `quern generate FILE --model ID` post some".into();
    }
    let row = |job: &Listed| {
        let next =
            job.command.clone().unwrap_or_else(|| job.seconds_left.map_or_else(String::new, |left| format!("{} in {left} s", job.who)));
        vec![job.id.to_string(), job.state.to_owned(), job.items.to_string(), job.max_fee.to_tokens(), next]
    };
    let rows: Vec<Vec<String>> = listed.iter().map(row).collect();
    let waiting: Vec<&Listed> = listed.iter().filter(|job| job.reclaimable_now).collect();
    let sum = waiting.iter().fold(Amount::ZERO, |sum, job| sum.checked_add(job.reclaimable).unwrap_or(sum));
    let mut text = output::table(&["job", "state", "items", "at most", "next"], &rows);
    if !sum.is_zero() {
        text.push_str(&format!("\n\n{} can be had back: `quern job refund --all`, `quern job complete --all`", in_tokens(sum)));
    }
    text
}

async fn show(context: &Context, id: JobId) -> anyhow::Result<()> {
    let (market, follower, life) = find(context, id).await?;
    let facts = follower.facts();
    let mut receipts: Vec<Option<TxReceipt>> = Vec::with_capacity(life.steps.len());
    for step in &life.steps {
        receipts.push(market.client().receipt(step.tx).await?);
    }
    let object = described(id, &life, facts, &receipts);
    context.out.result(&object, || show_text(id, &life, facts, &receipts))?;
    Ok(())
}

async fn result(context: &Context, id: JobId, package: Option<&Path>, text: bool) -> anyhow::Result<()> {
    let (market, follower, life) = find(context, id).await?;
    if life.receipt.is_none() {
        let state = life.state.name().to_lowercase();
        let remedy = format!("`quern job show {id}` tells who must act");
        return Err(Failure::new(format!("job {id} has no result: it is {state}"), remedy).with_exit(Exit::NoResult).into());
    }
    let origins = match session::account(&context.config, None) {
        Ok(account) => session::journal(&context.config, &market, account).job(id)?.map(|(_, job)| job.origins),
        Err(_) => None,
    };
    let content = session::content(&context.config, &[]).await?;
    let announced = life.claim.and_then(|claim| follower.facts().providers().remove(&claim.provider)).map(|provider| provider.gateway);
    let mut gateways: Vec<String> = announced.into_iter().filter(|url| url.starts_with("http")).collect();
    gateways.extend(context.config.gateways.iter().cloned());
    let store = layered(content.local.clone(), gateways, BLOCK_TIMEOUT_MS)?;
    let shape = follower.facts().output_shape(life.spec.model_id)?;
    let outputs = fetch_output(id, &life, shape, &store).await.map_err(|error| match error {
        wrong @ ClientError::WrongOutput { .. } => Failure::new(wrong.to_string(), "").with_exit(Exit::Difference).into(),
        other => anyhow::Error::from(other),
    })?;
    let told = Told { package, text, npy: None };
    let printer = printer(context, &market, follower.facts(), &content, life.spec.model_id, outputs.kind(), told).await;
    printer.print(context.out, id, origins.as_deref(), &outputs)?;
    Ok(())
}

/// How the user wants results to be told.
#[derive(Debug)]
struct Told<'a> {
    package: Option<&'a Path>,
    text: bool,
    npy: Option<PathBuf>,
}

/// What prints results of a kind. Generated ids are printed without their text where the model's package cannot be had: they are what was paid for.
async fn printer(
    context: &Context,
    market: &Market,
    facts: &Facts,
    content: &Content,
    model: ModelId,
    kind: JobKind,
    told: Told<'_>,
) -> Printer {
    if kind == JobKind::Embed {
        return Printer::Vectors { npy: told.npy };
    }
    let package = match buy::package(context, market, facts, content, model, kind, told.package).await {
        Ok(package) => Some(Box::new(package)),
        Err(error) => {
            output::warn(&format!("there are only ids, and no text: {}", Failure::of(&error).what));
            None
        }
    };
    Printer::Texts { package, plain: told.text }
}

async fn resume(context: &Context, run: Option<B256>, waiting: &Waiting, told: Told<'_>) -> anyhow::Result<()> {
    let market = session::market(&context.config).await?;
    let journal = session::journal(&context.config, &market, session::account(&context.config, None)?);
    let planned = match run {
        Some(id) => journal.run(id)?,
        None => journal.runs()?.pop(),
    };
    let planned = planned.ok_or_else(|| {
        Failure::usage(
            "there is no such run in the journal of this account",
            "`quern job list` shows the runs of a key; choose it with --key NAME",
        )
    })?;
    let mut follower = follow(&market, Scope::Jobs(planned.jobs.iter().map(|job| job.id).collect())).await?;
    let content = session::content(&context.config, &[]).await?;
    // A run asks for one thing.
    let kind = planned.jobs.first().map_or(JobKind::Embed, |job| job.spec.kind);
    let printer = printer(context, &market, follower.facts(), &content, planned.model_id, kind, told).await;
    let actor = session::actor(&context.config, market)?;
    let mut results = Results::new(context.out, &planned, printer);
    buy::drive(context, waiting, &actor, &mut follower, &content, &planned, &mut results).await
}

/// What the user wants to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Cancel,
    Refund,
    Complete,
}

async fn act(context: &Context, which: &Which, wish: Wish) -> anyhow::Result<()> {
    match which.id {
        Some(id) => {
            let (market, follower, life) = find(context, id).await?;
            let action = wanted(wish, &life)
                .map_err(|why| Failure::new(format!("job {id} {why}"), format!("`quern job show {id}` tells who must act")))?;
            if action == Action::Cancel && session::account(&context.config, None)? != life.spec.client {
                let what = format!("only the client of job {id} can cancel it, and that is {}", life.spec.client);
                return Err(Failure::new(what, "use the client's key: --key NAME").into());
            }
            let actor = session::actor(&context.config, market)?;
            one(context, &actor, id, &life, action, now(follower.facts())).await
        }
        None => every(context, wish).await,
    }
}

async fn every(context: &Context, wish: Wish) -> anyhow::Result<()> {
    let market = session::market(&context.config).await?;
    let account = session::account(&context.config, None)?;
    let follower = follow(&market, Scope::Client(account)).await?;
    let facts = follower.facts();
    let due: Vec<(JobId, JobLife, Action)> = facts
        .jobs()
        .iter()
        .filter_map(|id| {
            let life = facts.job(*id)?;
            let action = advice(&life, now(facts)).action?;
            (wanted(wish, &life) == Ok(action)).then_some((*id, life, action))
        })
        .collect();
    if due.is_empty() {
        context.out.note("no job of this account is waiting for that");
        return Ok(());
    }
    let actor = session::actor(&context.config, market)?;
    for (id, life, action) in due {
        one(context, &actor, id, &life, action, now(follower.facts())).await?;
    }
    Ok(())
}

/// The call that grants a wish in the job's state, or why there is none. Whether its time has come is for the contract to say.
fn wanted(wish: Wish, life: &JobLife) -> Result<Action, String> {
    match (wish, life.state) {
        (Wish::Cancel, JobState::Open) => Ok(Action::Cancel),
        (Wish::Refund, JobState::Open) => Ok(Action::Expire),
        (Wish::Refund, JobState::Claimed) => Ok(Action::RefundUndelivered),
        (Wish::Complete, JobState::Submitted) => Ok(Action::Complete),
        (_, state) => {
            let state = state.name().to_lowercase();
            Err(match wish {
                Wish::Cancel => format!("is {state}: only an open job can be cancelled"),
                Wish::Refund => format!("is {state}: only an open or a claimed job can be refunded"),
                Wish::Complete => format!("is {state}: only a submitted job can be completed"),
            })
        }
    }
}

async fn one(context: &Context, actor: &Actor, id: JobId, life: &JobLife, action: Action, now: u64) -> anyhow::Result<()> {
    let (market, spec) = (actor.market(), &life.spec);
    let (doing, key, call) = match action {
        Action::Cancel => ("cancelling the job", keys::cancel(id), market.cancel(spec)?),
        Action::Expire => ("refunding the job", keys::expire(id), market.expire(spec)?),
        Action::RefundUndelivered => ("refunding the job", keys::refund(id), market.refund_undelivered(spec)?),
        Action::Complete => {
            let receipt = life.receipt.ok_or(ClientError::NoReceipt { job: id })?;
            ("completing the job", keys::complete(id), market.complete(spec, &receipt)?)
        }
    };
    let receipt = actor.act(doing, &key, &call, Head::Latest).await.map_err(|error| refused(id, action, now, error))?;
    let mut object = session::receipt_json(&receipt);
    object["id"] = json!(id);
    object["action"] = json!(action);
    context.out.result(&object, || format!("job {id}: {}", session::receipt_text(&receipt)))?;
    Ok(())
}

/// A refusal that is about time says how much.
fn refused(id: JobId, action: Action, now: u64, error: ClientError) -> anyhow::Error {
    if let ClientError::Refused { revert: Revert::DeadlineNotPassed(early), .. } = &error {
        let deadline = u64::try_from(early.deadline).unwrap_or(u64::MAX);
        let left = deadline.saturating_sub(now).saturating_add(1);
        let remedy = match action {
            Action::Expire => format!("wait {left} s; while nobody has claimed it, `quern job cancel {id}` gets the escrow back at once"),
            _ => format!("wait {left} s"),
        };
        return Failure::new(format!("it is too early for job {id}: its deadline is {deadline} (Unix time), {left} s from now"), remedy)
            .into();
    }
    session::explain(error)
}
