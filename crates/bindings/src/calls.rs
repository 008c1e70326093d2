//! Calls of others, read back out of their transactions.

use alloy_primitives::Bytes;
use alloy_sol_types::SolCall;
use quern_types::Receipt;

use crate::abi::JobMarket::submitCall;

/// Receipt and signature in the calldata of a submission; `None` where it is another call, or none at all.
///
/// TRUST: anybody may send anything; only the signature says whose receipt it is.
pub fn submitted(calldata: &[u8]) -> Option<(Receipt, Bytes)> {
    let call = submitCall::abi_decode_validate(calldata).ok()?;
    Some((Receipt::try_from(&call.receipt).ok()?, call.signature))
}
