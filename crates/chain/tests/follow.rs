//! The event stream on a real node: reorganisations, a restart, cut connections, wake-ups, the wrong chain.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod node;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::primitives::B256;
use quern_bindings::QuernEvent;
use quern_chain::{
    BlockSource, Client, Cursor, Error, Event, EventStream, LogFilter, NewHeads, RetryPolicy, Severity, Start, Step, StreamConfig,
    keys::Key,
    sender::{MemoryJournal, SenderConfig, TxSender},
};
use quern_testkit::{Devnet, eventually};
use quern_types::{BlockRef, Head, Heads};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use node::{ECHO, log, mine, reorg, soon};

fn config() -> StreamConfig {
    StreamConfig {
        poll: Duration::from_millis(20),
        tip_blocks: 4,
        retry: RetryPolicy { attempts: 1, first: Duration::from_millis(10), longest: Duration::from_millis(100) },
        ..StreamConfig::default()
    }
}

/// A consumer that folds the stream until it is dropped.
#[derive(Default)]
struct Folded {
    blocks: Vec<BlockRef>,
    events: Vec<Event>,
    heads: Option<Heads>,
    unwinds: usize,
}

impl Folded {
    fn apply(&mut self, step: Step<Event>) {
        match step {
            Step::Batch(batch) => {
                for block in &batch.blocks {
                    assert!(self.blocks.last().is_none_or(|last| last.number + 1 == block.at.number && last.hash == block.parent), "a gap");
                    self.blocks.push(block.at);
                }
                self.events.extend(batch.events);
                self.heads = Some(batch.heads);
            }
            Step::Unwind(unwind) => {
                self.blocks.retain(|block| block.number <= unwind.to.number);
                self.events.retain(|event| event.block.number <= unwind.to.number);
                self.heads = Some(unwind.heads);
                self.unwinds += 1;
            }
        }
    }

    fn tip(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.number)
    }

    /// What the node itself says now: every block, and the topics of our logs.
    async fn assert_canonical(&self, client: &Client) {
        let heads = client.heads().await.unwrap();
        let headers = client.headers(1..=heads.latest.number).await.unwrap();
        assert_eq!(self.blocks, headers.iter().map(|header| header.at).collect::<Vec<_>>());
        let logs = client.logs_in_range(&LogFilter::new([ECHO]), 1..=heads.latest.number).await.unwrap();
        let said: Vec<(B256, u64, B256)> = logs.iter().map(|log| (log.block_hash, log.log_index, log.data.topics()[0])).collect();
        let ours: Vec<(B256, u64, B256)> = self.events.iter().map(|event| (event.block.hash, event.log_index, topic(event))).collect();
        assert_eq!(ours, said);
    }
}

fn topic(event: &Event) -> B256 {
    match event.event {
        QuernEvent::Unknown { topic: Some(topic) } => topic,
        ref other => panic!("the test contract emits nothing of ours: {other:?}"),
    }
}

fn stream(client: &Client) -> EventStream<Client> {
    EventStream::over(client.clone(), LogFilter::new([ECHO]), Start::at_block(1), config()).unwrap()
}

async fn until(stream: &mut EventStream<Client>, folded: &mut Folded, tip: B256) {
    while folded.blocks.last().is_none_or(|block| block.hash != tip) {
        let step = soon(stream.next()).await.unwrap();
        folded.apply(step);
    }
}

async fn latest(client: &Client) -> B256 {
    client.heads().await.unwrap().latest.hash
}

fn sender(client: &Client, key: Key) -> TxSender {
    let config = SenderConfig { poll: Duration::from_millis(20), ..SenderConfig::default() };
    TxSender::new(client.clone(), key, Arc::new(MemoryJournal::new()), config)
}

