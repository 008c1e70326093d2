//! An IPFS node of one's own, through the RPC of Kubo (<https://docs.ipfs.tech/reference/kubo/rpc/>).

use std::{fmt, io::Cursor, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use ipfs_api_backend_hyper::{
    BackendWithGlobalOptions, Error as RpcError, GlobalOptions, IpfsApi, IpfsClient, TryFromUri, request::BlockPut,
};
use quern_types::{ContentCodec, ContentId};
use reqwest::Url;

use crate::{
    ContentStore, MAX_BLOCK_BYTES, StoreError,
    block::{check_offered, check_read},
    dag,
};

const KIND: &str = "kubo";

/// Where blocks may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KuboReach {
    /// From the node's own disk. The choice for a store of one's own.
    Node,
    /// From the network too, through the node. Such a store only reads, waits for strangers, and fills the node's disk with what it reads: it
    /// is the remote half of a [`crate::LayeredStore`], whose local half is the same node.
    Network,
}

/// Which node, and how long to wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KuboConfig {
    /// Its RPC, as in `http://127.0.0.1:5001`. Plain HTTP only: the RPC is full control of the node and belongs on loopback or in a tunnel.
    pub address: String,
    /// Longest time for one call, in milliseconds. A recursive pin of a large file is one call.
    pub call_timeout_ms: u64,
    /// Where it may look for blocks.
    pub reach: KuboReach,
}

/// A Kubo node as a store. Blocks are put one by one under ids that we computed, so its settings for chunks and CIDs do not matter, and
/// it must answer with the same id.
///
/// TRUST: with keeping what it was given; never with bytes, which are hashed. Its garbage collector knows nothing of our grace period: on
/// a node that runs with `--enable-gc`, a file may lose blocks between put and pin; the pin then says so.
#[derive(Clone)]
pub struct KuboStore {
    rpc: Arc<BackendWithGlobalOptions<IpfsClient>>,
    address: String,
    timeout: Duration,
    reach: KuboReach,
}

impl KuboStore {
    /// Connects and asks for the node's version.
    ///
    /// Errors: [`StoreError::Address`] for an address that is not plain HTTP, [`StoreError::Kubo`] where no Kubo answers there.
    pub async fn connect(config: &KuboConfig) -> Result<Self, StoreError> {
        let timeout = Duration::from_millis(config.call_timeout_ms);
        let address = base(&config.address)?;
        let refuse = |reason: String| StoreError::Address { address: config.address.clone(), reason };
        let client = IpfsClient::from_str(&address).map_err(|error| refuse(error.to_string()))?;
        let offline = config.reach == KuboReach::Node;
        let options = GlobalOptions { offline: Some(offline), timeout: Some(timeout) };
        let store = Self { rpc: Arc::new(BackendWithGlobalOptions::new(client, options)), address, timeout, reach: config.reach };
        let version = store.version().await?;
        tracing::info!(address = store.address, version, "kubo.connected");
        Ok(store)
    }

    /// The node's version, as in "0.40.1".
    pub async fn version(&self) -> Result<String, StoreError> {
        Ok(self.call("say its version", self.rpc.version()).await?.version)
    }

    // A pin through the network would fetch without a limit.
    fn check_writes(&self, action: &'static str, id: ContentId) -> Result<(), StoreError> {
        match self.reach {
            KuboReach::Node => Ok(()),
            KuboReach::Network => Err(StoreError::ReadOnly { store: KIND, action, id }),
        }
    }

