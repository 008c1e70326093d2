//! Serving content while a command waits.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quern_store::{ContentStore, GatewayConfig, GatewayStore, gateway};
use quern_types::ContentId;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::failure::Failure;

/// How long another server at the address may take to show that it serves the same content.
const LOOK_MS: u64 = 2_000;

/// Serves `store` on `listen` until the task is aborted. Where something listens there already and serves `sample` too (another command of ours over the same
/// store, or `quern store serve`), nothing is started.
///
/// # Errors
/// The address cannot be used.
pub(crate) async fn while_waiting(
    listen: SocketAddr,
    store: Arc<dyn ContentStore>,
    sample: Option<ContentId>,
) -> Result<Option<JoinHandle<()>>, Failure> {
    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && serves(listen, sample).await => return Ok(None),
        Err(error) => {
            let remedy = "name another address with --serve ADDR, or pass --no-serve where something else serves this store";
            return Err(Failure::new(format!("cannot serve the inputs on {listen}: {error}"), remedy));
        }
    };
    tracing::info!(address = %listen, "gateway.serving");
    let service = gateway::service(store);
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, service).await {
            tracing::warn!(%error, "gateway.ended");
        }
    })))
}

async fn serves(address: SocketAddr, sample: Option<ContentId>) -> bool {
    let Some(sample) = sample else { return false };
    let config = GatewayConfig { gateways: vec![format!("http://{address}")], block_timeout_ms: LOOK_MS };
    let Ok(gateway) = GatewayStore::new(&config) else { return false };
    matches!(tokio::time::timeout(Duration::from_millis(2 * LOOK_MS), gateway.get_block(sample)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use quern_store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn second_server_of_the_same_content_steps_back_and_of_other_content_complains() {
        let store: Arc<dyn ContentStore> = Arc::new(MemoryStore::new());
        let here = store.put(b"here").await.expect("put");
        let elsewhere = MemoryStore::new().put(b"elsewhere").await.expect("put");
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("its address");
        let first = while_waiting(free, store.clone(), Some(here)).await.expect("serving").expect("started");
        assert!(while_waiting(free, store.clone(), Some(here)).await.expect("served already").is_none());
        assert!(while_waiting(free, store, Some(elsewhere)).await.expect_err("taken").remedy.contains("--serve"));
        first.abort();
    }
}
