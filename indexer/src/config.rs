//! Options of the indexer.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// What `quern indexer run` takes beside the chain and the deployment.
#[derive(Debug, Clone, clap::Args)]
pub struct IndexerArgs {
    /// Address and port of the HTTP API. The API is read-only and public data; bind it to a public address only behind a proxy that limits requests.
    #[arg(long, env = "QUERN_INDEXER_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The database file; made if it is not there. It can be deleted and is built again from the chain.
    #[arg(long, env = "QUERN_INDEXER_DB", default_value = "quern-index.db")]
    pub db: PathBuf,
    /// Milliseconds between looks at the node while nothing is new. Half a block time is plenty.
    #[arg(long, env = "QUERN_INDEXER_POLL_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub poll_ms: u64,
    /// Blocks behind the newest one from which /health says that the answers are old. Default: one minute of 2-second blocks.
    #[arg(long, env = "QUERN_INDEXER_MAX_LAG_BLOCKS", default_value_t = 30)]
    pub max_lag_blocks: u64,
    /// Seconds without an answer from the node from which /health says so.
    #[arg(long, env = "QUERN_INDEXER_MAX_SILENCE_SECS", default_value_t = 60)]
    pub max_silence_secs: u64,
    /// Seconds between replays of the whole stored ledger, to see that every balance follows from the moves.
    #[arg(long, env = "QUERN_INDEXER_AUDIT_SECS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub audit_secs: u64,
}

/// The same, validated.
#[derive(Debug, Clone)]
pub struct IndexerConfig {
    /// Address and port of the HTTP API; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The database file.
    pub database: PathBuf,
    /// Wait between looks at the node.
    pub poll: Duration,
    /// Lag from which the indexer is not healthy.
    pub max_lag_blocks: u64,
    /// Silence of the node from which the indexer is not healthy.
    pub max_silence: Duration,
    /// Wait between replays of the ledger.
    pub audit_every: Duration,
}

impl From<IndexerArgs> for IndexerConfig {
    fn from(args: IndexerArgs) -> Self {
        Self {
            listen: args.listen,
            database: args.db,
            poll: Duration::from_millis(args.poll_ms),
            max_lag_blocks: args.max_lag_blocks,
            max_silence: Duration::from_secs(args.max_silence_secs),
            audit_every: Duration::from_secs(args.audit_secs),
        }
    }
}