#[test]
fn stream_follows_a_node_through_backfill_reorganisations_and_a_shorter_chain() {
    let Some(devnet) = node::start() else { return };
    let client = node::client(devnet.url());
    node::runtime().block_on(soon(async {
        let sender = sender(&client, node::key(&devnet, 0));
        for number in 0..5 {
            sender.send(&number.to_string(), &log(number), Head::Latest).await.unwrap();
            mine(&client, 7).await;
        }
        let (mut stream, mut folded) = (stream(&client), Folded::default());
        until(&mut stream, &mut folded, latest(&client).await).await;
        folded.assert_canonical(&client).await;
        assert_eq!(folded.events.len(), 5);
        // Receipts, the witness for an answer that is suspiciously empty, say the same as the logs, and the header's bloom filter vouches for them.
        for event in &folded.events {
            let logs = client.all_logs_of_block(event.block.hash).await.unwrap().unwrap();
            let mut bloom = alloy::primitives::Bloom::ZERO;
            logs.iter().for_each(|log| bloom.accrue_raw_log(log.address, log.data.topics()));
            assert_eq!(client.block_by_hash(event.block.hash).await.unwrap().unwrap().bloom, bloom);
            assert!(logs.iter().any(|log| log.log_index == event.log_index && log.data.topics()[0] == topic(event)));
        }
        assert_eq!(client.all_logs_of_block(B256::repeat_byte(9)).await.unwrap_or_default(), None);
        let heads = folded.heads.unwrap();
        assert!(heads.finalized.number < heads.safe.number && heads.safe.number < heads.latest.number, "{heads:?}");

        // Two blocks with events, one of them taken back.
        for number in 5..7 {
            sender.send(&number.to_string(), &log(number), Head::Latest).await.unwrap();
        }
        until(&mut stream, &mut folded, latest(&client).await).await;
        reorg(&client, 1).await;
        until(&mut stream, &mut folded, latest(&client).await).await;
        folded.assert_canonical(&client).await;
        assert_eq!((folded.events.len(), folded.unwinds), (6, 1));

        // A chain that is shorter for good, then grows on.
        node::rpc(&client, "anvil_rollback", json!([2])).await;
        let mut impatient = EventStream::over(
            client.clone(),
            LogFilter::new([ECHO]),
            Start { first_block: 1, cursor: folded.blocks.last().copied().map(Cursor::from), history: folded.blocks.clone() },
            StreamConfig { patience: 2, ..config() },
        )
        .unwrap();
        until(&mut impatient, &mut folded, latest(&client).await).await;
        mine(&client, 3).await;
        until(&mut impatient, &mut folded, latest(&client).await).await;
        folded.assert_canonical(&client).await;
    }));
}

#[test]
fn stream_goes_on_from_a_cursor_and_unwinds_one_that_is_gone() {
    let Some(devnet) = node::start() else { return };
    let client = node::client(devnet.url());
    node::runtime().block_on(soon(async {
        mine(&client, 20).await;
        let (mut first, mut folded) = (stream(&client), Folded::default());
        until(&mut first, &mut folded, latest(&client).await).await;
        drop(first);
        reorg(&client, 3).await;
        let cursor = Cursor::from(*folded.blocks.last().unwrap());
        // With history: exactly to the fork.
        let start = Start { first_block: 1, cursor: Some(cursor), history: folded.blocks[8..].to_vec() };
        let mut stream = EventStream::over(client.clone(), LogFilter::new([ECHO]), start, config()).unwrap();
        let step = stream.next().await.unwrap();
        assert!(matches!(&step, Step::Unwind(unwind) if unwind.to.number == 17), "{step:?}");
        // Without: to what is finalized.
        let mut stream = EventStream::over(client.clone(), LogFilter::new([ECHO]), Start::after(1, cursor), config()).unwrap();
        let step = stream.next().await.unwrap();
        assert!(matches!(&step, Step::Unwind(unwind) if unwind.to.number == 16), "{step:?}");
        folded.apply(step);
        until(&mut stream, &mut folded, latest(&client).await).await;
        folded.assert_canonical(&client).await;
    }));
}

/// Runs a stream in the background, its result in `folded`.
fn follow(runtime: &tokio::runtime::Runtime, client: Client, wake: bool, config: StreamConfig) -> Arc<Mutex<Folded>> {
    let folded = Arc::new(Mutex::new(Folded::default()));
    let shared = folded.clone();
    runtime.spawn(async move {
        let new_heads = if wake { NewHeads::subscribe(&client) } else { None };
        let mut stream = EventStream::over(client, LogFilter::new([ECHO]), Start::at_block(1), config).unwrap().wake_on(new_heads);
        loop {
            let step = stream.next().await.unwrap();
            shared.lock().unwrap().apply(step);
        }
    });
    folded
}

fn caught_up(folded: &Mutex<Folded>, tip: u64) {
    eventually(&format!("the stream to reach block {tip}"), Duration::from_secs(60), || {
        Ok((folded.lock().unwrap().tip() == tip).then_some(()))
    })
    .unwrap();
}

