//! The replay against honest histories and against doctored ones.

use proptest::prelude::*;
use quern_types::{Address, Amount, B256, BlockRef, Bucket, JobId, JobSpec, LedgerHead, Move};

use super::{
    Difference,
    replay::Replay,
    simulation::{Act, LEDGER, Simulation, TERMS, client, model, provider},
};
use crate::{
    event::{Event, Logged},
    fixture::{self, DOMAIN, block},
};

fn replay(events: &[Logged]) -> Result<Replay, Difference> {
    let mut replay = Replay::new(TERMS);
    for event in events {
        replay.apply(event)?;
    }
    replay.finish()?;
    Ok(replay)
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = (any::<u8>(), any::<u8>(), any::<u8>(), any::<u16>(), 0u16..5_000).prop_map(|(kind, who, job, secs, amount)| Act {
        kind,
        who,
        job,
        secs,
        amount,
    });
    prop::collection::vec(act, 1..120)
}

fn simulate(acts: &[Act]) -> Simulation {
    let mut simulation = Simulation::new();
    acts.iter().for_each(|act| simulation.act(*act));
    simulation
}

/// One job from posting to payment, and one that was not delivered.
fn two_jobs() -> Simulation {
    let act = |kind, job, secs| Act { kind, who: 0, job, secs, amount: 1_500 };
    simulate(&[act(0, 0, 1), act(2, 0, 3), act(4, 0, 2), act(6, 0, 31), act(0, 0, 1), act(2, 0, 5), act(7, 0, 39), act(7, 0, 39)])
}

fn first(events: &[Logged], wanted: impl Fn(&Event) -> bool) -> usize {
    events.iter().position(|logged| wanted(&logged.event)).expect("the history has such an event")
}

/// Hashes every head again after a change: a lie that is consistent in itself.
fn rehash(events: &mut [Logged]) {
    let mut last = LedgerHead::genesis(DOMAIN.chain_id, LEDGER);
    for logged in events {
        if let Event::Moved { entry, head } = &mut logged.event {
            entry.seq = last.seq + 1;
            last = last.after(entry);
            *head = last.hash;
        }
    }
}

fn entry(logged: &mut Logged) -> &mut Move {
    match &mut logged.event {
        Event::Moved { entry, .. } => entry,
        other => panic!("not an entry: {other:?}"),
    }
}

fn seq_at(events: &[Logged], index: usize) -> u64 {
    let numbers = events[..=index].iter().filter(|logged| matches!(logged.event, Event::Moved { .. }));
    numbers.count().try_into().expect("small")
}

#[test]
fn history_of_two_jobs_holds_and_every_balance_follows() {
    let simulation = two_jobs();
    let replay = replay(&simulation.events).expect("an honest history");
    assert_eq!(replay.jobs(), 2);
    assert_eq!(replay.head(), simulation.head);
    // 5,160 units at 5,100 bps: what is left after both jobs, and a tenth of the second lock.
    let names = |reason: &str| {
        simulation.events.iter().filter(|l| matches!(&l.event, Event::Moved { entry, .. } if entry.reason.name() == reason)).count()
    };
    assert_eq!((names("Fee"), names("Royalty"), names("Penalty")), (1, 1, 1));
    for (&(account, bucket), &amount) in &simulation.balances {
        assert_eq!(replay.balance(account, bucket), Amount::from_units(amount), "{account} {bucket:?}");
    }
}

#[test]
fn altered_amount_is_named_at_its_own_entry() {
    let mut events = two_jobs().events;
    let index = first(&events, |event| matches!(event, Event::Moved { entry, .. } if entry.reason.name() == "Fee"));
    entry(&mut events[index]).amount = Amount::from_units(1);
    let difference = replay(&events).expect_err("a lie");
    assert_eq!(difference.seq, Some(seq_at(&events, index)));
    assert!(difference.what.starts_with("head after the entry"), "{difference}");
}

#[test]
fn altered_amount_with_heads_hashed_again_is_named_by_what_the_job_says() {
    let mut events = two_jobs().events;
    let index = first(&events, |event| matches!(event, Event::Moved { entry, .. } if entry.reason.name() == "Fee"));
    let honest = entry(&mut events[index]).amount;
    entry(&mut events[index]).amount = Amount::from_units(honest.units() - 1);
    rehash(&mut events);
    let difference = replay(&events).expect_err("a lie");
    assert_eq!(difference.seq, Some(seq_at(&events, index)));
    assert_eq!((difference.what.as_str(), difference.expected), ("amount of Fee", honest.to_string()));
}

