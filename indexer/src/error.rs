//! Why the indexer stops.

use std::{io, net::SocketAddr};

/// Every failure that ends the process. Whatever can be waited out is waited out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain or its stream.
    #[error(transparent)]
    Chain(#[from] quern_chain::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] quern_db::Error),
    /// The node has no block 0.
    #[error(
        "the node at --rpc does not answer for block 0, which tells one chain from another of the same id; use a node with the whole chain of headers"
    )]
    NoGenesis,
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: choose another address with --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server ended.
    #[error("the HTTP server ended")]
    Serve(#[source] io::Error),
    /// A task of the indexer panicked: a defect.
    #[error("a part of the indexer ended with a panic; please report it with the log")]
    Panicked,
}
