//! `quern indexer`: the market as a database with an HTTP API.

use clap::Subcommand;
use quern_indexer::{IndexerArgs, IndexerConfig};
use quern_telemetry::Metrics;

use crate::{app::Context, session};

/// Commands of `quern indexer`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow the chain into a database and answer questions over HTTP, until Ctrl-C
    #[command(
        after_long_help = "Needs no key. What it serves is derived from the chain alone; the database can be deleted and is built again.

Example:
  quern indexer run --listen 127.0.0.1:8080 --db index.db
  curl http://127.0.0.1:8080/v1/status

It logs `indexer.ready` when it answers."
    )]
    Run(IndexerArgs),
}

/// Runs `quern indexer`.
///
/// # Errors
/// No deployment; what a person must look at. A node that does not answer is waited for.
pub async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let Command::Run(args) = command;
    let deployment = session::deployment(&context.config)?;
    // Not asked for anything yet: the indexer waits for a node that is still starting.
    let client = quern_chain::Client::new(session::client_config(&context.config, &deployment))?;
    quern_indexer::run(IndexerConfig::from(args), client, deployment, Metrics::install()?, context.cancel.clone()).await?;
    Ok(())
}
