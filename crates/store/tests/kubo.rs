//! The Kubo store against a real Kubo on loopback, offline or with one peer; and against something that only says that it is one.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/kubo.rs"]
mod support_kubo;

use std::sync::Arc;

use axum::{Json, Router, body::Body, routing::post};
use futures::stream;
use quern_store::{
    ContentCodec, ContentId, ContentStore, GatewayConfig, GatewayStore, KuboConfig, KuboReach, KuboStore, LayeredStore, MemoryStore,
    StoreError, block_id, dag, gateway,
};
use support::{MIB, Pattern, Server, node, raw};
use support_kubo::{Kubo, binary};

#[tokio::test]
async fn what_we_put_kubo_reads() {
    let Some(binary) = binary("what_we_put_kubo_reads") else { return };
    let kubo = Kubo::start(binary);
    let store = kubo.store().await;
    assert_eq!(store.version().await.unwrap(), kubo.line(&["version", "--number"], b""));
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 3] {
        let content = Pattern::bytes(size);
        let id = store.put(&content).await.unwrap();
        assert_eq!(id, dag::content_id(&content).unwrap());
        assert_eq!(kubo.ipfs(&["cat", &id.to_string()], b""), content, "{size}");
        assert_eq!(store.get(id, size).await.unwrap(), content, "{size}");
        assert!(store.has(id).await.unwrap());
    }
}

#[tokio::test]
async fn what_kubo_adds_we_read_under_the_same_id() {
    let Some(binary) = binary("what_kubo_adds_we_read_under_the_same_id") else { return };
    let kubo = Kubo::start(binary);
    let store = kubo.store().await;
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 3] {
        let content = Pattern::bytes(size);
        // The profile of the node; then what older nodes do, where CIDs, chunks, leaves and links are all different.
        let id: ContentId = kubo.line(&["add", "-Q"], &content).parse().unwrap();
        assert_eq!(id, dag::content_id(&content).unwrap(), "{size}");
        assert_eq!(store.get(id, size).await.unwrap(), content);
        let old = ["add", "-Q", "--cid-version=0", "--raw-leaves=false", "--chunker=size-262144", "--max-file-links=4"];
        let old = kubo.line(&old, &content);
        assert!(old.starts_with("Qm"));
        let id: ContentId = kubo.line(&["cid", "format", "-v", "1", "-b", "base32", &old], b"").parse().unwrap();
        assert_eq!(id.codec, ContentCodec::DagPb);
        assert_eq!(store.get(id, size).await.unwrap(), content, "{size}, as an older node adds it");
        store.pin(id).await.unwrap();
    }
}

#[tokio::test]
async fn content_and_pins_of_kubo_survive_a_shutdown_and_a_kill() {
    let Some(binary) = binary("content_and_pins_of_kubo_survive_a_shutdown_and_a_kill") else { return };
    let mut kubo = Kubo::start(binary);
    let content = Pattern::bytes(2 * MIB + 1);
    let store = kubo.store().await;
    let id = store.put(&content).await.unwrap();
    store.pin(id).await.unwrap();
    kubo.stop();
    let error = store.get(id, u64::MAX).await.unwrap_err();
    assert!(matches!(error, StoreError::Kubo { answered: false, .. }), "{error}");
    kubo.resume();
    let store = kubo.store().await;
    assert_eq!(store.get(id, u64::MAX).await.unwrap(), content);
    assert_eq!(store.pins().await.unwrap(), [id]);
    let second = store.put(b"after the restart").await.unwrap();
    store.pin(second).await.unwrap();
    kubo.kill();
    kubo.resume();
    let store = kubo.store().await;
    assert_eq!(store.get(second, 100).await.unwrap(), b"after the restart");
    let mut pins = [id, second];
    pins.sort();
    assert_eq!(store.pins().await.unwrap(), pins);
}

