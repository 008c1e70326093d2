//! The nouns of Quern: ids, money, content addresses, job, receipt, ledger, blocks. No I/O, no async, no floats.
//!
//! Every format here is fixed by `docs/PROTOCOL.md`; its section is named where a type comes from it.

#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::float_arithmetic)]

mod block;
mod content;
mod eip712;
mod id;
mod job;
mod ledger;
mod money;
mod receipt;

pub use alloy_primitives::{Address, B256, U256, keccak256};
pub use block::{BlockRef, Head, Heads};
pub use content::{ContentCodec, ContentId, ContentIdError};
pub use eip712::Domain;
pub use id::{JobId, ModelId, PackageRoot, ParseIdError};
pub use job::{JobKind, JobParameters, JobSpec, JobState, SpecError, UNUSED_STOP_ID};
pub use ledger::{Bucket, LedgerHead, Move, Reason, UnknownCode};
pub use money::{Amount, MoneyError};
pub use receipt::{EnergyMethod, FinishReason, Receipt, SignedReceipt};
