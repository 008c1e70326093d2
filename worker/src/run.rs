//! A worker from start to stop.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quern_bindings::{
    MarketParameters,
    abi::{JobMarket, ProviderRegistry},
};
use quern_chain::{
    At, BlockSource, Client, EventStream, NewHeads, Start, StreamConfig,
    sender::{Call, SenderConfig, SenderEvent, TxSender},
};
use quern_db::{Journal, journal::JournalBinding};
use quern_model::{Package, available_memory};
use quern_types::{Head, keccak256};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Error, Result, chores,
    complete::Completer,
    compute::Computer,
    content::Content,
    desk::Desk,
    energy::Meter,
    journal::SenderRows,
    models::{self, Models},
    scout::{Drivers, Scout, unreleased},
    view::View,
    watch::Watch,
};

/// Wait between two looks of the stream and the sender at the node.
const POLL: Duration = Duration::from_secs(1);
/// How often content that nobody pins is removed.
const COLLECT_EVERY: Duration = Duration::from_secs(3_600);
/// Requests for completion that may wait; a driver that finds no room waits with its own.
const COMPLETION_QUEUE: usize = 256;
/// Jobs that may wait for the computing thread; no more are ever in hand.
const COMPUTE_QUEUE: usize = 1_024;

/// Runs a worker until `stop` is cancelled, or something happens that a person must look at.
///
/// Packages are opened at once and verified in the background; the worker follows the chain meanwhile, and claims nothing before every package is
/// verified. One that is not sound stops it: it owes nothing for jobs of this life, and what an earlier one has claimed waits in the journal.
///
/// Stopping: no job is taken any more, each job under way stays at its step in the journal, and the next start goes on from there.
///
/// # Errors
/// Whatever makes it unsafe to start or to go on: another chain, other contracts, a package that is not sound, a journal that is damaged or in use, an
/// operator key that the provider has not named.
pub async fn run(config: Config, stop: CancellationToken) -> Result<()> {
    config.validate()?;
    let data_dir = config.data_dir.clone();
    std::fs::create_dir_all(&data_dir).map_err(|source| Error::Io { doing: "create", what: data_dir.display().to_string(), source })?;

    let client = Client::connect(config.chain.clone()).await?;
    config.deployment.verify(&client).await?;
    let journal = Arc::new(open_journal(&config, &client).await?);
    let (worker, failures) = Worker::assemble(config, client, journal, &stop).await?;
    let ended = worker.work(failures).await;

    // Whatever happened, everything that runs is told to stop and waited for, so that the journal is closed by nobody but us.
    stop.cancel();
    worker.drivers.wait().await;
    for task in worker.tasks {
        let _ = task.await;
    }
    tracing::info!("worker.stopped");
    ended
}

async fn open_journal(config: &Config, client: &Client) -> Result<Journal> {
    let genesis = client.header(0).await?.ok_or(Error::NoSuchBlock { number: 0, latest: 0 })?;
    let domain = config.deployment.domain();
    let binding = JournalBinding { chain_id: domain.chain_id, genesis_hash: genesis.at.hash, market: domain.market };
    Ok(Journal::open(&config.data_dir.join("journal.sqlite"), &binding).await?)
}

struct Worker {
    desk: Arc<Desk>,
    drivers: Drivers,
    tasks: Vec<JoinHandle<()>>,
}

