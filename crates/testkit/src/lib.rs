//! A local chain, real processes, and the doubles that whole-system tests and the demo drive them with.
//!
//! Nothing here is part of the product: the actors are the `quern` binary itself, driven through its public commands, against a
//! real `anvil` in OP mode with the real contracts deployed by the real deployment script.

mod devnet;
mod market;
mod process;
mod proxy;
mod tools;
mod wait;

pub use devnet::{Account, Devnet, DevnetOptions};
pub use market::{Actor, Api, Market, text};
pub use process::{Daemon, end_children_on_signal, interrupted, output, run};
pub use proxy::{Answer, RpcProxy};
pub use tools::{extractor_package, minilm_package, quern, repository, tool};
pub use wait::eventually;
