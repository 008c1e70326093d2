//! The auditor: the ledger derived again from events and proven against the chain's state, and jobs computed again to the bit.

mod generated;
mod history;
mod job;
mod jobs;
mod ledger;
mod receipt;
mod replay;
#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod simulation;
mod verdict;

pub use history::AuditAt;
pub use job::{JobAudit, audit_job};
pub use ledger::{LedgerAudit, audit_ledger};
pub use receipt::ReceiptProof;
pub use replay::{Replay, Terms};
pub use verdict::{Difference, JobDifference, JobVerdict, LedgerVerdict, Proven};
