//! Content of any length comes back from every store, under one id.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use proptest::{prelude::*, test_runner::TestRunner};
use quern_store::{ContentStore, GatewayConfig, GatewayStore, LayeredStore, MemoryStore, dag, gateway};
use support::{MIB, Server, embedded};

/// Lengths around every boundary that there is, and some between.
fn lengths() -> impl Strategy<Value = usize> {
    let mib = MIB as usize;
    prop_oneof![
        4 => 0..5000usize,
        1 => 0..4 * mib,
        2 => (1..4usize, 0..3usize).prop_map(move |(chunks, beside)| (chunks * mib + beside).saturating_sub(1)),
    ]
}

#[test]
fn content_of_any_length_round_trips_through_every_store() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (directory, memory, embedded, server) = runtime.block_on(async {
        let memory = Arc::new(MemoryStore::new());
        let server = Server::start(gateway::router(memory.clone())).await;
        let (directory, embedded) = embedded().await;
        (directory, memory, embedded, server)
    });
    let remote = GatewayStore::new(&GatewayConfig { gateways: vec![server.address.clone()], block_timeout_ms: 10_000 }).unwrap();
    let layered = LayeredStore::new(Arc::new(MemoryStore::new()), Arc::new(remote));

    let mut runner = TestRunner::new(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&(lengths(), any::<u64>()), |(length, seed)| {
            let content: Vec<u8> = (0..length as u64).map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
            runtime.block_on(async {
                let id = dag::content_id(&content).unwrap();
                prop_assert_eq!(memory.put(&content).await.unwrap(), id);
                prop_assert_eq!(embedded.put(&content).await.unwrap(), id);
                let stores: [&dyn ContentStore; 3] = [&*memory, &embedded, &layered];
                for store in stores {
                    let read = store.get(id, content.len() as u64).await.unwrap();
                    prop_assert!(read == content, "{} gave other bytes", store.kind());
                    store.pin(id).await.unwrap();
                    prop_assert_eq!(store.stat(id).await.unwrap().size_bytes, content.len() as u64);
                    if let Some(less) = (content.len() as u64).checked_sub(1) {
                        prop_assert!(store.get(id, less).await.is_err());
                    }
                }
                Ok(())
            })
        })
        .unwrap();
    drop((directory, server));
}
