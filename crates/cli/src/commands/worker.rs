//! `quern worker`: serve jobs as a provider.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use clap::Subcommand;
use quern_bindings::Prices;
use quern_types::{Address, Amount, Head};
use quern_worker::{Config, CrashPoint, Status};

use crate::{app::Context, args, failure::Failure, output, session};

/// Commands of `quern worker`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take jobs, compute them, attest to the results and get paid, until Ctrl-C
    #[command(after_long_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Show what the worker of this home is doing
    #[command(
        after_long_help = "JSON: {\"running\":BOOL,\"pid\",\"writtenAt\",\"ready\",\"provider\",\"operator\",\"isOperator\",\"chainId\",\"block\",\"freeStake\",\
        \"gasBalanceWei\",\"models\":[…],\"energyMethod\",\"jobs\":[{\"job\",\"step\",\"note\",\"problem\"}],\"refusals\":[{\"job\",\"reason\"}]}.
Exit code 1 where no worker ever ran with this --home."
    )]
    Status {
        /// Folder of the worker's journal; default HOME/worker
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

const RUN_HELP: &str = "The key is the operator's: it claims, signs and pays gas, and can move none of the provider's money. Give it to one worker only.
Every step is in a journal: kill the worker anywhere, start it again, and it goes on.
It takes jobs at the prices that the provider has listed on the chain (`quern provider price`), or at the --price-… given here; without either it takes none.
Prices are what is left of a fee when the model's publisher has had its royalty: anybody can register a package again, under another royalty.
Gas comes from the operator's own coin: send it some.

Example:
  quern worker run --key operator --provider 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 --package models/minilm --gateway http://203.0.113.7:8480

It logs `worker.ready` when it follows the chain and its gateway is up, and `model.verified` for each package. Before every hash of every package was
checked it claims nothing; a package that is not sound ends it with an error. Ctrl-C or SIGTERM stops it at a safe point, with exit code 0.";

/// Arguments of `quern worker run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The provider's owner address: whose stake is locked and who is paid
    #[arg(long, value_name = "ADDRESS", value_parser = args::address)]
    provider: Address,
    /// Directory of a model package to serve; repeatable
    #[arg(long = "package", value_name = "DIR", required = true)]
    packages: Vec<PathBuf>,
    /// Folder of the worker's journal; default HOME/worker
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address on which content is served; default: `listen` of the configuration, 127.0.0.1:8480
    #[arg(long, value_name = "ADDR", conflicts_with = "no_serve")]
    listen: Option<SocketAddr>,
    /// Do not serve content: something else serves the store, such as an IPFS node
    #[arg(long)]
    no_serve: bool,
    /// URL under which others reach the content; announced on the chain where that says otherwise
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Least price per job, in whole tokens, for models without a listing of the provider
    #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
    price_base: Option<Amount>,
    /// Least price per input id
    #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
    price_input: Option<Amount>,
    /// Least price per output id
    #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
    price_output: Option<Amount>,
    /// Least price per item
    #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
    price_item: Option<Amount>,
    /// Threads that compute; default: all processors
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Most jobs claimed and not yet submitted; default 8
    #[arg(long, value_name = "N")]
    max_jobs: Option<NonZeroUsize>,
    /// Longest input that is taken, in ids; default 8388608
    #[arg(long, value_name = "IDS")]
    max_input_len: Option<u64>,
    /// Most ids that the outputs of one job may have together; default 4194304
    #[arg(long, value_name = "IDS")]
    max_output_len: Option<u64>,
    /// Most bytes that the keys and values of all generate jobs in hand may take; default: half of the memory that is free at the start
    #[arg(long, value_name = "BYTES")]
    kv_limit_bytes: Option<u64>,
    /// Seconds before a delivery deadline that must stay free for storing and submitting, or the job is not taken; default 20
    #[arg(long, value_name = "SECS", alias = "min-deliver-secs")]
    margin_secs: Option<u64>,
    /// What a job's block must stand under before it is claimed: latest, safe or finalized; default latest
    #[arg(long, value_name = "HEAD", value_parser = args::head)]
    begin_at: Option<Head>,
    /// Watts of one busy core, for the energy estimate where the machine has no counter; default 12
    #[arg(long, value_name = "W", alias = "watts")]
    watts_per_core: Option<f64>,
    /// Keep inputs and outputs after their job is over
    #[arg(long)]
    keep_content: bool,
    /// Also expire, refund and complete jobs of others when their time is over; costs gas and earns nothing
    #[arg(long)]
    chores: bool,
    /// Kill the process at a step of the journal: before:STEP or after:STEP. For tests
    #[arg(long, value_name = "POINT", hide = true)]
    crash_at: Option<CrashPoint>,
}

