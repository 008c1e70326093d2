//! Whole-system tests: a real chain, the real contracts, real processes, one story each. Every story ends with the ledger audit at zero
//! difference, whatever happened in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "market/story.rs"]
mod story;

#[path = "market/client.rs"]
mod client;
#[path = "market/crash.rs"]
mod crash;
#[path = "market/gas.rs"]
mod gas;
#[path = "market/generate.rs"]
mod generate;
#[path = "market/happy.rs"]
mod happy;
#[path = "market/lies.rs"]
mod lies;
#[path = "market/lies_of_jobs.rs"]
mod lies_of_jobs;
#[path = "market/outage.rs"]
mod outage;
#[path = "market/provider.rs"]
mod provider;
#[path = "market/silence.rs"]
mod silence;
