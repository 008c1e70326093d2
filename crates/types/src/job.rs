//! The job specification, its id, its states and its money (PROTOCOL, section 3).

use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};

use crate::{Amount, ContentId, Domain, JobId, ModelId, eip712::Words, ledger::codes};

codes!(
    /// What a job asks for.
    JobKind, "job kind", {
        /// One vector per item.
        Embed = 1,
        /// Samples of text per item.
        Generate = 2,
    }
);

codes!(
    /// Where a job is in its life. The chain's 0 means that no such job was posted.
    JobState, "job state", {
        /// Posted, waiting for a provider.
        Open = 1,
        /// A provider works on it.
        Claimed = 2,
        /// A receipt stands; the challenge window runs.
        Submitted = 3,
        /// Somebody doubts the receipt.
        Challenged = 4,
        /// Paid.
        Completed = 5,
        /// The client has the money back.
        Refunded = 6,
        /// The provider was convicted; the client has the money back.
        Slashed = 7,
    }
);

impl JobState {
    /// Whether nothing can happen to the job any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Refunded | Self::Slashed)
    }
}

/// A word of [`JobSpec::stop_ids`] that names no id.
pub const UNUSED_STOP_ID: u32 = u32::MAX;

/// A job as its client posted it. Its EIP-712 digest is the job id; the chain keeps no copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSpec {
    /// Who pays and gets refunds.
    pub client: Address,
    /// The model.
    pub model_id: ModelId,
    /// What is asked for.
    pub kind: JobKind,
    /// Items in the input, 1 to 65,536.
    pub item_count: u32,
    /// Outputs per item, 1 to 256; embed: 1.
    pub samples_per_item: u32,
    /// Root of the input sum tree.
    pub input_root: B256,
    /// Count of the input sum tree: all input ids.
    pub input_len: u64,
    /// Most ids per output; embed: 0.
    pub max_output: u32,
    /// Up to eight ids that end an output, unused [`UNUSED_STOP_ID`]; embed: all zero.
    pub stop_ids: [u32; 8],
    /// Q16; 0 is greedy; embed: 0.
    pub temperature: u32,
    /// Q16, at most 65,536; embed: 0.
    pub min_p: u32,
    /// Public seed of the sampling; embed: zero.
    pub seed: B256,
    /// Most that the client pays for the job as such.
    pub base_price: Amount,
    /// Most per input id.
    pub input_price: Amount,
    /// Most per output id; embed: 0.
    pub output_price: Amount,
    /// Most per item.
    pub item_price: Amount,
    /// Price of the first second, in 1/10,000 of the maximum: 1 to 10,000.
    pub ramp_floor_bps: u16,
    /// Seconds until the price has risen to the maximum.
    pub ramp_secs: u32,
    /// Last second (Unix time) in which the job may be claimed.
    pub claim_by: u64,
    /// Seconds from the claim to the delivery deadline.
    pub deliver_within: u32,
    /// The only provider who may claim it; zero: anyone.
    pub designated: Address,
    /// Where the input blob is.
    pub input: ContentId,
    /// Makes the id unique.
    pub salt: B256,
}

/// Terms of a deployment that reach a job: immutable in `JobMarket`, read from it, never from configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobParameters {
    /// Seconds in which a receipt may be challenged.
    pub challenge_window_secs: u32,
    /// Smallest lock behind a job.
    pub min_lock: Amount,
    /// Lock as a share of the maximum fee, in 1/10,000.
    pub lock_factor_bps: u32,
    /// What an undelivered job costs its provider, in 1/10,000 of the lock.
    pub penalty_bps: u16,
}

impl JobParameters {
    /// The stake behind a job of this maximum fee: max(minLock, maxFee * lockFactorBps / 10,000). ROUNDING: down.
    ///
    /// # Errors
    /// [`SpecError::FeeTooLarge`] where it does not fit.
    pub fn lock(&self, max_fee: Amount) -> Result<Amount, SpecError> {
        let scaled = max_fee.to_u256() * U256::from(self.lock_factor_bps) / U256::from(ONE_BPS);
        Ok(Amount::try_from(scaled).map_err(|_| SpecError::FeeTooLarge)?.max(self.min_lock))
    }
}

/// Why a job specification would be refused by the contract, or its money does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A field is outside its range.
    #[error("job field {field} is {found}, must be {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        found: u128,
        /// What it may hold.
        expected: &'static str,
    },
    /// The maximum fee does not fit 96 bits.
    #[error("the job's maximum fee exceeds 2^96 - 1 units: lower a price or split the job")]
    FeeTooLarge,
}

/// Items of one job.
const MAX_ITEMS: u32 = 65_536;
/// Outputs per item.
const MAX_SAMPLES: u32 = 256;
/// Ids per output.
const MAX_OUTPUT: u32 = 32_768;
/// 1 as basis points.
const ONE_BPS: u16 = 10_000;

