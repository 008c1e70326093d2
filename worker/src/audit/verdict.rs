//! What an audit says.

use quern_types::{Address, Amount, B256, BlockRef, FinishReason, JobId, PackageRoot};
use serde::Serialize;

use super::ReceiptProof;

/// Where what is claimed first differs from what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The ledger entry at which it shows: every entry before it is as it must be. `None` where no entry is at fault, such as a header that does not
    /// hash to its block.
    pub seq: Option<u64>,
    /// Number of the block.
    pub block: Option<u64>,
    /// The job, where it is about one.
    pub job: Option<JobId>,
    /// What differs.
    pub what: String,
    /// What must stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(seq) = self.seq {
            write!(f, "entry {seq}: ")?;
        }
        write!(f, "{}: expected {}, found {}", self.what, self.expected, self.found)?;
        if let Some(job) = self.job {
            write!(f, " (job {job})")?;
        }
        Ok(())
    }
}

/// Which of the token's and the chain's statements were proven, and which were only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proven {
    /// Storage slots of the Ledger that were proven against the block's state root.
    pub slots: usize,
    /// The token balance of the Ledger was proven, not only read: the token is our own, or keeps balances where OpenZeppelin's ERC-20 does.
    pub token_balance: bool,
    /// The output root of an L1 was compared with the block.
    pub output_root: bool,
}

/// The verdict on a whole ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerVerdict {
    /// Whether everything held.
    pub ok: bool,
    /// The Ledger.
    pub ledger: Address,
    /// Chain id of the L2.
    pub chain_id: u64,
    /// The block up to which it was audited. TRUST: everything below is proven against this block's hash; compare the hash with another source.
    pub block: BlockRef,
    /// Entries replayed.
    pub entries: u64,
    /// Accounts that ever had a balance.
    pub accounts: usize,
    /// Jobs whose every amount was derived again.
    pub jobs: usize,
    /// The head after the last entry.
    pub head: B256,
    /// Sum of all buckets, in the token's smallest unit.
    pub total: Amount,
    /// What the Ledger holds of the token, in its smallest unit; `None` where the audit ended before.
    pub token_balance: Option<Amount>,
    /// What was proven.
    pub proven: Proven,
    /// The first difference; `None` exactly where `ok`.
    pub difference: Option<Difference>,
}

/// The verdict on one job.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobVerdict {
    /// The job.
    pub job: JobId,
    /// Whether the receipt and the output are, to the bit, what the model makes of the input; `None` where the output cannot be had now, which says
    /// nothing of either.
    pub equal: Option<bool>,
    /// The block whose state the receipt was proven by. TRUST: it is the node's, unless its hash was given.
    pub block: BlockRef,
    /// What proves the receipt; `None` where the node shows another one than the market holds.
    pub receipt: Option<ReceiptProof>,
    /// The package that was computed with.
    pub package: PackageRoot,
    /// Who attested the result.
    pub provider: Address,
    /// Items compared.
    pub items: u32,
    /// The output root that the recomputation gives; `None` where it ended at a difference.
    pub output_root: Option<B256>,
    /// Seconds that the recomputation took.
    pub seconds: f64,
    /// The first difference, or why there is nothing to compare; `None` exactly where `equal`.
    pub difference: Option<JobDifference>,
}

/// Where a result first differs from its recomputation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "at", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum JobDifference {
    /// The node's word is not what the market's state proves. This says something of the node, and nothing of the provider.
    Node {
        /// What differs.
        what: String,
        /// What the state proves.
        expected: String,
        /// What the node says.
        found: String,
    },
    /// The output cannot be had now. Nobody can tell from here whether its provider withholds it or something else is broken.
    OutputUnavailable {
        /// Why.
        fault: String,
    },
    /// The output blob does not hash to the root in the receipt, or is no output blob of this job.
    OutputBlob {
        /// What is wrong with it.
        fault: String,
    },
    /// An output ended otherwise.
    Reason {
        /// The output, in the order of the output tree.
        output: u32,
        /// The reason that follows.
        expected: FinishReason,
        /// The reason attested.
        found: FinishReason,
    },
    /// An output has another length.
    Length {
        /// The output.
        output: u32,
        /// The length that follows.
        expected: u64,
        /// The length attested.
        found: u64,
    },
    /// One element of an output is another number.
    Element {
        /// The output.
        output: u32,
        /// The element.
        element: u32,
        /// The number that follows.
        expected: i64,
        /// The number attested.
        found: i64,
    },
    /// A generated id is not the one that follows, or is missing.
    Id {
        /// The item, from 0.
        item: u32,
        /// Its sample, from 0.
        sample: u32,
        /// Index in the output, from 0: all ids before it are right.
        position: u64,
        /// The id that follows.
        expected: u32,
        /// The id attested; `None`: the output ends before.
        found: Option<u32>,
    },
    /// Every id up to here is right, and the output does not end as it must.
    End {
        /// The item, from 0.
        item: u32,
        /// Its sample, from 0.
        sample: u32,
        /// Ids of the output that follows.
        position: u64,
        /// Why it must end.
        expected: FinishReason,
        /// The reason attested.
        found: FinishReason,
        /// Ids attested.
        ids: u64,
    },
    /// The count in the receipt is not the sum over the outputs.
    OutputLen {
        /// The count that follows.
        expected: u64,
        /// The count attested.
        found: u64,
    },
    /// Every bit of the output is right, and its root is not.
    OutputRoot {
        /// The root that follows.
        expected: B256,
        /// The root attested.
        found: B256,
    },
    /// The output is right, and whoever attested it cannot show the work: it was copied, or the work digest is wrong.
    WorkDigest {
        /// The digest that follows.
        expected: B256,
        /// The digest attested.
        found: B256,
    },
}
