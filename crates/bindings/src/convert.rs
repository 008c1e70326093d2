//! Between the generated structs and the nouns of `quern-types`.

use alloy_primitives::{
    Address, B256,
    aliases::{U40, U96},
};
use quern_types::{
    Amount, ContentId, ContentIdError, EnergyMethod, JobId, JobKind, JobParameters, JobSpec, JobState, ModelId, Move, Receipt, UnknownCode,
};
use serde::{Deserialize, Serialize};

use crate::abi::{IModelRegistry, IProviderRegistry, JobMarket, Ledger};

/// A value of the chain that no value of ours stands for, or the reverse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// An enumeration has no such member.
    #[error(transparent)]
    Code(#[from] UnknownCode),
    /// A content codec that a job or receipt may not name.
    #[error(transparent)]
    Codec(#[from] ContentIdError),
    /// An amount that the contract's field cannot hold.
    #[error("{field} is {amount} units, and the contract holds at most 2^96 - 1")]
    AmountTooLarge {
        /// The field.
        field: &'static str,
        /// Its value.
        amount: Amount,
    },
}

/// What `JobMarket` stores of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobRecord {
    /// `None` where no such job was posted.
    pub state: Option<JobState>,
    /// Unix seconds; what it means depends on the state: posted at, delivery deadline, or end of the window.
    pub clock: u64,
    /// Share of the maximum price that the claim fixed, in 1/10,000.
    pub price_bps: u16,
    /// The operator key in force at the claim.
    pub operator: Address,
    /// Challenges that are open.
    pub challenges_open: u16,
    /// Whether the window was extended already.
    pub extended: bool,
    /// Owner address of the provider.
    pub provider: Address,
    /// Digest of the submitted receipt; zero before.
    pub receipt_digest: B256,
}

/// Every parameter of a `JobMarket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketParameters {
    /// Those that a client or provider computes with.
    #[serde(flatten)]
    pub job: JobParameters,
    /// Seconds by which a demand for data extends the window.
    pub extension_secs: u32,
    /// Longest that a dispute game may take, in seconds.
    pub max_game_secs: u32,
    /// Share of a slashed lock that goes to the challenger, in 1/10,000.
    pub challenger_share_bps: u16,
    /// Share of a slashed lock that goes to the client, in 1/10,000.
    pub client_share_bps: u16,
}

/// What `ModelRegistry` stores of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelRecord {
    /// Who registered it and gets the royalty.
    pub publisher: Address,
    /// Share of each fee, in 1/10,000.
    pub royalty_bps: u16,
    /// 1 encoder, 2 decoder.
    pub family: u8,
    /// Linear multiply-adds per token.
    pub macs_per_token: u64,
}

/// A provider's price list for one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prices {
    /// Per job.
    pub base: Amount,
    /// Per input id.
    pub input: Amount,
    /// Per output id.
    pub output: Amount,
    /// Per item.
    pub item: Amount,
}

/// An amount out of a `uint96`.
pub(crate) fn amount96(value: U96) -> Amount {
    Amount::from_units(value.to::<u128>())
}

/// Seconds out of a `uint40`.
pub(crate) fn secs40(value: U40) -> u64 {
    value.to::<u64>()
}

fn u96(field: &'static str, amount: Amount) -> Result<U96, ConvertError> {
    if amount.units() >> 96 != 0 {
        return Err(ConvertError::AmountTooLarge { field, amount });
    }
    Ok(U96::from(amount.units()))
}

impl TryFrom<&JobSpec> for JobMarket::JobSpec {
    type Error = ConvertError;

    fn try_from(spec: &JobSpec) -> Result<Self, ConvertError> {
        Ok(Self {
            client: spec.client,
            modelId: spec.model_id.0,
            kind: spec.kind.code(),
            itemCount: spec.item_count,
            samplesPerItem: spec.samples_per_item,
            inputRoot: spec.input_root,
            inputLen: spec.input_len,
            maxOutput: spec.max_output,
            stopIds: spec.stop_word(),
            temperature: spec.temperature,
            minP: spec.min_p,
            seed: spec.seed,
            basePrice: u96("basePrice", spec.base_price)?,
            inputPrice: u96("inputPrice", spec.input_price)?,
            outputPrice: u96("outputPrice", spec.output_price)?,
            itemPrice: u96("itemPrice", spec.item_price)?,
            rampFloorBps: spec.ramp_floor_bps,
            rampSecs: spec.ramp_secs,
            claimBy: spec.claim_by,
            deliverWithin: spec.deliver_within,
            designated: spec.designated,
            inputCodec: spec.input.codec.into(),
            inputDigest: spec.input.digest,
            salt: spec.salt,
        })
    }
}