impl Worker {
    async fn assemble(
        config: Config,
        client: Client,
        journal: Arc<Journal>,
        stop: &CancellationToken,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Error>)> {
        let deployment = config.deployment.clone();
        let domain = deployment.domain();
        let answer = client.call(domain.market, &JobMarket::parametersCall {}, At::Latest).await?;
        let parameters = MarketParameters::from(&answer).job;
        let content = Content::open(&config).await?;

        let threads = NonZeroUsize::new(config.threads).unwrap_or(NonZeroUsize::MIN);
        let packages = config.packages.clone();
        let (models, packages) = blocking(move || Models::open(&packages)).await?;
        let kv_limit = config.kv_limit_bytes.unwrap_or_else(|| available_memory() / 2);
        let meter = Meter::new(config.watts_per_core);
        let energy_method = meter.method();
        let computer = Computer::start(threads, meter, COMPUTE_QUEUE, kv_limit)?;

        let view = View::new(domain, config.provider, config.operator.address(), unreleased(&journal).await?);
        let sender_config = SenderConfig { poll: POLL, ..SenderConfig::default() };
        let rows = Arc::new(SenderRows(journal.clone()));
        let sender = TxSender::new(client.clone(), config.operator.clone(), rows, sender_config);
        let sender = Arc::new(sender.observe(Arc::new(count_low_balance)));
        let (completions, requests) = mpsc::channel(COMPLETION_QUEUE);
        let completer = Completer {
            market: domain.market,
            journal: journal.clone(),
            sender: sender.clone(),
            wait: config.completion_wait,
            most: config.completions_per_tx,
        };
        let desk = Arc::new(Desk {
            config,
            domain,
            parameters,
            watch: Watch::new(view),
            journal,
            sender: sender.clone(),
            content,
            computer,
            models: Mutex::new(models),
            completions,
            stop: stop.clone(),
            energy_method,
            kv_limit,
            needs: Mutex::new(HashMap::new()),
        });

        let (failed, failures) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        let stream_config = StreamConfig { poll: POLL, ..StreamConfig::default() };
        let start = Start::at_block(deployment.from_block.max(1));
        let new_heads = NewHeads::subscribe(&client);
        let stream = EventStream::new(client, &deployment, start, stream_config)?.wake_on(new_heads);
        tasks.push(spawn_fallible(failed.clone(), {
            let (desk, stop) = (desk.clone(), stop.clone());
            async move { desk.watch.follow(stream, &stop).await }
        }));
        tasks.push(spawn_fallible(failed.clone(), {
            let stop = stop.clone();
            async move {
                tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    ended = sender.run() => ended.map(|_| ()).map_err(Error::Chain),
                }
            }
        }));
        tasks.push(tokio::spawn(completer.run(requests, stop.clone())));
        tasks.push(spawn_fallible(failed.clone(), verify(desk.clone(), packages, threads)));
        if let Some(task) = serve(&desk, failed.clone()).await? {
            tasks.push(task);
        }
        tasks.push(tokio::spawn(collect_garbage(desk.clone())));
        if desk.config.chores {
            tasks.push(tokio::spawn(chores::run(desk.clone())));
        }
        Ok((Self { desk, drivers: Drivers::new(failed), tasks }, failures))
    }

    /// Works until it is told to stop; a failure of any part ends it.
    async fn work(&self, mut failures: mpsc::UnboundedReceiver<Error>) -> Result<()> {
        let working = async {
            self.catch_up().await?;
            self.check_operator().await?;
            for job in unreleased(&self.desk.journal).await? {
                self.drivers.start(&self.desk, job);
            }
            self.announce().await?;
            tracing::info!(
                provider = %self.desk.config.provider,
                operator = %self.desk.config.operator.address(),
                block = self.desk.watch.view().latest().map(|block| block.number),
                "worker.ready"
            );
            Scout::new(self.desk.clone(), self.drivers.clone()).run().await
        };
        let ended = tokio::select! {
            Some(failure) = failures.recv() => Err(failure),
            ended = working => ended,
        };
        match ended {
            Err(Error::Stopping) => Ok(()),
            ended => ended,
        }
    }

    /// Waits until the view has taken the node's newest block.
    async fn catch_up(&self) -> Result<()> {
        while !self.desk.watch.view().is_caught_up() {
            self.desk.until_stopped(self.desk.watch.change(POLL)).await?;
        }
        Ok(())
    }

    /// A key that the provider has replaced claims nothing any more, but only it can deliver what it has claimed.
    async fn check_operator(&self) -> Result<()> {
        let (provider, ours) = (self.desk.config.provider, self.desk.config.operator.address());
        let named = self.desk.watch.view().operator();
        if named == ours {
            return Ok(());
        }
        let pending = self.desk.journal.pending_jobs().await?.len();
        if pending == 0 {
            return Err(Error::NotOperator { provider, named, ours });
        }
        tracing::warn!(%provider, %named, pending, "operator.replaced");
        Ok(())
    }

    /// Announces the gateway where the chain names another one.
    async fn announce(&self) -> Result<()> {
        let desk = &self.desk;
        let Some(url) = &desk.config.public_url else { return Ok(()) };
        let block = {
            let view = desk.watch.view();
            if view.gateway(desk.config.provider) == Some(url.as_str()) {
                return Ok(());
            }
            view.latest().map_or(0, |block| block.number)
        };
        let call = ProviderRegistry::announceCall { provider: desk.config.provider, gateway: url.clone() };
        let call = Call::new(desk.config.deployment.contracts.provider_registry.address, &call);
        let key = format!("announce/{:?}/{block}", keccak256(url));
        match desk.until_stopped(desk.sender.send(&key, &call, Head::Latest)).await??.success() {
            Ok(receipt) => tracing::info!(tx = %receipt.tx_hash, url, "gateway.announced"),
            Err(revert) => tracing::warn!(%revert, url, "gateway.not_announced"),
        }
        Ok(())
    }
}

