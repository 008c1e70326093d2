//! The index: whatever the chain does on the way, the tables are those of the canonical chain alone.

use std::fs;

use crate::{
    chain::{Chain, FIRST, binding, change, dump, open},
    support::{self, folder, job},
};
use proptest::{collection::vec, prelude::*};
use quern_db::{
    Error, Severity,
    index::{Batch, Change, Event, Index, IndexBinding, JobFilter, MoveFilter, Place},
};
use quern_types::{Address, Amount, B256, BlockRef, Bucket, JobId, JobState, Move, Reason};

/// What happens to the chain next.
#[derive(Debug, Clone)]
enum Deed {
    /// Blocks with these events are built.
    Extend(Vec<Vec<u32>>),
    /// So many blocks are replaced by as many others, if they are not finalized.
    Reorganise(u64, Vec<Vec<u32>>),
    /// The finalized head moves up by so much, at most to three below the newest block.
    Finalize(u64),
    /// The process is started again.
    Restart,
}

fn blocks() -> impl Strategy<Value = Vec<Vec<u32>>> {
    vec(vec(0u32..24 * 40, 0..6), 1..5)
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => blocks().prop_map(Deed::Extend),
        3 => (1u64..9, blocks()).prop_map(|(depth, blocks)| Deed::Reorganise(depth, blocks)),
        1 => (1u64..6).prop_map(Deed::Finalize),
        1 => Just(Deed::Restart),
    ]
}

async fn scratch(chain: &Chain, finalized: u64, heads_of: &Chain) -> Vec<String> {
    let folder = folder();
    let path = folder.path().join("index.db");
    let index = open(&path).await;
    index.apply(&chain.batch_above(0, u64::MAX, heads_of.heads(finalized))).await.expect("the canonical chain applies");
    dump(&path).await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn batches_and_unwinds_give_what_the_canonical_chain_alone_gives(deeds in vec(deed(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = folder();
            let path = folder.path().join("index.db");
            let mut index = open(&path).await;
            let mut chain = Chain::default();
            let mut finalized = FIRST - 1;
            for (seed, deed) in (1..).zip(deeds) {
                let stand = chain.tip().number;
                match deed {
                    Deed::Extend(blocks) => blocks.iter().for_each(|events| chain.extend(seed, events)),
                    Deed::Reorganise(depth, blocks) => {
                        let to = (stand.saturating_sub(depth)).max(finalized).max(FIRST - 1);
                        chain.0.retain(|made| made.block.at.number <= to);
                        index.unwind(chain.tip(), chain.heads(finalized)).await.expect("the window reaches that far");
                        blocks.iter().for_each(|events| chain.extend(seed, events));
                    }
                    Deed::Finalize(by) => finalized = (finalized + by).min(stand.saturating_sub(3)).max(finalized),
                    Deed::Restart => {
                        drop(index);
                        index = open(&path).await;
                    }
                }
                let position = index.position().await.expect("reads");
                let cursor = position.cursor.map_or(FIRST - 1, |block| block.number);
                // In two batches, so that rows are loaded again between them.
                for up_to in [cursor + 2, u64::MAX] {
                    let from = index.position().await.expect("reads").cursor.map_or(FIRST - 1, |block| block.number);
                    index.apply(&chain.batch_above(from, up_to, chain.heads(finalized))).await.expect("follows");
                }
            }
            let expected = scratch(&chain, finalized, &chain).await;
            prop_assert_eq!(dump(&path).await, expected);
            let audit = index.audit().await.expect("reads");
            let (alarms, _) = index.snapshot().await.expect("reads").alarms(0).await.expect("reads");
            // Money that would be negative is named by both or by neither.
            prop_assert!(alarms > 0 || audit.differences.is_empty(), "{:?}", audit.differences);
            Ok(())
        })?;
    }
}

/// A chain with some of everything.
fn story() -> Chain {
    let mut chain = Chain::default();
    for number in 0..12u32 {
        let events: Vec<u32> = (0..10).map(|i| number * 131 + i * 17).collect();
        chain.extend(1, &events);
    }
    chain
}