#[test]
fn stream_survives_a_restart_of_the_node() {
    let Some(mut devnet) = node::start() else { return };
    let runtime = node::runtime();
    let folded = follow(&runtime, node::client(devnet.url()), false, config());
    devnet.mine(5).unwrap();
    caught_up(&folded, 5);
    devnet.stop().unwrap();
    devnet.restart().unwrap();
    devnet.mine(4).unwrap();
    caught_up(&folded, 9);
    let client = node::client(devnet.url());
    let folded = folded.lock().unwrap();
    runtime.block_on(folded.assert_canonical(&client));
    assert_eq!(folded.unwinds, 0);
}

/// A TCP proxy whose connections can be cut.
struct Wire {
    port: u16,
    /// Connections made before the current number are dead; an odd number means that none can be made.
    era: watch::Sender<u64>,
    connections: Arc<std::sync::atomic::AtomicU64>,
}

impl Wire {
    fn lay(runtime: &tokio::runtime::Runtime, devnet: &Devnet) -> Self {
        let upstream = devnet.url().trim_start_matches("http://").to_owned();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (era, watching) = watch::channel(0);
        let connections = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let count = connections.clone();
        runtime.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut watching, upstream) = (watching.clone(), upstream.clone());
                let born = *watching.borrow();
                if born % 2 == 1 {
                    continue;
                }
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(upstream).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = watching.wait_for(|era| *era != born) => {}
                    }
                });
            }
        });
        Self { port, era, connections }
    }

    fn cut(&self) {
        self.era.send_modify(|era| *era += 1);
    }

    fn connections(&self) -> u64 {
        self.connections.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[test]
fn stream_survives_cut_connections_over_http_and_websocket() {
    for scheme in ["http", "ws"] {
        let Some(devnet) = node::start() else { return };
        let runtime = node::runtime();
        let wire = Wire::lay(&runtime, &devnet);
        let folded = follow(&runtime, node::client(format!("{scheme}://127.0.0.1:{}", wire.port)), true, config());
        devnet.mine(5).unwrap();
        caught_up(&folded, 5);
        for round in 1..4 {
            let before = wire.connections();
            wire.cut();
            devnet.mine(3).unwrap();
            wire.cut();
            caught_up(&folded, 5 + 3 * round);
            assert!(wire.connections() > before, "{scheme}: the connection was not cut");
        }
        let client = node::client(devnet.url());
        runtime.block_on(folded.lock().unwrap().assert_canonical(&client));
    }
}

#[test]
fn announced_block_is_read_at_once_not_at_the_next_poll() {
    let Some(devnet) = node::start() else { return };
    let runtime = node::runtime();
    let never = StreamConfig { poll: Duration::from_secs(3_600), ..config() };
    let folded = follow(&runtime, node::client(devnet.url().replace("http", "ws")), true, never);
    // Which block finds the subscription in place is open; that one does is not.
    eventually("a block to be announced", Duration::from_secs(60), || {
        devnet.mine(1)?;
        Ok((folded.lock().unwrap().tip() > 2).then_some(()))
    })
    .unwrap();
}

#[test]
fn second_endpoint_is_asked_where_the_first_is_down() {
    let Some(devnet) = node::start() else { return };
    // A port where nobody listens: bound once, then free.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = node::config(format!("http://{closed}"));
    config.endpoints.push(devnet.url());
    node::runtime().block_on(soon(async {
        let client = Client::connect(config).await.unwrap();
        assert_eq!(client.heads().await.unwrap().latest.number, 0);
    }));
}

#[test]
fn wrong_chain_and_unusable_endpoints_are_named() {
    let Some(devnet) = node::start() else { return };
    node::runtime().block_on(soon(async {
        let mut config = node::config(devnet.url());
        config.chain_id = 10;
        let error = Client::connect(config).await.unwrap_err();
        assert!(matches!(error, Error::WrongChain { expected: 10, actual: 901, .. }) && error.severity() == Severity::Fatal, "{error}");
    }));
    for (url, word) in [("localhost:8545", "not supported"), ("ftp://x", "not supported"), ("", "not a URL"), ("http://", "not a URL")] {
        let error = Client::new(node::config(url)).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(word), "{url}: {error}");
    }
    // A key in the path never shows.
    let client = node::client("http://user:secret1@127.0.0.1:1/v3/secret2?key=secret3");
    node::runtime().block_on(async {
        let error = client.heads().await.unwrap_err();
        assert!(!format!("{client:?} {error} {error:?} {}", error.chain()).contains("secret"), "{error:?}");
    });
}
