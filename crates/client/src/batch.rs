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

impl Terms {
    /// The most that items cost in jobs of `batch` items.
    ///
    /// # Errors
    /// A sum past 128 bits.
    pub fn max_cost(&self, items: &[Item], batch: usize) -> Result<Amount, ClientError> {
        let too_large = || ClientError::CostTooLarge;
        let product = |price: Amount, count: usize| {
            u128::try_from(count).ok().and_then(|count| price.units().checked_mul(count)).map(Amount::from_units)
        };
        let ids: usize = items.iter().map(|item| item.ids.len()).sum();
        let jobs = items.len().div_ceil(batch.max(1));
        [product(self.base_price, jobs), product(self.input_price, ids), product(self.item_price, items.len())]
            .into_iter()
            .try_fold(Amount::ZERO, |sum, part| sum.checked_add(part?))
            .ok_or_else(too_large)
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

/// The specification of an embed job, checked against every bound that the contract checks.
///
/// # Errors
/// The first bound that does not hold, or a maximum fee past 96 bits.
pub fn embed_spec(client: Address, model_id: ModelId, input: &InputRef, terms: &Terms, salt: B256) -> Result<JobSpec, ClientError> {
    let spec = JobSpec {
        client,
        model_id,
        kind: JobKind::Embed,
        item_count: input.items,
        samples_per_item: 1,
        input_root: input.root,
        input_len: input.len,
        max_output: 0,
        stop_ids: [0; 8],
        temperature: 0,
        min_p: 0,
        seed: B256::ZERO,
        base_price: terms.base_price,
        input_price: terms.input_price,
        output_price: Amount::ZERO,
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
    use quern_types::ContentCodec;

    use super::*;
    use crate::Origin;

    fn terms() -> Terms {
        Terms {
            base_price: Amount::from_units(100),
            input_price: Amount::from_units(3),
            item_price: Amount::from_units(7),
            ramp_floor_bps: 10_000,
            ramp_secs: 0,
            claim_by: 1_000,
            deliver_within: 60,
            designated: Address::ZERO,
        }
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
        assert!(embed_spec(Address::ZERO, ModelId::default(), &input_of(&items), &bad, B256::ZERO).is_err());
        let dear = Terms { base_price: Amount::from_units(u128::MAX), ..terms() };
        assert!(embed_spec(Address::ZERO, ModelId::default(), &input_of(&items), &dear, B256::ZERO).is_err());
        assert!(matches!(dear.max_cost(&some_items(&[1, 1]), 1), Err(ClientError::CostTooLarge)));
    }

    proptest! {
        /// What we ask the user to fund is exactly what the contract will escrow.
        #[test]
        fn max_cost_is_the_sum_of_the_jobs_maximum_fees(lengths in prop::collection::vec(0usize..600, 1..50), batch in 1usize..20) {
            let items = some_items(&lengths);
            let mut sum = Amount::ZERO;
            for (index, part) in (0..).zip(batches(&items, batch).expect("in range")) {
                let spec = embed_spec(Address::ZERO, ModelId::default(), &input_of(part), &terms(), salt(B256::ZERO, index)).expect("valid");
                sum = sum.checked_add(spec.max_fee().expect("fits")).expect("fits");
            }
            prop_assert_eq!(terms().max_cost(&items, batch).expect("fits"), sum);
        }
    }
}