impl TryFrom<&JobMarket::JobSpec> for JobSpec {
    type Error = ConvertError;

    fn try_from(spec: &JobMarket::JobSpec) -> Result<Self, ConvertError> {
        Ok(Self {
            client: spec.client,
            model_id: ModelId(spec.modelId),
            kind: JobKind::try_from(spec.kind)?,
            item_count: spec.itemCount,
            samples_per_item: spec.samplesPerItem,
            input_root: spec.inputRoot,
            input_len: spec.inputLen,
            max_output: spec.maxOutput,
            stop_ids: Self::stop_ids_from_word(spec.stopIds),
            temperature: spec.temperature,
            min_p: spec.minP,
            seed: spec.seed,
            base_price: amount96(spec.basePrice),
            input_price: amount96(spec.inputPrice),
            output_price: amount96(spec.outputPrice),
            item_price: amount96(spec.itemPrice),
            ramp_floor_bps: spec.rampFloorBps,
            ramp_secs: spec.rampSecs,
            claim_by: spec.claimBy,
            deliver_within: spec.deliverWithin,
            designated: spec.designated,
            input: ContentId { codec: spec.inputCodec.try_into()?, digest: spec.inputDigest },
            salt: spec.salt,
        })
    }
}

impl From<&Receipt> for JobMarket::Receipt {
    fn from(receipt: &Receipt) -> Self {
        Self {
            jobId: receipt.job_id.0,
            provider: receipt.provider,
            outputRoot: receipt.output_root,
            outputLen: receipt.output_len,
            outputCodec: receipt.output.codec.into(),
            outputDigest: receipt.output.digest,
            workDigest: receipt.work_digest,
            energyMillijoules: receipt.energy_millijoules,
            energyMethod: receipt.energy_method.code(),
        }
    }
}

impl TryFrom<&JobMarket::Receipt> for Receipt {
    type Error = ConvertError;

    fn try_from(receipt: &JobMarket::Receipt) -> Result<Self, ConvertError> {
        Ok(Self {
            job_id: JobId(receipt.jobId),
            provider: receipt.provider,
            output_root: receipt.outputRoot,
            output_len: receipt.outputLen,
            output: ContentId { codec: receipt.outputCodec.try_into()?, digest: receipt.outputDigest },
            work_digest: receipt.workDigest,
            energy_millijoules: receipt.energyMillijoules,
            energy_method: EnergyMethod::try_from(receipt.energyMethod)?,
        })
    }
}

impl TryFrom<&Ledger::Moved> for Move {
    type Error = ConvertError;

    fn try_from(moved: &Ledger::Moved) -> Result<Self, ConvertError> {
        Ok(Self {
            seq: moved.seq,
            from: moved.from,
            from_bucket: moved.fromBucket.try_into()?,
            to: moved.to,
            to_bucket: moved.toBucket.try_into()?,
            amount: Amount::from_units(moved.amount),
            reason: moved.reason.try_into()?,
            reference: moved.referenceId,
        })
    }
}

impl TryFrom<&JobMarket::Job> for JobRecord {
    type Error = ConvertError;

    fn try_from(job: &JobMarket::Job) -> Result<Self, ConvertError> {
        Ok(Self {
            state: if job.state == 0 { None } else { Some(job.state.try_into()?) },
            clock: secs40(job.clock),
            price_bps: job.priceBps,
            operator: job.operator,
            challenges_open: job.challengesOpen,
            extended: job.extended,
            provider: job.provider,
            receipt_digest: job.receiptDigest,
        })
    }
}

impl From<&JobMarket::Parameters> for MarketParameters {
    fn from(parameters: &JobMarket::Parameters) -> Self {
        Self {
            job: JobParameters {
                challenge_window_secs: parameters.challengeWindowSecs,
                min_lock: amount96(parameters.minLock),
                lock_factor_bps: parameters.lockFactorBps,
                penalty_bps: parameters.penaltyBps,
            },
            extension_secs: parameters.extensionSecs,
            max_game_secs: parameters.maxGameSecs,
            challenger_share_bps: parameters.challengerShareBps,
            client_share_bps: parameters.clientShareBps,
        }
    }
}

impl From<&IModelRegistry::Model> for ModelRecord {
    fn from(model: &IModelRegistry::Model) -> Self {
        Self { publisher: model.publisher, royalty_bps: model.royaltyBps, family: model.family, macs_per_token: model.macsPerToken }
    }
}

impl TryFrom<&Prices> for IProviderRegistry::Prices {
    type Error = ConvertError;

