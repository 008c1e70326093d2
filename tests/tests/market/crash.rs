//! Processes that die at the worst moment.

use quern_testkit::{Answer, RpcProxy, eventually};
use serde_json::Value;

use crate::story::{LINES, PATIENCE, Story, take_one_transaction, vectors};

/// Every moment at which a worker's life can be cut, in order. Before a step, what leads to it is done (the claim is mined, the output stored) and
/// the journal does not say so; after it the journal does, and what follows has not begun. Where nothing happens in between, one point is enough.
const POINTS: [&str; 19] = [
    "before:accepted",
    "after:accepted",
    "after:claiming",
    "before:claimed",
    "after:claimed",
    "before:fetched",
    "after:fetched",
    "before:computed",
    "after:computed",
    "before:stored",
    "after:stored",
    "before:signed",
    "after:signed",
    "after:submitting",
    "before:submitted",
    "after:submitted",
    "after:completing",
    "before:paid",
    "after:paid",
];
/// What an operator sends for a job: claim, receipt, completion.
const TRANSACTIONS: u64 = 3;

#[test]
fn worker_killed_at_every_step_loses_no_job_and_pays_and_submits_once() {
    let story = Story::begin().unwrap();
    let _serving = story.serve().unwrap();
    // Finishes the newest job in the life that came after its point, with three transactions and no more.
    let finish = |jobs: &[(&str, String)]| {
        if let Some((point, id)) = jobs.last() {
            story.wait_for_payment(id).unwrap_or_else(|error| panic!("{point}: {error:#}"));
            assert_eq!(story.transactions(&story.operator).unwrap(), TRANSACTIONS * jobs.len() as u64, "{point}");
        }
    };
    let mut jobs: Vec<(&str, String)> = Vec::new();
    // A job for each point, from the last point to the first: so each life finishes the job before without coming to its own point, and dies there with
    // a job of its own.
    for point in POINTS.into_iter().rev() {
        let mut worker = story.worker(&["--crash-at", point]).unwrap();
        finish(&jobs);
        let (_, id) = story.post(&format!("text of {point}\n"), &[]).unwrap();
        let late = ["after:completing", "before:paid", "after:paid"].contains(&point);
        let died = eventually(&format!("the worker to die at {point}"), PATIENCE, || {
            if late && story.job(&id)?["state"] == "submitted" {
                story.market.devnet.warp(5)?;
            }
            worker.ended()
        });
        assert!(!died.unwrap().success(), "{point}");
        jobs.push((point, id));
    }
    let mut worker = story.worker(&[]).unwrap();
    finish(&jobs);
    for (point, id) in &jobs {
        assert_eq!(story.client.quern(&["job", "result", id]).unwrap().len(), 1, "{point}");
    }
    assert!(worker.terminate().unwrap().success());
    assert_eq!(story.jobs().unwrap().len(), POINTS.len());
    assert_eq!(story.balance(&story.owner, "lock").unwrap(), 0);
    assert_eq!(story.balance(&story.client, "escrow").unwrap(), 0);
    story.audit().unwrap();
}

#[test]
fn worker_killed_before_it_learns_that_its_transaction_is_mined_sends_no_other() {
    let mut story = Story::begin().unwrap();
    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    story.operator = story.operator.asking(&proxy.url());
    let _serving = story.serve().unwrap();
    let (_, id) = story.post(LINES, &[]).unwrap();
    for (sent, state) in (1..=TRANSACTIONS).zip(["claimed", "submitted", "completed"]) {
        take_one_transaction(&proxy);
        let mut worker = story.worker(&[]).unwrap();
        let mined = eventually(&format!("the job to be {state}"), PATIENCE, || {
            if state == "completed" {
                story.market.devnet.warp(5)?;
            }
            Ok((story.transactions(&story.operator)? == sent).then_some(()))
        });
        mined.unwrap();
        worker.kill().unwrap();
        assert_eq!(story.job(&id).unwrap()["state"], state);
    }
    proxy.be_honest();
    let mut worker = story.worker(&[]).unwrap();
    worker.wait_for_line("state=\"paid\"", PATIENCE).unwrap();
    assert_eq!(story.client.quern(&["job", "result", &id]).unwrap().len(), 5);
    assert!(worker.terminate().unwrap().success());
    assert_eq!(story.transactions(&story.operator).unwrap(), TRANSACTIONS);
    story.audit().unwrap();
}

