//! The chain goes away, or goes back.

use quern_testkit::RpcProxy;

use crate::story::{LINES, PATIENCE, Story};

#[test]
fn reorg_that_removes_claim_and_submission_is_repaired() {
    let mut story = Story::begin().unwrap();
    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    story.operator = story.operator.asking(&proxy.url());
    let _worker = story.worker(&[]).unwrap();
    let results = story.embed(LINES, &["--deliver-within", "600"]).unwrap();
    assert_eq!(results.len(), 5);
    let id = story.only_job().unwrap();
    let job = story.job(&id).unwrap();
    let claimed = job["claimed_block"].as_u64().unwrap();
    let depth = story.market.devnet.height().unwrap() - claimed + 1;
    assert!(depth < 32, "the claim is not finalized yet");
    // A worker that sees the reorganisation repairs it within a second, so it sees nothing until we have.
    proxy.go_down();
    story.market.devnet.reorg(depth).unwrap();
    assert_eq!(story.job(&id).unwrap()["state"], "open", "the claim is gone");
    proxy.be_honest();
    // The worker claims, delivers and is paid again, for the same job.
    story.wait_for_state(&id, "submitted", 0).unwrap();
    story.wait_for_state(&id, "completed", 10).unwrap();
    story.recompute(&id).unwrap();
    story.audit().unwrap();
}

#[test]
fn rpc_that_is_down_for_a_while_costs_nothing_but_time() {
    let mut story = Story::begin().unwrap();
    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    story.operator = story.operator.asking(&proxy.url());
    let mut worker = story.worker(&[]).unwrap();
    proxy.go_down();
    let mut embedding = story.start_embedding(LINES, &["--deliver-within", "600"]).unwrap();
    let id = story.only_job().unwrap();
    // Until the worker has noticed.
    worker.wait_for_line("503", PATIENCE).unwrap();
    assert_eq!(story.job(&id).unwrap()["state"], "open");
    proxy.be_honest();
    assert!(embedding.wait_for_end(PATIENCE).unwrap().success(), "{}", embedding.output().unwrap());
    story.wait_for_state(&id, "completed", 10).unwrap();
    assert!(worker.ended().unwrap().is_none());
    assert!(worker.terminate().unwrap().success());
    story.audit().unwrap();
}
