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
            /// First four bytes of the data of every error that has a variant.
            pub const SELECTORS: &[[u8; 4]] = &[$($(<$module::$name as SolError>::SELECTOR,)+)+ ErrorString::SELECTOR, Panic::SELECTOR];

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
        ModuleNotAllowed ModuleOfOtherLedger ReentrancyGuardReentrantCall SafeERC20FailedOperation;
    ProviderRegistry:
        NotProvider StillUnbonding UnbondingTooShort;
    ModelRegistry:
        ModelExists NotPublisher HeaderLength HeaderField;
    Guardian:
        NotGuardian GuardianExpired EntriesAlready ExpiryOutOfBounds GuardianNotAllowed;
    QuernToken:
        NotBridge ERC20InsufficientAllowance ERC20InsufficientBalance ERC20InvalidApprover ERC20InvalidReceiver ERC20InvalidSender
        ERC20InvalidSpender ERC2612ExpiredSignature ERC2612InvalidSigner ECDSAInvalidSignature ECDSAInvalidSignatureLength
        ECDSAInvalidSignatureS InvalidAccountNonce InvalidShortString StringTooLong;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi;

    #[test]
    fn every_error_of_every_contract_has_a_variant() {
        let of_contracts = [
            abi::JobMarket::JobMarketErrors::SELECTORS,
            abi::Ledger::LedgerErrors::SELECTORS,
            abi::ProviderRegistry::ProviderRegistryErrors::SELECTORS,
            abi::ModelRegistry::ModelRegistryErrors::SELECTORS,
            abi::Guardian::GuardianErrors::SELECTORS,
            abi::QuernToken::QuernTokenErrors::SELECTORS,
        ];
        for selector in of_contracts.concat() {
            assert!(Revert::SELECTORS.contains(&selector), "an error with selector {selector:02x?} has no variant: add it to reverts!");
        }
    }

    #[test]
    fn error_round_trips_and_shows_expected_and_actual() {
        let error = JobMarket::JobNotInState { jobId: [7; 32].into(), expected: 1, actual: 2 };
        let revert = Revert::decode(&error.abi_encode());
        assert_eq!(revert, Revert::JobNotInState(error));
        assert_eq!(revert.name(), "JobNotInState");
        let text = revert.to_string();
        assert!(text.contains("expected: 1") && text.contains("actual: 2"), "{text}");
    }

    #[test]
    fn text_panic_nonsense_and_nothing_are_told_apart() {
        assert_eq!(Revert::decode(&ErrorString { reason: "no".into() }.abi_encode()), Revert::Message("no".into()));
        assert_eq!(Revert::decode(&Panic { code: U256::from(0x11) }.abi_encode()).to_string(), "Panic(0x11)");
        assert_eq!(Revert::decode(&[]).to_string(), "no reason given");
        assert_eq!(Revert::decode(&[1, 2, 3]), Revert::Unknown(Bytes::from_static(&[1, 2, 3])));
        let cut = &JobMarket::NotClient { expected: [1; 20].into(), actual: [2; 20].into() }.abi_encode()[..40];
        assert_eq!(Revert::decode(cut), Revert::Unknown(Bytes::copy_from_slice(cut)));
    }
}
