//! The worker's journal: compare-and-set of steps, one nonce per intention, and what a person reads when something is off.

mod support;

use std::sync::Arc;

use quern_db::{
    Error,
    journal::{Attempt, Begun, EnergyReading, Intent, IntentStatus, Outcome, PriceEntry, Step},
};
use quern_types::{Address, Amount, B256, EnergyMethod, JobKind, ModelId};
use support::{file, folder, job, open, spec};

const SIGNER: Address = Address::repeat_byte(0xaa);

fn intent(key: &str) -> Intent<'_> {
    Intent { key, signer: SIGNER, to: Address::repeat_byte(1), value_wei: 0, calldata: key.as_bytes() }
}

fn attempt(byte: u8) -> Attempt<'static> {
    Attempt { tx_hash: B256::repeat_byte(byte), raw: &[2, 0xf8], gas_limit: 300_000, max_fee_wei: u128::MAX, priority_fee_wei: 1 }
}

fn mined(byte: u8, block_number: u64) -> Outcome<'static> {
    let hash = B256::repeat_byte(byte);
    Outcome { succeeded: true, tx_hash: hash, block_number, block_hash: B256::with_last_byte(byte), note: "" }
}

#[tokio::test]
async fn job_survives_a_restart_with_its_steps_and_facts() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    journal.upsert_job(job(1), &spec(1), Step::Accepted).await.expect("is written");
    journal.advance(job(1), Step::Accepted, Step::Claiming, "pays 12", &[]).await.expect("moves");
    journal.advance(job(1), Step::Claiming, Step::Claimed, "", &[("price_bps", &[0x27, 0x10])]).await.expect("moves");
    journal.put_fact(job(1), "price_bps", &[1]).await.expect("is replaced");
    journal.close().await;

    let journal = open(&file(&folder)).await;
    let entry = journal.job(job(1)).await.expect("reads").expect("is there");
    assert_eq!((entry.spec, entry.step), (spec(1), Step::Claimed));
    let steps = journal.steps(job(1)).await.expect("reads");
    assert_eq!(steps.iter().map(|step| step.step).collect::<Vec<_>>(), [Step::Accepted, Step::Claiming, Step::Claimed]);
    assert_eq!(steps[1].note, "pays 12");
    assert_eq!(journal.fact(job(1), "price_bps").await.expect("reads"), Some(vec![1]));
    assert_eq!(journal.fact(job(1), "receipt").await.expect("reads"), None);
}

#[tokio::test]
async fn job_seen_twice_is_one_job_and_keeps_its_step() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    journal.upsert_job(job(1), &spec(1), Step::Accepted).await.expect("is written");
    journal.advance(job(1), Step::Accepted, Step::Claimed, "", &[]).await.expect("moves");
    let again = journal.upsert_job(job(1), &spec(1), Step::Accepted).await.expect("is there");
    assert_eq!(again.step, Step::Claimed);
    assert_eq!(journal.steps(job(1)).await.expect("reads").len(), 2);
    let error = journal.upsert_job(job(1), &spec(2), Step::Accepted).await.expect_err("another specification");
    assert!(matches!(error, Error::OtherSpec { .. }), "{error}");
}

#[tokio::test]
async fn advance_from_the_wrong_step_writes_nothing() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    journal.upsert_job(job(1), &spec(1), Step::Accepted).await.expect("is written");
    let error = journal.advance(job(1), Step::Stored, Step::Signed, "", &[("receipt", b"signed")]).await.expect_err("not stored");
    assert!(matches!(error, Error::StepMoved { expected: "stored", actual: "accepted", .. }), "{error}");
    assert_eq!(journal.fact(job(1), "receipt").await.expect("reads"), None);
    assert_eq!(journal.steps(job(1)).await.expect("reads").len(), 1);
    let error = journal.advance(job(2), Step::Accepted, Step::Claimed, "", &[]).await.expect_err("unknown job");
    assert!(error.to_string().contains("is unknown"), "{error}");
    assert!(matches!(journal.put_fact(job(2), "a", b"b").await, Err(Error::UnknownJob { .. })));
}

