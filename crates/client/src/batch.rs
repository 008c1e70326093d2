//! Items to jobs: batches within the limits of a job, their maximum cost, their specification.

use quern_types::{Address, Amount, B256, ContentId, Domain, JobId, JobKind, JobSpec, ModelId, keccak256};
use serde::{Deserialize, Serialize};

use crate::{ClientError, Item};

/// Most items of a job (PROTOCOL, section 3).
pub const MAX_ITEMS: usize = 65_536;

/// What a client offers and demands, the same for every job of a run. Prices are the client's maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Per job.
    pub base_price: Amount,
    /// Per input id.
    pub input_price: Amount,
    /// Per output id; 0 for embeddings.
    #[serde(default)]
    pub output_price: Amount,
    /// Per item.
    pub item_price: Amount,
    /// Price of the first second, in 1/10,000 of the maximum.
    pub ramp_floor_bps: u16,
    /// Seconds until the price has risen to the maximum.
    pub ramp_secs: u32,
    /// Last second in which a job may be claimed, Unix time.
    pub claim_by: u64,
    /// Seconds from the claim to the delivery deadline.
    pub deliver_within: u32,
    /// The only provider who may claim; zero: anyone.
    pub designated: Address,
}

/// How generated text is to be made, the same for every job of a run (EXACT.md, section 4.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Outputs per item.
    pub samples: u32,
    /// Most ids per output.
    pub max_output: u32,
    /// Ids that end an output, unused [`quern_types::UNUSED_STOP_ID`].
    pub stop_ids: [u32; 8],
    /// Q16; 0: always the likeliest id.
    pub temperature: u32,
    /// Q16, at most 65,536.
    pub min_p: u32,
    /// Public.
    pub seed: B256,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A vector of each item.
    Embed,
    /// Text after each item.
    Generate(Sampling),
}

impl Ask {
    /// Most output ids of an item.
    pub fn most_output(&self) -> u64 {
        match self {
            Self::Embed => 0,
            Self::Generate(sampling) => u64::from(sampling.samples) * u64::from(sampling.max_output),
        }
    }

    /// The kind of job.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Embed => JobKind::Embed,
            Self::Generate(_) => JobKind::Generate,
        }
    }
}

impl Terms {
    /// The most that items cost in jobs of `batch` items.
    ///
    /// # Errors
    /// A sum past 128 bits.
    pub fn max_cost(&self, items: &[Item], batch: usize, ask: &Ask) -> Result<Amount, ClientError> {
        let product = |price: Amount, count: u128| price.units().checked_mul(count).map(Amount::from_units);
        let ids: u128 = items.iter().map(|item| item.ids.len() as u128).sum();
        let (jobs, count) = (items.len().div_ceil(batch.max(1)) as u128, items.len() as u128);
        [
            product(self.base_price, jobs),
            product(self.input_price, ids),
            product(self.output_price, count * u128::from(ask.most_output())),
            product(self.item_price, count),
        ]
        .into_iter()
        .try_fold(Amount::ZERO, |sum, part| sum.checked_add(part?))
        .ok_or(ClientError::CostTooLarge)
    }
}

/// Divides items into jobs of at most `batch` items, in order.
///
/// # Errors
/// A batch of nothing, or of more than [`MAX_ITEMS`].
pub fn batches(items: &[Item], batch: usize) -> Result<Vec<&[Item]>, ClientError> {
    if batch == 0 || batch > MAX_ITEMS {
        return Err(ClientError::BatchSize { found: batch });
    }
    Ok(items.chunks(batch).collect())
}

/// The salt of a job: its run's nonce and its place in the run. The same intention has the same salt, so it never becomes two jobs.
pub fn salt(run: B256, index: u32) -> B256 {
    let mut preimage = [0u8; 36];
    preimage[..32].copy_from_slice(run.as_slice());
    preimage[32..].copy_from_slice(&index.to_be_bytes());
    keccak256(preimage)
}

/// An input as a job names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputRef {
    /// Root of its sum tree.
    pub root: B256,
    /// Count of its sum tree: all ids.
    pub len: u64,
    /// Items.
    pub items: u32,
    /// Where the blob is.
    pub content: ContentId,
}

/// The specification of a job, checked against every bound that the contract checks.
///
/// # Errors
/// The first bound that does not hold, or a maximum fee past 96 bits.
pub fn job_spec(
    client: Address,
    model_id: ModelId,
    input: &InputRef,
    terms: &Terms,
    ask: &Ask,
    salt: B256,
) -> Result<JobSpec, ClientError> {
    let none = Sampling { samples: 1, max_output: 0, stop_ids: [0; 8], temperature: 0, min_p: 0, seed: B256::ZERO };
    let (sampling, output_price) = match ask {
        Ask::Embed => (none, Amount::ZERO),
        Ask::Generate(sampling) => (*sampling, terms.output_price),
    };
    let spec = JobSpec {
        client,
        model_id,
        kind: ask.kind(),
        item_count: input.items,
        samples_per_item: sampling.samples,
        input_root: input.root,
        input_len: input.len,
        max_output: sampling.max_output,
        stop_ids: sampling.stop_ids,
        temperature: sampling.temperature,
        min_p: sampling.min_p,
        seed: sampling.seed,
        base_price: terms.base_price,
        input_price: terms.input_price,
        output_price,
        item_price: terms.item_price,
        ramp_floor_bps: terms.ramp_floor_bps,
        ramp_secs: terms.ramp_secs,
        claim_by: terms.claim_by,
        deliver_within: terms.deliver_within,
        designated: terms.designated,
        input: input.content,
        salt,
    };
    spec.validate()?;
    Ok(spec)
}

