//! The worker's journal: compare-and-set of steps, one nonce per intention, and what a person reads when something is off.

use std::sync::Arc;

use crate::support::{file, folder, job, open, spec};
use quern_db::{
    Error,
    journal::{Attempt, EnergyReading, Intent, IntentStatus, Journal, Mined, PriceEntry, Step},
};
use quern_types::{Address, Amount, B256, EnergyMethod, JobKind, ModelId};

const SIGNER: Address = Address::repeat_byte(0xaa);

fn intent(key: &str, nonce: u64) -> Intent {
    Intent {
        key: key.to_owned(),
        signer: SIGNER,
        nonce,
        to: Address::repeat_byte(1),
        value_wei: u128::MAX,
        calldata: key.as_bytes().to_vec(),
        status: IntentStatus::Open,
        attempts: vec![attempt(u8::try_from(nonce).expect("small"))],
        mined: None,
    }
}

fn attempt(byte: u8) -> Attempt {
    Attempt { tx_hash: B256::repeat_byte(byte), raw: vec![2, byte], max_fee_wei: u128::MAX, priority_fee_wei: 1, gas_limit: 300_000 }
}

fn mined(intent: Intent, block: u64) -> Intent {
    let mined =
        Some(Mined { tx_hash: intent.attempts[0].tx_hash, block_number: block, block_hash: B256::with_last_byte(1), succeeded: true });
    Intent { status: IntentStatus::Mined, mined, ..intent }
}

async fn refused(journal: &Journal, changed: Intent, why: &str) {
    let before = journal.intent(&changed.key).await.expect("reads");
    let error = journal.update_intent(&changed).await.expect_err(why);
    assert!(matches!(&error, Error::IntentRewritten { what, .. } if *what == why), "{error}");
    assert_eq!(journal.intent(&changed.key).await.expect("reads"), before);
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
async fn nonce_wanted_by_many_tasks_belongs_to_one() {
    let folder = folder();
    let journal = Arc::new(open(&file(&folder)).await);
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let journal = Arc::clone(&journal);
            let wanted = Intent { attempts: vec![attempt(100 + i)], ..intent(&format!("claim/{i}"), 5) };
            tokio::spawn(async move { journal.insert_intent(&wanted).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.expect("does not panic") {
            Ok(()) => won += 1,
            Err(error) => assert!(matches!(error, Error::NonceTaken { nonce: 5, .. }), "{error}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(journal.next_nonce(SIGNER).await.expect("reads"), Some(6));
    assert_eq!(journal.next_nonce(Address::ZERO).await.expect("reads"), None);
    // Another signer has its own nonces.
    let other = Intent { signer: Address::ZERO, attempts: vec![attempt(1)], ..intent("other", 5) };
    journal.insert_intent(&other).await.expect("is written");
}

#[tokio::test]
async fn intent_survives_a_restart_with_every_attempt() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    let first = intent("submit/1", 3);
    // The nonce is taken before anything is signed for it.
    let unsigned = Intent { attempts: vec![], ..first.clone() };
    journal.insert_intent(&unsigned).await.expect("is written");
    assert_eq!(journal.intent("submit/1").await.expect("reads"), Some(unsigned));
    journal.update_intent(&first).await.expect("an attempt is added");
    let replaced = Intent { attempts: vec![attempt(3), attempt(4)], ..first.clone() };
    journal.update_intent(&replaced).await.expect("an attempt is added");
    journal.update_intent(&replaced).await.expect("the same again changes nothing");
    drop(journal);

    let journal = open(&file(&folder)).await;
    assert_eq!(journal.intent("submit/1").await.expect("reads"), Some(replaced.clone()));
    assert_eq!(journal.unfinished_intents(SIGNER).await.expect("reads"), [replaced]);
    let error = journal.insert_intent(&intent("submit/1", 4)).await.expect_err("the key is there");
    assert!(matches!(error, Error::IntentExists { .. }), "{error}");
    assert!(matches!(journal.update_intent(&intent("b", 9)).await, Err(Error::UnknownIntent { .. })));
}

#[tokio::test]
async fn what_is_written_about_an_intent_is_only_added_to() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    let written = Intent { attempts: vec![attempt(1), attempt(2)], ..intent("a", 1) };
    journal.insert_intent(&written).await.expect("is written");
    refused(&journal, Intent { signer: Address::ZERO, ..written.clone() }, "the signer differs").await;
    refused(&journal, Intent { nonce: 2, ..written.clone() }, "the nonce differs").await;
    refused(&journal, Intent { calldata: vec![], ..written.clone() }, "the call differs").await;
    refused(&journal, Intent { value_wei: 1, ..written.clone() }, "the call differs").await;
    refused(&journal, Intent { attempts: vec![attempt(1)], ..written.clone() }, "a recorded attempt is missing or differs").await;
    refused(&journal, Intent { attempts: vec![attempt(2), attempt(1)], ..written.clone() }, "a recorded attempt is missing or differs")
        .await;
    refused(&journal, Intent { attempts: vec![], ..written.clone() }, "a recorded attempt is missing or differs").await;
    refused(&journal, Intent { status: IntentStatus::Mined, ..written.clone() }, "it is mined, but no block is given").await;
    refused(&journal, Intent { status: IntentStatus::Open, ..mined(written.clone(), 5) }, "it is open, but a block is given").await;
    let mut foreign = mined(written.clone(), 5);
    foreign.mined = foreign.mined.map(|mined| Mined { tx_hash: B256::repeat_byte(9), ..mined });
    refused(&journal, foreign, "the transaction that was mined is none of its attempts").await;
}

#[tokio::test]
async fn mined_intent_goes_back_until_it_is_final() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    let open_ = intent("a", 0);
    journal.insert_intent(&open_).await.expect("is written");
    journal.update_intent(&mined(open_.clone(), 10)).await.expect("is mined");
    journal.update_intent(&open_).await.expect("its block is gone");
    assert_eq!(journal.intent("a").await.expect("reads"), Some(open_.clone()));
    let last = Intent { status: IntentStatus::Final, ..mined(open_.clone(), 11) };
    journal.update_intent(&last).await.expect("is final");
    assert_eq!(journal.intent("a").await.expect("reads"), Some(last.clone()));
    assert!(journal.unfinished_intents(SIGNER).await.expect("reads").is_empty());
    refused(&journal, open_, "it is final").await;
    refused(&journal, mined(last.clone(), 12), "it is final").await;
    journal.update_intent(&last).await.expect("the same again changes nothing");
    assert_eq!(journal.next_nonce(SIGNER).await.expect("reads"), Some(1));
}

#[tokio::test]
async fn nonce_past_63_bits_is_refused() {
    let folder = folder();
    let journal = open(&file(&folder)).await;
    let error = journal.insert_intent(&Intent { nonce: u64::MAX, ..intent("a", 0) }).await.expect_err("does not fit");
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