#[test]
fn dropped_entry_is_named_by_the_number_that_is_missing() {
    let mut events = two_jobs().events;
    let index = first(&events, |event| matches!(event, Event::Moved { entry, .. } if entry.reason.name() == "Fee"));
    let missing = seq_at(&events, index);
    events.remove(index);
    let difference = replay(&events).expect_err("a lie");
    assert_eq!((difference.seq, difference.what.as_str()), (Some(missing), "number of the entry"));
}

#[test]
fn dropped_entry_with_the_rest_numbered_again_is_missed_by_its_job() {
    let mut events = two_jobs().events;
    let index = first(&events, |event| matches!(event, Event::Moved { entry, .. } if entry.reason.name() == "Royalty"));
    events.remove(index);
    rehash(&mut events);
    let difference = replay(&events).expect_err("a lie");
    assert!(difference.what.starts_with("a move for Royalty"), "{difference}");
    assert!(difference.job.is_some());
}

#[test]
fn fee_that_job_and_entry_agree_on_is_still_compared_with_the_specification() {
    let mut events = two_jobs().events;
    let completed = first(&events, |event| matches!(event, Event::JobCompleted { .. }));
    if let Event::JobCompleted { fee, change, .. } = &mut events[completed].event {
        *fee = Amount::from_units(fee.units() + 1);
        *change = Amount::from_units(change.units() - 1);
    }
    let difference = replay(&events).expect_err("a lie");
    assert_eq!(difference.what, "fee of the job");
}

#[test]
fn completion_within_the_window_is_named() {
    let mut events = two_jobs().events;
    let submitted = first(&events, |event| matches!(event, Event::ReceiptSubmitted { .. }));
    let at = events[submitted].block;
    let completed = first(&events, |event| matches!(event, Event::JobCompleted { .. }));
    events[completed].block = at;
    assert_eq!(replay(&events).expect_err("a lie").what, "time of the completion");
}

#[test]
fn completion_of_a_job_that_nobody_posted_that_an_enemy_has_skipped_is_no_difference() {
    let mut events = two_jobs().events;
    let last = events.last().expect("events").clone();
    let over = events.iter().rev().find_map(|logged| logged.event.job_id()).expect("a job");
    for job_id in [JobId(B256::repeat_byte(0xee)), over] {
        let event = Event::CompletionSkipped { job_id, revert: quern_bindings::Revert::decode(&[]) };
        events.push(Logged { tx: B256::repeat_byte(0xdd), event, ..last.clone() });
    }
    let replay = replay(&events).expect("an honest history");
    assert_eq!(replay.jobs(), 2);
}

#[test]
fn clock_that_a_lying_node_sets_to_the_end_of_time_crashes_nothing() {
    let mut events = Simulation::new().events;
    let spec = JobSpec { model_id: model(), claim_by: u64::MAX, ..fixture::spec(1) };
    let (posting, job_id) = fixture::posted(&spec, 1_000);
    let at =
        |timestamp, event| Logged { block: BlockRef { timestamp, ..block(2_000, 0) }, tx: B256::repeat_byte(0xdd), log_index: 0, event };
    events.push(at(1_000, posting));
    let (provider, operator) = (provider(0), Address::repeat_byte(0x30));
    let lock = spec.lock(&TERMS.parameters.job).expect("fits");
    events.push(at(u64::MAX, Event::JobClaimed { job_id, provider, operator, price_bps: 10_000, deadline: 0, lock }));
    assert_eq!(replay(&events).expect_err("a lie").what, "delivery deadline");
}

#[test]
fn deposits_past_128_bits_that_a_lying_node_invents_have_no_total_and_crash_nothing() {
    let mut events = two_jobs().events;
    let deposit = first(&events, |event| matches!(event, Event::Moved { .. }));
    for who in [client(1), provider(1)] {
        let mut more = events[deposit].clone();
        *entry(&mut more) = Move { from: who, to: who, amount: Amount::from_units(u128::MAX / 2), ..*entry(&mut more.clone()) };
        more.tx = B256::repeat_byte(0xdd);
        events.push(more);
    }
    rehash(&mut events);
    assert_eq!(replay(&events).expect("no bucket overflows").total(), None);
}