    fn try_from(prices: &Prices) -> Result<Self, ConvertError> {
        Ok(Self {
            basePrice: u96("basePrice", prices.base)?,
            inputPrice: u96("inputPrice", prices.input)?,
            outputPrice: u96("outputPrice", prices.output)?,
            itemPrice: u96("itemPrice", prices.item)?,
        })
    }
}

impl From<&IProviderRegistry::Prices> for Prices {
    fn from(prices: &IProviderRegistry::Prices) -> Self {
        Self {
            base: amount96(prices.basePrice),
            input: amount96(prices.inputPrice),
            output: amount96(prices.outputPrice),
            item: amount96(prices.itemPrice),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy_sol_types::{SolStruct, eip712_domain};
    use proptest::prelude::*;
    use quern_types::{ContentCodec, Domain};

    use super::*;

    fn amount() -> impl Strategy<Value = Amount> {
        (0u128..1 << 96).prop_map(Amount::from_units)
    }

    fn word() -> impl Strategy<Value = B256> {
        any::<[u8; 32]>().prop_map(B256::from)
    }

    fn address() -> impl Strategy<Value = Address> {
        any::<[u8; 20]>().prop_map(Address::from)
    }

    fn content() -> impl Strategy<Value = ContentId> {
        (prop_oneof![Just(ContentCodec::Raw), Just(ContentCodec::DagPb)], word()).prop_map(|(codec, digest)| ContentId { codec, digest })
    }

    prop_compose! {
        fn spec()(
            (client, designated, model, input_root, seed, salt) in (address(), address(), word(), word(), word(), word()),
            (item_count, samples_per_item, max_output, temperature, min_p, ramp_secs, deliver_within) in any::<(u32, u32, u32, u32, u32, u32, u32)>(),
            (input_len, claim_by, ramp_floor_bps, stop_ids) in any::<(u64, u64, u16, [u32; 8])>(),
            (base_price, input_price, output_price, item_price) in (amount(), amount(), amount(), amount()),
            kind in prop_oneof![Just(JobKind::Embed), Just(JobKind::Generate)],
            input in content(),
        ) -> JobSpec {
            JobSpec {
                client, model_id: ModelId(model), kind, item_count, samples_per_item, input_root, input_len, max_output, stop_ids, temperature, min_p, seed,
                base_price, input_price, output_price, item_price, ramp_floor_bps, ramp_secs, claim_by, deliver_within, designated, input, salt,
            }
        }
    }

    prop_compose! {
        fn receipt()(
            (job, provider, output_root, work_digest) in (word(), address(), word(), word()),
            (output_len, energy_millijoules) in any::<(u64, u64)>(),
            energy_method in prop_oneof![Just(EnergyMethod::Measured), Just(EnergyMethod::Estimated)],
            output in content(),
        ) -> Receipt {
            Receipt { job_id: JobId(job), provider, output_root, output_len, output, work_digest, energy_millijoules, energy_method }
        }
    }

    proptest! {
        #[test]
        fn job_round_trips_and_its_id_is_the_one_that_the_contract_computes(spec in spec(), chain: u64, market in address()) {
            let generated = JobMarket::JobSpec::try_from(&spec).expect("fits");
            prop_assert_eq!(&JobSpec::try_from(&generated).expect("valid"), &spec);
            prop_assert_eq!(JobMarket::JobSpec::eip712_encode_type(), JobSpec::TYPE);
            let domain = eip712_domain! { name: "Quern", version: "1", chain_id: chain, verifying_contract: market, };
            let ours = Domain { chain_id: chain, market };
            prop_assert_eq!(ours.separator(), domain.separator());
            prop_assert_eq!(spec.id(&ours).0, generated.eip712_signing_hash(&domain));
        }

        #[test]
        fn receipt_round_trips_and_its_digest_is_the_one_that_the_contract_checks(receipt in receipt(), chain: u64, market in address()) {
            let generated = JobMarket::Receipt::from(&receipt);
            prop_assert_eq!(Receipt::try_from(&generated).expect("valid"), receipt);
            prop_assert_eq!(JobMarket::Receipt::eip712_encode_type(), Receipt::TYPE);
            let domain = eip712_domain! { name: "Quern", version: "1", chain_id: chain, verifying_contract: market, };
            prop_assert_eq!(receipt.digest(&Domain { chain_id: chain, market }), generated.eip712_signing_hash(&domain));
        }

        #[test]
        fn amount_past_96_bits_is_refused_by_field(spec in spec(), over in 1u128 << 96..) {
            let error = JobMarket::JobSpec::try_from(&JobSpec { item_price: Amount::from_units(over), ..spec }).expect_err("too large");
            prop_assert_eq!(error, ConvertError::AmountTooLarge { field: "itemPrice", amount: Amount::from_units(over) });
        }
    }
}
