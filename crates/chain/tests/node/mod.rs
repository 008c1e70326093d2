//! A real anvil for one test, and a contract small enough to be written by hand.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr, reason = "shared by tests; a test fails by panicking")]

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U64, U256, address, hex};
use quern_chain::{Client, ClientConfig, RetryPolicy, keys::Key, sender::Call};
use quern_testkit::{Devnet, DevnetOptions};
use serde_json::Value;

/// Where the test contract stands.
pub(crate) const ECHO: Address = address!("0x00000000000000000000000000000000000eC40e");

/// Calldata that begins with 0xff: reverts with the rest of it. Other calldata: emits the rest of it after the first word, under that word as topic.
///
/// ```text
/// push 0  calldataload  push f8  shr  push ff  eq  push 1e  jumpi
/// push 20 calldatasize sub  dup1  push 20  push 0  calldatacopy  push 0 calldataload  swap1  push 0  log1  stop
/// jumpdest  push 1 calldatasize sub  dup1  push 1  push 0  calldatacopy  push 0  revert
/// ```
pub(crate) const ECHO_CODE: &[u8] = &hex!("60003560f81c60ff14601e5760203603806020600037600035906000a1005b600136038060016000376000fd");

/// A node with a block per transaction; safe is 2 blocks behind, finalized 4. `None`, said aloud, where anvil is not installed; with CI=true that is a
/// failure.
pub(crate) fn start() -> Option<Devnet> {
    start_with(DevnetOptions { block_secs: None, epoch_blocks: 2 })
}

/// As [`start`], with other options.
pub(crate) fn start_with(options: DevnetOptions) -> Option<Devnet> {
    if let Err(error) = quern_testkit::tool("anvil") {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{error}");
        eprintln!("NOT RUN: {error}");
        return None;
    }
    let devnet = Devnet::start(options).unwrap();
    place(&devnet, ECHO, ECHO_CODE);
    Some(devnet)
}

/// Puts code at an address.
pub(crate) fn place(devnet: &Devnet, at: Address, code: &[u8]) {
    devnet.rpc("anvil_setCode", &serde_json::json!([at, Bytes::copy_from_slice(code)])).unwrap();
}

/// A client that gives up soon.
pub(crate) fn client(url: impl Into<String>) -> Client {
    Client::new(config(url)).unwrap()
}

pub(crate) fn config(url: impl Into<String>) -> ClientConfig {
    ClientConfig {
        request_timeout: Duration::from_secs(10),
        retry: RetryPolicy { attempts: 2, first: Duration::from_millis(10), longest: Duration::from_millis(100) },
        ..ClientConfig::new(url, Devnet::CHAIN_ID)
    }
}

/// The key of a funded account.
pub(crate) fn key(devnet: &Devnet, index: usize) -> Key {
    let bytes: B256 = devnet.account(index).key.parse().unwrap();
    Key::from_bytes(&bytes.0).unwrap()
}

/// A call that emits a log with this number as topic.
pub(crate) fn log(number: u64) -> Call {
    let topic = B256::from(U256::from(number));
    Call { to: ECHO, calldata: Bytes::copy_from_slice(topic.as_slice()), value_wei: 0 }
}

/// A call that reverts with this data.
pub(crate) fn fail(data: &[u8]) -> Call {
    Call { to: ECHO, calldata: [&[0xff], data].concat().into(), value_wei: 0 }
}

/// A JSON-RPC call inside async code.
pub(crate) async fn rpc(client: &Client, method: &'static str, params: Value) -> Value {
    client.request::<_, Value>(method, params).await.unwrap()
}

/// Mines blocks.
pub(crate) async fn mine(client: &Client, blocks: u64) {
    rpc(client, "anvil_mine", serde_json::json!([U64::from(blocks)])).await;
}

/// Replaces the newest blocks by empty ones.
pub(crate) async fn reorg(client: &Client, depth: u64) {
    rpc(client, "anvil_reorg", serde_json::json!([depth, []])).await;
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Fails instead of hanging.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it takes too long")
}