#[tokio::test]
async fn advance_by_many_tasks_at_once_succeeds_once() {
    let folder = folder();
    let journal = Arc::new(open(&file(&folder)).await);
    journal.upsert_job(job(1), &spec(1), Step::Accepted).await.expect("is written");
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.advance(job(1), Step::Accepted, Step::Claiming, "", &[]).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.expect("does not panic") {
            Ok(()) => won += 1,
            Err(error) => assert!(matches!(error, Error::StepMoved { .. }), "{error}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn closed_jobs_are_not_pending() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    for (byte, step) in (1..).zip(Step::ALL) {
        journal.upsert_job(job(byte), &spec(byte), step).await.expect("every step can be stored");
    }
    let pending: Vec<Step> = journal.pending_jobs().await.expect("reads").iter().map(|entry| entry.step).collect();
    assert_eq!(pending, Step::ALL[..11]);
    assert_eq!(journal.jobs().await.expect("reads").len(), 16);
}

#[tokio::test]
async fn intents_begun_at_once_have_distinct_nonces_without_gaps() {
    let folder = folder();
    let journal = Arc::new(open(&file(&folder)).await);
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                // Each key is begun twice: the second finds the first.
                let key = format!("claim/{}", i / 2);
                journal.begin_intent(&intent(&key), 5).await.expect("begins").entry().nonce
            })
        })
        .collect();
    let mut nonces = Vec::new();
    for task in tasks {
        nonces.push(task.await.expect("does not panic"));
    }
    nonces.sort_unstable();
    assert_eq!(nonces, (5..13).flat_map(|nonce| [nonce, nonce]).collect::<Vec<u64>>());
    assert_eq!(journal.next_nonce_floor(SIGNER).await.expect("reads"), 13);
    assert_eq!(journal.next_nonce_floor(Address::ZERO).await.expect("reads"), 0);
}

#[tokio::test]
async fn intent_begun_again_after_a_restart_keeps_nonce_and_attempts() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    let begun = journal.begin_intent(&intent("submit/1"), 3).await.expect("begins");
    assert!(matches!(begun, Begun::New(_)));
    assert_eq!(journal.record_attempt("submit/1", &attempt(1)).await.expect("records"), 0);
    assert_eq!(journal.record_attempt("submit/1", &attempt(2)).await.expect("records"), 1);
    assert_eq!(journal.record_attempt("submit/1", &attempt(1)).await.expect("is the same"), 0);
    drop(journal);

    let journal = open(&file(&folder)).await;
    let Begun::Existing(entry) = journal.begin_intent(&intent("submit/1"), 99).await.expect("is there") else {
        panic!("a second intention was begun");
    };
    assert_eq!((entry.nonce, entry.status), (3, IntentStatus::Open));
    let attempts = journal.attempts("submit/1").await.expect("reads");
    assert_eq!(
        attempts.iter().map(|a| (a.tx_hash, a.nonce, a.max_fee_wei)).collect::<Vec<_>>(),
        [(B256::repeat_byte(1), 3, u128::MAX), (B256::repeat_byte(2), 3, u128::MAX)]
    );
    let changed = Intent { calldata: b"more", ..intent("submit/1") };
    let error = journal.begin_intent(&changed, 3).await.expect_err("another calldata");
    assert!(matches!(error, Error::OtherIntent { what: "calldata", .. }), "{error}");
}

#[tokio::test]
async fn nonce_belongs_to_one_intent_until_it_is_abandoned() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    journal.begin_intent_at(&intent("a"), 7).await.expect("begins");
    let error = journal.begin_intent_at(&intent("b"), 7).await.expect_err("is taken");
    assert!(matches!(&error, Error::NonceTaken { owner, nonce: 7, .. } if owner == "a"), "{error}");
    journal.begin_intent(&intent("c"), 7).await.expect("takes the next");
    journal.abandon_intent("a", "never sent").await.expect("gives up");
    assert_eq!(journal.begin_intent(&intent("d"), 7).await.expect("fills the gap").entry().nonce, 7);
    assert_eq!(journal.renew_intent("a", 7).await.expect("comes back").nonce, 9);
    let open: Vec<_> = journal.open_intents(SIGNER).await.expect("reads").into_iter().map(|entry| (entry.nonce, entry.key)).collect();
    assert_eq!(open, [(7, "d".into()), (8, "c".into()), (9, "a".to_owned())]);
    // Another signer has its own nonces.
    let other = Intent { signer: Address::ZERO, ..intent("e") };
    assert_eq!(journal.begin_intent(&other, 7).await.expect("begins").entry().nonce, 7);
}