impl JobSpec {
    /// The EIP-712 type.
    pub const TYPE: &str = "JobSpec(address client,bytes32 modelId,uint8 kind,uint32 itemCount,uint32 samplesPerItem,bytes32 inputRoot,\
        uint64 inputLen,uint32 maxOutput,bytes32 stopIds,uint32 temperature,uint32 minP,bytes32 seed,uint96 basePrice,uint96 inputPrice,\
        uint96 outputPrice,uint96 itemPrice,uint16 rampFloorBps,uint32 rampSecs,uint64 claimBy,uint32 deliverWithin,address designated,\
        uint8 inputCodec,bytes32 inputDigest,bytes32 salt)";

    /// The EIP-712 struct hash.
    pub fn struct_hash(&self) -> B256 {
        Words::new(Self::TYPE)
            .address(self.client)
            .word(self.model_id.0)
            .number(self.kind.code())
            .number(self.item_count)
            .number(self.samples_per_item)
            .word(self.input_root)
            .number(self.input_len)
            .number(self.max_output)
            .word(self.stop_word())
            .number(self.temperature)
            .number(self.min_p)
            .word(self.seed)
            .number(self.base_price.units())
            .number(self.input_price.units())
            .number(self.output_price.units())
            .number(self.item_price.units())
            .number(self.ramp_floor_bps)
            .number(self.ramp_secs)
            .number(self.claim_by)
            .number(self.deliver_within)
            .address(self.designated)
            .number(u8::from(self.input.codec))
            .word(self.input.digest)
            .word(self.salt)
            .hash()
    }

    /// The job's id in a deployment.
    pub fn id(&self, domain: &Domain) -> JobId {
        JobId(domain.digest(self.struct_hash()))
    }

    /// The stop ids as the contract holds them: eight big-endian u32.
    pub fn stop_word(&self) -> B256 {
        let mut word = [0u8; 32];
        for (bytes, id) in word.chunks_exact_mut(4).zip(self.stop_ids) {
            bytes.copy_from_slice(&id.to_be_bytes());
        }
        word.into()
    }

    /// Stop ids from the contract's word.
    pub fn stop_ids_from_word(word: B256) -> [u32; 8] {
        std::array::from_fn(|i| u32::from_be_bytes([word[4 * i], word[4 * i + 1], word[4 * i + 2], word[4 * i + 3]]))
    }

    /// Number of outputs: items times samples.
    pub const fn output_count(&self) -> u32 {
        self.item_count.saturating_mul(self.samples_per_item)
    }

    /// Checks every bound that the contract checks without looking at the chain or the clock.
    ///
    /// # Errors
    /// The first field out of range, or a maximum fee past 96 bits.
    pub fn validate(&self) -> Result<(), SpecError> {
        let field = |field, found: u128, expected| Err(SpecError::Field { field, found, expected });
        if !(1..=MAX_ITEMS).contains(&self.item_count) {
            return field("itemCount", self.item_count.into(), "1 to 65,536");
        }
        if !(1..=MAX_SAMPLES).contains(&self.samples_per_item) {
            return field("samplesPerItem", self.samples_per_item.into(), "1 to 256");
        }
        if self.ramp_floor_bps == 0 || self.ramp_floor_bps > ONE_BPS {
            return field("rampFloorBps", self.ramp_floor_bps.into(), "1 to 10,000");
        }
        match self.kind {
            JobKind::Embed => {
                let unused = [
                    ("maxOutput", u128::from(self.max_output)),
                    ("temperature", self.temperature.into()),
                    ("minP", self.min_p.into()),
                    ("outputPrice", self.output_price.units()),
                    ("stopIds", u128::from(!self.stop_word().is_zero())),
                    ("seed", u128::from(!self.seed.is_zero())),
                ];
                if let Some(&(name, found)) = unused.iter().find(|(_, found)| *found != 0) {
                    return field(name, found, "0 in an embed job");
                }
                if self.samples_per_item != 1 {
                    return field("samplesPerItem", self.samples_per_item.into(), "1 in an embed job");
                }
            }
            JobKind::Generate => {
                if !(1..=MAX_OUTPUT).contains(&self.max_output) {
                    return field("maxOutput", self.max_output.into(), "1 to 32,768");
                }
                if self.min_p > 65_536 {
                    return field("minP", self.min_p.into(), "at most 65,536 (1.0 in Q16)");
                }
            }
        }
        self.max_fee().map(|_| ())
    }

    /// The most that the job can cost: what `post` puts into escrow.
    ///
    /// # Errors
    /// [`SpecError::FeeTooLarge`] past 96 bits.
    pub fn max_fee(&self) -> Result<Amount, SpecError> {
        let outputs = u64::from(self.max_output) * u64::from(self.output_count());
        self.full_price(outputs)
    }

    /// The price at 10,000 bps for `output_len` ids.
    fn full_price(&self, output_len: u64) -> Result<Amount, SpecError> {
        let product = |price: Amount, count: u64| price.to_u256() * U256::from(count);
        let sum = self.base_price.to_u256()
            + product(self.input_price, self.input_len)
            + product(self.output_price, output_len)
            + product(self.item_price, self.item_count.into());
        if sum.bit_len() > 96 {
            return Err(SpecError::FeeTooLarge);
        }
        Amount::try_from(sum).map_err(|_| SpecError::FeeTooLarge)
    }

