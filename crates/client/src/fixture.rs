//! Values that several unit tests share.

use quern_types::{Address, Amount, B256, ContentCodec, ContentId, JobKind, JobSpec, ModelId};

/// An embed job of one item that costs nothing; tests change what they are about.
pub(crate) fn spec() -> JobSpec {
    JobSpec {
        client: Address::ZERO,
        model_id: ModelId::default(),
        kind: JobKind::Embed,
        item_count: 1,
        samples_per_item: 1,
        input_root: B256::ZERO,
        input_len: 1,
        max_output: 0,
        stop_ids: [0; 8],
        temperature: 0,
        min_p: 0,
        seed: B256::ZERO,
        base_price: Amount::ZERO,
        input_price: Amount::ZERO,
        output_price: Amount::ZERO,
        item_price: Amount::ZERO,
        ramp_floor_bps: 10_000,
        ramp_secs: 0,
        claim_by: 100,
        deliver_within: 60,
        designated: Address::ZERO,
        input: ContentId { codec: ContentCodec::Raw, digest: B256::ZERO },
        salt: B256::ZERO,
    }
}
