//! Values that several unit tests share.

use quern_types::{Address, Amount, B256, BlockRef, ContentCodec, ContentId, Domain, Heads, JobId, JobKind, JobSpec, ModelId};

use crate::event::Event;

pub(crate) const DOMAIN: Domain = Domain { chain_id: 901, market: Address::repeat_byte(0x4a) };

/// An embed job, told apart by its salt.
pub(crate) fn spec(salt: u8) -> JobSpec {
    JobSpec {
        client: Address::repeat_byte(1),
        model_id: ModelId(B256::repeat_byte(2)),
        kind: JobKind::Embed,
        item_count: 3,
        samples_per_item: 1,
        input_root: B256::repeat_byte(3),
        input_len: 40,
        max_output: 0,
        stop_ids: [0; 8],
        temperature: 0,
        min_p: 0,
        seed: B256::ZERO,
        base_price: Amount::from_units(1_000),
        input_price: Amount::from_units(20),
        output_price: Amount::ZERO,
        item_price: Amount::from_units(100),
        ramp_floor_bps: 5_000,
        ramp_secs: 100,
        claim_by: 2_000,
        deliver_within: 60,
        designated: Address::ZERO,
        input: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(4) },
        salt: B256::repeat_byte(salt),
    }
}

/// The posting of a job at a second, and its id.
pub(crate) fn posted(spec: &JobSpec, posted_at: u64) -> (Event, JobId) {
    let job_id = spec.id(&DOMAIN);
    let event = Event::JobPosted {
        job_id,
        client: spec.client,
        model_id: spec.model_id,
        max_fee: spec.max_fee().expect("fits"),
        posted_at,
        spec: Box::new(spec.clone()),
    };
    (event, job_id)
}

/// A block whose time is its number; `fork` tells blocks of one height apart.
pub(crate) fn block(number: u64, fork: u8) -> BlockRef {
    let mut hash = B256::with_last_byte(fork);
    hash[..8].copy_from_slice(&number.to_be_bytes());
    BlockRef { number, hash, timestamp: number }
}

pub(crate) fn heads(latest: u64, finalized: u64) -> Heads {
    Heads { latest: block(latest, 0), safe: block(finalized, 0), finalized: block(finalized, 0) }
}
