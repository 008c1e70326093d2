//! A provider changes what it stakes, what it asks and who works for it.

use quern_testkit::{RpcProxy, text};
use serde_json::{Value, json};

use crate::story::{LINES, PATIENCE, Story, TOKEN, hold_transactions, vectors, wait_for_held};

#[test]
fn stake_that_is_taken_out_is_free_after_its_time_and_not_before() {
    let story = Story::begin().unwrap();
    let status = || story.owner.quern_one(&["provider", "status"]).unwrap();
    let held = |bucket: &str| text(&status(), bucket).unwrap().parse::<u128>().unwrap();
    let (_, said) = story.owner.quern_fails(&["provider", "withdraw"]).unwrap();
    assert!(said.contains("nothing is unbonding") && said.contains("quern provider unstake"), "{said}");
    let (_, said) = story.owner.quern_fails(&["provider", "unstake", "101"]).unwrap();
    assert!(said.contains("has 100 tokens in stake, and 101 tokens are needed"), "{said}");

    let unstaked = story.owner.quern_one(&["provider", "unstake", "40"]).unwrap();
    assert!(unstaked["unbondedAt"].as_u64().unwrap() > story.market.devnet.now().unwrap());
    assert_eq!((held("stake"), held("unbonding"), held("free")), (60 * TOKEN, 40 * TOKEN, 0));
    let (_, said) = story.owner.quern_fails(&["provider", "withdraw"]).unwrap();
    assert!(said.contains("is unbonding for another"), "{said}");
    story.owner.quern(&["provider", "cancel-unstake", "10"]).unwrap();
    assert_eq!((held("stake"), held("unbonding")), (70 * TOKEN, 30 * TOKEN));

    story.market.devnet.warp(31).unwrap();
    story.owner.quern(&["provider", "withdraw"]).unwrap();
    assert_eq!((held("stake"), held("unbonding"), held("free")), (70 * TOKEN, 0, 30 * TOKEN));
    story.owner.quern(&["wallet", "withdraw", "30"]).unwrap();
    assert_eq!(held("free"), 0);
    story.audit().unwrap();
}

#[test]
fn listed_price_is_what_a_client_without_an_offer_pays_until_it_is_taken_back() {
    let story = Story::begin().unwrap();
    let model = &story.market.model_id;
    let prices = || story.client.quern(&["provider", "list"]).unwrap()[0]["prices"].clone();
    assert_eq!(prices(), json!([]));
    story.owner.quern(&["provider", "price", model, "--base", "0.05", "--item", "0.02"]).unwrap();
    let (base, item) = (TOKEN / 20, TOKEN / 50);
    assert_eq!(prices(), json!([{"modelId": model, "base": base.to_string(), "input": "0", "output": "0", "item": item.to_string()}]));

    let _worker = story.worker(&[]).unwrap();
    let array = story.client.home.join("vectors.npy");
    let args = story.embed_args("one\ntwo\nthree\n", &["--npy", array.to_str().unwrap()]).unwrap();
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !["--item-price", "0.01"].contains(arg)).collect();
    let summary = story.client.quern_one(&args).unwrap();
    assert_eq!((&summary["items"], &summary["width"]), (&json!(3), &json!(384)));
    let id = story.only_job().unwrap();
    let results = story.client.quern(&["job", "result", &id]).unwrap();
    assert_eq!(read_npy(&array, 3, 384), json!(vectors(&results)));
    let job = story.wait_for_payment(&id).unwrap();
    // The publisher's royalty of 2.5 % is on top of what the provider lists.
    let offered = |listed: u128| (listed * 10_000).div_ceil(9_750);
    assert_eq!(text(&job, "fee").unwrap(), (offered(base) + 3 * offered(item)).to_string());

    story.owner.quern(&["provider", "unprice", model]).unwrap();
    assert_eq!(prices(), json!([]));
    let (_, said) = story.client.quern_fails(&args).unwrap();
    assert!(said.contains("no provider with enough at stake lists a price for model"), "{said}");
    assert_eq!(story.only_job().unwrap(), id);
    story.audit().unwrap();
}

/// The rows of a .npy file of little-endian int16.
fn read_npy(path: &std::path::Path, rows: usize, width: usize) -> Value {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let (header, data) = bytes[10..].split_at(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])));
    let header = std::str::from_utf8(header).unwrap();
    for entry in ["'descr': '<i2'", "'fortran_order': False", &format!("'shape': ({rows}, {width}")] {
        assert!(header.contains(entry), "no {entry} in {header}");
    }
    let elements: Vec<i16> = data.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    assert_eq!(data.len(), 2 * rows * width);
    elements.chunks_exact(width).map(|row| json!(row)).collect()
}

#[test]
fn operator_replaced_in_the_middle_of_a_job_delivers_it_and_its_successor_takes_the_next() {
    let mut story = Story::begin().unwrap();
    let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
    story.operator = story.operator.asking(&proxy.url());
    let held = hold_transactions(&proxy, 1);
    let mut worker = story.worker(&[]).unwrap();
    let mut embedding = story.start_embedding(LINES, &[]).unwrap();
    let first = story.only_job().unwrap();
    wait_for_held(&held).unwrap();
    assert_eq!(story.job(&first).unwrap()["state"], "claimed");
    let successor = story.market.operator("successor").unwrap();
    story.owner.quern(&["provider", "operator", "set", &successor.address]).unwrap();
    let shown = story.client.quern_one(&["provider", "operator", "show", &story.owner.address]).unwrap();
    assert!(is_address(&shown["operator"], &successor.address), "{shown}");

    // Even if it has to start again: what it has claimed nobody else can deliver.
    worker.kill().unwrap();
    proxy.be_honest();
    let mut worker = story.worker(&[]).unwrap();
    assert!(embedding.wait_for_end(PATIENCE).unwrap().success(), "{}", embedding.output().unwrap());
    let _new_worker = story.market.worker(&story.owner, &successor, &[&story.client], &[]).unwrap();
    let results = story.embed("one more\n", &["--gateway", &successor.gateway]).unwrap();
    assert_eq!(results.len(), 1);
    let second = text(&results[0], "job").unwrap();
    for (id, operator) in [(&first, &story.operator), (&second, &successor)] {
        let job = story.wait_for_payment(id).unwrap();
        assert!(is_address(&job["operator"], &operator.address) && is_address(&job["provider"], &story.owner.address), "{job}");
    }
    worker.wait_for_line("state=\"paid\"", PATIENCE).unwrap();
    assert!(worker.terminate().unwrap().success(), "it lived on until it was stopped");

    // With nothing left to deliver it does not start.
    let refused = story.market.worker(&story.owner, &story.operator, &[&story.client], &[]);
    let said = format!("{:#}", refused.unwrap_err());
    assert!(said.contains("quern provider operator set"), "{said}");
    story.audit().unwrap();
}

/// Whether a field is this address, in whatever case.
fn is_address(field: &Value, address: &str) -> bool {
    field.as_str().is_some_and(|field| field.eq_ignore_ascii_case(address))
}