#[tokio::test]
async fn index_torn_by_a_power_cut_is_the_index_after_a_whole_batch() {
    let folder = folder();
    let path = folder.path().join("index.db");
    let index = open(&path).await;
    let chain = story();
    let mut after = vec![dump(&path).await];
    for made in &chain.0 {
        let number = made.block.at.number;
        index.apply(&chain.batch_above(number - 1, number, chain.heads(FIRST))).await.expect("follows");
        after.push(dump(&path).await);
    }
    let log = path.with_file_name("index.db-wal");
    let length = fs::metadata(&log).expect("the log is there").len();
    let mut reached = std::collections::BTreeSet::new();
    for cut in (0..=length).step_by(usize::try_from(length / 40).expect("small")) {
        let grave = support::folder();
        let copy = grave.path().join("index.db");
        fs::copy(&path, &copy).expect("copies");
        fs::copy(&log, copy.with_file_name("index.db-wal")).expect("copies");
        let torn = fs::OpenOptions::new().write(true).open(copy.with_file_name("index.db-wal")).expect("opens");
        torn.set_len(cut).expect("is cut");
        let index = open(&copy).await;
        let found = dump(index.path()).await;
        reached.insert(after.iter().position(|dump| *dump == found).unwrap_or_else(|| panic!("cut at {cut}: half a batch")));
    }
    assert!(reached.len() > 6, "the cuts met too few batches: {reached:?}");
}

#[tokio::test]
async fn batch_that_does_not_follow_is_refused_and_writes_nothing() {
    let folder = folder();
    let path = folder.path().join("index.db");
    let index = open(&path).await;
    let chain = story();
    let heads = chain.heads(FIRST);
    index.apply(&chain.batch_above(0, FIRST + 3, heads)).await.expect("applies");
    let before = dump(&path).await;
    let next = chain.batch_above(FIRST + 3, FIRST + 5, heads);
    let mut other_parent = next.clone();
    other_parent.blocks[0].parent = B256::ZERO;
    let mut foreign_event = next.clone();
    foreign_event.events[0].place.block.hash = B256::ZERO;
    let mut unordered = next.clone();
    unordered.events.swap(0, 1);
    for (batch, why) in [
        (chain.batch_above(FIRST + 4, FIRST + 5, heads), "its number is not the next one"),
        (chain.batch_above(FIRST + 2, FIRST + 5, heads), "its number is not the next one"),
        (other_parent, "its parent is another block"),
        (foreign_event, "an event lies in it, but it is not in the batch"),
        (unordered, "its events are out of order"),
    ] {
        let error = index.apply(&batch).await.expect_err(why);
        assert!(matches!(&error, Error::NotNext { what, .. } if *what == why), "{error}");
        assert_eq!(error.severity(), Severity::Fatal);
    }
    assert_eq!(dump(&path).await, before);
    index.apply(&next).await.expect("the right one applies");
}

#[tokio::test]
async fn unwind_below_the_finalized_block_or_to_a_foreign_block_is_refused() {
    let folder = folder();
    let path = folder.path().join("index.db");
    let index = open(&path).await;
    let chain = story();
    index.apply(&chain.batch_above(0, u64::MAX, chain.heads(FIRST + 4))).await.expect("applies");
    let before = dump(&path).await;
    let heads = chain.heads(FIRST + 4);
    for to in [chain.at(FIRST + 3), BlockRef { hash: B256::ZERO, ..chain.at(FIRST + 6) }, BlockRef { number: FIRST + 90, ..chain.tip() }] {
        let error = index.unwind(to, heads).await.expect_err("is refused");
        assert!(matches!(error, Error::CannotUnwind { .. }), "{error}");
        assert!(error.to_string().contains("index.db"), "{error}");
    }
    assert_eq!(dump(&path).await, before);
    index.unwind(chain.at(FIRST + 4), heads).await.expect("the floor itself can be reached");
}

