//! The node lies to the auditor.

use quern_testkit::{Actor, Answer, RpcProxy};
use serde_json::{Value, json};

use crate::story::{LINES, Story};

/// Topic of the ledger's `Moved`, found in the log itself: the only event with nine data words.
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

/// Sequence number of a `Moved` log: its first indexed argument, or its first word of data.
fn entry(log: &Value) -> u64 {
    let data = log["data"].as_str().unwrap_or_default().trim_start_matches("0x");
    let first = |word: &str| u64::from_str_radix(word.get(48..64).unwrap_or_default(), 16).unwrap_or_default();
    let topic = log.pointer("/topics/1").and_then(Value::as_str).unwrap_or_default().trim_start_matches("0x");
    // An address or a hash in the topic is no small number.
    if topic.len() == 64 && topic[..48].bytes().all(|digit| digit == b'0') { first(topic) } else { first(data) }
}

/// The log with one more wei: the last digit of the amount, which is the only word of data between one wei and 2^128 that ends the longest.
fn with_larger_amount(log: &Value) -> Value {
    let mut lied = log.clone();
    let data = log["data"].as_str().unwrap_or_default().trim_start_matches("0x").to_owned();
    let words: Vec<&str> = (0..data.len() / 64).map(|at| &data[at * 64..(at + 1) * 64]).collect();
    let amount = words.iter().position(|word| word[..32].bytes().all(|digit| digit == b'0') && word[32..48].bytes().any(|digit| digit != b'0'));
    let at = amount.map_or(0, |at| at * 64 + 63);
    let digit = if data.as_bytes().get(at) == Some(&b'1') { "2" } else { "1" };
    lied["data"] = json!(format!("0x{}{digit}{}", &data[..at], &data[at + 1..]));
    lied
}