#[tokio::test]
async fn kubo_collects_what_is_not_pinned() {
    let Some(binary) = binary("kubo_collects_what_is_not_pinned") else { return };
    let kubo = Kubo::start(binary);
    let store = kubo.store().await;
    let (kept, lost) = (store.put(&Pattern::bytes(2 * MIB)).await.unwrap(), store.put(b"not pinned").await.unwrap());
    store.pin(kept).await.unwrap();
    store.pin(kept).await.unwrap();
    kubo.ipfs(&["repo", "gc"], b"");
    assert!(store.has(kept).await.unwrap() && !store.has(lost).await.unwrap());
    assert!(matches!(store.get(lost, 100).await, Err(StoreError::NotFound { id, .. }) if id == lost));
    assert!(store.unpin(kept).await.unwrap());
    assert!(!store.unpin(kept).await.unwrap());
    kubo.ipfs(&["repo", "gc"], b"");
    assert!(!store.has(kept).await.unwrap());
}

#[tokio::test]
async fn kubo_does_not_pin_a_file_that_lacks_a_block() {
    let Some(binary) = binary("kubo_does_not_pin_a_file_that_lacks_a_block") else { return };
    let kubo = Kubo::start(binary);
    let store = kubo.store().await;
    let here = store.put(b"here").await.unwrap();
    let absent = raw(b"absent").0;
    let (top, bytes) = node(2, None, Some(10), &[(here, 4), (absent, 6)]);
    store.put_block(top, bytes.into()).await.unwrap();
    let error = store.pin(top).await.unwrap_err();
    assert!(matches!(error, StoreError::Incomplete { root, missing, .. } if (root, missing) == (top, absent)), "{error}");
    assert_eq!(store.pins().await.unwrap(), []);
}

#[tokio::test]
async fn kubo_takes_our_cars_and_serves_our_gateway_client() {
    let Some(binary) = binary("kubo_takes_our_cars_and_serves_our_gateway_client") else { return };
    let kubo = Kubo::start(binary);
    let ours = Arc::new(MemoryStore::new());
    let content = Pattern::bytes(3 * MIB + 9);
    let id = ours.put(&content).await.unwrap();
    let server = Server::start(gateway::router(ours.clone())).await;
    let car = reqwest::get(format!("{}/ipfs/{id}?format=car", server.address)).await.unwrap().bytes().await.unwrap();
    // Pins the root, which it does only where the CAR was complete.
    let told = kubo.line(&["dag", "import", "--stats", "--pin-roots=true"], &car);
    assert!(told.contains(&id.to_string()) && told.contains("success"), "{told}");
    assert_eq!(kubo.ipfs(&["cat", &id.to_string()], b""), content);
    assert_eq!(kubo.store().await.pins().await.unwrap(), [id]);

    let config = GatewayConfig { gateways: vec![kubo.gateway()], block_timeout_ms: 30_000 };
    let layered = LayeredStore::new(Arc::new(MemoryStore::new()), Arc::new(GatewayStore::new(&config).unwrap()));
    assert_eq!(layered.get(id, u64::MAX).await.unwrap(), content);
    layered.pin(id).await.unwrap();
    // What both export of the same file is the same CAR, but for the order that each prefers: so compare what it fills a store with.
    let theirs = kubo.ipfs(&["dag", "export", &id.to_string()], b"");
    let other = MemoryStore::new();
    assert_eq!(quern_store::car::import(&other, &mut &*theirs, 8 * MIB).await.unwrap(), [id]);
    assert_eq!(other.stat(id).await.unwrap(), ours.stat(id).await.unwrap());
}

