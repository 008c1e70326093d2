//! Somebody does not act before a deadline.

use quern_testkit::{RpcProxy, eventually, run, text, tool};
use serde_json::{Value, json};

use crate::story::{LINES, PATIENCE, Story, TOKEN, hold_transactions, wait_for_held};

#[test]
fn job_that_nobody_claims_is_refunded_whole() {
    let story = Story::begin().unwrap();
    let mut embedding = story.start_embedding(LINES, &["--claim-within", "20"]).unwrap();
    let id = story.only_job().unwrap();
    assert_eq!(story.balance(&story.client, "escrow").unwrap(), TOKEN / 100 * 5);
    story.market.devnet.warp(30).unwrap();
    // It ends by itself, with the exit code of a job that ended without a result, and says what to do.
    assert_eq!(embedding.wait_for_end(PATIENCE).unwrap().code(), Some(4));
    assert!(embedding.output().unwrap().contains("refund"), "{}", embedding.output().unwrap());
    // Anyone may call what silence means.
    story.owner.quern(&["job", "refund", &id]).unwrap();
    assert_eq!(text(&story.job(&id).unwrap(), "state").unwrap(), "refunded");
    assert_eq!(story.balance(&story.client, "free").unwrap(), 100 * TOKEN);
    story.audit().unwrap();
}

#[test]
fn provider_that_dies_after_its_claim_pays_the_penalty() {
    let story = Story::begin().unwrap();
    let mut worker = story.worker(&["--crash-at", "after:claimed"]).unwrap();
    let _embedding = story.start_embedding(LINES, &["--deliver-within", "60"]).unwrap();
    let id = story.only_job().unwrap();
    assert!(!worker.wait_for_end(PATIENCE).unwrap().success());
    story.wait_for_state(&id, "claimed", 0).unwrap();
    let (code, said) = story.client.quern_fails(&["job", "refund", &id]).unwrap();
    assert_eq!(code, 1, "too early: {said}");
    story.market.devnet.warp(70).unwrap();
    story.client.quern(&["job", "refund", &id]).unwrap();
    let job = story.wait_for_state(&id, "refunded", 0).unwrap();
    assert_penalised(&story, &job);
    story.audit().unwrap();
}

#[test]
fn worker_past_its_deadline_submits_nothing() {
    let story = Story::begin().unwrap();
    let mut worker = story.worker(&["--crash-at", "after:computed"]).unwrap();
    let _embedding = story.start_embedding(LINES, &["--deliver-within", "60"]).unwrap();
    let id = story.only_job().unwrap();
    assert!(!worker.wait_for_end(PATIENCE).unwrap().success());
    story.market.devnet.warp(70).unwrap();
    let mut worker = story.worker(&[]).unwrap();
    // It sees the missed deadline, says so, and lives on.
    worker.wait_for_line("undelivered", PATIENCE).unwrap();
    assert_eq!(text(&story.job(&id).unwrap(), "state").unwrap(), "claimed");
    story.client.quern(&["job", "refund", &id]).unwrap();
    story.wait_for_state(&id, "refunded", 0).unwrap();
    assert!(worker.ended().unwrap().is_none());
    story.audit().unwrap();
}