#[test]
fn every_process_restarted_in_the_middle_of_a_job() {
    let mut story = Story::begin().unwrap();
    let (mut indexer, _) = story.market.indexer().unwrap();
    let mut worker = story.worker(&["--crash-at", "after:stored"]).unwrap();
    let mut embedding = story.start_embedding(LINES, &[]).unwrap();
    let id = story.only_job().unwrap();
    assert!(!worker.wait_for_end(PATIENCE).unwrap().success());
    embedding.kill().unwrap();
    indexer.kill().unwrap();
    story.market.devnet.stop().unwrap();

    story.market.devnet.restart().unwrap();
    let (_indexer, api) = story.market.indexer().unwrap();
    let _worker = story.worker(&[]).unwrap();
    // The client's journal still knows the job, and its second life waits for the same vectors.
    let resumed = story.client.quern(&["job", "resume"]).unwrap();
    assert_eq!(resumed.len(), 5);
    story.wait_for_payment(&id).unwrap();
    let results = story.client.quern(&["job", "result", &id]).unwrap();
    assert_eq!(vectors(&results), vectors(&resumed));
    assert_eq!(story.only_job().unwrap(), id);
    story.recompute(&id).unwrap();
    let indexed = eventually("the index to have the job", PATIENCE, || {
        let job = api.get(&format!("/v1/jobs/{id}"))?;
        Ok((job.pointer("/data/state").is_some_and(|state| state == "completed")).then_some(job))
    });
    assert!(indexed.is_ok(), "{indexed:?}");
    story.audit().unwrap();
}

#[test]
fn deposit_that_is_repeated_because_its_first_run_was_killed_is_one_deposit() {
    let story = Story::begin().unwrap();
    story.client.quern(&["wallet", "withdraw", "20"]).unwrap();
    let free = || story.balance(&story.client, "free").unwrap();
    let before = free();
    // The transaction goes through, but the first run never sees that it is mined.
    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    proxy.set_rule(|method, _, _| if method == "eth_getTransactionReceipt" { Answer::Result(Value::Null) } else { Answer::Honest });
    let mut first = story.client.asking(&proxy.url()).spawn(&["wallet", "deposit", "5"]).unwrap();
    eventually("the deposit to be mined", PATIENCE, || Ok((free() != before).then_some(()))).unwrap();
    first.kill().unwrap();

    let amount = 5_000_000_000_000_000_000;
    story.client.quern(&["wallet", "deposit", "5"]).unwrap();
    assert_eq!(free(), before + amount, "the second run finished the first");
    story.client.quern(&["wallet", "deposit", "5"]).unwrap();
    assert_eq!(free(), before + 2 * amount, "a third is another deposit");
    story.audit().unwrap();
}

#[test]
fn output_that_rots_in_the_store_is_computed_again_and_the_job_is_paid() {
    let story = Story::begin().unwrap();
    let mut worker = story.worker(&["--crash-at", "after:stored"]).unwrap();
    let mut embedding = story.start_embedding(LINES, &[]).unwrap();
    let id = story.only_job().unwrap();
    assert!(!worker.wait_for_end(PATIENCE).unwrap().success());
    let whole = blocks(&story.operator.home.join("store"));
    for file in &whole {
        let mut bytes = std::fs::read(file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(file, bytes).unwrap();
    }
    let mut worker = story.worker(&[]).unwrap();
    worker.wait_for_line("output.damaged", PATIENCE).unwrap();
    assert!(embedding.wait_for_end(PATIENCE).unwrap().success(), "{}", embedding.output().unwrap());
    assert_eq!(embedding.output().unwrap().matches("\"vector\"").count(), 5);

    // Once more while the receipt stands: this time the blocks are gone.
    assert!(worker.terminate().unwrap().success());
    for file in blocks(&story.operator.home.join("store")) {
        std::fs::remove_file(file).unwrap();
    }
    let mut worker = story.worker(&[]).unwrap();
    worker.wait_for_line("output.damaged", PATIENCE).unwrap();
    story.wait_for_state(&id, "completed", 10).unwrap();
    story.recompute(&id).unwrap();
    assert!(worker.ended().unwrap().is_none());
    story.audit().unwrap();
}

/// The files of a store that hold blocks.
fn blocks(store: &std::path::Path) -> Vec<std::path::PathBuf> {
    fn walk(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if std::fs::read(&path).unwrap().starts_with(b"QOU1") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(store, &mut found);
    assert!(!found.is_empty(), "no block of an output in {}", store.display());
    found
}
