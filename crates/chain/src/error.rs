//! What can go wrong between us and a chain, and who must act.

use std::time::Duration;

use alloy::primitives::{Address, B256};
use quern_types::BlockRef;

use crate::{deployment::DeploymentError, proof::ProofError};

/// What the loop that meets an error does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Try again later: the node or the network is at fault, or the chain has not got there yet.
    Retry,
    /// The chain moved: go back to a common block, then go on.
    Unwind,
    /// Stop and tell a person: going on would be wrong.
    Fatal,
}

/// Every failure of this crate. The text says what to do; [`Error::severity`] says who does it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer: connection refused, reset, HTTP status, unreadable JSON.
    #[error("{method}: no answer from the node at {endpoint}: {what}")]
    Transport {
        /// JSON-RPC method.
        method: &'static str,
        /// Host and port; never the path or query, which may hold a key.
        endpoint: String,
        /// What the transport said, without the parts of the URL that may hold a key.
        what: String,
    },
    /// No answer in time.
    #[error("{method}: the node at {endpoint} did not answer within {after:?}")]
    Timeout {
        /// JSON-RPC method.
        method: &'static str,
        /// Host and port.
        endpoint: String,
        /// The limit, `ClientConfig::request_timeout`.
        after: Duration,
    },
    /// The node understood the question and refused it.
    #[error("{method}: the node refused: {message} (code {code})")]
    Rpc {
        /// JSON-RPC method.
        method: &'static str,
        /// JSON-RPC error code.
        code: i64,
        /// The node's words; informative, never matched on.
        message: String,
        /// Data of the error where it has the form of revert data.
        data: Option<alloy::primitives::Bytes>,
    },
    /// The node's answers contradict each other or themselves.
    #[error("{method}: the node's answer does not hold together: {what}")]
    BadAnswer {
        /// JSON-RPC method, or what was being done.
        method: &'static str,
        /// The contradiction.
        what: String,
    },
    /// The endpoint serves another network.
    #[error("the node at {endpoint} serves chain {actual}, but chain {expected} is configured: check --rpc and the deployment file")]
    WrongChain {
        /// Host and port.
        endpoint: String,
        /// The configured chain id.
        expected: u64,
        /// The chain id that the node reports.
        actual: u64,
    },
    /// Configuration that cannot work.
    #[error("chain configuration: {what}")]
    Config {
        /// What is wrong and what would be right.
        what: String,
    },
    /// The node's newest block is below the one that we already delivered, on the same chain.
    #[error("the node is behind: it stands at block {node}, we stand at {ours}; waiting for it")]
    NodeBehind {
        /// The node's newest block number.
        node: u64,
        /// Number of our last delivered block.
        ours: u64,
    },
    /// A block that we counted as finalized is not on the node's chain.
    #[error(
        "block {} ({}) was finalized, and the node now has another chain below it. Either the node is on a wrong fork (use another --rpc) \
         or the chain was reset (a devnet: delete the local database and start again)", known.number, known.hash
    )]
    ReorgBelowFinalized {
        /// The finalized block that is gone.
        known: BlockRef,
    },
    /// None of the blocks that we remember is on the node's chain.
    #[error(
        "none of our {remembered} newest blocks, {lowest} to {highest}, is on the node's chain: the reorganisation is deeper than what is remembered. Check \
         that --rpc is the right chain; if it is, delete the local database and index again"
    )]
    ReorgTooDeep {
        /// Lowest block number remembered.
        lowest: u64,
        /// Our last delivered block number.
        highest: u64,
        /// How many blocks are remembered.
        remembered: usize,
    },
    /// A contract call was rejected by the contract.
    #[error("call to {to} reverts: {revert}")]
    Reverted {
        /// The contract.
        to: Address,
        /// The decoded reason.
        revert: quern_bindings::Revert,
    },
    /// A contract's answer does not decode: wrong address or another version of the contract.
    #[error("{to} answered {signature} with bytes that do not decode ({what}): is it the contract of this version?")]
    Decode {
        /// The contract.
        to: Address,
        /// Signature of the function.
        signature: &'static str,
        /// What the decoder said.
        what: String,
    },
    /// A deployment file or the code behind it.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// A storage proof.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The transaction sender.
    #[error(transparent)]
    Send(#[from] crate::sender::SendError),
    /// A key file.
    #[error(transparent)]
    Key(#[from] crate::keys::KeyError),
    /// A block that must be there is not.
    #[error("{method}: the node does not have block {block}")]
    MissingBlock {
        /// JSON-RPC method.
        method: &'static str,
        /// The hash asked for.
        block: B256,
    },
}

impl Error {
    /// Who must act.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Transport { .. } | Self::Timeout { .. } | Self::BadAnswer { .. } | Self::NodeBehind { .. } | Self::Rpc { .. } => {
                Severity::Retry
            }
            Self::MissingBlock { .. } => Severity::Unwind,
            Self::WrongChain { .. }
            | Self::Config { .. }
            | Self::ReorgBelowFinalized { .. }
            | Self::ReorgTooDeep { .. }
            | Self::Reverted { .. }
            | Self::Decode { .. }
            | Self::Key(_) => Severity::Fatal,
            Self::Deployment(error) => error.severity(),
            Self::Proof(error) => error.severity(),
            Self::Send(error) => error.severity(),
        }
    }

    /// The error with all its sources in one line, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
