//! The time that counts: that of the chain's next block.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quern_types::BlockRef;

/// A chain that has made no block for so long makes them on demand, or is stopped: then this machine's clock is the better guess. Six blocks of an OP
/// Stack chain.
pub(crate) const IDLE: Duration = Duration::from_secs(12);

/// Seconds of this machine's clock since 1970.
pub(crate) fn wall_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The least timestamp that the next block can have, Unix seconds: one more than that of the newest, which was seen `age` ago.
///
/// It never runs ahead of the chain while blocks come: a claim at a price that rises with time must not be sent before the time has come.
pub(crate) fn next_block_secs(newest: BlockRef, age: Duration, wall_secs: u64) -> u64 {
    let least = newest.timestamp.saturating_add(1);
    if age > IDLE { least.max(wall_secs) } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::block;

    #[test]
    fn busy_chain_keeps_its_own_time_and_an_idle_one_gets_ours() {
        assert_eq!(next_block_secs(block(100, 0), Duration::from_secs(3), 500), 101);
        assert_eq!(next_block_secs(block(100, 0), Duration::from_secs(13), 500), 500);
        assert_eq!(next_block_secs(block(100, 0), Duration::from_secs(13), 50), 101);
    }
}
