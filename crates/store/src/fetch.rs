//! Reading from trustless gateways of others (<https://specs.ipfs.tech/http-gateways/trustless-gateway/>).

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use quern_types::ContentId;
use reqwest::{Client, StatusCode, Url, header::ACCEPT, redirect::Policy};

use crate::{ContentStore, GatewayAttempt, GatewayFault, MAX_BLOCK_BYTES, StoreError, block_id};

const KIND: &str = "gateway";
const RAW: &str = "application/vnd.ipld.raw";

/// Which gateways to read from, and how long to wait for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Base addresses, `http` or `https`, in the order of preference: `https://trustless-gateway.link`, `http://127.0.0.1:8080`.
    pub gateways: Vec<String>,
    /// Longest time for one block of at most 2 MiB from one gateway, in milliseconds.
    pub block_timeout_ms: u64,
}

/// Reads blocks from a list of trustless gateways. Each block is asked of one gateway after the other until one gives the bytes that hash
/// to its id; the one that did is asked first the next time. Keeps nothing: put a [`crate::LayeredStore`] before it.
///
/// TRUST: none. A gateway can withhold, and that is all: what it sends is hashed, and cut off where no block is longer. Redirects are not
/// followed, so a gateway cannot make us call other machines.
#[derive(Debug)]
pub struct GatewayStore {
    client: Client,
    gateways: Vec<Url>,
    block_timeout_ms: u64,
    // Index of the gateway that served last.
    preferred: AtomicUsize,
}

impl GatewayStore {
    /// Errors: [`StoreError::Address`] for an address that is not `http` or `https`, or that has a query or a fragment.
    pub fn new(config: &GatewayConfig) -> Result<Self, StoreError> {
        let gateways = config.gateways.iter().map(|address| base(address)).collect::<Result<_, _>>()?;
        let client = Client::builder()
            .redirect(Policy::none())
            .timeout(Duration::from_millis(config.block_timeout_ms))
            .user_agent(concat!("quern/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| StoreError::Address { address: "the gateways".into(), reason: error.to_string() })?;
        Ok(Self { client, gateways, block_timeout_ms: config.block_timeout_ms, preferred: AtomicUsize::new(0) })
    }

    async fn ask(&self, gateway: &Url, id: ContentId) -> Result<Bytes, GatewayFault> {
        let mut address = gateway.clone();
        address.set_path(&format!("{}/ipfs/{id}", gateway.path().trim_end_matches('/')));
        address.set_query(Some("format=raw"));
        let mut response = self.client.get(address).header(ACCEPT, RAW).send().await.map_err(|error| self.transport(error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(GatewayFault::Absent),
            other => return Err(GatewayFault::Status(other.as_u16())),
        }
        let mut block = BytesMut::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.transport(error))? {
            if block.len() + part.len() > MAX_BLOCK_BYTES {
                return Err(GatewayFault::Endless(MAX_BLOCK_BYTES));
            }
            block.extend_from_slice(&part);
        }
        let found = block_id(id.codec, &block);
        if found == id { Ok(block.freeze()) } else { Err(GatewayFault::Lied { len: block.len(), found }) }
    }

    fn transport(&self, error: reqwest::Error) -> GatewayFault {
        if error.is_timeout() {
            return GatewayFault::Timeout(self.block_timeout_ms);
        }
        // The address is told beside this; the innermost cause says why.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        GatewayFault::Transport(cause.to_string())
    }

    fn read_only<T>(action: &'static str, id: ContentId) -> Result<T, StoreError> {
        Err(StoreError::ReadOnly { store: KIND, action, id })
    }
}

fn base(address: &str) -> Result<Url, StoreError> {
    let refuse = |reason: &str| StoreError::Address { address: address.into(), reason: reason.into() };
    let url = Url::parse(address).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("a gateway's address begins with http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("a gateway's address has no query and no fragment"));
    }
    Ok(url)
}

#[async_trait]
impl ContentStore for GatewayStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn get_block(&self, id: ContentId) -> Result<Bytes, StoreError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut attempts = Vec::new();
        for place in 0..self.gateways.len() {
            let index = (first + place) % self.gateways.len();
            let gateway = &self.gateways[index];
            match self.ask(gateway, id).await {
                Ok(block) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(block);
                }
                Err(fault) => {
                    tracing::debug!(%id, %gateway, %fault, "gateway.failed");
                    attempts.push(GatewayAttempt { gateway: gateway.to_string(), fault });
                }
            }
        }
        Err(StoreError::Unavailable { id, attempts })
    }

    async fn has_block(&self, id: ContentId) -> Result<bool, StoreError> {
        match self.get_block(id).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put_block(&self, id: ContentId, _bytes: Bytes) -> Result<(), StoreError> {
        Self::read_only("put", id)
    }

    async fn pin(&self, id: ContentId) -> Result<(), StoreError> {
        Self::read_only("pin", id)
    }

    async fn unpin(&self, id: ContentId) -> Result<bool, StoreError> {
        Self::read_only("unpin", id)
    }

    async fn pins(&self) -> Result<Vec<ContentId>, StoreError> {
        Ok(Vec::new())
    }
}
