//! Everybody is honest and awake.

use quern_testkit::minilm_package;
use serde_json::{Value, json};

use crate::story::{LINES, PATIENCE, Story, TOKEN};

#[test]
fn job_is_posted_claimed_computed_paid_and_audited() {
    let story = Story::begin().unwrap();
    let mut worker = story.worker(&[]).unwrap();
    let results = story.embed(LINES, &[]).unwrap();
    assert_eq!(results.len(), 5, "one result per line, the empty one too");
    assert_eq!(results.iter().filter(|result| result["reason"] == "empty_item").count(), 1);
    assert!(results.iter().all(|result| result["vector"].as_array().unwrap().len() == 384));

    // Who computes here gets what others sell: for each line the same reason and the same bits.
    let package = minilm_package().unwrap();
    let local = story.client.quern_with_input(&["model", "embed", &package.to_string_lossy(), "-"], LINES).unwrap();
    let told = |results: &[Value]| -> Vec<Value> {
        results.iter().map(|result| json!([result["line"], result["part"], result["reason"], result["vector"]])).collect()
    };
    assert_eq!(told(&local), told(&results));

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
    recompute_with_nothing_at_hand(&story, &id);
    story.audit().unwrap();
    assert!(worker.terminate().unwrap().success(), "a worker stops when asked to");
}

/// `quern audit job ID` as the README has it: the package comes from where its publisher says that it is, once.
fn recompute_with_nothing_at_hand(story: &Story, id: &str) {
    let gateways = [story.operator.gateway.as_str(), &story.client.gateway, &story.market.publisher.gateway];
    let options = gateways.map(|url| ["--gateway", url]).concat();
    let audit = [["audit", "job", id].as_slice(), options.as_slice()].concat();
    let (code, said) = story.client.quern_fails(&audit).unwrap();
    assert!(code == 1 && said.contains("cannot be fetched") && said.contains("--package"), "{said}");

    let mut publisher = story.market.publisher.spawn(&["store", "serve", "--json"]).unwrap();
    publisher.wait_for_line("listen", PATIENCE).unwrap();
    assert_eq!(story.client.quern_one(&audit).unwrap()["equal"], true);
    publisher.terminate().unwrap();
    assert_eq!(story.client.quern_one(&["audit", "job", id]).unwrap()["equal"], true, "the package is here by now, and so is the rest");
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
