//! Any revert of our contracts as one typed value.

use std::fmt;

use alloy_primitives::{Bytes, U256};
use alloy_sol_types::{Panic, Revert as ErrorString, SolError};

use crate::abi::{Guardian, JobMarket, Ledger, ModelRegistry, ProviderRegistry, QuernToken};

macro_rules! reverts {
    ($($module:ident: $($name:ident)+;)+) => {
        /// Why a contract call was refused. Match on the variant: each holds the generated error with expected and actual.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the errors are documented in contracts/src/interfaces")]
        pub enum Revert {
            $($($name($module::$name),)+)+
            /// `Error(string)`: `require` with a text.
            Message(String),
            /// `Panic(uint256)`: overflow, division by zero, failed assertion.
            Panic(U256),
            /// Data that is no error known here; empty where a call ran out of gas or the contract gave no reason.
            Unknown(Bytes),
        }

        impl Revert {
            /// Reads revert data. Total.
            pub fn decode(data: &[u8]) -> Self {
                let unknown = || Self::Unknown(Bytes::copy_from_slice(data));
                let Some(selector) = data.first_chunk::<4>() else { return unknown() };
                match *selector {
                    $($(<$module::$name as SolError>::SELECTOR => {
                        <$module::$name as SolError>::abi_decode_validate(data).map_or_else(|_| unknown(), Self::$name)
                    })+)+
                    ErrorString::SELECTOR => ErrorString::abi_decode(data).map_or_else(|_| unknown(), |e| Self::Message(e.reason)),
                    Panic::SELECTOR => Panic::abi_decode(data).map_or_else(|_| unknown(), |e| Self::Panic(e.code)),
                    _ => unknown(),
                }
            }

            /// The error's name as it stands in Solidity, for logs and metrics.
            pub const fn name(&self) -> &'static str {
                match self {
                    $($(Self::$name(_) => stringify!($name),)+)+
                    Self::Message(_) => "Error",
                    Self::Panic(_) => "Panic",
                    Self::Unknown(_) => "Unknown",
                }
            }
        }

        impl fmt::Display for Revert {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($(Self::$name(error) => write!(f, "{error:?}"),)+)+
                    Self::Message(text) => write!(f, "{text:?}"),
                    Self::Panic(code) => write!(f, "Panic(0x{code:02x})"),
                    Self::Unknown(data) if data.is_empty() => f.write_str("no reason given"),
                    Self::Unknown(data) => write!(f, "unknown error {data}"),
                }
            }
        }
    };
}

reverts! {
    JobMarket:
        JobNotInState NotClient NotOperator NotDesignated NotDisputeGame ModelUnknown KindNotOfFamily ReceiptOfOtherJob ReceiptNotSubmitted
        NotClaimant SignerNotOperator DeadlinePassed DeadlineNotPassed AlreadyExtended EntriesAreStopped FieldOutOfBounds ContractNotAllowed;
    Ledger:
        InsufficientBalance ReasonNotAllowed AccountsDiffer AccountNotAllowed AmountNotReceived Insolvent AmountZero RecipientNotAllowed
        ModuleNotAllowed ModuleOfOtherLedger;
    ProviderRegistry:
        NotProvider StillUnbonding UnbondingTooShort;
    ModelRegistry:
        ModelExists NotPublisher HeaderLength HeaderField;
    Guardian:
        NotGuardian GuardianExpired EntriesAlready ExpiryOutOfBounds GuardianNotAllowed;
    QuernToken:
        NotBridge;
}
