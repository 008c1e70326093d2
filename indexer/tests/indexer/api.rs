//! Every answer on fixed data, and every refusal.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use quern_db::{
    Index,
    index::{Batch, Change},
};
use quern_indexer::{
    IndexerConfig, State,
    api::{Api, openapi, router},
};
use quern_telemetry::Metrics;
use quern_types::B256;
use serde_json::Value;
use tower::ServiceExt;

use crate::story::{CLIENT, JOB, MODEL, PROVIDER, Teller, binding, story};

pub(crate) fn config(folder: &Path) -> IndexerConfig {
    IndexerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        database: folder.join("index.db"),
        poll: Duration::from_millis(10),
        max_lag_blocks: 30,
        max_silence: Duration::from_secs(60),
        audit_every: Duration::from_secs(600),
    }
}

struct Asked {
    router: Router,
    _folder: tempfile::TempDir,
}

async fn serving(batches: &[Batch]) -> Asked {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let config = config(folder.path());
    let index = Index::open(&config.database, &binding()).await.expect("opens");
    for batch in batches {
        index.apply(batch).await.expect("applies");
    }
    let (_, metrics) = Metrics::recorder().expect("bounds are valid");
    let api = Api::new(Arc::new(index), Arc::new(State::default()), metrics, &config);
    Asked { router: router(api), _folder: folder }
}

impl Asked {
    async fn ask(&self, method: Method, path: &str) -> (StatusCode, String, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("the service is infallible");
        let status = response.status();
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().expect("ASCII").to_owned()).unwrap_or_default();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, kind, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, kind, body) = self.ask(Method::GET, path).await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"), "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    async fn refused(&self, path: &str, status: StatusCode, code: &str) -> Value {
        let (found, kind, body) = self.ask(Method::GET, path).await;
        assert_eq!((found, kind.as_str()), (status, "application/problem+json"), "{path}: {body}");
        let problem: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(problem["code"], code, "{path}: {body}");
        assert!(problem["action"].as_str().is_some_and(|action| !action.is_empty()), "{path}: no action in {body}");
        problem
    }
}

#[tokio::test]
async fn answers_on_fixed_data() {
    let asked = serving(&[story()]).await;
    for (name, path) in [
        ("status", "/v1/status".to_owned()),
        ("jobs", "/v1/jobs".to_owned()),
        ("job", format!("/v1/jobs/{JOB}")),
        ("providers", "/v1/providers".to_owned()),
        ("provider", format!("/v1/providers/{PROVIDER:?}")),
        ("models", "/v1/models".to_owned()),
        ("model", format!("/v1/models/{MODEL}")),
        ("moves_of_job", format!("/v1/ledger/moves?job={JOB}")),
        ("balances", "/v1/ledger/balances".to_owned()),
        ("balances_of_client", format!("/v1/ledger/balances/{CLIENT:?}")),
    ] {
        insta::assert_json_snapshot!(name, asked.get(&path).await);
    }
}

