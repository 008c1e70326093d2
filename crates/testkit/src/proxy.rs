//! A JSON-RPC proxy between the actors and the chain that can lie, stall and disappear.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use serde_json::Value;

/// What the proxy does with the node's answer to one request.
#[derive(Debug)]
pub enum Answer {
    /// Passes on what the node said.
    Honest,
    /// Answers with this result instead.
    Result(Value),
    /// Loses it: the node has done what it was asked, and seems to be down (HTTP 503).
    Down,
}

/// Decides whether one request reaches the node: method and parameters.
type Gate = dyn Fn(&str, &Value) -> bool + Send + Sync;
/// Decides over one answer: method, parameters, and the node's honest result.
type Rule = dyn Fn(&str, &Value, &Value) -> Answer + Send + Sync;

struct Shared {
    upstream: String,
    http: reqwest::Client,
    gate: Mutex<Arc<Gate>>,
    rule: Mutex<Arc<Rule>>,
}

/// A proxy in front of a node. It is honest until told otherwise; dropping it closes its port.
pub struct RpcProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for RpcProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RpcProxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl RpcProxy {
    /// Starts a proxy for the node at `upstream`, on a free port of the loopback interface.
    ///
    /// # Errors
    /// If no port or no thread is to be had.
    pub fn start(upstream: &str) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("starting the proxy's runtime")?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).context("binding the proxy")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            http: reqwest::Client::new(),
            gate: Mutex::new(Arc::new(|_: &str, _: &Value| true)),
            rule: Mutex::new(Arc::new(|_: &str, _: &Value, _: &Value| Answer::Honest)),
        });
        let router = Router::new().route("/", post(relay)).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// The URL to give to an actor.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, only what `gate` lets through reaches the node; the rest is answered as if it were down (HTTP 503).
    pub fn set_gate(&self, gate: impl Fn(&str, &Value) -> bool + Send + Sync + 'static) {
        *self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(gate);
    }

    /// From now on, lets `rule` decide over every answer.
    pub fn set_rule(&self, rule: impl Fn(&str, &Value, &Value) -> Answer + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// From now on, passes every request and every answer on as it is.
    pub fn be_honest(&self) {
        self.set_gate(|_, _| true);
        self.set_rule(|_, _, _| Answer::Honest);
    }

    /// From now on, lets nothing through.
    pub fn go_down(&self) {
        self.set_gate(|_, _| false);
    }
}

impl Drop for RpcProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn relay(State(shared): State<Arc<Shared>>, Json(request): Json<Value>) -> axum::response::Response {
    let gate = shared.gate.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let single = !request.is_array();
    let requests = if single { std::slice::from_ref(&request) } else { request.as_array().map_or(&[][..], Vec::as_slice) };
    let null = Value::Null;
    if !requests.iter().all(|one| gate(method(one), one.get("params").unwrap_or(&null))) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answer = match shared.http.post(&shared.upstream).json(&request).send().await {
        Ok(response) => response.json::<Value>().await,
        Err(error) => Err(error),
    };
    let Ok(mut answer) = answer else { return StatusCode::BAD_GATEWAY.into_response() };
    let rule = shared.rule.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for one in requests {
        let slot = if single {
            Some(&mut answer)
        } else {
            answer.as_array_mut().and_then(|all| all.iter_mut().find(|each| each.get("id") == one.get("id")))
        };
        let Some(slot) = slot else { continue };
        match rule(method(one), one.get("params").unwrap_or(&null), slot.get("result").unwrap_or(&null)) {
            Answer::Honest => {}
            Answer::Result(result) => slot["result"] = result,
            Answer::Down => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
    Json(answer).into_response()
}

/// The method of a request.
fn method(request: &Value) -> &str {
    request.get("method").and_then(Value::as_str).unwrap_or_default()
}