#[test]
fn event_that_cannot_be_read_is_a_difference() {
    let mut events = two_jobs().events;
    let last = events.len() - 1;
    events[last].event = Event::Unreadable { signature: "Moved(...)", reason: "bucket 11".into() };
    assert!(replay(&events).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn honest_history_holds_to_one_unit(acts in acts()) {
        let simulation = simulate(&acts);
        let replay = replay(&simulation.events).map_err(|difference| TestCaseError::fail(difference.to_string()))?;
        prop_assert_eq!(replay.head(), simulation.head);
        for (&(account, bucket), &amount) in &simulation.balances {
            prop_assert_eq!(replay.balance(account, bucket), Amount::from_units(amount));
        }
        prop_assert_eq!(replay.total().expect("fits").units(), simulation.balances.values().sum::<u128>());
    }

    /// Whatever single thing is changed: it is noticed, by the replay itself or by the head that the chain's storage proves; and no entry before the
    /// change is blamed.
    #[test]
    fn any_single_change_is_noticed_and_not_blamed_on_an_earlier_entry(acts in acts(), at: prop::sample::Index, how in 0u8..8, by in 1u128..1_000) {
        let honest = simulate(&acts);
        let mut events = honest.events.clone();
        let index = at.index(events.len());
        match (&mut events[index].event, how) {
            (_, 0) => { events.remove(index); }
            (_, 1) => { let copy = events[index].clone(); events.insert(index, copy); }
            (Event::Moved { entry, .. }, 2) => entry.amount = Amount::from_units(entry.amount.units() + by),
            (Event::Moved { entry, .. }, 3) => entry.to = Address::repeat_byte(0x5a),
            (Event::Moved { entry, .. }, 4) => entry.from = Address::repeat_byte(0x5a),
            (Event::Moved { entry, .. }, 5) => entry.seq += 1,
            (Event::Moved { entry, .. }, 6) => entry.reference = B256::repeat_byte(0x5a),
            (Event::Moved { head, .. }, 7) => *head = B256::repeat_byte(0x5a),
            (Event::JobPosted { max_fee, .. }, 2..=7) => *max_fee = Amount::from_units(max_fee.units() + by),
            (Event::JobClaimed { lock, .. }, 2..=4) => *lock = Amount::from_units(lock.units() + by),
            (Event::JobClaimed { price_bps, .. }, 5..=7) => *price_bps ^= 1,
            (Event::ReceiptSubmitted { receipt, .. }, 2..=7) => receipt.energy_millijoules += 1,
            (Event::JobCompleted { royalty, .. }, 2..=4) => *royalty = Amount::from_units(royalty.units() + by),
            (Event::JobCompleted { change, .. }, 5..=7) => *change = Amount::from_units(change.units() + by),
            (Event::JobUndelivered { penalty, .. }, 2..=7) => *penalty = Amount::from_units(penalty.units() + by),
            (Event::JobExpired { refund, .. } | Event::JobCancelled { refund, .. }, 2..=7) => *refund = Amount::from_units(refund.units() + by),
            (Event::StakeAdded { amount, .. } | Event::UnbondingStarted { amount, .. }, 2..=7) => *amount = Amount::from_units(amount.units() + by),
            // No money hangs on these alone.
            _ => return Ok(()),
        }
        let harmless_if_gone = matches!(
            honest.events[index].event,
            Event::OperatorChanged { .. } | Event::ModelRegistered { .. } | Event::ReceiptSubmitted { .. } | Event::ChallengeOpened { .. }
                | Event::ChallengeDismissed { .. }
        );
        match replay(&events) {
            // What moved no money and has no consequence yet may be missing without a trace in the ledger.
            Ok(replay) if harmless_if_gone && how < 2 => prop_assert_eq!(replay.head(), honest.head),
            Ok(replay) => prop_assert_ne!(replay.head(), honest.head),
            Err(difference) => {
                let before = honest.events[..index].iter().filter(|logged| matches!(logged.event, Event::Moved { .. })).count() as u64;
                // A transaction is judged as a whole: an event may stand after the entries that it explains.
                let same_transaction = honest.events[..index].iter().filter(|logged| logged.tx == honest.events[index].tx).count() as u64;
                prop_assert!(difference.seq.is_some_and(|seq| seq + same_transaction > before), "{difference} blames an entry before {before}");
            }
        }
    }
}

#[test]
fn bucket_of_nobody_belongs_to_account_zero() {
    let simulation = two_jobs();
    let replay = replay(&simulation.events).expect("honest");
    assert!(replay.balances().all(|(account, bucket, _)| (bucket >= Bucket::Burned) == account.is_zero()));
    assert!(!replay.balance(provider(0), Bucket::Stake).is_zero() && !replay.balance(client(0), Bucket::Free).is_zero());
}
