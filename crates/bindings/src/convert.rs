//! Between the generated structs and the nouns of `quern-types`.

use alloy_primitives::{
    Address, B256,
    aliases::{U40, U96},
};
use quern_types::{
    Amount, ContentId, ContentIdError, EnergyMethod, JobId, JobKind, JobParameters, JobSpec, JobState, ModelId, Move, Receipt, UnknownCode,
};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarketParameters {
    /// Those that a client or provider computes with.
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

