//! Files as an enemy, a crash or a mistake leaves them: none of them may read as an empty journal.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{binding, file, folder, job, open, spec, with_sql};
use proptest::prelude::*;
use quern_db::{
    Error, Severity,
    journal::{Attempt, Intent, IntentStatus, Journal, JournalBinding, Step},
};
use quern_types::{Address, B256};

async fn refusal(path: &Path) -> Error {
    let error = Journal::open(path, &binding()).await.expect_err("the file is refused");
    assert_eq!(error.severity(), Severity::Fatal, "{error}");
    error
}

#[tokio::test]
async fn second_opening_is_refused_until_the_first_ends() {
    let folder = folder();
    let first = open(&file(&folder)).await;
    assert!(matches!(refusal(&file(&folder)).await, Error::InUse { .. }));
    // Another name of the same file meets the same lock.
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(file(&folder), &link).expect("a link is made");
    assert!(matches!(refusal(&link).await, Error::InUse { .. }));
    first.close().await;
    open(&file(&folder)).await;
}

#[tokio::test]
async fn empty_file_and_garbage_are_damage() {
    let folder = folder();
    let path = file(&folder);
    fs::write(&path, b"").expect("writes");
    let error = refusal(&path).await;
    assert!(error.to_string().contains("the file is empty") && error.to_string().contains("costs stake"), "{error}");
    for garbage in [&b"SQLite format 3\0"[..], &[0; 4096], b"hello", &[0xff; 100_000]] {
        fs::write(&path, garbage).expect("writes");
        let error = refusal(&path).await;
        assert!(matches!(error, Error::Damaged { .. } | Error::NotOurs { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn database_of_another_program_is_refused_untouched() {
    let folder = folder();
    let path = file(&folder);
    with_sql(&path, "CREATE TABLE intent (a)").await;
    let before = fs::read(&path).expect("reads");
    let error = refusal(&path).await;
    assert!(matches!(error, Error::NotOurs { .. }), "{error:?}");
    assert_eq!(before, fs::read(&path).expect("reads"));
}

#[tokio::test]
async fn lost_main_file_beside_its_log_is_damage() {
    let folder = folder();
    let path = file(&folder);
    open(&path).await.close().await;
    fs::remove_file(&path).expect("is removed");
    fs::write(folder.path().join("journal.db-wal"), [1; 64]).expect("writes");
    let error = refusal(&path).await;
    assert!(error.to_string().contains("journal.db-wal"), "{error}");
}

#[tokio::test]
async fn unfinished_creation_is_started_again() {
    let folder = folder();
    fs::write(folder.path().join("journal.db.new"), b"half a file").expect("writes");
    open(&file(&folder)).await.close().await;
    assert!(!folder.path().join("journal.db.new").exists());
}

#[tokio::test]
async fn journal_of_another_chain_or_genesis_or_market_is_refused() {
    let folder = folder();
    let path = file(&folder);
    open(&path).await.close().await;
    for (other, name) in [
        (JournalBinding { chain_id: 902, ..binding() }, "chain_id"),
        (JournalBinding { genesis_hash: B256::ZERO, ..binding() }, "genesis_hash"),
        (JournalBinding { market: Address::ZERO, ..binding() }, "market"),
    ] {
        let error = Journal::open(&path, &other).await.expect_err("is refused");
        assert!(matches!(&error, Error::OtherChain { name: found, .. } if found == name), "{error}");
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
    open(&path).await;
}

#[tokio::test]
async fn newer_schema_and_edited_schema_are_refused() {
    let folder = folder();
    let path = file(&folder);
    open(&path).await.close().await;
    with_sql(
        &path,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', 1, x'00', 1)",
    )
    .await;
    let error = refusal(&path).await;
    assert!(matches!(error, Error::Newer { found: 9999, .. }), "{error:?}");
    with_sql(&path, "DELETE FROM _sqlx_migrations WHERE version = 9999; UPDATE _sqlx_migrations SET checksum = x'00'").await;
    let error = refusal(&path).await;
    assert!(matches!(error, Error::OtherBuild { version: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn value_that_we_never_write_is_an_error_not_a_default() {
    let folder = folder();
    let path = file(&folder);
    let journal = open(&path).await;
    journal.upsert_job(job(1), &spec(1), Step::Accepted).await.expect("is written");
    journal.close().await;
    with_sql(&path, "UPDATE job SET spec = '{}'").await;
    let journal = open(&path).await;
    let error = journal.pending_jobs().await.expect_err("no specification");
    assert!(matches!(error, Error::BadValue { table: "job", column: "spec", .. }), "{error:?}");
    assert_eq!(error.severity(), Severity::Fatal);
}

/// What a journal holds, as one value that can be compared.
async fn contents(journal: &Journal) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in journal.jobs().await.expect("reads") {
        let steps = journal.steps(entry.job).await.expect("reads");
        let fact = journal.fact(entry.job, "fact").await.expect("reads");
        lines.push(format!("{entry:?} {steps:?} {fact:?}"));
    }
    lines.extend(journal.unfinished_intents(Address::ZERO).await.expect("reads").iter().map(|intent| format!("{intent:?}")));
    lines
}

/// Copies the files as a process that is killed now would leave them.
fn killed_now(path: &Path, to: &Path) -> PathBuf {
    let copy = to.join("journal.db");
    fs::copy(path, &copy).expect("copies");
    fs::copy(path.with_file_name("journal.db-wal"), copy.with_file_name("journal.db-wal")).expect("copies");
    copy
}

fn attempt(byte: u8) -> Attempt {
    Attempt { tx_hash: B256::repeat_byte(byte), raw: vec![byte; 1_000], max_fee_wei: 1, priority_fee_wei: 0, gas_limit: 1 }
}

/// A journal after each of a row of calls: `contents` after every call, the first being that of a new journal.
async fn busy(path: &Path) -> (Journal, Vec<Vec<String>>) {
    let journal = open(path).await;
    let mut after = vec![contents(&journal).await];
    for byte in 1..=4 {
        journal.upsert_job(job(byte), &spec(byte), Step::Accepted).await.expect("is written");
        after.push(contents(&journal).await);
        let mut intent = Intent {
            key: format!("claim/{byte}"),
            signer: Address::ZERO,
            nonce: u64::from(byte),
            to: Address::ZERO,
            value_wei: 1,
            calldata: vec![byte; 900],
            status: IntentStatus::Open,
            attempts: vec![attempt(byte)],
            mined: None,
        };
        journal.insert_intent(&intent).await.expect("is written");
        after.push(contents(&journal).await);
        intent.attempts.push(attempt(byte + 100));
        journal.update_intent(&intent).await.expect("an attempt is added");
        after.push(contents(&journal).await);
        journal.advance(job(byte), Step::Accepted, Step::Signed, "", &[("fact", &[byte; 3_000])]).await.expect("moves");
        after.push(contents(&journal).await);
    }
    (journal, after)
}

#[tokio::test]
async fn killed_process_loses_no_answered_call() {
    let folder = folder();
    let path = file(&folder);
    let (_journal, after) = busy(&path).await;
    let grave = crate::support::folder();
    let copy = open(&killed_now(&path, grave.path())).await;
    assert_eq!(Some(&contents(&copy).await), after.last());
}

#[tokio::test]
async fn log_torn_anywhere_leaves_whole_calls() {
    let folder = folder();
    let path = file(&folder);
    let (_journal, after) = busy(&path).await;
    let length = fs::metadata(path.with_file_name("journal.db-wal")).expect("the log is there").len();
    let mut reached = std::collections::BTreeSet::new();
    for cut in (0..=length).step_by(2_741) {
        let grave = crate::support::folder();
        let copy = killed_now(&path, grave.path());
        let log = fs::OpenOptions::new().write(true).open(copy.with_file_name("journal.db-wal")).expect("opens");
        log.set_len(cut).expect("is cut");
        let found = contents(&open(&copy).await).await;
        let position = after.iter().position(|contents| *contents == found);
        reached.insert(position.unwrap_or_else(|| panic!("cut at {cut}: half a call")));
    }
    assert!(reached.len() > 8, "the cuts met too few calls: {reached:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A flipped byte is either harmless or an error; it never makes the journal forget or change an intention.
    #[test]
    fn flipped_byte_is_an_error_or_changes_nothing_that_is_read(position in 0usize..100_000, mask in 1u8..) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = folder();
            let path = file(&folder);
            let (journal, after) = busy(&path).await;
            journal.close().await;
            let mut bytes = fs::read(&path).expect("reads");
            let position = position % bytes.len();
            bytes[position] ^= mask;
            fs::write(&path, bytes).expect("writes");
            // Content bytes of a row carry no checksum in SQLite: those may differ, rows may not vanish.
            if let Ok(journal) = Journal::open(&path, &binding()).await
                && let (Ok(jobs), Ok(intents)) = (journal.jobs().await, journal.unfinished_intents(Address::ZERO).await)
            {
                let expected = after.last().map_or(0, Vec::len);
                prop_assert!(jobs.len() + intents.len() >= expected - 1, "byte {} lost rows", position);
            }
            Ok(())
        })?;
    }
}
