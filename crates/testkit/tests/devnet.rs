//! The devnet and the proxy do what the whole-system tests rely on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use quern_testkit::{Answer, Devnet, DevnetOptions, RpcProxy};
use serde_json::{Value, json};

const BY_HAND: DevnetOptions = DevnetOptions { block_secs: None, epoch_blocks: 2 };

#[test]
fn devnet_keeps_its_state_over_a_restart() {
    let mut devnet = Devnet::start(BY_HAND).unwrap();
    devnet.mine(7).unwrap();
    let block = devnet.rpc("eth_getBlockByNumber", &json!(["0x5", false])).unwrap();
    devnet.stop().unwrap();
    assert!(devnet.height().is_err());
    devnet.restart().unwrap();
    assert_eq!(devnet.height().unwrap(), 7);
    assert_eq!(devnet.rpc("eth_getBlockByNumber", &json!(["0x5", false])).unwrap()["hash"], block["hash"]);
}

#[test]
fn devnet_reorg_replaces_the_newest_blocks_only() {
    let devnet = Devnet::start(BY_HAND).unwrap();
    devnet.mine(6).unwrap();
    let hash = |number: u64| devnet.rpc("eth_getBlockByNumber", &json!([format!("{number:#x}"), false])).unwrap()["hash"].clone();
    let (kept, replaced) = (hash(4), hash(5));
    devnet.reorg(2).unwrap();
    assert_eq!(hash(4), kept);
    assert_ne!(hash(5), replaced);
    assert_eq!(devnet.height().unwrap(), 6);
}

#[test]
fn devnet_warp_moves_the_clock_and_finalizes() {
    let devnet = Devnet::start(BY_HAND).unwrap();
    devnet.mine(1).unwrap();
    let before = (devnet.now().unwrap(), devnet.height().unwrap());
    devnet.warp(3_600).unwrap();
    assert!(devnet.now().unwrap() >= before.0 + 3_600);
    let finalized = devnet.rpc("eth_getBlockByNumber", &json!(["finalized", false])).unwrap();
    let number = u64::from_str_radix(finalized["number"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    assert!(number > before.1, "{number} is not past {}", before.1);
}

#[test]
fn proxy_passes_on_lies_and_disappears_as_told() {
    let devnet = Devnet::start(BY_HAND).unwrap();
    let proxy = RpcProxy::start(&devnet.url()).unwrap();
    let http = reqwest::blocking::Client::new();
    let ask = |body: Value| http.post(proxy.url()).json(&body).send().unwrap();
    let one = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []});
    assert_eq!(ask(one.clone()).json::<Value>().unwrap()["result"], "0x385");
    proxy.set_rule(
        |method, _, honest| {
            if method == "eth_chainId" { Answer::Result(json!(format!("{}0", honest.as_str().unwrap()))) } else { Answer::Honest }
        },
    );
    let both = json!([one, {"jsonrpc": "2.0", "id": 2, "method": "eth_blockNumber", "params": []}]);
    let answers = ask(both).json::<Value>().unwrap();
    assert_eq!(answers[0]["result"], "0x3850");
    assert_eq!(answers[1]["result"], "0x0");
    proxy.go_down();
    assert_eq!(ask(one.clone()).status(), 503);
    proxy.be_honest();
    assert_eq!(ask(one).json::<Value>().unwrap()["result"], "0x385");
}
