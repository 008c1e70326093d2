//! What a provider attests (PROTOCOL, section 4).

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use crate::{ContentId, Domain, JobId, eip712::Words, ledger::codes};

codes!(
    /// How an output ended (PROTOCOL, section 1). The last three are results, not errors.
    FinishReason, "finish reason", {
        /// An embedding was computed.
        Complete = 1,
        /// A stop id was produced; it is output and billed.
        Stop = 2,
        /// `maxOutput` ids were produced.
        MaxOutput = 3,
        /// The context is full.
        Context = 4,
        /// The item has no ids.
        EmptyItem = 5,
        /// The item is longer than the context.
        ItemTooLong = 6,
        /// The item holds an id outside the vocabulary.
        UnknownId = 7,
    }
);

impl FinishReason {
    /// Whether the model computed anything: then the output has final norm rows.
    pub const fn is_computed(self) -> bool {
        (self as u8) < Self::EmptyItem as u8
    }
}

codes!(
    /// Where the figure for the energy comes from.
    EnergyMethod, "energy method", {
        /// Read from a counter of the device (RAPL, NVML).
        Measured = 1,
        /// Time times an assumed power.
        Estimated = 2,
    }
);

/// A provider's attestation to the result of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The job.
    pub job_id: JobId,
    /// The provider's owner address.
    pub provider: Address,
    /// Root of the output sum tree.
    pub output_root: B256,
    /// Count of the output sum tree: ids generated; 0 for an embedding.
    pub output_len: u64,
    /// Where the output blob is.
    pub output: ContentId,
    /// keccak of work root, provider and job id.
    pub work_digest: B256,
    /// Energy spent on the job, in millijoules.
    pub energy_millijoules: u64,
    /// Where that figure comes from.
    pub energy_method: EnergyMethod,
}

/// A receipt with the operator's signature: anyone may relay it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedReceipt {
    /// The receipt.
    pub receipt: Receipt,
    /// r ‖ s ‖ v, 65 bytes, over [`Receipt::digest`].
    pub signature: Vec<u8>,
}

impl Receipt {
    /// The EIP-712 type.
    pub const TYPE: &str = "Receipt(bytes32 jobId,address provider,bytes32 outputRoot,uint64 outputLen,uint8 outputCodec,\
        bytes32 outputDigest,bytes32 workDigest,uint64 energyMillijoules,uint8 energyMethod)";

    /// The EIP-712 struct hash.
    pub fn struct_hash(&self) -> B256 {
        Words::new(Self::TYPE)
            .word(self.job_id.0)
            .address(self.provider)
            .word(self.output_root)
            .number(self.output_len)
            .number(u8::from(self.output.codec))
            .word(self.output.digest)
            .word(self.work_digest)
            .number(self.energy_millijoules)
            .number(self.energy_method.code())
            .hash()
    }

    /// The digest that the operator signs.
    pub fn digest(&self, domain: &Domain) -> B256 {
        domain.digest(self.struct_hash())
    }
}
