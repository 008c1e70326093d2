//! The Trustless Gateway that we serve, and the client against gateways that lie.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::StatusCode, response::Redirect, routing::get};
use futures::{StreamExt, stream};
use quern_store::{
    ContentId, ContentStore, EmbeddedStore, GatewayConfig, GatewayFault, GatewayStore, LayeredStore, MAX_BLOCK_BYTES, MemoryStore,
    StoreError, car, gateway,
};
use support::{MIB, Pattern, Server, embedded, node, raw};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn serve(store: impl ContentStore + 'static) -> Server {
    Server::start(gateway::router(Arc::new(store))).await
}

async fn ask(server: &Server, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    ask_by(reqwest::Method::GET, server, path, headers).await
}

async fn ask_by(method: reqwest::Method, server: &Server, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = reqwest::Client::new().request(method, format!("{}{path}", server.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn from(gateways: &[&Server]) -> GatewayStore {
    let gateways = gateways.iter().map(|server| server.address.clone()).collect();
    GatewayStore::new(&GatewayConfig { gateways, block_timeout_ms: 2000 }).unwrap()
}

fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

#[tokio::test]
async fn a_raw_block_is_served_with_headers_that_let_it_be_cached_for_ever() {
    let store = MemoryStore::new();
    let id = store.put(b"flour").await.unwrap();
    let server = serve(store).await;
    for (path, accept) in [(format!("/ipfs/{id}?format=raw"), "*/*"), (format!("/ipfs/{id}"), "application/vnd.ipld.raw")] {
        let response = ask(&server, &path, &[("accept", accept)]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "content-type"), "application/vnd.ipld.raw");
        assert_eq!(header(&response, "etag"), format!("\"{id}.raw\""));
        assert_eq!(header(&response, "cache-control"), "public, max-age=29030400, immutable");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        assert_eq!(header(&response, "x-ipfs-roots"), id.to_string());
        assert_eq!(header(&response, "content-length"), "5");
        assert_eq!(response.bytes().await.unwrap(), b"flour"[..]);
    }
    let head = ask_by(reqwest::Method::HEAD, &server, &format!("/ipfs/{id}?format=raw"), &[]).await;
    assert_eq!((head.status(), header(&head, "content-length")), (StatusCode::OK, "5"));
    for tag in [format!("\"{id}.raw\""), format!("\"other\", W/\"{id}.raw\""), "*".into()] {
        let unchanged = ask(&server, &format!("/ipfs/{id}?format=raw"), &[("if-none-match", &tag)]).await;
        assert_eq!(unchanged.status(), StatusCode::NOT_MODIFIED);
    }
    let other = ask(&server, &format!("/ipfs/{id}?format=raw"), &[("if-none-match", &format!("\"{id}.car\""))]).await;
    assert_eq!(other.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_not_asked_for_rightly_is_refused_with_the_right_status() {
    let store = MemoryStore::new();
    let id = store.put(b"flour").await.unwrap();
    let absent = raw(b"absent").0;
    let server = serve(store).await;
    let upper = id.to_string().to_uppercase();
    let cases = [
        (format!("/ipfs/{id}"), 406),
        (format!("/ipfs/{id}?format=dag-json"), 406),
        (format!("/ipfs/{absent}?format=raw"), 404),
        (format!("/ipfs/{absent}?format=car"), 404),
        (format!("/ipfs/{id}/below?format=raw"), 404),
        (format!("/ipfs/{id}?format=car&dag-scope=some"), 400),
        (format!("/ipfs/{id}?format=car&entity-bytes=0:3"), 501),
        (format!("/ipfs/{upper}?format=raw"), 400),
        ("/ipfs/QmaozNR7DZHQK1ZcU9p7QdrshMvXqWK6gpu5rmrkPdT3L4?format=raw".into(), 400),
        ("/ipfs/..%2f..%2f..%2fetc%2fpasswd?format=raw".into(), 400),
        ("/ipfs/%00?format=raw".into(), 400),
        (format!("/ipfs/{}?format=raw", "b".repeat(4000)), 400),
        ("/ipfs/?format=raw".into(), 404),
        ("/VERSION".into(), 404),
    ];
    for (path, status) in cases {
        let response = ask(&server, &path, &[]).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert!(response.headers().get("cache-control").is_none_or(|value| value == "no-store"), "{path}");
    }
    for (accept, status) in [
        ("text/html", 406),
        ("*/*", 406),
        ("application/vnd.ipld.raw;q=0", 406),
        ("application/vnd.ipld.car; version=2", 406),
        ("application/vnd.ipld.car;order=random", 406),
        ("text/html, application/vnd.ipld.raw;q=0.5", 200),
        ("Application/Vnd.Ipld.Car; version=1; order=dfs; dups=y", 200),
    ] {
        let response = ask(&server, &format!("/ipfs/{id}"), &[("accept", accept)]).await;
        assert_eq!(response.status().as_u16(), status, "{accept}");
    }
    let posted = ask_by(reqwest::Method::POST, &server, &format!("/ipfs/{id}?format=raw"), &[]).await;
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn no_path_leads_out_of_the_store() {
    let (_directory, store) = embedded().await;
    let server = serve(store).await;
    // Written by hand: a client would take the dots away.
    for path in ["/ipfs/../VERSION", "/ipfs/%2e%2e", "/ipfs/..", "/../../etc/passwd", "/ipfs/%2e%2e%2fVERSION", "//VERSION"] {
        let mut connection = TcpStream::connect(server.address.trim_start_matches("http://")).await.unwrap();
        let request = format!("GET {path}?format=raw HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 40") && !answer.contains("quern content store"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_car_holds_the_file_or_its_top_block() {
    let (_directory, store) = embedded().await;
    let content = Pattern::bytes(3 * MIB + 1);
    let id = store.put(&content).await.unwrap();
    let server = serve(store.clone()).await;
    for scope in ["", "&dag-scope=all", "&dag-scope=entity"] {
        let response = ask(&server, &format!("/ipfs/{id}?format=car{scope}"), &[]).await;
        assert_eq!(header(&response, "content-type"), "application/vnd.ipld.car; version=1; order=dfs; dups=n");
        let received = response.bytes().await.unwrap();
        let other = MemoryStore::new();
        assert_eq!(car::import(&other, &mut &*received, 8 * MIB).await.unwrap(), [id]);
        assert_eq!(other.get(id, u64::MAX).await.unwrap(), content);
    }
    let response = ask(&server, &format!("/ipfs/{id}?format=car&dag-scope=block"), &[]).await;
    assert_eq!(header(&response, "etag"), format!("\"{id}.block.car\""));
    let received = response.bytes().await.unwrap();
    let other = MemoryStore::new();
    car::import(&other, &mut &*received, 8 * MIB).await.unwrap();
    assert!(other.has_block(id).await.unwrap() && !other.has(id).await.unwrap());
    let head = ask_by(reqwest::Method::HEAD, &server, &format!("/ipfs/{id}?format=car"), &[]).await;
    assert_eq!((head.status(), head.bytes().await.unwrap().len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn a_car_with_a_missing_or_damaged_block_breaks_off() {
    let (_directory, store) = embedded().await;
    let content = Pattern::bytes(3 * MIB);
    let id = store.put(&content).await.unwrap();
    let last = quern_store::block_id(quern_store::ContentCodec::Raw, &content[2 * MIB as usize..]);
    let server = serve(store.clone()).await;
    let path = format!("/ipfs/{id}?format=car");
    fs::write(store.block_path(last), b"damaged").unwrap();
    assert!(ask(&server, &path, &[]).await.bytes().await.is_err());
    let damaged = ask(&server, &format!("/ipfs/{last}?format=raw"), &[]).await;
    assert_eq!(damaged.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let told = damaged.text().await.unwrap();
    assert!(!told.contains(store.directory().to_str().unwrap()), "no paths for strangers: {told}");
    fs::remove_file(store.block_path(last)).unwrap();
    assert!(ask(&server, &path, &[]).await.bytes().await.is_err());
}

async fn remote() -> (tempfile::TempDir, EmbeddedStore, ContentId, Vec<u8>) {
    let (directory, store) = embedded().await;
    let content = Pattern::bytes(2 * MIB + 3);
    let id = store.put(&content).await.unwrap();
    (directory, store, id, content)
}

#[tokio::test]
async fn a_file_is_fetched_past_gateways_that_lie_or_fail() {
    let (_directory, store, id, content) = remote().await;
    let good = serve(store).await;
    let empty = serve(MemoryStore::new()).await;
    let wrong_bytes = Server::start(Router::new().fallback(get(|| async { "something else" }))).await;
    let endless = Server::start(
        Router::new().fallback(get(|| async { Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0u8; 65_536]))) })),
    )
    .await;
    let broken = Server::start(Router::new().fallback(get(|| async { StatusCode::BAD_GATEWAY }))).await;
    let elsewhere = Server::start(Router::new().fallback(get(|| async { Redirect::temporary("http://127.0.0.1:1/") }))).await;
    // Says a length and breaks off before it.
    let short = Server::start(Router::new().fallback(get(|| async {
        let parts = stream::iter([Ok(vec![0u8; 10]), Err(std::io::Error::other("gone"))]);
        ([("content-length", "1000")], Body::from_stream(parts))
    })))
    .await;
    let bad = [&empty, &wrong_bytes, &endless, &broken, &elsewhere, &short];

    let error = from(&bad).get(id, u64::MAX).await.unwrap_err();
    let StoreError::Unavailable { id: named, ref attempts } = error else { panic!("{error}") };
    assert_eq!((named, attempts.len()), (id, bad.len()));
    let faults: Vec<_> = attempts.iter().map(|attempt| &attempt.fault).collect();
    assert_eq!(*faults[0], GatewayFault::Absent);
    assert!(matches!(faults[1], GatewayFault::Lied { len: 14, .. }));
    assert_eq!(*faults[2], GatewayFault::Endless(MAX_BLOCK_BYTES));
    assert_eq!(*faults[3], GatewayFault::Status(502));
    assert_eq!(*faults[4], GatewayFault::Status(307));
    assert!(matches!(faults[5], GatewayFault::Transport(_)));
    for (attempt, server) in attempts.iter().zip(bad) {
        assert!(attempt.gateway.starts_with(&server.address) && error.to_string().contains(&server.address));
    }
    assert!(!error.is_absent(), "a gateway that lies does not prove that the content is gone");

    let all: Vec<_> = bad.into_iter().chain([&good]).collect();
    assert_eq!(from(&all).get(id, u64::MAX).await.unwrap(), content);
}

#[tokio::test]
async fn a_gateway_that_hangs_costs_its_time_and_no_more() {
    let (_directory, store, id, content) = remote().await;
    let good = serve(store).await;
    let silent = Server::start(Router::new().fallback(get(std::future::pending::<StatusCode>))).await;
    // One byte now and then: each read succeeds, the block never comes.
    let trickle = Server::start(Router::new().fallback(get(|| async {
        let bytes = stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0u8]));
        Body::from_stream(bytes.then(|byte| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            byte
        }))
    })))
    .await;
    let config = |gateways: &[&Server]| GatewayConfig {
        gateways: gateways.iter().map(|server| server.address.clone()).collect(),
        block_timeout_ms: 300,
    };
    let hanging = GatewayStore::new(&config(&[&silent, &trickle])).unwrap();
    let error = hanging.get_block(id).await.unwrap_err();
    let StoreError::Unavailable { attempts, .. } = &error else { panic!("{error}") };
    assert!(attempts.iter().all(|attempt| attempt.fault == GatewayFault::Timeout(300)), "{error}");
    let fetched = GatewayStore::new(&config(&[&silent, &good])).unwrap().get(id, u64::MAX).await.unwrap();
    assert_eq!(fetched, content);
}

#[tokio::test]
async fn a_fetched_file_is_bounded_by_the_callers_limit() {
    let (_directory, store, id, content) = remote().await;
    let good = serve(store).await;
    let error = from(&[&good]).get(id, content.len() as u64 - 1).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_gateway_store_only_reads() {
    let store = from(&[]);
    let id = raw(b"x").0;
    assert!(matches!(store.put(b"x").await, Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.pin(id).await, Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.unpin(id).await, Err(StoreError::ReadOnly { .. })));
    assert!(store.get(id, 1).await.unwrap_err().to_string().contains("none is configured"));
    for address in ["ftp://a.example", "a.example", "", "http://a.example/?x=1", "http://a.example/#x"] {
        let config = GatewayConfig { gateways: vec![address.into()], block_timeout_ms: 1 };
        assert!(matches!(GatewayStore::new(&config), Err(StoreError::Address { .. })), "{address}");
    }
}

#[tokio::test]
async fn a_gateway_below_a_path_is_found() {
    let store = MemoryStore::new();
    let id = store.put(b"nested").await.unwrap();
    let server = Server::start(Router::new().nest("/at/a/path", gateway::router(Arc::new(store)))).await;
    for base in ["/at/a/path", "/at/a/path/"] {
        let config = GatewayConfig { gateways: vec![format!("{}{base}", server.address)], block_timeout_ms: 2000 };
        assert_eq!(GatewayStore::new(&config).unwrap().get(id, 6).await.unwrap(), b"nested");
    }
}

#[tokio::test]
async fn a_layered_store_keeps_what_it_fetches_and_mends_what_is_damaged() {
    let (_directory, theirs, id, content) = remote().await;
    let server = serve(theirs).await;
    let (_own_directory, own) = embedded().await;
    let layered = LayeredStore::new(Arc::new(own.clone()), Arc::new(from(&[&server])));
    assert!(!layered.has(id).await.unwrap(), "has asks the local store only");
    assert!(matches!(layered.pin(id).await, Err(StoreError::NotFound { .. })), "a pin fetches nothing");
    assert!(matches!(layered.fetch(id, 1000).await, Err(StoreError::TooLarge { .. })));
    assert!(own.used_bytes().await.unwrap() < 1000, "only the top node was fetched");
    assert_eq!(layered.fetch(id, 4 * MIB).await.unwrap(), content.len() as u64);
    layered.pin(id).await.unwrap();
    assert_eq!(own.get(id, u64::MAX).await.unwrap(), content);

    let leaf = quern_store::block_id(quern_store::ContentCodec::Raw, &content[..MIB as usize]);
    fs::write(own.block_path(leaf), b"damaged").unwrap();
    assert!(own.get(id, u64::MAX).await.is_err());
    assert_eq!(layered.get(id, u64::MAX).await.unwrap(), content);
    assert_eq!(own.get(id, u64::MAX).await.unwrap(), content);
    drop(server);
    assert_eq!(layered.get(id, u64::MAX).await.unwrap(), content);
    assert!(matches!(layered.get(raw(b"nowhere").0, 10).await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_foreign_tree_is_checked_while_it_is_fetched() {
    let theirs = MemoryStore::new();
    let leaf = theirs.put(b"0123456789").await.unwrap();
    let (top, bytes) = node(2, None, Some(4), &[(leaf, 4)]);
    theirs.put_block(top, bytes.into()).await.unwrap();
    let server = serve(theirs).await;
    let error = from(&[&server]).get(top, 100).await.unwrap_err();
    assert!(matches!(error, StoreError::BadDag { id, .. } if id == leaf), "{error}");
}
