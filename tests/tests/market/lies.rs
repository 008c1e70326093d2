//! The node lies to the auditor.

use quern_testkit::{Actor, Answer, RpcProxy};
use serde_json::{Value, json};

use crate::story::{LINES, Story};

/// Whether a log is the Ledger's: it emits nothing but `Moved`.
fn is_move(log: &Value, ledger: &str) -> bool {
    log["address"].as_str().is_some_and(|address| address.eq_ignore_ascii_case(ledger))
}

fn ledger(story: &Story) -> String {
    let deployment: Value = serde_json::from_slice(&std::fs::read(story.market.devnet.deployment()).unwrap()).unwrap();
    deployment.pointer("/contracts/Ledger/address").unwrap().as_str().unwrap().to_owned()
}

/// Runs the audit against a lying node: exit code 3 and the first entry that differs.
fn caught(auditor: &Actor) -> Value {
    let output = auditor.command(&["audit", "ledger", "--head", "latest", "--json"]).unwrap().output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["ok"], false);
    verdict["difference"].clone()
}

#[test]
fn lying_node_is_caught_at_the_first_entry_that_differs() {
    let story = Story::begin().unwrap();
    let _worker = story.worker(&[]).unwrap();
    story.embed(LINES, &[]).unwrap();
    let id = story.only_job().unwrap();
    story.wait_for_state(&id, "completed", 10).unwrap();
    story.audit().unwrap();

    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    let auditor = story.client.asking(&proxy.url());
    let ledger = ledger(&story);

    // The amount of the third entry is one wei larger.
    let address = ledger.clone();
    proxy.set_rule(move |method, _, honest| {
        let Some(logs) = honest.as_array().filter(|_| method == "eth_getLogs") else { return Answer::Honest };
        let lied = logs.iter().map(|log| if is_move(log, &address) && entry(log) == 3 { with_larger_amount(log) } else { log.clone() });
        Answer::Result(lied.collect())
    });
    assert_eq!(caught(&auditor)["seq"], 3);

    // The fourth entry is missing.
    let address = ledger.clone();
    proxy.set_rule(move |method, _, honest| {
        let Some(logs) = honest.as_array().filter(|_| method == "eth_getLogs") else { return Answer::Honest };
        Answer::Result(logs.iter().filter(|log| !(is_move(log, &address) && entry(log) == 4)).cloned().collect())
    });
    assert_eq!(caught(&auditor)["seq"], 4);

    // A storage slot is not what the proof says.
    proxy.set_rule(|method, _, honest| {
        if method != "eth_getProof" {
            return Answer::Honest;
        }
        let mut lied = honest.clone();
        if let Some(slot) = lied.pointer_mut("/storageProof/0/value") {
            *slot = json!("0x1234");
        }
        Answer::Result(lied)
    });
    caught(&auditor);

    // The header is not the one that the hash names.
    proxy.set_rule(|method, _, honest| {
        if method != "eth_getBlockByNumber" && method != "eth_getBlockByHash" || honest.is_null() {
            return Answer::Honest;
        }
        let mut lied = honest.clone();
        lied["stateRoot"] = json!(format!("0x{}", "11".repeat(32)));
        Answer::Result(lied)
    });
    let output = auditor.command(&["audit", "ledger", "--head", "latest", "--json"]).unwrap().output().unwrap();
    assert!(!output.status.success(), "a header that does not hash to its hash was believed");

    proxy.be_honest();
    assert_eq!(auditor.quern_one(&["audit", "ledger", "--head", "latest"]).unwrap()["ok"], true);
    story.audit().unwrap();
}

/// Word `at` of a log's data. `Moved` holds seq, from bucket, to bucket, amount, reason, head there.
fn word(log: &Value, at: usize) -> String {
    log["data"].as_str().unwrap_or_default().trim_start_matches("0x").get(at * 64..(at + 1) * 64).unwrap_or_default().to_owned()
}

/// Sequence number of a `Moved` log.
fn entry(log: &Value) -> u64 {
    u64::from_str_radix(&word(log, 0), 16).unwrap_or_default()
}

/// The log with one wei more.
fn with_larger_amount(log: &Value) -> Value {
    let amount = u128::from_str_radix(&word(log, 3), 16).unwrap_or_default() + 1;
    let words: Vec<String> = (0..6).map(|at| if at == 3 { format!("{amount:064x}") } else { word(log, at) }).collect();
    let mut lied = log.clone();
    lied["data"] = json!(format!("0x{}", words.concat()));
    lied
}
