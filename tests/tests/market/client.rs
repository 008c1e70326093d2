//! A client that goes away and comes back, and one that is told what is wrong.

use quern_testkit::{Actor, Answer, Devnet, DevnetOptions, RpcProxy, eventually};
use serde_json::{Value, json};

use crate::story::{LINES, PATIENCE, Story, TOKEN, hold_transactions, take_one_transaction, vectors, wait_for_held};

#[test]
fn client_killed_before_and_after_its_post_is_mined_resumes_and_pays_once() {
    let story = Story::begin().unwrap();
    let _worker = story.worker(&[]).unwrap();
    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    let client = story.client.asking(&proxy.url());
    let args = story.embed_args(LINES, &["--json"]).unwrap();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let sent = || story.transactions(&story.client).unwrap();
    let before = sent();

    // Signed and in the journal, but no node has it.
    let held = hold_transactions(&proxy, 0);
    let mut embedding = client.spawn(&args).unwrap();
    wait_for_held(&held).unwrap();
    embedding.kill().unwrap();
    let planned = story.jobs().unwrap();
    assert_eq!((planned.len(), &planned[0]["state"]), (1, &json!("unposted")));
    let first = story.client.quern(&["job", "resume", planned[0]["run"].as_str().unwrap()]).unwrap();
    assert_eq!((first.len(), sent()), (5, before + 1));

    // Mined, but the client does not know.
    take_one_transaction(&proxy);
    let mut embedding = client.spawn(&args).unwrap();
    eventually("the post to be mined", PATIENCE, || Ok((sent() == before + 2).then_some(()))).unwrap();
    embedding.kill().unwrap();
    let jobs = story.jobs().unwrap();
    let posted = jobs.iter().find(|job| job["id"] != planned[0]["id"]).unwrap();
    let second = story.client.quern(&["job", "resume", posted["run"].as_str().unwrap()]).unwrap();
    assert_eq!(sent(), before + 2);
    assert_eq!(vectors(&second), vectors(&first), "one text, one result");

    assert_eq!(story.jobs().unwrap().len(), 2);
    let mut fees = 0;
    for job in &jobs {
        fees += story.wait_for_payment(job["id"].as_str().unwrap()).unwrap()["fee"].as_str().unwrap().parse::<u128>().unwrap();
    }
    assert_eq!(story.balance(&story.client, "free").unwrap(), 100 * TOKEN - fees);
    assert_eq!(story.balance(&story.client, "escrow").unwrap(), 0);
    story.audit().unwrap();
}

#[test]
fn client_that_detaches_gets_its_results_when_it_comes_back() {
    let story = Story::begin().unwrap();
    let mut worker = story.worker(&[]).unwrap();
    let (run, id) = story.post(LINES, &[]).unwrap();
    // Nobody serves the input yet.
    worker.wait_for_line("input", PATIENCE).unwrap();
    assert_eq!(story.job(&id).unwrap()["state"], "open");
    let _serving = story.serve().unwrap();
    story.wait_for_state(&id, "submitted", 0).unwrap();

    // A second server at the same address is no obstacle, and who waits to the end finds the job paid.
    let results = story.client.quern(&["job", "resume", &run, "--until-final"]).unwrap();
    assert_eq!(results.len(), 5);
    assert_eq!(story.job(&id).unwrap()["state"], "completed");
    assert_eq!(vectors(&story.client.quern(&["job", "resume", &run]).unwrap()), vectors(&results), "coming back twice changes nothing");
    assert_eq!(story.only_job().unwrap(), id);
    story.recompute(&id).unwrap();
    story.audit().unwrap();
}

#[test]
fn client_that_said_so_claims_its_refunds_by_itself() {
    let story = Story::begin().unwrap();
    let free = || story.balance(&story.client, "free").unwrap();
    // Nobody claims it.
    let mut embedding = story.start_embedding(LINES, &["--claim-within", "20", "--auto-refund"]).unwrap();
    let expired = story.only_job().unwrap();
    story.market.devnet.warp(30).unwrap();
    assert_eq!(embedding.wait_for_end(PATIENCE).unwrap().code(), Some(4));
    assert_eq!(story.job(&expired).unwrap()["state"], "refunded");
    assert_eq!(free(), 100 * TOKEN);

    // Its provider dies, while the client is away too.
    let _serving = story.serve().unwrap();
    let mut worker = story.worker(&["--crash-at", "after:claimed"]).unwrap();
    let (run, undelivered) = story.post(LINES, &["--deliver-within", "60"]).unwrap();
    assert!(!worker.wait_for_end(PATIENCE).unwrap().success());
    story.market.devnet.warp(70).unwrap();
    let (code, said) = story.client.quern_fails(&["job", "resume", &run]).unwrap();
    assert!(code == 4 && said.contains("quern job refund"), "without the option it only says what to do: {said}");
    let (code, _) = story.client.quern_fails(&["job", "resume", &run, "--auto-refund"]).unwrap();
    assert_eq!(code, 4);
    let job = story.job(&undelivered).unwrap();
    let penalty: u128 = job["penalty"].as_str().unwrap().parse().unwrap();
    assert!(job["state"] == "refunded" && penalty > 0, "{job}");
    assert_eq!(free(), 100 * TOKEN + penalty);
    story.audit().unwrap();
}

#[test]
fn client_is_told_what_is_wrong_and_what_to_do_before_anything_is_posted() {
    let story = Story::begin().unwrap();
    let (free, sent) = (story.balance(&story.client, "free").unwrap(), story.transactions(&story.client).unwrap());
    let args = story.embed_args(LINES, &[]).unwrap();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let at = args.iter().position(|arg| *arg == "--item-price").unwrap();
    let unpriced = [&args[..at], &args[at + 2..]].concat();
    let says = |actor: &Actor, args: &[&str], texts: &[&str]| {
        let (_, said) = actor.quern_fails(args).unwrap();
        let error: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert!(error["error"]["what"].is_string(), "{said}");
        for text in texts {
            assert!(said.contains(text), "no {text:?} in {said}");
        }
    };

    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    proxy.set_rule(|method, _, _| if method == "eth_chainId" { Answer::Result(json!("0x1")) } else { Answer::Honest });
    says(&story.client.asking(&proxy.url()), &args, &["serves chain 1, but chain 901 is configured", "--rpc"]);
    let empty = Devnet::start(DevnetOptions::default()).unwrap();
    says(&story.client.asking(&empty.url()), &args, &["is not at 0x", "wrong deployment file"]);

    says(&story.client, &unpriced, &["no provider with enough at stake lists a price for model", "--item-price", "quern provider list"]);
    let unlisted = [&unpriced[..], &["--provider", &story.owner.address]].concat();
    says(&story.client, &unlisted, &[&story.owner.address, "does not list a price"]);

    let dear = [&unpriced[..], &["--item-price", "50"]].concat();
    says(&story.client, &dear, &["can cost 250 tokens", "150 missing", "quern wallet deposit 150"]);
    says(&story.client, &[&args[..], &["--max-price", "0.04"]].concat(), &["more than --max-price 0.04", "nothing was posted"]);
    story.client.quern(&["key", "new", "poor"]).unwrap();
    says(&story.client, &[&["--key", "poor"], &args[..]].concat(), &["none of the chain's own coin", "quern key address"]);

    assert!(story.jobs().unwrap().is_empty());
    assert_eq!((story.balance(&story.client, "free").unwrap(), story.transactions(&story.client).unwrap()), (free, sent));
    story.audit().unwrap();
}