    /// The share of the maximum price that a claim in second `now` fixes, in 1/10,000. ROUNDING: down.
    pub fn price_bps(&self, posted_at: u64, now: u64) -> u16 {
        let elapsed = now.saturating_sub(posted_at);
        if elapsed >= u64::from(self.ramp_secs) {
            return ONE_BPS;
        }
        let rise = u64::from(ONE_BPS.saturating_sub(self.ramp_floor_bps)) * elapsed / u64::from(self.ramp_secs);
        self.ramp_floor_bps.saturating_add(u16::try_from(rise).unwrap_or(ONE_BPS))
    }

    /// What a job with this output costs at a fixed price share. ROUNDING: down.
    ///
    /// # Errors
    /// [`SpecError::FeeTooLarge`] past 96 bits.
    pub fn fee(&self, output_len: u64, price_bps: u16) -> Result<Amount, SpecError> {
        self.full_price(output_len)?.bps_floor(price_bps).ok_or(SpecError::FeeTooLarge)
    }

    /// The stake that a claim locks: max(minLock, maxFee * lockFactorBps / 10,000). ROUNDING: down.
    ///
    /// # Errors
    /// [`SpecError::FeeTooLarge`] where the maximum fee does not fit.
    pub fn lock(&self, parameters: &JobParameters) -> Result<Amount, SpecError> {
        parameters.lock(self.max_fee()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ContentCodec;

    fn spec() -> JobSpec {
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
            base_price: Amount::from_units(100),
            input_price: Amount::from_units(2),
            output_price: Amount::ZERO,
            item_price: Amount::from_units(10),
            ramp_floor_bps: 5_000,
            ramp_secs: 100,
            claim_by: 1_000,
            deliver_within: 60,
            designated: Address::ZERO,
            input: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(4) },
            salt: B256::repeat_byte(5),
        }
    }

    #[test]
    fn job_id_differs_by_chain_and_market() {
        let domain = Domain { chain_id: 901, market: Address::repeat_byte(9) };
        let id = spec().id(&domain);
        assert_ne!(id, spec().id(&Domain { chain_id: 902, ..domain }));
        assert_ne!(id, spec().id(&Domain { market: Address::ZERO, ..domain }));
    }

    #[test]
    fn price_rises_from_the_floor_to_the_maximum() {
        let spec = spec();
        assert_eq!(spec.max_fee(), Ok(Amount::from_units(210)));
        assert_eq!([0, 1, 50, 99, 100, 5_000].map(|t| spec.price_bps(10, 10 + t)), [5_000, 5_050, 7_500, 9_950, 10_000, 10_000]);
        assert_eq!(spec.price_bps(10, 3), 5_000);
        assert_eq!(JobSpec { ramp_secs: 0, ..spec.clone() }.price_bps(10, 10), 10_000);
        assert_eq!(spec.fee(0, 5_050), Ok(Amount::from_units(106)));
    }

    #[test]
    fn fee_past_96_bits_is_refused() {
        let max = Amount::from_units((1 << 96) - 1);
        assert_eq!(JobSpec { base_price: max, ..spec() }.max_fee(), Err(SpecError::FeeTooLarge));
        let alone = JobSpec { base_price: max, input_price: Amount::ZERO, item_price: Amount::ZERO, ..spec() };
        assert_eq!(alone.max_fee(), Ok(max));
        assert_eq!(alone.fee(0, 10_000), Ok(max));
    }

    #[test]
    fn embed_job_with_generation_fields_is_refused_by_name() {
        let error = JobSpec { temperature: 1, ..spec() }.validate().expect_err("temperature");
        assert_eq!(error.to_string(), "job field temperature is 1, must be 0 in an embed job");
        assert!(JobSpec { item_count: 0, ..spec() }.validate().is_err());
        assert!(JobSpec { item_count: 65_537, ..spec() }.validate().is_err());
        assert!(JobSpec { ramp_floor_bps: 10_001, ..spec() }.validate().is_err());
        assert_eq!(spec().validate(), Ok(()));
    }

    proptest! {
        #[test]
        fn fee_never_exceeds_the_maximum(bps in 1u16..=10_000, base in 0u128..1 << 90, per in 0u128..1 << 60, len: u32) {
            let spec = JobSpec { base_price: Amount::from_units(base), input_price: Amount::from_units(per), input_len: len.into(), ..spec() };
            if let Ok(max) = spec.max_fee() {
                prop_assert!(spec.fee(0, bps).expect("fits") <= max);
            }
        }

        #[test]
        fn stop_word_round_trips(ids: [u32; 8]) {
            let spec = JobSpec { stop_ids: ids, ..spec() };
            prop_assert_eq!(JobSpec::stop_ids_from_word(spec.stop_word()), ids);
        }
    }
}