#[tokio::test]
async fn a_file_comes_from_one_kubo_to_another_and_is_pinned_there() {
    let Some(binary) = binary("a_file_comes_from_one_kubo_to_another_and_is_pinned_there") else { return };
    let (theirs, ours) = (Kubo::start_online(binary.clone()), Kubo::start_online(binary));
    let content = Pattern::bytes(2 * MIB + 77);
    let id = theirs.store().await.put(&content).await.unwrap();
    let peer = theirs.line(&["id", "-f", "<addrs>"], b"");
    let peer = peer.lines().find(|address| address.contains("/ip4/127.0.0.1/tcp/")).unwrap().to_owned();
    ours.ipfs(&["swarm", "connect", &peer], b"");

    let local = Arc::new(ours.store().await);
    let network = Arc::new(ours.store_of(KuboReach::Network, 5_000).await);
    let layered = LayeredStore::new(local.clone(), network.clone());
    assert!(matches!(local.get(id, u64::MAX).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(layered.get(id, 1000).await, Err(StoreError::TooLarge { .. })));
    assert!(matches!(network.pin(id).await, Err(StoreError::ReadOnly { .. })));
    assert_eq!(layered.get(id, u64::MAX).await.unwrap(), content);
    layered.pin(id).await.unwrap();
    assert_eq!(ours.store().await.get(id, u64::MAX).await.unwrap(), content);
    // Nobody has it: the wait ends.
    assert!(layered.get(raw(b"nowhere").0, 10).await.is_err());
}

fn config(address: &str) -> KuboConfig {
    KuboConfig { address: address.into(), call_timeout_ms: 2000, reach: KuboReach::Node }
}

/// Something that answers as Kubo does, up to a point.
async fn impostor(routes: Router) -> (Server, KuboStore) {
    let version = post(|| async { Json(serde_json::json!({ "Version": "0.40.1", "Commit": "", "Repo": "18" })) });
    let server = Server::start(routes.route("/api/v0/version", version)).await;
    let store = KuboStore::connect(&config(&server.address)).await.unwrap();
    (server, store)
}

#[tokio::test]
async fn a_node_that_names_our_block_otherwise_is_refused() {
    let other = block_id(ContentCodec::Raw, b"other").to_string();
    let answer = serde_json::json!({ "Key": other, "Size": 5 });
    let (_server, store) = impostor(Router::new().route("/api/v0/block/put", post(|| async { Json(answer) }))).await;
    let error = store.put(b"ours").await.unwrap_err();
    assert!(matches!(&error, StoreError::KuboDisagrees { theirs, .. } if *theirs == other), "{error}");
}

#[tokio::test]
async fn a_node_that_gives_other_bytes_or_no_end_of_bytes_is_not_believed() {
    let (_server, store) = impostor(Router::new().route("/api/v0/block/get", post(|| async { "other bytes" }))).await;
    let id = raw(b"ours").0;
    let error = store.get(id, 100).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { id: named, .. } if named == id), "{error}");
    let endless = || async { Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0u8; 65_536]))) };
    let (_server, store) = impostor(Router::new().route("/api/v0/block/get", post(endless))).await;
    assert!(matches!(store.get(id, 100).await, Err(StoreError::BlockTooLarge { .. })));
    let (_server, store) = impostor(Router::new().route("/api/v0/block/get", post(std::future::pending::<()>))).await;
    let error = store.get(id, 100).await.unwrap_err();
    assert!(matches!(error, StoreError::Kubo { answered: false, .. }), "{error}");
}

#[tokio::test]
async fn an_address_where_no_kubo_answers_is_told_at_once() {
    let error = KuboStore::connect(&config("http://127.0.0.1:1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Kubo { answered: false, .. }) && error.to_string().contains("127.0.0.1:1"), "{error}");
    let other = Server::start(Router::new()).await;
    assert!(matches!(KuboStore::connect(&config(&other.address)).await, Err(StoreError::Kubo { .. })));
    for address in [
        "",
        "127.0.0.1:5001",
        "/ip4/127.0.0.1/tcp/5001",
        "https://a.example",
        "http://u:p@a.example",
        "http://a.example/api/v0",
        "http://a?x",
    ] {
        assert!(matches!(KuboStore::connect(&config(address)).await, Err(StoreError::Address { .. })), "{address}");
    }
}
