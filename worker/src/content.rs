//! Where inputs come from and outputs go.

use std::{sync::Arc, time::Duration};

use quern_commit::{
    blob::{Expected, InputSet},
    sum_tree::SumNode,
};
use quern_store::{
    ContentStore, EmbeddedConfig, EmbeddedStore, GatewayConfig, GatewayStore, KuboConfig, KuboReach, KuboStore, LayeredStore, StoreError,
};
use quern_types::{ContentId, JobSpec};

use crate::{Config, Result};

/// Longest time for one call of the IPFS node.
const KUBO_TIMEOUT: Duration = Duration::from_secs(60);

/// The stores of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    embedded: EmbeddedStore,
    /// The embedded store, and behind it the gateways or, without any, the network of the IPFS node.
    layered: LayeredStore,
    /// Gets a copy of every output.
    kubo: Option<KuboStore>,
}

/// Why an input cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputFault {
    /// It cannot be fetched, at least now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was fetched, and it is not what the job commits to.
    #[error(transparent)]
    Blob(#[from] quern_commit::blob::BlobError),
}

impl InputFault {
    /// Whether trying again can help.
    pub(crate) const fn is_final(&self) -> bool {
        match self {
            Self::Blob(_) => true,
            Self::Store(error) => {
                matches!(error, StoreError::TooLarge { .. } | StoreError::BadDag { .. } | StoreError::BlockTooLarge { .. })
            }
        }
    }
}

impl Content {
    /// Opens the stores.
    ///
    /// # Errors
    /// The folder, the IPFS node or a gateway's address cannot be used.
    pub(crate) async fn open(config: &Config) -> Result<Self> {
        let embedded =
            EmbeddedStore::open(config.store_dir(), EmbeddedConfig { max_bytes: config.store_limit_bytes, ..EmbeddedConfig::default() })
                .await?;
        let block_timeout_ms = millis(config.fetch_timeout);
        let kubo = async |reach, call_timeout_ms| match &config.kubo {
            None => Ok(None),
            Some(address) => KuboStore::connect(&KuboConfig { address: address.clone(), call_timeout_ms, reach }).await.map(Some),
        };
        let copies = kubo(KuboReach::Node, millis(KUBO_TIMEOUT)).await?;
        // Whoever names gateways says where inputs are: a stranger's CID is not looked for all over the network besides.
        let remote: Arc<dyn ContentStore> = match kubo(KuboReach::Network, block_timeout_ms).await? {
            Some(network) if config.gateways.is_empty() => Arc::new(network),
            _ => Arc::new(GatewayStore::new(&GatewayConfig { gateways: config.gateways.clone(), block_timeout_ms })?),
        };
        let layered = LayeredStore::new(Arc::new(embedded.clone()), remote);
        Ok(Self { embedded, layered, kubo: copies })
    }

    /// The store that keeps, for the gateway.
    pub(crate) fn local(&self) -> Arc<dyn ContentStore> {
        Arc::new(self.embedded.clone())
    }

    /// The input's items: read here, fetched where it is not here, and held to the job's root, length and item count.
    pub(crate) async fn input(&self, spec: &JobSpec) -> Result<Vec<Vec<u32>>, InputFault> {
        read_input(&self.layered, spec).await
    }

    /// Keeps a file that is here.
    pub(crate) async fn pin(&self, id: ContentId) -> Result<()> {
        Ok(self.embedded.pin(id).await?)
    }

    /// Stores and pins an output; a copy goes to the IPFS node where there is one.
    pub(crate) async fn keep(&self, blob: &[u8]) -> Result<ContentId> {
        let id = match self.embedded.put(blob).await {
            // What strangers made us fetch must not keep an output out.
            Err(StoreError::Full { .. }) => {
                self.collect().await;
                self.embedded.put(blob).await?
            }
            put => put?,
        };
        self.embedded.pin(id).await?;
        if let Some(kubo) = &self.kubo {
            let copied = async {
                kubo.put(blob).await?;
                kubo.pin(id).await
            };
            // The embedded store holds the promise; the copy is for reach, and must not cost a deadline.
            if let Err(error) = copied.await {
                tracing::warn!(cid = %id, %error, "kubo.not_pinned");
            }
        }
        Ok(id)
    }

