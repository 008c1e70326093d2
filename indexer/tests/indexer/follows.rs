//! Following the chain: reorganisations, restarts, a node that is down.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use quern_chain::{Cursor, EventStream, LogFilter, RetryPolicy, Start, StreamConfig};
use quern_db::{Index, index::MoveFilter};
use quern_indexer::{Error, IndexerConfig, State, api, follow};
use quern_telemetry::Metrics;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{api::config, node::Node, story::binding};

/// Longest wait for anything here; only a defect reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

struct Following {
    index: Arc<Index>,
    state: Arc<State>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Following {
    async fn start(node: &Node, folder: &Path) -> Self {
        let index = Arc::new(Index::open(&config(folder).database, &binding()).await.expect("opens"));
        let position = index.position().await.expect("reads");
        let start = Start { first_block: 10, cursor: position.cursor.map(Cursor::from), history: position.history };
        let quick = RetryPolicy { first: Duration::from_millis(1), longest: Duration::from_millis(5), ..RetryPolicy::default() };
        let stream_config = StreamConfig { poll: Duration::from_millis(2), patience: 2, retry: quick, ..StreamConfig::default() };
        let stream = EventStream::over(node.clone(), LogFilter::new([binding().ledger]), start, stream_config).expect("a stream");
        let (state, shutdown) = (Arc::new(State::default()), CancellationToken::new());
        let task = tokio::spawn(follow(Arc::clone(&index), stream, Arc::clone(&state), shutdown.clone()));
        Self { index, state, shutdown, task }
    }

    /// Waits until the index stands on the node's newest block, and compares ledger and moves with the chain's.
    async fn caught_up(&self, node: &Node) {
        let tip = node.tip();
        let mut cursor = self.state.cursor();
        let reached = cursor.wait_for(|cursor| cursor.is_some_and(|block| block == tip));
        tokio::time::timeout(PATIENCE, reached).await.expect("the index reaches the newest block").expect("the state lives");
        let ledger = node.ledger();
        let mut snapshot = self.index.snapshot().await.expect("reads");
        let stored = snapshot.ledger().await.expect("reads").map_or((0, quern_types::B256::ZERO), |ledger| (ledger.seq, ledger.head));
        assert_eq!(stored, (ledger.seq, ledger.hash));
        let moves = snapshot.moves(&MoveFilter::default(), 0, 10_000).await.expect("reads");
        assert_eq!(moves.iter().map(|row| row.entry.seq).collect::<Vec<_>>(), (1..=ledger.seq).collect::<Vec<_>>());
        assert_eq!(snapshot.alarms(10).await.expect("reads"), (0, vec![]));
        drop(snapshot);
        assert_eq!(self.index.audit().await.expect("reads").differences, [""; 0]);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("stops").expect("does not panic").expect("ends well");
    }
}

#[tokio::test]
async fn reorganisation_replaces_moves_and_balances() {
    let (node, folder) = (Node::new(), tempfile::tempdir().expect("a folder"));
    (0..20).for_each(|_| node.mine(0, 3));
    let following = Following::start(&node, folder.path()).await;
    following.caught_up(&node).await;
    for (depth, salt) in [(1, 1), (7, 2), (12, 3)] {
        node.take_back(depth);
        (0..=depth).for_each(|_| node.mine(salt, 2));
        following.caught_up(&node).await;
    }
    following.stop().await;
}

#[tokio::test]
async fn restart_goes_on_where_it_was_even_if_the_chain_moved_meanwhile() {
    let (node, folder) = (Node::new(), tempfile::tempdir().expect("a folder"));
    (0..15).for_each(|_| node.mine(0, 2));
    node.finalize(14);
    for salt in 1..6 {
        let following = Following::start(&node, folder.path()).await;
        following.caught_up(&node).await;
        following.stop().await;
        node.take_back(4);
        (0..6).for_each(|_| node.mine(salt, 1));
    }
    let following = Following::start(&node, folder.path()).await;
    following.caught_up(&node).await;
    following.stop().await;
}

#[tokio::test]
async fn node_that_is_down_leaves_answers_and_takes_health() {
    let (node, folder) = (Node::new(), tempfile::tempdir().expect("a folder"));
    (0..5).for_each(|_| node.mine(0, 2));
    let following = Following::start(&node, folder.path()).await;
    following.caught_up(&node).await;
    let (_, metrics) = Metrics::recorder().expect("bounds are valid");
    let config = IndexerConfig { max_silence: Duration::from_millis(300), ..config(folder.path()) };
    let api = api::Api::new(Arc::clone(&following.index), Arc::clone(&following.state), metrics, &config);
    let router = api::router(api);
    let ask = async |path: &str| {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("infallible");
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    let until = async |wanted: &str| {
        let reached = async {
            while ask("/health").await.1["status"] != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("health never says {wanted}"));
    };
    until("ok").await;

    node.set_down(true);
    until("lagging").await;
    let (status, health) = ask("/health").await;
    assert_eq!((status, health["chain"]["answering"].as_bool()), (StatusCode::SERVICE_UNAVAILABLE, Some(false)));
    let (status, moves) = ask("/v1/ledger/moves").await;
    assert_eq!((status, moves["data"].as_array().map(Vec::len)), (StatusCode::OK, Some(10)));

    (0..3).for_each(|_| node.mine(0, 1));
    node.set_down(false);
    following.caught_up(&node).await;
    until("ok").await;
    following.stop().await;
}

#[tokio::test]
async fn reorganisation_below_the_finalized_block_stops_the_indexer_with_a_reason() {
    let (node, folder) = (Node::new(), tempfile::tempdir().expect("a folder"));
    (0..15).for_each(|_| node.mine(0, 1));
    node.finalize(20);
    let following = Following::start(&node, folder.path()).await;
    following.caught_up(&node).await;
    node.take_back(8);
    (0..10).for_each(|_| node.mine(1, 1));
    let ended = tokio::time::timeout(PATIENCE, following.task).await.expect("ends").expect("does not panic");
    let error = ended.expect_err("it must not go on");
    assert!(error.to_string().contains("finalized"), "{error}");
    // What was indexed stays readable.
    assert_eq!(following.index.audit().await.expect("reads").differences, [""; 0]);
}