/// A job with its id in a deployment.
pub fn with_id(spec: JobSpec, domain: &Domain) -> (JobId, JobSpec) {
    (spec.id(domain), spec)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quern_types::{ContentCodec, UNUSED_STOP_ID};

    use super::*;
    use crate::Origin;

    fn terms() -> Terms {
        Terms {
            base_price: Amount::from_units(100),
            input_price: Amount::from_units(3),
            output_price: Amount::from_units(11),
            item_price: Amount::from_units(7),
            ramp_floor_bps: 10_000,
            ramp_secs: 0,
            claim_by: 1_000,
            deliver_within: 60,
            designated: Address::ZERO,
        }
    }

    fn generate(samples: u32, max_output: u32) -> Ask {
        let stop_ids = [UNUSED_STOP_ID; 8];
        Ask::Generate(Sampling { samples, max_output, stop_ids, temperature: 1 << 16, min_p: 0, seed: B256::repeat_byte(3) })
    }

    fn some_items(lengths: &[usize]) -> Vec<Item> {
        lengths.iter().map(|&len| Item { origin: Origin { line: 1, part: 0, parts: 1 }, ids: vec![5; len] }).collect()
    }

    fn input_of(items: &[Item]) -> InputRef {
        InputRef {
            root: B256::repeat_byte(1),
            len: items.iter().map(|item| item.ids.len() as u64).sum(),
            items: u32::try_from(items.len()).expect("few"),
            content: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(2) },
        }
    }

    #[test]
    fn batch_outside_the_limits_is_refused() {
        let items = some_items(&[1, 2, 3]);
        assert!(matches!(batches(&items, 0), Err(ClientError::BatchSize { found: 0 })));
        assert!(matches!(batches(&items, MAX_ITEMS + 1), Err(ClientError::BatchSize { .. })));
        assert_eq!(batches(&items, 2).expect("fine").iter().map(|batch| batch.len()).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn salt_differs_by_run_and_place_and_by_nothing_else() {
        let (a, b) = (B256::repeat_byte(1), B256::repeat_byte(2));
        assert_eq!(salt(a, 0), salt(a, 0));
        assert_ne!(salt(a, 0), salt(a, 1));
        assert_ne!(salt(a, 0), salt(b, 0));
    }

    #[test]
    fn specification_past_a_bound_is_refused_before_it_costs_gas() {
        let items = some_items(&[4]);
        let bad = Terms { ramp_floor_bps: 0, ..terms() };
        let spec = |terms: &Terms, ask: &Ask| job_spec(Address::ZERO, ModelId::default(), &input_of(&items), terms, ask, B256::ZERO);
        assert!(spec(&bad, &Ask::Embed).is_err());
        let dear = Terms { base_price: Amount::from_units(u128::MAX), ..terms() };
        assert!(spec(&dear, &Ask::Embed).is_err());
        assert!(matches!(dear.max_cost(&some_items(&[1, 1]), 1, &Ask::Embed), Err(ClientError::CostTooLarge)));
        assert!(spec(&terms(), &generate(2, 0)).is_err(), "an output of no ids is nothing to ask for");
        assert!(spec(&terms(), &generate(257, 1)).is_err());
        assert_eq!(spec(&terms(), &generate(2, 9)).expect("valid").kind, JobKind::Generate);
    }

    proptest! {
        /// What we ask the user to fund is exactly what the contract will escrow.
        #[test]
        fn max_cost_is_the_sum_of_the_jobs_maximum_fees(
            lengths in prop::collection::vec(0usize..600, 1..50), batch in 1usize..20, samples in 0u32..5, max_output in 1u32..900,
        ) {
            let ask = if samples == 0 { Ask::Embed } else { generate(samples, max_output) };
            let items = some_items(&lengths);
            let mut sum = Amount::ZERO;
            for (index, part) in (0..).zip(batches(&items, batch).expect("in range")) {
                let salt = salt(B256::ZERO, index);
                let spec = job_spec(Address::ZERO, ModelId::default(), &input_of(part), &terms(), &ask, salt).expect("valid");
                sum = sum.checked_add(spec.max_fee().expect("fits")).expect("fits");
            }
            prop_assert_eq!(terms().max_cost(&items, batch, &ask).expect("fits"), sum);
        }
    }
}
