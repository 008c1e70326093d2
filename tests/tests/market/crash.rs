//! Processes that die at the worst moment.

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