    async fn call<T>(&self, action: &'static str, call: impl Future<Output = Result<T, RpcError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => answer.map_err(|error| self.failed(action, &error)),
            Err(_) => Err(self.late(action)),
        }
    }

    fn failed(&self, action: &'static str, error: &RpcError) -> StoreError {
        let (reason, answered) = match error {
            RpcError::Api(told) => (told.message.clone(), true),
            RpcError::Client(error) => (format!("{error}; is the daemon running, and is this its RPC address?"), false),
            other => (other.to_string(), true),
        };
        StoreError::Kubo { address: self.address.clone(), action, reason, answered }
    }

    fn late(&self, action: &'static str) -> StoreError {
        let reason = format!("no answer within {} ms", self.timeout.as_millis());
        StoreError::Kubo { address: self.address.clone(), action, reason, answered: false }
    }

    async fn read_block(&self, id: ContentId) -> Result<Bytes, StoreError> {
        let name = id.to_string();
        let mut parts = self.rpc.block_get(&name);
        let mut block = BytesMut::new();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| absent(id, self.failed("read a block", &error)))?;
            if block.len() + part.len() > MAX_BLOCK_BYTES {
                return Err(StoreError::BlockTooLarge { id, size: (block.len() + part.len()) as u64 });
            }
            block.extend_from_slice(&part);
        }
        check_read(id, block.freeze(), KIND, || self.address.clone())
    }
}

impl fmt::Debug for KuboStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KuboStore").field("address", &self.address).field("reach", &self.reach).finish_non_exhaustive()
    }
}

fn base(address: &str) -> Result<String, StoreError> {
    let refuse = |reason: &str| StoreError::Address { address: address.into(), reason: reason.into() };
    let url = Url::parse(address).map_err(|error| refuse(&error.to_string()))?;
    if url.scheme() != "http" || !url.has_host() || !url.username().is_empty() {
        return Err(refuse(
            "Kubo's RPC is given as http://HOST:PORT; it is full control of the node, so reach another machine's through a tunnel",
        ));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("Kubo's RPC is given as http://HOST:PORT, without a path"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Kubo has no code for "not here"; this is what its block service says (boxo `ipld.ErrNotFound`), offline or after its time-out.
fn absent(id: ContentId, error: StoreError) -> StoreError {
    match error {
        StoreError::Kubo { reason, .. } if reason.contains("could not find") => StoreError::NotFound { id, store: KIND },
        other => other,
    }
}

#[async_trait]
impl ContentStore for KuboStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn get_block(&self, id: ContentId) -> Result<Bytes, StoreError> {
        match tokio::time::timeout(self.timeout, self.read_block(id)).await {
            Ok(block) => block,
            Err(_) => Err(self.late("read a block")),
        }
    }

    async fn put_block(&self, id: ContentId, bytes: Bytes) -> Result<(), StoreError> {
        self.check_writes("put", id)?;
        check_offered(id, &bytes)?;
        // `format` is Kubo's old name of `cid-codec`, and the one that the client has; both lead to the same CIDv1.
        let format = match id.codec {
            ContentCodec::Raw => "raw",
            ContentCodec::DagPb => "dag-pb",
        };
        let options = BlockPut { format: Some(format), mhtype: Some("sha2-256"), mhlen: None, pin: Some(false) };
        let put = self.call("store a block", self.rpc.block_put_with_options(Cursor::new(bytes), options)).await?;
        if put.key == id.to_string() { Ok(()) } else { Err(StoreError::KuboDisagrees { ours: id, theirs: put.key }) }
    }

    async fn has_block(&self, id: ContentId) -> Result<bool, StoreError> {
        match self.call("look for a block", self.rpc.block_stat(&id.to_string())).await.map_err(|error| absent(id, error)) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn pin(&self, id: ContentId) -> Result<(), StoreError> {
        self.check_writes("pin", id)?;
        // Kubo's own pin checks that the blocks are there, and names the missing one in prose only.
        dag::walk(self, id, dag::Leaves::Verified).await?;
        self.call("pin", self.rpc.pin_add(&id.to_string(), true)).await?;
        Ok(())
    }

    async fn unpin(&self, id: ContentId) -> Result<bool, StoreError> {
        self.check_writes("unpin", id)?;
        match self.call("unpin", self.rpc.pin_rm(&id.to_string(), true)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Kubo { reason, .. }) if reason.contains("not pinned") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The recursive pins of files that this crate can name; directories of the node's owner among them, CIDv0 not.
    async fn pins(&self) -> Result<Vec<ContentId>, StoreError> {
        let listed = self.call("list its pins", self.rpc.pin_ls(None, Some("recursive"))).await?;
        let mut pins: Vec<ContentId> = listed.keys.keys().filter_map(|key| key.parse().ok()).collect();
        pins.sort_unstable();
        Ok(pins)
    }
}
