//! Requests to one or more nodes of one chain: time limits, retries, failover, and the check that it is the right chain.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::{
    primitives::{Address, U64},
    providers::RootProvider,
    rpc::{
        client::{ClientBuilder, RpcClient},
        json_rpc::{RpcRecv, RpcSend},
    },
    transports::{RpcError, TransportError, TransportErrorKind, http::reqwest::Url, ws::WsConnect},
};
use tokio::sync::Mutex;
use tracing::{debug, warn};

use crate::{Error, Result, RetryPolicy};

/// How to reach a chain.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `http://`, `https://`, `ws://` or `wss://` URLs of nodes of the same chain; on a failure the next one is asked.
    pub endpoints: Vec<String>,
    /// The chain id that every endpoint must report.
    pub chain_id: u64,
    /// Time limit of one request. Default 15 s.
    pub request_timeout: Duration,
    /// How often and how soon a failed request is repeated.
    pub retry: RetryPolicy,
    /// `from` of read-only calls. anvil in OP mode charges the L1 fee to it even in `eth_call`, so name a funded account there. Default: none.
    pub call_from: Option<Address>,
}

impl ClientConfig {
    /// One endpoint, everything else at its default.
    pub fn new(endpoint: impl Into<String>, chain_id: u64) -> Self {
        Self {
            endpoints: vec![endpoint.into()],
            chain_id,
            request_timeout: Duration::from_secs(15),
            retry: RetryPolicy::default(),
            call_from: None,
        }
    }
}

/// A chain behind one or more nodes. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    endpoints: Vec<Endpoint>,
    /// Index of the endpoint that answered last.
    current: AtomicUsize,
    config: ClientConfig,
}

struct Endpoint {
    url: Url,
    /// Host and port: the only part that is ever shown.
    label: String,
    /// A connection whose chain id was checked; empty before the first use and after a websocket died.
    connection: Mutex<Option<RpcClient>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<&str> = self.0.endpoints.iter().map(|endpoint| endpoint.label.as_str()).collect();
        f.debug_struct("Client").field("chain_id", &self.0.config.chain_id).field("endpoints", &labels).finish()
    }
}

