//! The process: chain, database and server together.

use std::{sync::Arc, time::Duration};

use quern_chain::{BlockSource, Client, Cursor, EventStream, NewHeads, Start, StreamConfig, deployment::Deployment};
use quern_db::{Index, index::IndexBinding};
use quern_telemetry::Metrics;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Error, IndexerConfig, State,
    api::{self, Api},
    follow,
};

/// How long answers that are under way may take once the indexer is told to stop.
const CLOSING_LIMIT: Duration = Duration::from_secs(5);

/// Runs the indexer until `shutdown` is cancelled: then it ends what it has begun and returns.
///
/// # Errors
/// Only what a person must look at; the text says what to do. A node that does not answer is waited for.
pub async fn run(
    config: IndexerConfig,
    client: Client,
    deployment: Deployment,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Some(genesis) = patiently(&shutdown, &client, &deployment).await? else { return Ok(()) };
    let binding = binding(&deployment, genesis);
    let index = Arc::new(Index::open(&config.database, &binding).await?);
    let position = index.position().await?;
    let start = Start { first_block: binding.first_block, cursor: position.cursor.map(Cursor::from), history: position.history };
    let stream_config = StreamConfig { poll: config.poll, ..StreamConfig::default() };
    let stream = EventStream::new(client.clone(), &deployment, start, stream_config)?.wake_on(NewHeads::subscribe(&client));
    let state = Arc::new(State::default());

    let listener = TcpListener::bind(config.listen).await.map_err(|source| Error::Listen { listen: config.listen, source })?;
    let listen = listener.local_addr().map_err(Error::Serve)?;
    let api = Api::new(Arc::clone(&index), Arc::clone(&state), metrics, &config);
    info!(%listen, database = %index.path().display(), block = position.cursor.map(|block| block.number), "indexer.ready");

    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    tasks.spawn(follow::follow(Arc::clone(&index), stream, Arc::clone(&state), stop.clone()));
    tasks.spawn(follow::audit(Arc::clone(&index), state, config.audit_every, stop.clone()));
    let closing = stop.clone();
    tasks.spawn(async move {
        let server = axum::serve(listener, api::router(api)).with_graceful_shutdown(closing.cancelled_owned());
        server.await.map_err(Error::Serve)
    });
    let outcome = until_all_ended(tasks, &stop).await;
    match Arc::try_unwrap(index) {
        Ok(index) => index.close().await,
        Err(index) => warn!(readers = Arc::strong_count(&index), "indexer.closed_in_use"),
    }
    info!("indexer.stopped");
    outcome
}

/// The first task that ends, ends all: either we were told to stop, or it cannot go on. A client that reads its answer slowly does not hold us up for ever.
async fn until_all_ended(mut tasks: JoinSet<Result<(), Error>>, stop: &CancellationToken) -> Result<(), Error> {
    let mut outcome = match tasks.join_next().await {
        Some(ended) => ended.map_err(|_| Error::Panicked).flatten(),
        None => Ok(()),
    };
    stop.cancel();
    let rest = async {
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.map_err(|_| Error::Panicked).flatten();
            outcome = std::mem::replace(&mut outcome, Ok(())).and(ended);
        }
    };
    if tokio::time::timeout(CLOSING_LIMIT, rest).await.is_err() {
        warn!(seconds = CLOSING_LIMIT.as_secs(), "indexer.answers_cut_off");
        tasks.abort_all();
    }
    outcome
}

/// Checks the deployment and reads the hash of block 0, waiting for the node as long as it takes; `None` if told to stop.
async fn patiently(shutdown: &CancellationToken, client: &Client, deployment: &Deployment) -> Result<Option<quern_types::B256>, Error> {
    let mut failures = 0u32;
    loop {
        let asked = async {
            deployment.verify(client).await?;
            let genesis = client.header(0).await?;
            Ok::<_, quern_chain::Error>(genesis)
        };
        match asked.await {
            Ok(Some(genesis)) => return Ok(Some(genesis.at.hash)),
            Ok(None) => return Err(Error::NoGenesis),
            Err(error) if error.severity() == quern_chain::Severity::Fatal => return Err(error.into()),
            Err(error) => {
                failures = failures.saturating_add(1);
                warn!(failures, error = error.chain(), "indexer.waiting_for_node");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(client.retry().wait(failures)) => {}
        }
    }
}

fn binding(deployment: &Deployment, genesis_hash: quern_types::B256) -> IndexBinding {
    let contracts = &deployment.contracts;
    IndexBinding {
        chain_id: deployment.chain_id,
        genesis_hash,
        ledger: contracts.ledger.address,
        market: contracts.job_market.address,
        provider_registry: contracts.provider_registry.address,
        model_registry: contracts.model_registry.address,
        first_block: deployment.first_block(),
    }
}