/// Each time that a transaction finds little gas money; the sender logs it with account and balance.
fn count_low_balance(event: &SenderEvent) {
    if matches!(event, SenderEvent::LowBalance { .. }) {
        metrics::counter!("quern_worker_low_balance_total").increment(1);
    }
}

/// Verifies all packages on a thread of their own, one after the other. Until the last is verified no job is claimed.
///
/// # Errors
/// The first that is not sound.
async fn verify(desk: Arc<Desk>, packages: Vec<Package>, threads: NonZeroUsize) -> Result<()> {
    let (done, mut verified) = mpsc::unbounded_channel();
    let verify = move || {
        let pool = models::pool(threads);
        for package in packages {
            let held = models::verify(&package, &pool, threads).map(|held| (package.root(), held));
            let failed = held.is_err();
            if done.send(held).is_err() || failed {
                return;
            }
        }
    };
    // A plain thread: a worker that is told to stop does not wait for it.
    let doing = |source| Error::Io { doing: "start", what: "the verifying thread".into(), source };
    std::thread::Builder::new().name("quern-verify".into()).spawn(verify).map_err(doing)?;
    loop {
        tokio::select! {
            () = desk.stop.cancelled() => return Ok(()),
            held = verified.recv() => {
                let Some(held) = held else { break };
                let (root, held) = held?;
                desk.models.lock().unwrap_or_else(PoisonError::into_inner).take(root, held);
                desk.watch.wake();
            }
        }
    }
    // A thread that panicked has verified nothing.
    if desk.models.lock().unwrap_or_else(PoisonError::into_inner).are_verified() { Ok(()) } else { Err(Error::ComputeGone) }
}

/// Serves the content store, where an address is configured.
async fn serve(desk: &Arc<Desk>, failed: mpsc::UnboundedSender<Error>) -> Result<Option<JoinHandle<()>>> {
    let Some(address) = desk.config.listen else { return Ok(None) };
    let failure = move |source| Error::Io { doing: "listen on", what: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(failure)?;
    let service = quern_store::gateway::service(desk.content.local());
    let stop = desk.stop.clone();
    tracing::info!(%address, "gateway.serving");
    Ok(Some(spawn_fallible(failed, async move {
        // Long downloads do not hold the worker up: they end with the process.
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = std::future::IntoFuture::into_future(axum::serve(listener, service)) => ended.map_err(failure),
        }
    })))
}

async fn collect_garbage(desk: Arc<Desk>) {
    loop {
        tokio::select! {
            () = desk.stop.cancelled() => return,
            () = tokio::time::sleep(COLLECT_EVERY) => desk.content.collect().await,
        }
    }
}

fn spawn_fallible(failed: mpsc::UnboundedSender<Error>, work: impl Future<Output = Result<()>> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = work.await {
            let _ = failed.send(error);
        }
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Stopping),
        },
    }
}