#[tokio::test]
async fn filters_choose_and_pages_continue() {
    let asked = serving(&[story()]).await;
    let ids = |answer: &Value| answer["data"].as_array().expect("rows").iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    let all = ids(&asked.get("/v1/jobs").await);
    assert_eq!(all.len(), 2);
    for (query, count) in [
        ("state=completed".to_owned(), 1),
        ("state=open".to_owned(), 1),
        ("state=slashed".to_owned(), 0),
        (format!("client={CLIENT:?}"), 2),
        (format!("provider={PROVIDER:?}"), 1),
        (format!("model={MODEL}&state=open"), 1),
        (format!("model={}", B256::ZERO), 0),
    ] {
        // `B256` shortens its own Display.
        let query = query.replace(&B256::ZERO.to_string(), &format!("{:?}", B256::ZERO));
        assert_eq!(ids(&asked.get(&format!("/v1/jobs?{query}")).await).len(), count, "{query}");
    }
    let first = asked.get("/v1/jobs?limit=1").await;
    let next = first["next"].as_str().expect("there is more");
    let second = asked.get(&format!("/v1/jobs?limit=1&before={next}")).await;
    assert_eq!([ids(&first), ids(&second)].concat(), all);
    assert_eq!(second["next"], Value::Null);

    let mut seqs = Vec::new();
    let mut path = "/v1/ledger/moves?limit=3".to_owned();
    loop {
        let page = asked.get(&path).await;
        seqs.extend(page["data"].as_array().expect("rows").iter().map(|row| row["seq"].as_u64().expect("a number")));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/ledger/moves?limit=3&after={next}");
    }
    assert_eq!(seqs, (1..=10).collect::<Vec<_>>());
    let of_provider = asked.get(&format!("/v1/ledger/moves?account={PROVIDER:?}")).await;
    assert_eq!(of_provider["data"].as_array().expect("rows").len(), 5);

    let of_both = asked.get(&format!("/v1/ledger/moves?account={PROVIDER:?}&job={JOB}&limit=2")).await;
    assert_eq!(of_both["data"].as_array().expect("rows").len(), 2);
    let next = of_both["next"].as_str().expect("there is more");
    let rest = asked.get(&format!("/v1/ledger/moves?account={PROVIDER:?}&job={JOB}&after={next}")).await;
    assert_eq!(rest["data"].as_array().expect("rows").len(), 1);

    let mut accounts = Vec::new();
    let mut path = "/v1/ledger/balances?limit=1".to_owned();
    loop {
        let page = asked.get(&path).await;
        accounts.extend(page["data"].as_array().expect("rows").iter().map(|row| row["account"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/ledger/balances?limit=1&after={next}");
    }
    assert_eq!(accounts.len(), 3);
    assert_eq!(asked.get(&format!("/v1/ledger/balances/{:?}", quern_types::Address::ZERO)).await["data"]["buckets"], serde_json::json!({}));
}

#[tokio::test]
async fn malformed_and_unknown_things_are_refused_by_name() {
    let asked = serving(&[story()]).await;
    let bad = StatusCode::BAD_REQUEST;
    let unknown = format!("{:?}", B256::ZERO);
    for path in [
        "/v1/jobs/0x12",
        "/v1/jobs/%00",
        "/v1/jobs/%ff",
        "/v1/jobs/' OR 1=1 --".replace(' ', "%20").as_str(),
        "/v1/models/latest",
        "/v1/providers/0xf0",
        "/v1/ledger/balances/me",
        "/v1/jobs?state=done",
        "/v1/jobs?state=Open%20",
        "/v1/jobs?client=0x1",
        "/v1/jobs?limit=0",
        "/v1/jobs?limit=201",
        "/v1/jobs?limit=-1",
        "/v1/jobs?before=5",
        "/v1/jobs?before=99999999999999999999-1",
        "/v1/models?before=x",
        "/v1/providers?after=1",
        "/v1/ledger/moves?after=99999999999999999999",
        "/v1/ledger/moves?job=0",
        "/v1/ledger/balances?after=0x",
    ] {
        asked.refused(path, bad, "bad_parameter").await;
    }
    for path in ["/v1/jobs?status=open", "/v1/jobs?state=open&state=claimed", "/v1/ledger/moves?before=1", "/v1/models?limit=1&x=1"] {
        asked.refused(path, bad, "unknown_parameter").await;
    }
    asked.refused(&format!("/v1/jobs/{unknown}"), StatusCode::NOT_FOUND, "not_found").await;
    asked.refused(&format!("/v1/models/{unknown}"), StatusCode::NOT_FOUND, "not_found").await;
    asked.refused(&format!("/v1/providers/{CLIENT:?}"), StatusCode::NOT_FOUND, "not_found").await;
    asked.refused("/v2/jobs", StatusCode::NOT_FOUND, "no_such_route").await;
    let (status, kind, _) = asked.ask(Method::POST, "/v1/jobs").await;
    assert_eq!((status, kind.as_str()), (StatusCode::METHOD_NOT_ALLOWED, "application/problem+json"));
}

#[tokio::test]
async fn index_without_a_block_says_that_it_has_not_started() {
    let asked = serving(&[]).await;
    for path in ["/v1/status", "/v1/jobs", "/v1/ledger/moves"] {
        asked.refused(path, StatusCode::SERVICE_UNAVAILABLE, "not_started").await;
    }
    let (status, _, body) = asked.ask(Method::GET, "/health").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("\"status\":\"starting\"") && body.contains("\"head\":null"), "{body}");
    assert_eq!(asked.ask(Method::GET, "/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn rows_stand_under_the_head_of_their_block() {
    let asked = serving(&[story()]).await;
    let job = asked.get(&format!("/v1/jobs/{JOB}")).await;
    let heads: Vec<&str> = job["data"]["history"].as_array().expect("rows").iter().map(|row| row["head"].as_str().expect("text")).collect();
    // Posted in block 12, claimed in 13, submitted in 14, completed in 15; finalized is 12, safe 14.
    assert_eq!(heads, ["finalized", "safe", "safe", "latest"]);
    assert_eq!(job["head"]["finalized"]["number"], 12);
    assert_eq!(job["head"]["indexed"]["number"], 17);
    assert_eq!(job["data"]["receipt"]["energyMillijoules"], 12_345);
    // Nobody follows the chain here, so it is not well, and says so under the same heads.
    let (status, _, body) = asked.ask(Method::GET, "/health").await;
    let health: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &health["status"], &health["head"]), (StatusCode::SERVICE_UNAVAILABLE, &"lagging".into(), &job["head"]));
}

#[tokio::test]
async fn broken_money_rule_is_an_alarm_in_health_and_status_and_stops_no_answer() {
    let mut batch = story();
    for event in &mut batch.events {
        if let Change::Moved { entry, head } = &mut event.change
            && entry.seq == 4
        {
            *head = B256::ZERO;
        }
    }
    let asked = serving(&[batch]).await;
    let (status, _, body) = asked.ask(Method::GET, "/health").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let health: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(health["status"], "alarm");
    assert_eq!(health["alarms"]["first"][0]["kind"], "ledger_head");
    assert!(health["alarms"]["first"][0]["detail"].as_str().is_some_and(|detail| detail.contains("entry 4")), "{body}");
    // The lie and the honest entry after it, which no longer follows.
    assert_eq!(asked.get("/v1/status").await["data"]["alarms"], 2);
    asked.get(&format!("/v1/jobs/{JOB}")).await;
}

#[tokio::test]
async fn completions_skipped_by_a_spammer_do_not_hide_a_jobs_history() {
    let mut batch = story();
    let place = batch.events.last().expect("there are events").place;
    for spam in 1..2_000 {
        let place = quern_db::index::Place { log_index: place.log_index + spam, ..place };
        let change = Change::CompletionSkipped { job: JOB, reason: "JobNotInState".into() };
        batch.events.push(quern_db::index::Event { place, contract: PROVIDER, change });
    }
    let asked = serving(&[batch]).await;
    let job = asked.get(&format!("/v1/jobs/{JOB}")).await;
    let history = job["data"]["history"].as_array().expect("rows");
    assert_eq!(history.len(), 4 + 5);
    assert_eq!(history.iter().filter(|row| row["state"] == "completed").count(), 1);
}

#[tokio::test]
async fn text_of_strangers_is_passed_on_as_json() {
    let mut teller = Teller::new();
    let gateway = "\"</script>\u{202e}\u{fffd}' DROP TABLE job; --".to_owned();
    teller.tell(vec![Change::ProviderAnnounced { provider: PROVIDER, gateway: gateway.clone() }]);
    let asked = serving(&[teller.told()]).await;
    assert_eq!(asked.get("/v1/providers").await["data"][0]["gateway"], gateway);
}

#[tokio::test]
async fn metrics_are_served_as_text() {
    let asked = serving(&[]).await;
    let (status, kind, _) = asked.ask(Method::GET, "/metrics").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "text/plain; version=0.0.4"));
}

#[test]
fn openapi_document_is_the_committed_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let document = openapi().expect("a document");
    if std::env::var_os("QUERN_REGENERATE").is_some() {
        std::fs::write(&path, &document).expect("writes");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == document,
        "docs/openapi.json is not the document of this version: run QUERN_REGENERATE=1 cargo test --release -p quern-indexer openapi, and commit it"
    );
}