impl Client {
    /// Connects lazily: no request is made before the first call.
    ///
    /// # Errors
    /// [`Error::Config`] for a URL that cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self> {
        if config.endpoints.is_empty() {
            return Err(Error::Config { what: "no RPC endpoint is given; name one with --rpc".into() });
        }
        let endpoints = config.endpoints.iter().map(|text| Endpoint::parse(text)).collect::<Result<_>>()?;
        Ok(Self(Arc::new(Inner { endpoints, current: AtomicUsize::new(0), config })))
    }

    /// Connects and checks that a node answers and serves the configured chain.
    ///
    /// # Errors
    /// [`Error::WrongChain`], or why no endpoint answered.
    pub async fn connect(config: ClientConfig) -> Result<Self> {
        let client = Self::new(config)?;
        client.request::<_, U64>("eth_chainId", ()).await?;
        Ok(client)
    }

    /// The chain id that every endpoint was checked against.
    pub fn chain_id(&self) -> u64 {
        self.0.config.chain_id
    }

    /// The retry policy of the configuration.
    pub fn retry(&self) -> RetryPolicy {
        self.0.config.retry
    }

    pub(crate) fn call_from(&self) -> Option<Address> {
        self.0.config.call_from
    }

    /// One JSON-RPC request, repeated on the next endpoint while no node answers.
    ///
    /// # Errors
    /// [`Error::Rpc`] as soon as a node refuses for a reason that repeating does not change; otherwise the last failure.
    pub async fn request<P, R>(&self, method: &'static str, params: P) -> Result<R>
    where
        P: RpcSend,
        R: RpcRecv,
    {
        self.with_retry(method, |connection| {
            let params = params.clone();
            async move { connection.request::<P, R>(method, params).await }
        })
        .await
    }

    /// Several requests of one method in one round trip, answers in order.
    ///
    /// # Errors
    /// The first failure of any of them, after the same repetitions as [`Client::request`].
    pub async fn batch<P, R>(&self, method: &'static str, params: &[P]) -> Result<Vec<R>>
    where
        P: RpcSend,
        R: RpcRecv,
    {
        self.with_retry(method, |connection| {
            let params = params.to_vec();
            async move {
                let mut batch = connection.new_batch();
                let mut waiting = Vec::with_capacity(params.len());
                for params in &params {
                    waiting.push(batch.add_call::<P, R>(method, params)?);
                }
                batch.send().await?;
                let mut answers = Vec::with_capacity(waiting.len());
                for waiter in waiting {
                    answers.push(waiter.await?);
                }
                Ok(answers)
            }
        })
        .await
    }

    async fn with_retry<R, F, A>(&self, method: &'static str, ask: F) -> Result<R>
    where
        F: Fn(RpcClient) -> A,
        A: Future<Output = Result<R, TransportError>>,
    {
        let inner = &*self.0;
        let attempts = inner.config.retry.attempts.max(1);
        let mut failures = 0;
        loop {
            let index = inner.current.load(Ordering::Relaxed) % inner.endpoints.len();
            let endpoint = &inner.endpoints[index];
            let error = match self.once(endpoint, method, &ask).await {
                Ok(answer) => return Ok(answer),
                Err((error, false)) => return Err(error),
                Err((error, true)) => error,
            };
            failures += 1;
            let _ = inner.current.compare_exchange(index, index + 1, Ordering::Relaxed, Ordering::Relaxed);
            if failures >= attempts {
                return Err(error);
            }
            debug!(method, endpoint = endpoint.label, failures, error = error.chain(), "rpc.retry");
            tokio::time::sleep(inner.config.retry.wait(failures)).await;
        }
    }

    /// One try on one endpoint. The flag says whether repeating can help.
    async fn once<R, F, A>(&self, endpoint: &Endpoint, method: &'static str, ask: F) -> Result<R, (Error, bool)>
    where
        F: Fn(RpcClient) -> A,
        A: Future<Output = Result<R, TransportError>>,
    {
        let limit = self.0.config.request_timeout;
        let late = || Error::Timeout { method, endpoint: endpoint.label.clone(), after: limit };
        let connection = match tokio::time::timeout(limit, endpoint.connection(self.0.config.chain_id)).await {
            Err(_) => return Err((late(), true)),
            Ok(Err(error)) => {
                let retry = !matches!(error, Error::WrongChain { .. } | Error::Config { .. });
                return Err((error, retry));
            }
            Ok(Ok(connection)) => connection,
        };
        match tokio::time::timeout(limit, ask(connection)).await {
            Err(_) => {
                endpoint.forget().await;
                Err((late(), true))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let repeat = match &error {
                    RpcError::ErrorResp(payload) => payload.is_retry_err(),
                    _ => true,
                };
                if matches!(error, RpcError::Transport(_)) {
                    endpoint.forget().await;
                }
                Err((endpoint.describe(method, error), repeat))
            }
        }
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self> {
        let url: Url = text.parse().map_err(|error| Error::Config {
            what: format!("an RPC endpoint is not a URL ({error}); expected something like http://127.0.0.1:8545"),
        })?;
        if !matches!(url.scheme(), "http" | "https" | "ws" | "wss") {
            return Err(Error::Config { what: format!("RPC scheme {:?} is not supported; use http, https, ws or wss", url.scheme()) });
        }
        let label = match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => return Err(Error::Config { what: "an RPC endpoint has no host; expected something like http://127.0.0.1:8545".into() }),
        };
        Ok(Self { url, label, connection: Mutex::new(None) })
    }

    /// A connection to the right chain. Every new connection is asked for its chain id before it is used: a node that comes back from a restart may
    /// be another node.
    async fn connection(&self, chain_id: u64) -> Result<RpcClient> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let connection = if self.url.scheme().starts_with("ws") {
            let connect = WsConnect::new(self.url.as_str()).with_max_retries(0);
            ClientBuilder::default().ws(connect).await.map_err(|error| self.describe("connect", error))?
        } else {
            RpcClient::new_http(self.url.clone())
        };
        let actual: U64 = connection.request("eth_chainId", ()).await.map_err(|error| self.describe("eth_chainId", error))?;
        let actual = actual.to::<u64>();
        if actual != chain_id {
            return Err(Error::WrongChain { endpoint: self.label.clone(), expected: chain_id, actual });
        }
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// The whole chain of causes, without user, password, path and query of the URL: providers put keys there, and transports quote it.
    fn redact(&self, error: &TransportError) -> String {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        let path = self.url.path().trim_matches('/');
        let query = self.url.query().unwrap_or_default();
        for secret in [query, path, self.url.username(), self.url.password().unwrap_or_default()] {
            if !secret.is_empty() {
                text = text.replace(secret, "…");
            }
        }
        text
    }

    async fn forget(&self) {
        *self.connection.lock().await = None;
    }

    fn describe(&self, method: &'static str, error: TransportError) -> Error {
        match error {
            RpcError::ErrorResp(payload) => Error::Rpc {
                method,
                code: payload.code,
                data: payload.as_revert_data(),
                message: payload.message.chars().take(400).collect(),
            },
            error => Error::Transport { method, endpoint: self.label.clone(), what: self.redact(&error) },
        }
    }
}

/// Wakes a waiting event stream when a node announces a new block. It only ever shortens a wait: what is believed is read afterwards.
#[derive(Debug)]
pub struct NewHeads {
    pub(crate) notify: Arc<tokio::sync::Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for NewHeads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NewHeads {
    /// Subscribes to `newHeads` on the first websocket endpoint of the client, and again whenever the connection breaks. `None` where all endpoints are
    /// HTTP.
    pub fn subscribe(client: &Client) -> Option<Self> {
        let client = client.clone();
        let index = client.0.endpoints.iter().position(|endpoint| endpoint.url.scheme().starts_with("ws"))?;
        let notify = Arc::new(tokio::sync::Notify::new());
        let retry = client.retry();
        let wake = Arc::clone(&notify);
        let task = tokio::spawn(async move {
            let endpoint = &client.0.endpoints[index];
            let mut failures = 0;
            loop {
                match announce(endpoint.url.as_str(), &wake, &mut failures).await {
                    Ok(()) => debug!("new_heads.closed"),
                    Err(error) => warn!(error = endpoint.redact(&error), "new_heads.lost"),
                }
                failures += 1;
                tokio::time::sleep(retry.wait(failures)).await;
            }
        });
        Some(Self { notify, task })
    }
}

async fn announce(url: &str, wake: &tokio::sync::Notify, failures: &mut u32) -> Result<(), RpcError<TransportErrorKind>> {
    use alloy::providers::Provider as _;
    let connection = ClientBuilder::default().ws(WsConnect::new(url).with_max_retries(0)).await?;
    let provider = RootProvider::<alloy::network::Ethereum>::new(connection);
    let mut heads = provider.subscribe_blocks().await?;
    *failures = 0;
    while heads.recv().await.is_ok() {
        wake.notify_one();
    }
    Ok(())
}
