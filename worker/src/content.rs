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
    layered: LayeredStore,
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
        let remote = GatewayStore::new(&GatewayConfig { gateways: config.gateways.clone(), block_timeout_ms })?;
        let layered = LayeredStore::new(Arc::new(embedded.clone()), Arc::new(remote));
        let kubo = match &config.kubo {
            None => None,
            Some(address) => {
                let kubo = KuboConfig { address: address.clone(), call_timeout_ms: millis(KUBO_TIMEOUT), reach: KuboReach::Node };
                Some(KuboStore::connect(&kubo).await?)
            }
        };
        Ok(Self { embedded, layered, kubo })
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
        let id = self.embedded.put(blob).await?;
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
