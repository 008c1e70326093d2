//! The provider's worker, and the auditor.
//!
//! *A worker* follows the canonical chain ([`watch`]), looks for jobs that it can do and that pay ([`scout`], [`decide`]), and drives each one from its
//! acceptance to its end ([`drive`], by the table in [`life`]), with every step in a journal, so that it can be killed anywhere.
//!
//! *An auditor* ([`audit`]) derives the whole ledger again from events and proves the result against the chain's state, and computes jobs again to the bit.

mod chores;
mod clock;
mod complete;
mod compute;
mod config;
mod content;
mod decide;
mod desk;
mod drive;
#[cfg(test)]
mod drive_tests;
mod energy;
mod error;
mod event;
mod fault;
#[cfg(test)]
mod fixture;
mod generate;
mod journal;
mod life;
mod load;
mod models;
mod run;
mod running;
#[cfg(test)]
mod running_tests;
mod scout;
mod status;
mod view;
mod watch;

pub mod audit;

pub use config::Config;
pub use decide::Refusal;
pub use error::{Error, Result, Severity};
pub use fault::{CrashPoint, ParseCrashPointError, When};
pub use journal::SenderRows;
pub use run::run;
pub use status::{JobStatus, ModelStatus, RefusalStatus, Status, status};
