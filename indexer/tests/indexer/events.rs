//! What the contracts' events become.

use quern_bindings::{Prices, QuernEvent, Registration, Revert};
use quern_indexer::change;
use quern_types::{Address, Amount, B256, Bucket, JobId, ModelId, Move, PackageRoot, Reason, U256};

use crate::story::{JOB, MODEL, receipt, spec};

#[test]
fn every_event_keeps_every_field() {
    let (a, b, c) = (Address::repeat_byte(0xa), Address::repeat_byte(0xb), Address::repeat_byte(0xc));
    let units = Amount::from_units;
    let (job_id, model_id): (JobId, ModelId) = (JOB, MODEL);
    let entry = Move {
        seq: 9,
        from: a,
        from_bucket: Bucket::Lock,
        to: Address::ZERO,
        to_bucket: Bucket::Delayed,
        amount: units(u128::MAX),
        reason: Reason::SlashedDelayed,
        reference: JOB.0,
    };
    let registration = Registration {
        header: [[0u8, 0, 1, 2].as_slice(), &[0xff; 4]].concat(),
        weights_root: B256::repeat_byte(1),
        tokenizer_hash: B256::repeat_byte(2),
        royalty_bps: 3,
        package_codec: 4,
        package_digest: B256::repeat_byte(5),
        name: "na\0me".into(),
        tags: "tags".into(),
    };
    let events = vec![
        QuernEvent::Moved { entry, head: B256::repeat_byte(1) },
        QuernEvent::JobPosted { job_id, client: a, model_id, max_fee: units(1), posted_at: 2, spec: Box::new(spec(1)) },
        QuernEvent::JobClaimed { job_id, provider: a, operator: b, price_bps: 1, deadline: 2, lock: units(3) },
        QuernEvent::ReceiptSubmitted {
            job_id,
            provider: a,
            receipt_digest: B256::repeat_byte(1),
            window_end: 2,
            receipt: Box::new(receipt()),
        },
        QuernEvent::JobCompleted { job_id, provider: a, publisher: b, fee: units(1), royalty: units(2), change: units(3) },
        QuernEvent::JobCancelled { job_id, client: a, refund: units(1) },
        QuernEvent::JobExpired { job_id, client: a, refund: units(1) },
        QuernEvent::JobUndelivered { job_id, client: a, provider: b, refund: units(1), penalty: units(2), unlocked: units(3) },
        QuernEvent::ChallengeOpened { job_id, challenges_open: 1 },
        QuernEvent::ChallengeDismissed { job_id, challenges_open: 0 },
        QuernEvent::WindowExtended { job_id, window_end: 1 },
        QuernEvent::JobSlashed {
            job_id,
            provider: a,
            challenger: b,
            to_challenger: units(1),
            to_client: units(2),
            delayed: units(3),
            refund: units(4),
        },
        QuernEvent::CompletionSkipped { job_id, revert: Revert::Message("why".into()) },
        QuernEvent::OperatorChanged { provider: a, operator: b },
        QuernEvent::ProviderAnnounced { provider: a, gateway: "http://x/\0".into() },
        QuernEvent::PriceListed {
            provider: a,
            model_id,
            prices: Prices { base: units(1), input: units(2), output: units(3), item: units(4) },
        },
        QuernEvent::PriceUnlisted { provider: a, model_id },
        QuernEvent::StakeAdded { provider: a, amount: units(1) },
        QuernEvent::UnbondingStarted { provider: a, amount: units(1), unbonded_at: 2 },
        QuernEvent::UnbondingCancelled { provider: a, amount: units(1) },
        QuernEvent::StakeWithdrawn { provider: a, amount: units(1) },
        QuernEvent::ModelRegistered {
            model_id,
            publisher: c,
            package_root: PackageRoot(B256::repeat_byte(6)),
            family: 2,
            macs_per_token: u64::MAX,
            registration: Box::new(registration),
        },
        QuernEvent::PackageAnnounced { model_id, package_codec: 0x55, package_digest: B256::repeat_byte(7) },
        QuernEvent::EntriesStopped { guardian: a },
        QuernEvent::EntriesResumed { guardian: a },
        QuernEvent::Transfer { from: a, to: b, value: U256::MAX },
        QuernEvent::Approval { owner: a, spender: b, value: U256::ZERO },
        QuernEvent::Unknown { topic: Some(B256::repeat_byte(1)) },
        QuernEvent::Unreadable { signature: "JobPosted(bytes32)", reason: "9 is not a job kind".into() },
    ];
    let changes: Vec<_> = events.into_iter().map(change).collect();
    insta::assert_json_snapshot!("changes", changes);
}
