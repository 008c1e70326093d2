//! tests/vectors/protocol.json, which the deployed contracts wrote: ids, digests, prices and ledger heads must come out the same here.

use std::{fs, path::Path, str::FromStr};

use quern_types::{
    Address, Amount, B256, Bucket, ContentCodec, ContentId, Domain, EnergyMethod, JobId, JobKind, JobParameters, JobSpec, LedgerHead,
    ModelId, Move, Reason, Receipt,
};
use serde_json::Value;

fn vectors() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/protocol.json");
    serde_json::from_str(&fs::read_to_string(&path).expect("the vectors are committed")).expect("the vectors are JSON")
}

fn text<T: FromStr>(object: &Value, key: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    object[key].as_str().unwrap_or_else(|| panic!("{key} is no text")).parse().unwrap_or_else(|e| panic!("{key}: {e:?}"))
}

fn number<T: TryFrom<u64>>(object: &Value, key: &str) -> T
where
    T::Error: std::fmt::Debug,
{
    T::try_from(object[key].as_u64().unwrap_or_else(|| panic!("{key} is no number"))).unwrap_or_else(|e| panic!("{key}: {e:?}"))
}

fn amount(object: &Value, key: &str) -> Amount {
    Amount::from_units(text(object, key))
}

fn content(object: &Value, codec: &str, digest: &str) -> ContentId {
    ContentId { codec: ContentCodec::try_from(number::<u8>(object, codec)).expect("codec"), digest: text(object, digest) }
}

fn domain(vectors: &Value) -> Domain {
    Domain { chain_id: number(vectors, "chainId"), market: text(vectors, "market") }
}

fn spec(object: &Value) -> JobSpec {
    JobSpec {
        client: text(object, "client"),
        model_id: ModelId(text(object, "modelId")),
        kind: JobKind::try_from(number::<u8>(object, "kind")).expect("kind"),
        item_count: number(object, "itemCount"),
        samples_per_item: number(object, "samplesPerItem"),
        input_root: text(object, "inputRoot"),
        input_len: number(object, "inputLen"),
        max_output: number(object, "maxOutput"),
        stop_ids: JobSpec::stop_ids_from_word(text(object, "stopIds")),
        temperature: number(object, "temperature"),
        min_p: number(object, "minP"),
        seed: text(object, "seed"),
        base_price: amount(object, "basePrice"),
        input_price: amount(object, "inputPrice"),
        output_price: amount(object, "outputPrice"),
        item_price: amount(object, "itemPrice"),
        ramp_floor_bps: number(object, "rampFloorBps"),
        ramp_secs: number(object, "rampSecs"),
        claim_by: number(object, "claimBy"),
        deliver_within: number(object, "deliverWithin"),
        designated: text(object, "designated"),
        input: content(object, "inputCodec", "inputDigest"),
        salt: text(object, "salt"),
    }
}

fn receipt(object: &Value) -> Receipt {
    Receipt {
        job_id: JobId(text(object, "jobId")),
        provider: text(object, "provider"),
        output_root: text(object, "outputRoot"),
        output_len: number(object, "outputLen"),
        output: content(object, "outputCodec", "outputDigest"),
        work_digest: text(object, "workDigest"),
        energy_millijoules: number(object, "energyMillijoules"),
        energy_method: EnergyMethod::try_from(number::<u8>(object, "energyMethod")).expect("method"),
    }
}

#[test]
fn jobs_and_receipts_equal_those_of_the_contracts() {
    let vectors = vectors();
    let domain = domain(&vectors);
    assert_eq!(domain.separator(), text::<B256>(&vectors, "domainSeparator"));
    let parameters = JobParameters {
        challenge_window_secs: 3_600,
        min_lock: amount(&vectors["parameters"], "minLock"),
        lock_factor_bps: number(&vectors["parameters"], "lockFactorBps"),
        penalty_bps: 1_000,
    };
    let jobs = vectors["jobs"].as_array().expect("jobs");
    assert_eq!(jobs.len(), 6);
    for job in jobs {
        let (spec, receipt, expected) = (spec(&job["spec"]), receipt(&job["receipt"]), &job["expected"]);
        assert_eq!(spec.validate(), Ok(()));
        assert_eq!(spec.id(&domain), JobId(text(expected, "jobId")));
        assert_eq!(spec.max_fee(), Ok(amount(expected, "maxFee")));
        assert_eq!(spec.lock(&parameters), Ok(amount(expected, "lock")));
        let elapsed: u64 = number(expected, "elapsedSecs");
        let price: u16 = number(expected, "priceBps");
        assert_eq!(spec.price_bps(1_700_000_000, 1_700_000_000 + elapsed), price);
        assert_eq!(spec.fee(receipt.output_len, price), Ok(amount(expected, "fee")));
        assert_eq!(receipt.digest(&domain), text::<B256>(expected, "receiptDigest"));
    }
}

#[test]
fn ledger_heads_equal_those_of_the_contract() {
    let vectors = vectors();
    let ledger = &vectors["ledger"];
    let mut head = LedgerHead::genesis(number(&vectors, "chainId"), text::<Address>(ledger, "address"));
    let entries = ledger["entries"].as_array().expect("entries");
    assert!(entries.len() > 30);
    for entry in entries {
        let moved = Move {
            seq: number(entry, "seq"),
            from: text(entry, "from"),
            from_bucket: Bucket::try_from(number::<u8>(entry, "fromBucket")).expect("bucket"),
            to: text(entry, "to"),
            to_bucket: Bucket::try_from(number::<u8>(entry, "toBucket")).expect("bucket"),
            amount: amount(entry, "amount"),
            reason: Reason::try_from(number::<u8>(entry, "reason")).expect("reason"),
            reference: text(entry, "reference"),
        };
        assert_eq!(moved.seq, head.seq + 1);
        head = head.after(&moved);
        assert_eq!(head.hash, text::<B256>(entry, "head"), "entry {}", moved.seq);
    }
}
