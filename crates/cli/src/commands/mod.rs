//! One file per command of the tree.

pub mod audit;
pub mod buy;
pub mod chat;
pub mod completions;
pub mod config;
pub mod embed;
pub mod generate;
pub mod indexer;
pub mod init;
pub mod job;
pub mod key;
pub mod model;
pub mod provider;
mod registry;
pub mod run;
mod serve;
pub mod store;
pub mod wallet;
pub mod worker;