/// Runs `quern worker`.
///
/// # Errors
/// What makes it unsafe to start or to go on.
pub async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => {
            let config = worker_config(context, *args)?;
            quern_worker::run(config, context.cancel.clone()).await?;
            Ok(())
        }
        Command::Status { data_dir } => {
            let dir = data_dir.unwrap_or_else(|| context.config.home.join("worker"));
            let status = quern_worker::status(&dir)?;
            let mut object = serde_json::to_value(&status)?;
            object["running"] = status.is_running().into();
            context.out.result(&object, || status_text(&status))?;
            Ok(())
        }
    }
}

fn worker_config(context: &Context, args: RunArgs) -> Result<Config, Failure> {
    let config = &context.config;
    let deployment = session::deployment(config)?;
    let chain = session::client_config(config, &deployment);
    let operator = session::signer(config)?;
    let default_prices = default_prices(&args);
    let dir = args.data_dir.unwrap_or_else(|| config.home.join("worker"));
    let defaults = Config::new(dir, chain, deployment, args.provider, operator, args.packages);
    Ok(Config {
        default_prices,
        threads: args.threads.map_or(defaults.threads, NonZeroUsize::get),
        max_jobs: args.max_jobs.map_or(defaults.max_jobs, NonZeroUsize::get),
        max_input_len: args.max_input_len.unwrap_or(defaults.max_input_len),
        max_output_len: args.max_output_len.unwrap_or(defaults.max_output_len),
        kv_limit_bytes: args.kv_limit_bytes.or(defaults.kv_limit_bytes),
        margin_secs: args.margin_secs.unwrap_or(defaults.margin_secs),
        begin_at: args.begin_at.unwrap_or(defaults.begin_at),
        store_dir: Some(config.store.dir.clone()),
        store_limit_bytes: config.store.limit_bytes,
        listen: (!args.no_serve).then(|| args.listen.unwrap_or(config.store.listen)),
        public_url: args.public_url,
        gateways: config.gateways.clone(),
        kubo: config.store.kubo.clone(),
        keep_content: args.keep_content,
        watts_per_core: args.watts_per_core.unwrap_or(defaults.watts_per_core),
        chores: args.chores,
        crash: args.crash_at,
        ..defaults
    })
}

/// The prices of the command line; none where no part is given, because working for nothing must be said.
fn default_prices(args: &RunArgs) -> Option<Prices> {
    let parts = [args.price_base, args.price_input, args.price_output, args.price_item];
    if parts.iter().all(Option::is_none) {
        return None;
    }
    let [base, input, output, item] = parts.map(Option::unwrap_or_default);
    Some(Prices { base, input, output, item })
}

fn status_text(status: &Status) -> String {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "not looked at yet".into());
    let running = match (status.is_running(), status.ready) {
        (true, true) => format!("runs (process {})", status.pid),
        (true, false) => format!("runs (process {}), not ready: it catches up or stops", status.pid),
        (false, _) => format!("does not run; last heard of at second {}, Unix time", status.written_at),
    };
    let named = if status.is_operator { "" } else { " (the provider has NOT named this key)" };
    let mut lines = vec![
        format!("worker    {running}"),
        format!("provider  {}", status.provider),
        format!("operator  {}{named}", status.operator),
        format!("chain     {}, block {}", status.chain_id, or_unknown(status.block.map(|block| block.number.to_string()))),
        format!("stake     {} behind no job", or_unknown(status.free_stake.map(session::in_tokens))),
        format!("gas       {} wei", or_unknown(status.gas_balance_wei.clone())),
        format!(
            "models    {}{}",
            status.models.len(),
            if status.models.iter().all(|model| model.verified) { "" } else { ", being verified" }
        ),
    ];
    if !status.jobs.is_empty() {
        let row = |job: &quern_worker::JobStatus| {
            vec![job.job.to_string(), job.step.clone(), job.problem.clone().unwrap_or_else(|| job.note.clone())]
        };
        let rows: Vec<Vec<String>> = status.jobs.iter().map(row).collect();
        lines.push(output::table(&["job", "step", "note"], &rows));
    }
    lines.extend(status.refusals.iter().map(|refusal| format!("not taken {}: {}", refusal.job, refusal.reason)));
    lines.join("\n")
}