#[tokio::test]
async fn chain_that_begins_again_before_the_first_block_empties_the_index() {
    let folder = folder();
    let path = folder.path().join("index.db");
    let index = open(&path).await;
    let empty = dump(&path).await;
    let chain = story();
    index.apply(&chain.batch_above(0, u64::MAX, chain.heads(0))).await.expect("applies");
    let base = BlockRef { number: FIRST - 1, hash: B256::repeat_byte(0xee), timestamp: 1 };
    index.unwind(base, chain.heads(0)).await.expect("begins again");
    let without_cursor = |dump: Vec<String>| dump.into_iter().filter(|line| !line.starts_with("cursor")).collect::<Vec<_>>();
    assert_eq!(without_cursor(dump(&path).await), without_cursor(empty));
    index.apply(&chain.batch_above(0, u64::MAX, chain.heads(0))).await.expect("and goes on");
}

#[tokio::test]
async fn lost_or_contradicting_cursor_is_damage_not_a_new_index() {
    for (sql, what) in [
        ("DELETE FROM cursor", "the row is missing"),
        ("UPDATE cursor SET block_number = NULL, block_hash = NULL, block_at = NULL", "cursor is None"),
        ("UPDATE cursor SET block_number = block_number - 1", "its last block"),
        ("DELETE FROM block WHERE number = 9", "follows block"),
        ("UPDATE cursor SET heads = 'x'", "cursor.heads"),
        ("UPDATE event SET block_number = 1000 WHERE block_number = 15", "holds rows up to block"),
    ] {
        let folder = folder();
        let path = folder.path().join("index.db");
        let index = open(&path).await;
        let chain = story();
        index.apply(&chain.batch_above(0, u64::MAX, chain.heads(FIRST))).await.expect("applies");
        index.close().await;
        support::with_sql(&path, sql).await;
        let error = Index::open(&path, &binding()).await.err().unwrap_or_else(|| panic!("{sql} went unnoticed"));
        assert_eq!(error.severity(), Severity::Fatal);
        assert!(error.to_string().contains(what), "{sql}: {error}");
    }
}

#[tokio::test]
async fn index_of_another_deployment_and_a_journal_are_refused() {
    let folder = folder();
    let path = folder.path().join("index.db");
    open(&path).await.close().await;
    let error = Index::open(&path, &IndexBinding { first_block: 6, ..binding() }).await.expect_err("is refused");
    assert!(matches!(&error, Error::OtherChain { name, .. } if name == "first_block"), "{error}");
    let journal = support::file(&folder);
    support::open(&journal).await.close().await;
    let error = Index::open(&journal, &binding()).await.expect_err("is refused");
    assert!(matches!(error, Error::NotOurs { expected: "index", .. }), "{error}");
}

/// One block with these changes.
fn one_block(changes: Vec<Change>) -> Batch {
    let mut chain = Chain::default();
    chain.extend(1, &[]);
    let at = chain.tip();
    let mut batch = chain.batch_above(0, u64::MAX, chain.heads(0));
    batch.events = (0u64..)
        .zip(changes)
        .map(|(log_index, change)| Event { place: Place { block: at, log_index, tx_hash: B256::ZERO }, contract: Address::ZERO, change })
        .collect();
    batch
}

async fn alarms_of(changes: Vec<Change>) -> Vec<(&'static str, String)> {
    let folder = folder();
    let index = open(&folder.path().join("index.db")).await;
    let applied = index.apply(&one_block(changes)).await.expect("whatever the events say, the index goes on");
    index.audit().await.expect("and can be audited");
    applied.alarms.into_iter().map(|alarm| (alarm.kind, alarm.detail)).collect()
}

