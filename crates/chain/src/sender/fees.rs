//! What a transaction may cost.

use alloy::{
    consensus::{SignableTransaction, TxEip1559},
    primitives::{Address, U128, U256, address},
};
use quern_bindings::abi::GasPriceOracle;
use serde::Deserialize;

use super::SendError;
use crate::{At, Client, Error, Result};

/// `GasPriceOracle`, a predeploy of every OP Stack chain.
pub const GAS_PRICE_ORACLE: Address = address!("0x420000000000000000000000000000000000000F");

/// Limits on fees (EIP-1559), in wei per gas. The sender never goes past them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeCaps {
    /// Largest `maxFeePerGas`. Default 100 gwei.
    pub max_fee_per_gas: u128,
    /// Largest `maxPriorityFeePerGas`. Default 5 gwei.
    pub max_priority_fee_per_gas: u128,
}

impl Default for FeeCaps {
    fn default() -> Self {
        Self { max_fee_per_gas: 100_000_000_000, max_priority_fee_per_gas: 5_000_000_000 }
    }
}

/// Fee fields of one attempt, in wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// `maxFeePerGas`.
    pub max_fee_per_gas: u128,
    /// `maxPriorityFeePerGas`.
    pub max_priority_fee_per_gas: u128,
}

/// What a call would cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Gas limit: the node's estimate and a fifth on top.
    pub gas_limit: u64,
    /// Fee fields.
    pub fees: Fees,
    /// Upper bound of the fee for the L1 part, in wei; zero where the chain has none. No field of a transaction can cap it.
    pub l1_fee: U256,
}

impl Quote {
    /// The most that the transaction can take from the account without the value sent along, in wei.
    pub fn most(&self) -> U256 {
        U256::from(self.gas_limit) * U256::from(self.fees.max_fee_per_gas) + self.l1_fee
    }
}

impl Fees {
    /// Fees for a transaction that is to be mined soon at this base fee: room for the base fee to double.
    ///
    /// # Errors
    /// The base fee that does not fit under the caps.
    pub(crate) fn at(base: u128, tip: u128, caps: &FeeCaps) -> Result<Self, SendError> {
        let tip = tip.min(caps.max_priority_fee_per_gas);
        if base.saturating_add(tip) > caps.max_fee_per_gas {
            return Err(SendError::FeeCap { base_fee: base, tip, cap: caps.max_fee_per_gas });
        }
        let max = base.saturating_mul(2).saturating_add(tip).min(caps.max_fee_per_gas);
        Ok(Self { max_fee_per_gas: max, max_priority_fee_per_gas: tip })
    }

    /// Fees that replace a transaction with fees `self` in a node's pool: both fields at least 12.5 % higher (nodes ask for 10 %). `None` past the caps.
    pub(crate) fn replace(self, fresh: Self, caps: &FeeCaps) -> Option<Self> {
        let more = |fee: u128| fee.saturating_add(fee.div_ceil(8)).saturating_add(1);
        let replaced = Self {
            max_fee_per_gas: more(self.max_fee_per_gas).max(fresh.max_fee_per_gas),
            max_priority_fee_per_gas: more(self.max_priority_fee_per_gas).max(fresh.max_priority_fee_per_gas),
        };
        let fits = replaced.max_fee_per_gas <= caps.max_fee_per_gas && replaced.max_priority_fee_per_gas <= caps.max_priority_fee_per_gas;
        fits.then_some(replaced)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BaseFee {
    base_fee_per_gas: Option<U128>,
}

impl Client {
    /// Fees for a transaction now.
    pub(crate) async fn fees(&self, caps: &FeeCaps) -> Result<Fees> {
        let block: Option<BaseFee> = self.request("eth_getBlockByNumber", ("latest", false)).await?;
        let base = block.and_then(|block| block.base_fee_per_gas).ok_or_else(|| Error::BadAnswer {
            method: "eth_getBlockByNumber",
            what: "the newest block has no base fee: is it a chain with EIP-1559?".into(),
        })?;
        let tip: U128 = self.request("eth_maxPriorityFeePerGas", ()).await?;
        Ok(Fees::at(base.to(), tip.to(), caps)?)
    }

    /// Upper bound of the L1 fee of a transaction, in wei; zero on a chain without [`GAS_PRICE_ORACLE`].
    pub(crate) async fn l1_fee(&self, tx: &TxEip1559) -> Result<U256> {
        if self.code(GAS_PRICE_ORACLE, At::Latest).await?.is_empty() {
            return Ok(U256::ZERO);
        }
        let mut unsigned = Vec::with_capacity(tx.payload_len_for_signature());
        tx.encode_for_signing(&mut unsigned);
        let size = U256::from(unsigned.len());
        match self.call(GAS_PRICE_ORACLE, &GasPriceOracle::getL1FeeUpperBoundCall { unsignedTxSize: size }, At::Latest).await {
            Ok(fee) => Ok(fee),
            // Before Fjord the oracle had only the exact function.
            Err(Error::Reverted { .. }) => {
                self.call(GAS_PRICE_ORACLE, &GasPriceOracle::getL1FeeCall { data: unsigned.into() }, At::Latest).await
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: FeeCaps = FeeCaps { max_fee_per_gas: 1_000, max_priority_fee_per_gas: 100 };

    #[test]
    fn fees_leave_room_for_the_base_fee_to_double_within_the_caps() {
        assert_eq!(Fees::at(100, 10, &CAPS).expect("fits"), Fees { max_fee_per_gas: 210, max_priority_fee_per_gas: 10 });
        assert_eq!(Fees::at(600, 200, &CAPS).expect("fits"), Fees { max_fee_per_gas: 1_000, max_priority_fee_per_gas: 100 });
        assert!(matches!(Fees::at(901, 200, &CAPS), Err(SendError::FeeCap { base_fee: 901, tip: 100, cap: 1_000 })));
    }

    #[test]
    fn replacement_raises_both_fields_by_an_eighth_or_is_refused() {
        let old = Fees { max_fee_per_gas: 80, max_priority_fee_per_gas: 0 };
        let fresh = Fees { max_fee_per_gas: 20, max_priority_fee_per_gas: 3 };
        assert_eq!(old.replace(fresh, &CAPS), Some(Fees { max_fee_per_gas: 91, max_priority_fee_per_gas: 3 }));
        assert_eq!(Fees { max_fee_per_gas: 889, ..old }.replace(fresh, &CAPS), None);
    }
}
