//! Lies about jobs: a receipt that a node makes up, a text that is none.

use quern_testkit::{Answer, RpcProxy};
use serde_json::{Value, json};

use crate::story::{LINES, Story};

fn contract(story: &Story, name: &str) -> String {
    let deployment: Value = serde_json::from_slice(&std::fs::read(story.market.devnet.deployment()).unwrap()).unwrap();
    deployment.pointer(&format!("/contracts/{name}/address")).unwrap().as_str().unwrap().to_owned()
}

/// Word `at` of a log's data. `Moved` holds seq, from bucket, to bucket, amount, reason, head there.
fn word(log: &Value, at: usize) -> String {
    log["data"].as_str().unwrap_or_default().trim_start_matches("0x").get(at * 64..(at + 1) * 64).unwrap_or_default().to_owned()
}

/// Words of `ReceiptSubmitted`: digest, end of the window, and the nine of the receipt.
const RECEIPT_WORDS: usize = 11;

fn is_receipt(log: &Value, market: &str) -> bool {
    let of_market = log["address"].as_str().is_some_and(|address| address.eq_ignore_ascii_case(market));
    of_market && log["data"].as_str().is_some_and(|data| data.len() == 2 + RECEIPT_WORDS * 64)
}

/// First four bytes of a call.
fn selector(story: &Story, function: &str) -> String {
    let hex: String = function.bytes().map(|byte| format!("{byte:02x}")).collect();
    let hash = story.market.devnet.rpc("web3_sha3", &json!([format!("0x{hex}")])).unwrap();
    hash.as_str().unwrap()[..10].to_owned()
}

/// The log of a receipt with another output root, and the digest that the contract gives such a receipt.
fn with_another_root(story: &Story, market: &str, log: &Value) -> Value {
    let mut words: Vec<String> = (0..RECEIPT_WORDS).map(|at| word(log, at)).collect();
    words[4] = "5a".repeat(32);
    let selector = selector(story, "receiptDigestOf((bytes32,address,bytes32,uint64,uint8,bytes32,bytes32,uint64,uint8))");
    let call = json!([{ "to": market, "data": format!("{selector}{}", words[2..].concat()) }, "latest"]);
    let digest = story.market.devnet.rpc("eth_call", &call).unwrap();
    digest.as_str().unwrap().trim_start_matches("0x").clone_into(&mut words[0]);
    let mut lied = log.clone();
    lied["data"] = json!(format!("0x{}", words.concat()));
    lied
}

#[test]
fn receipt_that_a_lying_node_makes_up_is_not_believed() {
    let story = Story::begin().unwrap();
    let _worker = story.worker(&[]).unwrap();
    story.embed(LINES, &[]).unwrap();
    let id = story.only_job().unwrap();

    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    let auditor = story.client.asking(&proxy.url());
    let market = contract(&story, "JobMarket");
    let filter = json!([{ "address": market, "fromBlock": "0x0", "toBlock": "latest" }]);
    let logs = story.market.devnet.rpc("eth_getLogs", &filter).unwrap();
    let honest = logs.as_array().unwrap().iter().find(|log| is_receipt(log, &market)).unwrap();
    let made_up = with_another_root(&story, &market, honest);
    assert_ne!(word(&made_up, 0), word(honest, 0));

    let package = quern_testkit::minilm_package().unwrap();
    let package = package.to_string_lossy();
    let gateways = ["--gateway", &story.operator.gateway, "--gateway", &story.client.gateway];
    let audit = [&["audit", "job", &id, "--package", &package], gateways.as_slice()].concat();
    let lie = move |method: &str, _: &Value, honest: &Value| {
        let Some(logs) = honest.as_array().filter(|_| method == "eth_getLogs") else { return Answer::Honest };
        Answer::Result(logs.iter().map(|log| if is_receipt(log, &market) { made_up.clone() } else { log.clone() }).collect())
    };
    // While the market holds the receipt's digest, and when it has forgotten it.
    for state in ["submitted or completed", "completed"] {
        if state == "completed" {
            story.wait_for_state(&id, state, 10).unwrap();
        }
        proxy.set_rule(lie.clone());
        let output = auditor.command(&audit).unwrap().arg("--json").output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{state}: {}", String::from_utf8_lossy(&output.stderr));
        let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&verdict["equal"], &verdict["difference"]["at"]), (&json!(false), &json!("node")), "{state}: {verdict}");
        proxy.be_honest();
        let verdict = auditor.quern_one(&audit).unwrap();
        assert_eq!((&verdict["equal"], &verdict["receipt"]), (&json!(true), &json!("state")), "{state}: {verdict}");
    }
    story.audit().unwrap();
}

#[test]
fn text_that_is_none_that_an_enemy_announces_stops_no_audit() {
    let story = Story::begin().unwrap();
    // announce(provider, "\xff"), by the provider itself, which has named an operator.
    let owner = &story.owner.address;
    let words =
        [format!("{:0>64}", owner.trim_start_matches("0x")), format!("{:064x}", 64), format!("{:064x}", 1), format!("{:0<64}", "ff")];
    let data = format!("{}{}", selector(&story, "announce(address,string)"), words.concat());
    let call = json!([{ "from": owner, "to": contract(&story, "ProviderRegistry"), "data": data }]);
    let transaction = story.market.devnet.rpc("eth_sendTransaction", &call).unwrap();
    story.market.devnet.mine(1).unwrap();
    let receipt = story.market.devnet.rpc("eth_getTransactionReceipt", &json!([transaction])).unwrap();
    assert_eq!(receipt["status"], "0x1", "{receipt}");
    story.audit().unwrap();
}