#[tokio::test]
async fn every_lie_about_money_raises_its_alarm_and_stops_nothing() {
    let account = Address::repeat_byte(1);
    let deposit = Move {
        seq: 1,
        from: account,
        from_bucket: Bucket::Outside,
        to: account,
        to_bucket: Bucket::Free,
        amount: Amount::from_units(10),
        reason: Reason::Deposit,
        reference: B256::ZERO,
    };
    let genesis = quern_types::LedgerHead::genesis(binding().chain_id, binding().ledger);
    let moved = |head: &mut quern_types::LedgerHead, entry: Move| {
        *head = head.after(&entry);
        Change::Moved { entry, head: head.hash }
    };
    let kinds = |alarms: Vec<(&'static str, String)>| alarms.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();

    let mut head = genesis;
    let honest = moved(&mut head, deposit);
    assert_eq!(kinds(alarms_of(vec![honest.clone()]).await), [""; 0]);
    assert_eq!(kinds(alarms_of(vec![Change::Moved { entry: deposit, head: B256::ZERO }]).await), ["ledger_head"]);

    let mut head = genesis;
    let gap = moved(&mut head, Move { seq: u64::MAX, ..deposit });
    assert_eq!(kinds(alarms_of(vec![gap]).await), ["ledger_seq"]);

    let mut head = genesis;
    let first = moved(&mut head, deposit);
    let take = Move { seq: 2, from_bucket: Bucket::Free, to_bucket: Bucket::Stake, amount: Amount::from_units(11), ..deposit };
    let alarms = alarms_of(vec![first.clone(), moved(&mut head, take)]).await;
    assert_eq!(alarms[0].0, "negative_balance");
    assert!(alarms[0].1.contains("takes 11 from Free") && alarms[0].1.contains("holds 10"), "{}", alarms[0].1);

    let mut head = genesis;
    let most = Move { amount: Amount::from_units(u128::MAX), ..deposit };
    let first = moved(&mut head, most);
    let more = moved(&mut head, Move { seq: 2, ..most });
    assert_eq!(kinds(alarms_of(vec![first, more]).await), ["overflow", "overflow"]);
}

#[tokio::test]
async fn every_state_accepts_exactly_the_events_of_the_table() {
    use JobState::{Challenged, Claimed, Completed, Open, Refunded, Slashed, Submitted};
    let mut ledger = quern_types::LedgerHead::genesis(1, Address::ZERO);
    // `change` makes these kinds of event about the same job.
    let mut event = |kind: u32| change(kind, &mut ledger, 9);
    let (post, claim, submit, complete, cancel) = (event(8), event(10), event(12), event(13), event(14));
    let (undelivered, challenge, dismiss, slash) = (event(15), event(16), event(17), event(18));
    let paths = [
        (Open, vec![&post]),
        (Claimed, vec![&post, &claim]),
        (Submitted, vec![&post, &claim, &submit]),
        (Challenged, vec![&post, &claim, &submit, &challenge]),
        (Completed, vec![&post, &claim, &submit, &complete]),
        (Refunded, vec![&post, &cancel]),
        (Slashed, vec![&post, &claim, &submit, &challenge, &slash]),
    ];
    let table = [
        (&claim, vec![Open]),
        (&submit, vec![Claimed]),
        (&complete, vec![Submitted]),
        (&cancel, vec![Open]),
        (&undelivered, vec![Claimed]),
        (&challenge, vec![Submitted, Challenged]),
        (&dismiss, vec![Challenged]),
        (&slash, vec![Challenged]),
        (&post, vec![]),
    ];
    for (state, path) in &paths {
        assert!(alarms_of(path.iter().map(|change| (*change).clone()).collect()).await.is_empty(), "the way to {state:?}");
        for (next, allowed) in &table {
            let all = path.iter().copied().chain([*next]).cloned().collect();
            let alarms = alarms_of(all).await;
            assert_eq!(alarms.is_empty(), allowed.contains(state), "{} in {state:?}: {alarms:?}", next.name());
        }
    }
    assert_eq!(alarms_of(vec![claim.clone()]).await[0].0, "unknown_job");
}

#[tokio::test]
async fn pages_meet_every_row_once_in_a_stable_order() {
    let folder = folder();
    let index = open(&folder.path().join("index.db")).await;
    let mut chain = Chain::default();
    for round in 0..6u32 {
        chain.extend(1, &[8 + 24 * round, 0, 0, 4 + 24 * round, 19 + 24 * round]);
    }
    index.apply(&chain.batch_above(0, u64::MAX, chain.heads(FIRST))).await.expect("applies");
    let mut snapshot = index.snapshot().await.expect("reads");

    let all = snapshot.jobs(&JobFilter::default(), None, 100).await.expect("reads");
    assert_eq!(all.len(), 5);
    let mut paged: Vec<JobId> = Vec::new();
    let mut before = None;
    loop {
        let page = snapshot.jobs(&JobFilter::default(), before, 2).await.expect("reads");
        let Some(last) = page.last() else { break };
        before = Some((last.posted.block.number, last.posted.log_index));
        paged.extend(page.iter().map(|job| job.job));
    }
    assert_eq!(paged, all.iter().map(|job| job.job).collect::<Vec<_>>());

    let client = Address::repeat_byte(0x31);
    let filter = JobFilter { client: Some(client), state: Some(JobState::Open), ..JobFilter::default() };
    // The client of a job is that of its specification.
    assert!(snapshot.jobs(&filter, None, 100).await.expect("reads").iter().all(|job| job.spec.client == client));
    assert!(snapshot.job(job(1)).await.expect("reads").is_some() && snapshot.job(job(99)).await.expect("reads").is_none());

    let moves = snapshot.moves(&MoveFilter::default(), 0, 1_000).await.expect("reads");
    assert_eq!(moves.iter().map(|row| row.entry.seq).collect::<Vec<_>>(), (1..=18).collect::<Vec<_>>());
    let of_client = snapshot.moves(&MoveFilter { account: Some(client), job: None }, 3, 1_000).await.expect("reads");
    assert!(!of_client.is_empty() && of_client.iter().all(|row| row.entry.seq > 3 && (row.entry.from == client || row.entry.to == client)));
    let balances = snapshot.balances(None, 1).await.expect("reads");
    assert!(balances.iter().all(|balance| balance.account == balances[0].account));
    let rest = snapshot.balances(Some(balances[0].account), 100).await.expect("reads");
    assert!(rest.iter().all(|balance| balance.account > balances[0].account));
    let model = quern_types::ModelId(B256::repeat_byte(2));
    assert!(snapshot.prices_of_model(model, 100).await.expect("reads").is_empty());
    let providers = snapshot.providers(None, 100).await.expect("reads");
    assert_eq!(snapshot.providers(Some(providers[0].provider), 100).await.expect("reads"), providers[1..]);
}

#[tokio::test]
async fn free_listings_of_an_enemy_are_not_among_the_prices_of_a_model() {
    let folder = folder();
    let index = open(&folder.path().join("index.db")).await;
    let model = quern_types::ModelId(B256::repeat_byte(2));
    let prices = quern_db::index::Prices { base: Amount::ZERO, input: Amount::ZERO, output: Amount::ZERO, item: Amount::ZERO };
    let staked = Address::repeat_byte(0xff);
    let entry = Move {
        seq: 1,
        from: staked,
        from_bucket: Bucket::Outside,
        to: staked,
        to_bucket: Bucket::Stake,
        amount: Amount::from_units(1),
        reason: Reason::Staked,
        reference: B256::ZERO,
    };
    let head = quern_types::LedgerHead::genesis(binding().chain_id, binding().ledger).after(&entry).hash;
    let mut changes = vec![Change::Moved { entry, head }];
    changes.extend((1..=9).chain([0xff]).map(|byte| Change::PriceListed { provider: Address::repeat_byte(byte), model, prices }));
    index.apply(&one_block(changes)).await.expect("applies");
    let mut snapshot = index.snapshot().await.expect("reads");
    let shown: Vec<Address> = snapshot.prices_of_model(model, 2).await.expect("reads").iter().map(|price| price.provider).collect();
    assert_eq!(shown, [staked]);
    assert_eq!(snapshot.prices_of_provider(staked, 10).await.expect("reads").len(), 1);
}
