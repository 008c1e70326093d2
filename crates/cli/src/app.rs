//! The command tree, and what runs around every command: configuration, log, runtime, Ctrl-C, exit code.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use quern_telemetry::{LogFormat, LogOptions, log};
use tokio_util::sync::CancellationToken;

use crate::{
    commands,
    config::{Config, GlobalArgs},
    failure::{Exit, Failure},
    output::Output,
};

/// A market for small-model inference in which nobody has to be trusted.
///
/// Clients escrow the price of a job on an L2; providers stake, compute the result exactly and attest to it; anybody can recompute it and compare bits.
///
/// Inputs and outputs of jobs are public. Amounts are in whole tokens with up to 18 decimals (12.5); in JSON they are strings of the smallest unit (10^-18).
#[derive(Debug, Parser)]
#[command(name = "quern", version, propagate_version = true, after_long_help = ROLES, after_help = "More: `quern --help`, `quern help COMMAND`", max_term_width = 110)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const ROLES: &str = "\
First steps:
  quern init --rpc URL --deployment FILE     remember the network
  quern key new alice                        make a key

Exit codes:
  0    done
  1    could not be done; the message says why and what to do
  2    wrong command line or configuration
  3    a check found a difference (a ledger audit, a recomputation, a result)
  4    a job ended, or stands, without a result
  5    what was to be checked cannot be had now: nothing is said of it
  130  interrupted; posted jobs are in the journal

Settings are taken from the command line, then the environment (QUERN_*), then HOME/config.toml.
With --json, standard output holds nothing but JSON, one object per line, and errors are
{\"error\":{\"what\":TEXT,\"do\":TEXT,\"exit\":NUMBER}} on standard error.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the configuration file: which network, which contracts, which gateways
    Init(commands::init::Args),
    /// Show the configuration in force
    #[command(subcommand)]
    Config(commands::config::Command),
    /// Make, list and bring keys (encrypted files)
    #[command(subcommand)]
    Key(commands::key::Command),
    /// Buy the embeddings of a text
    Embed(Box<commands::embed::Args>),
    /// Buy text: samples of what a model says after each prompt
    Generate(Box<commands::generate::Args>),
    /// See what became of jobs; get results, refunds and change
    #[command(subcommand)]
    Job(commands::job::Command),
    /// Make, check and run model packages on this machine; register them on the chain
    #[command(subcommand)]
    Model(commands::model::Command),
    /// Let a model on this machine continue a text; no chain, no money
    Run(commands::run::Args),
    /// Talk with a model on this machine; no chain, no money
    Chat(commands::chat::Args),
    /// Show, bring, take out and send money
    #[command(subcommand)]
    Wallet(commands::wallet::Command),
    /// Stake, name an operator key, list prices; see who provides
    #[command(subcommand)]
    Provider(commands::provider::Command),
    /// Serve jobs as a provider
    #[command(subcommand)]
    Worker(commands::worker::Command),
    /// Keep, fetch and serve content by its hash
    #[command(subcommand)]
    Store(commands::store::Command),
    /// Serve the market's history over HTTP
    #[command(subcommand)]
    Indexer(commands::indexer::Command),
    /// Check the whole ledger, or recompute a job to the bit
    #[command(subcommand)]
    Audit(commands::audit::Command),
    /// Print a completion script for a shell
    Completions(commands::completions::Args),
}

impl Command {
    /// The log where none is asked for: processes that run for days tell what they do, commands that print a result do not.
    fn default_log(&self) -> Option<&'static str> {
        let runs_for_days = matches!(
            self,
            Self::Worker(commands::worker::Command::Run(_))
                | Self::Indexer(commands::indexer::Command::Run(_))
                | Self::Store(commands::store::Command::Serve { .. })
        );
        // What the sender of transactions finds on its way is no news to somebody who waits for the outcome.
        if runs_for_days { None } else { Some("warn,quern_chain::sender=error") }
    }
}

/// What a command has at hand.
#[derive(Debug, Clone)]
pub struct Context {
    /// The configuration in force.
    pub config: Config,
    /// Where results go.
    pub out: Output,
    /// Cancelled by Ctrl-C or SIGTERM. Every command that waits, waits for this too.
    pub cancel: CancellationToken,
}

/// Parses the command line, runs the command and says how it ended.
pub fn run() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let out = Output { json: cli.global.json };
    match execute(cli, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::of(&error);
            out.failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn execute(cli: Cli, out: Output) -> anyhow::Result<()> {
    let config = Config::load(&cli.global)?;
    start_log(&config, cli.command.default_log())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cancel = CancellationToken::new();
    let context = Context { config, out, cancel: cancel.clone() };
    let result = runtime.block_on(async move {
        let signals = tokio::spawn(cancel_on_signal(cancel));
        let result = dispatch(cli.command, &context).await;
        signals.abort();
        result
    });
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command, context: &Context) -> anyhow::Result<()> {
    match command {
        Command::Embed(args) => commands::embed::run(context, &args).await,
        Command::Generate(args) => commands::generate::run(context, &args).await,
        Command::Job(command) => commands::job::run(context, command).await,
        Command::Model(command) => commands::model::run(context, &command).await,
        Command::Run(args) => commands::run::run(context, &args),
        Command::Chat(args) => commands::chat::run(context, &args),
        Command::Init(args) => commands::init::run(context, &args),
        Command::Config(command) => commands::config::run(context, &command),
        Command::Key(command) => commands::key::run(context, command),
        Command::Wallet(command) => commands::wallet::run(context, command).await,
        Command::Provider(command) => commands::provider::run(context, command).await,
        Command::Worker(command) => commands::worker::run(context, command).await,
        Command::Store(command) => commands::store::run(context, command).await,
        Command::Indexer(command) => commands::indexer::run(context, command).await,
        Command::Audit(command) => commands::audit::run(context, command).await,
        Command::Completions(args) => commands::completions::run(&args),
    }
}

/// The first Ctrl-C or SIGTERM asks the command to stop; the second ends the process at once.
async fn cancel_on_signal(cancel: CancellationToken) {
    if stop_signal().await.is_ok() {
        cancel.cancel();
        if stop_signal().await.is_ok() {
            std::process::exit(i32::from(Exit::Interrupted as u8));
        }
    }
}

#[cfg(unix)]
async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn stop_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

fn start_log(config: &Config, default: Option<&str>) -> Result<(), Failure> {
    use std::io::IsTerminal as _;
    let format = match &config.log_format {
        Some(text) => text.parse::<LogFormat>(),
        None => Ok(LogFormat::default()),
    };
    let options = format.map(|format| LogOptions {
        format,
        filter: config.log.clone().or_else(|| default.map(Into::into)),
        colour: std::io::stderr().is_terminal(),
    });
    options.and_then(|options| log::start(&options)).map_err(|error| Failure::usage(error.to_string(), "check --log and --log-format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_says_what_it_is() {
        fn walk(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some() || command.get_name() == "help", "{path} has no description");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path}: {} has no description", argument.get_id());
            }
            for sub in command.get_subcommands() {
                walk(sub, &format!("{path} {}", sub.get_name()));
            }
        }
        walk(&Cli::command(), "quern");
    }
}
