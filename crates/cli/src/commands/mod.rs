//! One file per command of the tree.

pub mod completions;
pub mod config;
pub mod init;
pub mod key;
pub mod model;
