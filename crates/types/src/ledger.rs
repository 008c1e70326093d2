//! The ledger's entries and its head (PROTOCOL, section 5).

use alloy_primitives::{Address, B256, keccak256};
use serde::{Deserialize, Serialize};

use crate::Amount;

/// A number from the chain that names nothing we know: another version of the contracts, or a lying node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code} is not a {what}")]
pub struct UnknownCode {
    /// The enumeration.
    pub what: &'static str,
    /// The number found.
    pub code: u8,
}

/// Declares an enumeration whose numbers stand on the chain.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$vdoc:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)+ }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The number on the chain.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The name in logs, SQL and the API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }
        }

        impl TryFrom<u8> for $name {
            type Error = $crate::UnknownCode;

            fn try_from(code: u8) -> Result<Self, Self::Error> {
                match code {
                    $($code => Ok(Self::$variant),)+
                    code => Err($crate::UnknownCode { what: $what, code }),
                }
            }
        }
    };
}
pub(crate) use codes;

codes!(
    /// Where money stands.
    Bucket, "bucket", {
        /// The token, outside the Ledger.
        Outside = 1,
        /// May be spent or withdrawn.
        Free = 2,
        /// Pays for posted jobs.
        Escrow = 3,
        /// A provider's, may be locked.
        Stake = 4,
        /// A provider's, on its way out; cannot be locked.
        Unbonding = 5,
        /// A provider's, behind a claimed job.
        Lock = 6,
        /// Behind a challenge.
        Bond = 7,
        /// Gone. Account 0.
        Burned = 8,
        /// Slashed and not yet burnt. Account 0.
        Delayed = 9,
        /// To be paid out by epoch. Account 0.
        RewardPool = 10,
    }
);

codes!(
    /// Why money moved.
    Reason, "ledger reason", {
        /// Outside to free.
        Deposit = 1,
        /// Free to outside.
        Withdrawal = 2,
        /// The client's free to escrow: a job was posted.
        Escrowed = 3,
        /// Escrow back: the client cancelled.
        Cancelled = 4,
        /// Escrow back: nobody claimed in time.
        Expired = 5,
        /// Escrow back: the provider did not deliver.
        Undelivered = 6,
        /// The provider's lock to the client's free: it did not deliver.
        Penalty = 7,
        /// Stake to lock: a job was claimed.
        Locked = 8,
        /// Lock to stake: the job is over.
        Unlocked = 9,
        /// The client's escrow to the provider's free.
        Fee = 10,
        /// The client's escrow to the publisher's free.
        Royalty = 11,
        /// Escrow back: what the job did not cost.
        Change = 12,
        /// Free to stake.
        Staked = 13,
        /// Stake to unbonding.
        UnbondStarted = 14,
        /// Unbonding to stake.
        UnbondCancelled = 15,
        /// Unbonding to free.
        Unbonded = 16,
        /// Free to bond: a challenge was opened.
        BondPosted = 17,
        /// Bond to free.
        BondReturned = 18,
        /// Bond to somebody else: a challenge was lost.
        BondLost = 19,
        /// Lock to the challenger's free.
        SlashedToChallenger = 20,
        /// Lock to the client's free.
        SlashedToClient = 21,
        /// Lock to delayed.
        SlashedDelayed = 22,
        /// Escrow back: the provider was convicted.
        Voided = 23,
    }
);

/// One entry of the ledger: one move of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Position in the ledger, from 1, without gaps.
    pub seq: u64,
    /// Whose money it was; zero for the account-less buckets.
    pub from: Address,
    /// Where it stood.
    pub from_bucket: Bucket,
    /// Whose money it is now.
    pub to: Address,
    /// Where it stands now.
    pub to_bucket: Bucket,
    /// How much; never zero.
    pub amount: Amount,
    /// Why.
    pub reason: Reason,
    /// The job id, or zero where the move belongs to no job.
    pub reference: B256,
}

/// The running hash over all entries of one Ledger on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LedgerHead {
    /// Chain id of the L2.
    pub chain_id: u64,
    /// Address of the Ledger contract.
    pub ledger: Address,
    /// Sequence number of the last entry; 0 before the first.
    pub seq: u64,
    /// The head: 24 bytes of a hash and 8 zero bytes; zero before the first entry.
    pub hash: B256,
}

impl LedgerHead {
    /// The head before the first entry.
    pub const fn genesis(chain_id: u64, ledger: Address) -> Self {
        Self { chain_id, ledger, seq: 0, hash: B256::ZERO }
    }

    /// The head after `entry`. The caller compares `entry.seq` with `self.seq + 1`; the hash binds it either way.
    #[must_use]
    pub fn after(&self, entry: &Move) -> Self {
        let mut preimage = Vec::with_capacity(1 + 32 + 32 + 20 + 8 + 21 + 21 + 16 + 1 + 32);
        preimage.push(0x50);
        preimage.extend_from_slice(self.hash.as_slice());
        preimage.extend_from_slice(&[0; 24]);
        preimage.extend_from_slice(&self.chain_id.to_be_bytes());
        preimage.extend_from_slice(self.ledger.as_slice());
        preimage.extend_from_slice(&entry.seq.to_be_bytes());
        preimage.extend_from_slice(entry.from.as_slice());
        preimage.push(entry.from_bucket.code());
        preimage.extend_from_slice(entry.to.as_slice());
        preimage.push(entry.to_bucket.code());
        preimage.extend_from_slice(&entry.amount.units().to_be_bytes());
        preimage.push(entry.reason.code());
        preimage.extend_from_slice(entry.reference.as_slice());
        // The contract keeps 24 bytes of the hash and the sequence number in one storage word.
        let mut hash = keccak256(preimage);
        hash[24..].fill(0);
        Self { seq: entry.seq, hash, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_every_variant_round_trips_and_zero_is_none() {
        for bucket in Bucket::ALL {
            assert_eq!(Bucket::try_from(bucket.code()), Ok(*bucket));
        }
        for reason in Reason::ALL {
            assert_eq!(Reason::try_from(reason.code()), Ok(*reason));
        }
        assert_eq!(Bucket::try_from(0).expect_err("zero").to_string(), "0 is not a bucket");
        assert!(Bucket::try_from(11).is_err() && Reason::try_from(24).is_err());
    }

    #[test]
    fn head_changes_with_every_field_of_an_entry() {
        let head = LedgerHead::genesis(901, Address::repeat_byte(1));
        let entry = Move {
            seq: 1,
            from: Address::repeat_byte(2),
            from_bucket: Bucket::Outside,
            to: Address::repeat_byte(2),
            to_bucket: Bucket::Free,
            amount: Amount::from_units(7),
            reason: Reason::Deposit,
            reference: B256::ZERO,
        };
        let variants = [
            entry,
            Move { seq: 2, ..entry },
            Move { from: Address::ZERO, ..entry },
            Move { from_bucket: Bucket::Free, ..entry },
            Move { to: Address::ZERO, ..entry },
            Move { to_bucket: Bucket::Stake, ..entry },
            Move { amount: Amount::from_units(8), ..entry },
            Move { reason: Reason::Withdrawal, ..entry },
            Move { reference: B256::repeat_byte(1), ..entry },
        ];
        let mut hashes: Vec<B256> = variants.iter().map(|entry| head.after(entry).hash).collect();
        hashes.push(LedgerHead { chain_id: 902, ..head }.after(&entry).hash);
        hashes.push(LedgerHead { ledger: Address::ZERO, ..head }.after(&entry).hash);
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), variants.len() + 2);
    }
}
