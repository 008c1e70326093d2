//! Everybody is honest and awake.

use crate::story::{LINES, Story};

/// One whole token in its smallest unit.
const TOKEN: u128 = 1_000_000_000_000_000_000;

#[test]
fn job_is_posted_claimed_computed_paid_and_audited() {
    let story = Story::begin().unwrap();
    let mut worker = story.worker(&[]).unwrap();
    let results = story.embed(LINES, &[]).unwrap();
    assert_eq!(results.len(), 5, "one result per line, the empty one too");
    assert_eq!(results.iter().filter(|result| result["reason"] == "empty_item").count(), 1);
    assert!(results.iter().all(|result| result["vector"].as_array().unwrap().len() == 384));

    let id = story.only_job().unwrap();
    let job = story.wait_for_state(&id, "completed", 10).unwrap();
    let fee: u128 = job["fee"].as_str().unwrap().parse().unwrap();
    assert!(fee > 0 && fee <= TOKEN / 100 * 5, "{fee}");

    let royalty = fee * 250 / 10_000;
    assert_eq!(story.balance(&story.client, "free").unwrap(), 100 * TOKEN - fee);
    assert_eq!(story.balance(&story.client, "escrow").unwrap(), 0);
    assert_eq!(story.balance(&story.owner, "free").unwrap(), fee - royalty);
    assert_eq!(story.balance(&story.owner, "stake").unwrap(), 100 * TOKEN);
    assert_eq!(story.balance(&story.owner, "lock").unwrap(), 0);
    assert_eq!(story.balance(&story.market.publisher, "free").unwrap(), royalty);
    story.recompute(&id).unwrap();
    story.audit().unwrap();
    assert!(worker.terminate().unwrap().success(), "a worker stops when asked to");
}

#[test]
fn two_workers_race_and_each_job_is_paid_once() {
    let story = Story::begin().unwrap();
    let (rival_owner, rival_operator) = story.rival().unwrap();
    let mut first = story.worker(&[]).unwrap();
    let mut second = story.market.worker(&rival_owner, &rival_operator, &[&story.client], &[]).unwrap();
    let results = story.embed("one\ntwo\nthree\nfour\n", &["--batch", "1", "--gateway", &rival_operator.gateway]).unwrap();
    assert_eq!(results.len(), 4);
    let jobs = story.jobs().unwrap();
    assert_eq!(jobs.len(), 4);
    let mut fees = 0;
    for job in &jobs {
        let id = job["id"].as_str().unwrap();
        fees += story.wait_for_state(id, "completed", 10).unwrap()["fee"].as_str().unwrap().parse::<u128>().unwrap();
    }
    let free = |actor| story.balance(actor, "free").unwrap();
    assert_eq!(free(&story.client), 100 * TOKEN - fees);
    assert_eq!(free(&story.owner) + free(&rival_owner) + free(&story.market.publisher), fees);
    for owner in [&story.owner, &rival_owner] {
        assert_eq!(story.balance(owner, "lock").unwrap(), 0);
        assert_eq!(story.balance(owner, "stake").unwrap(), 100 * TOKEN);
    }
    assert!(first.ended().unwrap().is_none() && second.ended().unwrap().is_none(), "losing a race is no reason to die");
    story.audit().unwrap();
}