#[tokio::test]
async fn mined_intent_can_be_reopened_until_it_is_settled() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    journal.begin_intent(&intent("a"), 0).await.expect("begins");
    let error = journal.finish_intent("a", &mined(1, 10)).await.expect_err("no such attempt");
    assert!(matches!(error, Error::OtherIntent { what: "transaction", .. }), "{error}");
    journal.record_attempt("a", &attempt(1)).await.expect("records");
    journal.finish_intent("a", &mined(1, 10)).await.expect("is mined");
    assert!(journal.open_intents(SIGNER).await.expect("reads").is_empty());
    assert_eq!(journal.unsettled_intents(SIGNER).await.expect("reads").len(), 1);

    journal.reopen_intent("a").await.expect("the block is gone");
    assert_eq!(journal.open_intents(SIGNER).await.expect("reads")[0].mined, None);
    let reverted = Outcome { succeeded: false, note: "JobNotOpen", ..mined(1, 11) };
    journal.finish_intent("a", &reverted).await.expect("is mined elsewhere");
    journal.settle_intent("a").await.expect("is final");
    let entry = journal.intent("a").await.expect("reads").expect("is there");
    assert_eq!((entry.status, entry.settled, entry.note.as_str()), (IntentStatus::Reverted, true, "JobNotOpen"));
    assert_eq!(entry.mined, Some((B256::repeat_byte(1), 11, B256::with_last_byte(1))));

    for error in [
        journal.reopen_intent("a").await,
        journal.finish_intent("a", &mined(1, 12)).await,
        journal.abandon_intent("a", "").await,
        journal.renew_intent("a", 0).await.map(drop),
        journal.record_attempt("a", &attempt(3)).await.map(drop),
    ] {
        assert!(matches!(error, Err(Error::IntentState { .. })), "{error:?}");
    }
    assert!(matches!(journal.settle_intent("b").await, Err(Error::UnknownIntent { .. })));
}

#[tokio::test]
async fn nonce_past_63_bits_is_refused() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    let error = journal.begin_intent(&intent("a"), u64::MAX).await.expect_err("does not fit");
    assert!(matches!(error, Error::TooLarge { what: "nonce", .. }), "{error}");
    assert!(journal.intent("a").await.expect("reads").is_none());
}

#[tokio::test]
async fn energy_and_prices_are_kept_and_replaced() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    let reading = EnergyReading { millijoules: 12_345, method: EnergyMethod::Estimated, started_ms: 1, ended_ms: 2 };
    assert!(matches!(journal.put_energy(job(1), &reading).await, Err(Error::UnknownJob { .. })));
    journal.upsert_job(job(1), &spec(1), Step::Accepted).await.expect("is written");
    journal.put_energy(job(1), &reading).await.expect("is written");
    let measured = EnergyReading { method: EnergyMethod::Measured, ..reading };
    journal.put_energy(job(1), &measured).await.expect("is replaced");
    assert_eq!(journal.energy(job(1)).await.expect("reads"), Some(measured));

    let price = PriceEntry {
        model: ModelId(B256::repeat_byte(2)),
        kind: JobKind::Embed,
        base: Amount::from_units(u128::MAX),
        input: Amount::ZERO,
        output: Amount::ZERO,
        item: Amount::from_units(5),
    };
    journal.set_price(&price).await.expect("is set");
    let cheaper = PriceEntry { item: Amount::from_units(4), ..price };
    journal.set_price(&cheaper).await.expect("is replaced");
    assert_eq!(journal.prices().await.expect("reads"), [cheaper]);
    assert_eq!(journal.price(price.model, JobKind::Generate).await.expect("reads"), None);
    assert!(journal.remove_price(price.model, JobKind::Embed).await.expect("is removed"));
    assert!(!journal.remove_price(price.model, JobKind::Embed).await.expect("was not there"));
}
