//! The `quern` binary: thin subcommands over the libraries. The binary itself is `main.rs`; everything is here, so that tests reach it.

pub mod app;
pub mod args;
pub mod commands;
pub mod config;
pub mod failure;
pub mod keystore;
pub mod output;
pub mod session;

pub use app::{Cli, run};
