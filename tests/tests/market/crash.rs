//! Processes that die at the worst moment.

use quern_testkit::{Answer, RpcProxy};
use serde_json::Value;

use crate::story::{LINES, PATIENCE, Story};

/// Every step of the worker's journal at which a life can be cut, in order.
const STEPS: [&str; 10] =
    ["accepted", "claiming", "claimed", "fetched", "computed", "stored", "signed", "submitting", "submitted", "completing"];

#[test]
fn worker_killed_at_every_step_loses_no_job_and_pays_and_submits_once() {
    let story = Story::begin().unwrap();
    // One job for each place, so that one devnet serves them all: the worker dies before and after each step of a job of its own.
    let mut jobs = 0;
    // Before a step whose effect is a transaction the journal is a line behind the chain; everywhere else "after" is the same moment.
    let points = STEPS.map(|step| ("after", step)).into_iter().chain(["claiming", "submitting", "completing"].map(|step| ("before", step)));
    {
        for (when, step) in points {
            let point = format!("{when}:{step}");
            let mut worker = story.worker(&["--crash-at", &point]).unwrap();
            let mut embedding = story.start_embedding(&format!("text of {point}\n"), &[]).unwrap();
            jobs += 1;
            let late = ["submitted", "completing"].contains(&step);
            let died = quern_testkit::eventually(&format!("the worker to die at {point}"), PATIENCE, || {
                if late {
                    story.market.devnet.warp(5)?;
                }
                worker.ended()
            });
            assert!(!died.unwrap().success(), "{point}");
            let mut worker = story.worker(&[]).unwrap();
            assert!(embedding.wait_for_end(PATIENCE).unwrap().success(), "{point}: {}", embedding.output().unwrap());
            let all = story.jobs().unwrap();
            assert_eq!(all.len(), jobs, "{point}");
            for job in &all {
                story.wait_for_state(job["id"].as_str().unwrap(), "completed", 5).unwrap();
            }
            assert!(worker.terminate().unwrap().success(), "{point}");
        }
    }
    // One claim, one receipt and one payment each: the ledger's entries say so, and nothing is left locked.
    let verdict = story.audit().unwrap();
    assert_eq!(story.balance(&story.owner, "lock").unwrap(), 0);
    assert_eq!(story.balance(&story.client, "escrow").unwrap(), 0);
    assert!(verdict["entries"].as_u64().unwrap() >= 4 * u64::try_from(jobs).unwrap());
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
    story.wait_for_state(&id, "completed", 10).unwrap();
    // The client's journal still knows the job, and the result is still there to be fetched and checked.
    let results = story.client.quern(&["job", "result", &id]).unwrap();
    assert_eq!(results.len(), 5);
    story.recompute(&id).unwrap();
    let indexed = quern_testkit::eventually("the index to have the job", PATIENCE, || {
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
    quern_testkit::eventually("the deposit to be mined", PATIENCE, || Ok((free() != before).then_some(()))).unwrap();
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