#[test]
fn receipt_that_reaches_the_chain_after_the_deadline_is_refused_and_the_penalty_is_due() {
    let mut story = Story::begin().unwrap();
    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    story.operator = story.operator.asking(&proxy.url());
    // The claim passes; the receipt, signed and sent in time, is on its way for too long.
    let held = hold_transactions(&proxy, 1);
    let mut worker = story.worker(&[]).unwrap();
    let mut embedding = story.start_embedding(LINES, &["--deliver-within", "60"]).unwrap();
    let id = story.only_job().unwrap();
    let late = wait_for_held(&held).unwrap();
    let devnet = &story.market.devnet;
    devnet.warp(70).unwrap();
    assert_eq!(embedding.wait_for_end(PATIENCE).unwrap().code(), Some(4));

    // Whoever relays it, then and later, hears the same.
    let hash = devnet.rpc("eth_sendRawTransaction", &json!([late])).unwrap();
    let receipt = eventually("the receipt to be mined", PATIENCE, || {
        Ok(Some(devnet.rpc("eth_getTransactionReceipt", &json!([hash]))?).filter(|receipt| !receipt.is_null()))
    });
    assert_eq!(receipt.unwrap()["status"], "0x0");
    let sent = devnet.rpc("eth_getTransactionByHash", &json!([hash])).unwrap();
    let refusal = run(tool("cast").unwrap(), &["sig", "DeadlinePassed(bytes32,uint256,uint256)"], |cast| cast).unwrap();
    let refusal = String::from_utf8(refusal.stdout).unwrap();
    for sender in [&story.operator, &story.client] {
        let call = json!([{"from": sender.address, "to": sent["to"], "data": sent["input"]}, "latest"]);
        let said = devnet.rpc("eth_call", &call).unwrap_err().to_string();
        assert!(said.contains(refusal.trim()), "{}: {said}", sender.name);
    }
    assert_eq!(story.job(&id).unwrap()["state"], "claimed");

    proxy.be_honest();
    worker.wait_for_line("state=\"undelivered\"", PATIENCE).unwrap();
    story.client.quern(&["job", "refund", &id]).unwrap();
    let job = story.wait_for_state(&id, "refunded", 0).unwrap();
    assert_penalised(&story, &job);
    assert_eq!(story.transactions(&story.operator).unwrap(), 2, "the claim, and the receipt that was too late");
    assert!(worker.ended().unwrap().is_none());
    story.audit().unwrap();
}

#[test]
fn worker_does_not_claim_a_job_whose_input_is_withheld() {
    let story = Story::begin().unwrap();
    let mut worker = story.worker(&[]).unwrap();
    // Posted, and then the client is gone: nobody serves the input.
    let mut embedding = story.start_embedding(LINES, &["--claim-within", "30", "--no-serve"]).unwrap();
    let id = story.only_job().unwrap();
    worker.wait_for_line("input", PATIENCE).unwrap();
    story.market.devnet.warp(40).unwrap();
    assert_eq!(embedding.wait_for_end(PATIENCE).unwrap().code(), Some(4));
    story.client.quern(&["job", "refund", &id]).unwrap();
    story.wait_for_state(&id, "refunded", 0).unwrap();
    assert_eq!(story.balance(&story.owner, "stake").unwrap(), 100 * TOKEN, "no stake was at risk");
    assert!(worker.ended().unwrap().is_none());
    story.audit().unwrap();
}

#[test]
fn client_that_cancels_has_its_money_back() {
    let story = Story::begin().unwrap();
    let mut embedding = story.start_embedding(LINES, &[]).unwrap();
    let id = story.only_job().unwrap();
    let (_, said) = story.owner.quern_fails(&["job", "cancel", &id]).unwrap();
    assert!(said.contains("client"), "only the client cancels: {said}");
    story.client.quern(&["job", "cancel", &id]).unwrap();
    assert_eq!(embedding.wait_for_end(PATIENCE).unwrap().code(), Some(4));
    assert_eq!(story.balance(&story.client, "free").unwrap(), 100 * TOKEN);
    story.audit().unwrap();
}

/// The client has all that it brought and the penalty, which is what the provider's stake lacks, and nothing is locked.
fn assert_penalised(story: &Story, job: &Value) {
    let penalty: u128 = text(job, "penalty").unwrap().parse().unwrap();
    assert!(penalty > 0);
    assert_eq!(story.balance(&story.client, "free").unwrap(), 100 * TOKEN + penalty);
    assert_eq!(story.balance(&story.owner, "stake").unwrap(), 100 * TOKEN - penalty);
    assert_eq!(story.balance(&story.owner, "lock").unwrap(), 0);
}
