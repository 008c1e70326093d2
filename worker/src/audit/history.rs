//! All events of a deployment up to a block, exactly as the node tells them.
//!
//! Not the canonical stream, on purpose: that one mends a node's gaps and retries its contradictions, so that work goes on; an audit must see them.

use std::collections::BTreeMap;

use quern_chain::{BlockSource, Client, LogFilter, deployment::Deployment};
use quern_types::{BlockRef, Head};

use crate::{
    Error, Result,
    audit::Difference,
    event::{Event, Logged},
};

/// Blocks asked for in one range.
const RANGE: u64 = 2_000;
/// Headers asked for at once.
const HEADERS_AT_ONCE: usize = 16;

/// The block up to which something is audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditAt {
    /// The block that has this standing now.
    Head(Head),
    /// The block of this height.
    Block(u64),
}

/// Finds the block.
pub(super) async fn find_block(client: &Client, at: AuditAt) -> Result<BlockRef> {
    let heads = client.heads().await?;
    match at {
        AuditAt::Head(head) => Ok(heads.get(head)),
        AuditAt::Block(number) => match client.header(number).await? {
            Some(header) => Ok(header.at),
            None => Err(Error::NoSuchBlock { number, latest: heads.latest.number }),
        },
    }
}

/// The events, in the order of the chain; or the first contradiction between a log and the block that it is said to be in.
pub(super) async fn history(client: &Client, deployment: &Deployment, to: BlockRef) -> Result<Result<Vec<Logged>, Difference>> {
    let filter = LogFilter::new(deployment.modules());
    let mut events = Vec::new();
    let mut from = deployment.from_block;
    while from <= to.number {
        let end = to.number.min(from + RANGE - 1);
        let mut logs = client.logs_in_range(&filter, from..=end).await?;
        logs.retain(|log| filter.wants(log.address));
        logs.sort_by_key(|log| (log.block_number, log.log_index));
        let blocks = headers(client, logs.iter().map(|log| log.block_number)).await?;
        for log in logs {
            let known = blocks.get(&log.block_number).filter(|block| block.hash == log.block_hash);
            let Some(block) = known.filter(|_| (from..=end).contains(&log.block_number) && !log.removed) else {
                return Ok(Err(Difference {
                    seq: None,
                    block: Some(log.block_number),
                    job: None,
                    what: format!("block of the log {} of transaction {}", log.log_index, log.tx_hash),
                    expected: blocks
                        .get(&log.block_number)
                        .map_or_else(|| "a block of the chain".into(), |block| format!("{:?}", block.hash)),
                    found: format!("{:?}", log.block_hash),
                }));
            };
            events.push(Logged { block: *block, tx: log.tx_hash, log_index: log.log_index, event: Event::decode(&log.data) });
        }
        from = end + 1;
    }
    Ok(Ok(events))
}

/// The blocks of these heights, each asked for once.
async fn headers(client: &Client, numbers: impl Iterator<Item = u64>) -> Result<BTreeMap<u64, BlockRef>> {
    let mut wanted: Vec<u64> = numbers.collect();
    wanted.dedup();
    let mut blocks = BTreeMap::new();
    for some in wanted.chunks(HEADERS_AT_ONCE) {
        for header in futures::future::try_join_all(some.iter().map(|number| client.header(*number))).await?.into_iter().flatten() {
            blocks.insert(header.at.number, header.at);
        }
    }
    Ok(blocks)
}
