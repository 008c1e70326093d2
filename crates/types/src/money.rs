//! Amounts of the market's token.

use std::{fmt, iter::Sum, str::FromStr};

use alloy_primitives::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount of the token in its smallest unit (10^-18 of a whole token). Never negative; arithmetic is checked, never wrapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(u128);

/// Why an amount could not be made or computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// A sum or product does not fit.
    #[error("an amount exceeds {limit}: {what}")]
    TooLarge {
        /// The computation that overflowed.
        what: &'static str,
        /// The type that it must fit.
        limit: &'static str,
    },
    /// The text is not a decimal amount.
    #[error("{found:?} is not an amount: write whole tokens with at most 18 decimals, such as 12.5")]
    NotAnAmount {
        /// The text that was given.
        found: String,
    },
}

/// Decimals of the token.
const DECIMALS: usize = 18;

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One whole token.
    pub const ONE_TOKEN: Self = Self(1_000_000_000_000_000_000);

    /// The amount of `units` smallest units.
    pub const fn from_units(units: u128) -> Self {
        Self(units)
    }

    /// The number of smallest units.
    pub const fn units(self) -> u128 {
        self.0
    }

    /// The number of smallest units as the contracts pass it.
    pub fn to_u256(self) -> U256 {
        U256::from(self.0)
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Sum, or `None` where it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference, or `None` where it would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Difference, nothing where it would be negative.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self * bps / 10,000`. ROUNDING: down. `None` where the product does not fit 128 bits.
    pub fn bps_floor(self, bps: u16) -> Option<Self> {
        self.0.checked_mul(u128::from(bps)).map(|product| Self(product / 10_000))
    }

    /// Parses whole tokens with at most 18 decimals: `"12.5"`.
    ///
    /// # Errors
    /// [`MoneyError::NotAnAmount`] for anything else, [`MoneyError::TooLarge`] past 128 bits.
    pub fn from_tokens(text: &str) -> Result<Self, MoneyError> {
        let fail = || MoneyError::NotAnAmount { found: text.chars().take(80).collect() };
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && part.is_empty()) || !digits(whole) || !digits(part) || part.len() > DECIMALS {
            return Err(fail());
        }
        let units = format!("{whole}{part:0<DECIMALS$}");
        units.parse().map(Self).map_err(|_| MoneyError::TooLarge { what: "tokens times 10^18", limit: "128 bits" })
    }

    /// Whole tokens as decimal text without trailing zeros: `"12.5"`.
    pub fn to_tokens(self) -> String {
        let (whole, part) = (self.0 / Self::ONE_TOKEN.0, self.0 % Self::ONE_TOKEN.0);
        if part == 0 {
            return whole.to_string();
        }
        format!("{whole}.{part:0>DECIMALS$}").trim_end_matches('0').to_owned()
    }
}

impl fmt::Display for Amount {
    /// Smallest units, so that logs never round.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Amount({})", self.0)
    }
}

impl FromStr for Amount {
    type Err = MoneyError;

    /// Smallest units in decimal, as [`Display`](fmt::Display) writes them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(MoneyError::NotAnAmount { found: text.chars().take(80).collect() });
        }
        text.parse().map(Self).map_err(|_| MoneyError::TooLarge { what: "smallest units", limit: "128 bits" })
    }
}

impl TryFrom<U256> for Amount {
    type Error = MoneyError;

    fn try_from(value: U256) -> Result<Self, Self::Error> {
        u128::try_from(value).map(Self).map_err(|_| MoneyError::TooLarge { what: "a 256-bit value", limit: "128 bits" })
    }
}

impl Sum for Amount {
    /// # Panics
    /// Past 128 bits, which no sum of balances of one token of that width can reach.
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |a, b| a.checked_add(b).expect("a sum of balances fits 128 bits"))
    }
}

/// A string of smallest units: JSON numbers lose digits past 2^53.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_text_round_trips(units: u128) {
            let amount = Amount::from_units(units);
            prop_assert_eq!(Amount::from_tokens(&amount.to_tokens()), Ok(amount));
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }
    }

    #[test]
    fn tokens_text_that_is_no_amount_is_refused() {
        for text in ["", ".", "-1", "+1", "1e3", "1,5", " 1", "0.0000000000000000001", "1.2.3"] {
            assert!(matches!(Amount::from_tokens(text), Err(MoneyError::NotAnAmount { .. })), "{text}");
        }
        assert!(matches!(Amount::from_tokens("999999999999999999999999"), Err(MoneyError::TooLarge { .. })));
    }

    #[test]
    fn bps_rounds_down_and_refuses_overflow() {
        assert_eq!(Amount::from_units(9_999).bps_floor(1), Some(Amount::ZERO));
        assert_eq!(Amount::from_units(10_001).bps_floor(5_000), Some(Amount::from_units(5_000)));
        assert_eq!(Amount::from_units(u128::MAX).bps_floor(2), None);
    }
}