    /// Whether the whole file is here and every block is what its id says.
    pub(crate) async fn holds(&self, id: ContentId) -> Result<bool> {
        match self.embedded.get_to(id, u64::MAX, &mut tokio::io::sink()).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives pins up.
    pub(crate) async fn release(&self, id: ContentId) -> Result<()> {
        self.embedded.unpin(id).await?;
        if let Some(kubo) = &self.kubo
            && let Err(error) = kubo.unpin(id).await
        {
            tracing::warn!(cid = %id, %error, "kubo.not_unpinned");
        }
        Ok(())
    }

    /// Removes what nobody pins.
    pub(crate) async fn collect(&self) {
        match self.embedded.collect_garbage().await {
            Ok(report) => tracing::debug!(?report, "store.collected"),
            Err(error) => tracing::warn!(%error, "store.not_collected"),
        }
    }
}

/// Length of an input blob, in bytes: it follows from the job, so nothing longer is fetched.
pub(crate) fn input_bytes(spec: &JobSpec) -> u64 {
    (8 + 4 * u64::from(spec.item_count)).saturating_add(spec.input_len.saturating_mul(4))
}

/// Reads and checks an input.
pub(crate) async fn read_input(store: &dyn ContentStore, spec: &JobSpec) -> Result<Vec<Vec<u32>>, InputFault> {
    let blob = store.get(spec.input, input_bytes(spec)).await?;
    let expected = Expected { root: SumNode { hash: spec.input_root, count: spec.input_len }, leaves: spec.item_count };
    Ok(InputSet::from_blob(&blob, &expected)?.into_items())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{Json, Router, extract::RawQuery, http::StatusCode, routing::post};
    use quern_chain::{ClientConfig, keys::Key};
    use quern_store::dag;
    use quern_types::{Address, B256};
    use serde_json::json;

    use super::*;
    use crate::fixture;

    /// Answers as a Kubo does that finds this block in its network, and counts how often it looks there.
    async fn kubo(block: Vec<u8>) -> (String, Arc<AtomicUsize>) {
        let searches = Arc::new(AtomicUsize::new(0));
        let counted = searches.clone();
        let get = move |RawQuery(query): RawQuery| {
            let offline = query.is_some_and(|query| query.contains("offline=true"));
            let found = if offline { None } else { Some(block.clone()) };
            counted.fetch_add(usize::from(!offline), Ordering::Relaxed);
            async move { found.ok_or((StatusCode::INTERNAL_SERVER_ERROR, "could not find it")) }
        };
        let version = post(|| async { Json(json!({ "Version": "0.40.1", "Commit": "", "Repo": "18" })) });
        let router = Router::new().route("/api/v0/version", version).route("/api/v0/block/get", post(get));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, searches)
    }

    fn config(folder: &std::path::Path, kubo: String, gateways: Vec<String>) -> Config {
        let contract = json!({ "address": Address::ZERO, "codeHash": B256::ZERO });
        let names = ["QuernToken", "Guardian", "ModelRegistry", "JobMarket", "ProviderRegistry", "Ledger"];
        let contracts: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), contract.clone())).collect();
        let deployment = json!({
            "chainId": 901, "fromBlock": 1, "contracts": contracts, "tokenDeployed": true, "parameters": {
                "challengeWindowSecs": 4, "extensionSecs": 4, "maxGameSecs": 0, "minLock": "1", "lockFactorBps": 20000, "penaltyBps": 1000,
                "challengerShareBps": 3000, "clientShareBps": 2000,
            },
        });
        let deployment = serde_json::from_value(deployment).expect("a deployment");
        let key = Key::from_bytes(&[1; 32]).expect("a key");
        let chain = ClientConfig::new("http://127.0.0.1:1", 901);
        let made = Config::new(folder.to_owned(), chain, deployment, Address::repeat_byte(7), key, Vec::new());
        Config { kubo: Some(kubo), gateways, fetch_timeout: Duration::from_secs(5), ..made }
    }

    #[tokio::test]
    async fn input_comes_through_the_ipfs_node_where_no_gateway_is_named() {
        let items = vec![vec![101, 7, 102], Vec::new()];
        let input = InputSet::new(items.clone()).expect("items");
        let (blob, root) = (input.to_blob(), input.tree().expect("a tree").root());
        let spec = JobSpec {
            item_count: 2,
            input_root: root.hash,
            input_len: root.count,
            input: dag::content_id(&blob).expect("an id"),
            ..fixture::spec(1)
        };
        let (address, searches) = kubo(blob).await;
        let folder = tempfile::tempdir().expect("a folder");
        let content = Content::open(&config(&folder.path().join("a"), address.clone(), Vec::new())).await.expect("opens");
        assert_eq!(content.input(&spec).await.expect("found"), items);
        assert_eq!(content.input(&spec).await.expect("kept"), items);
        assert_eq!(searches.load(Ordering::Relaxed), 1, "what was fetched is in the worker's own store");

        let gateways = vec!["http://127.0.0.1:1".to_owned()];
        let content = Content::open(&config(&folder.path().join("b"), address, gateways)).await.expect("opens");
        assert!(matches!(content.input(&spec).await, Err(InputFault::Store(_))));
        assert_eq!(searches.load(Ordering::Relaxed), 1, "where gateways are named, a stranger's id is not looked for in the network");
    }

    #[tokio::test]
    async fn input_that_the_ipfs_node_makes_up_is_refused() {
        let input = InputSet::new(vec![vec![1], vec![2]]).expect("items");
        let blob = input.to_blob();
        let spec = JobSpec { input: dag::content_id(&blob).expect("an id"), ..fixture::spec(1) };
        let folder = tempfile::tempdir().expect("a folder");
        let (liar, _) = kubo(b"other bytes".to_vec()).await;
        let content = Content::open(&config(&folder.path().join("a"), liar, Vec::new())).await.expect("opens");
        assert!(matches!(content.input(&spec).await, Err(InputFault::Store(StoreError::Corrupt { .. }))));
        // The bytes of the id, and not what the job commits to: its client's fault, for ever.
        let (honest, _) = kubo(blob).await;
        let content = Content::open(&config(&folder.path().join("b"), honest, Vec::new())).await.expect("opens");
        let fault = content.input(&spec).await.expect_err("another root");
        assert!(fault.is_final(), "{fault}");
    }
}
