//! A node out of memory: a chain whose blocks hold ledger moves as the contract emits them, that reorganises and goes down when told.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use alloy_primitives::Bloom;
use alloy_sol_types::SolEvent;
use async_trait::async_trait;
use quern_bindings::abi::Ledger;
use quern_chain::{BlockHeader, BlockSource, Error, LogFilter, RawLog, Result};
use quern_types::{Address, Amount, B256, BlockRef, Bucket, Heads, LedgerHead, Move, Reason, keccak256};

use crate::story::binding;

#[derive(Clone)]
struct Made {
    header: BlockHeader,
    logs: Vec<RawLog>,
    ledger: LedgerHead,
}

struct World {
    blocks: Vec<Made>,
    finalized: usize,
    down: bool,
}

/// A node. Clones are the same node.
#[derive(Clone)]
pub(crate) struct Node(Arc<Mutex<World>>);

impl Node {
    /// Blocks 0 to 9 are empty: the deployment is in block 10.
    pub(crate) fn new() -> Self {
        let node = Self(Arc::new(Mutex::new(World { blocks: Vec::new(), finalized: 0, down: false })));
        (0..10).for_each(|_| node.mine(0, 0));
        node
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no holder panicked")
    }

    /// Adds a block with so many deposits; `salt` tells forks apart.
    pub(crate) fn mine(&self, salt: u8, deposits: u128) {
        let mut world = self.world();
        let number = world.blocks.len() as u64;
        let (parent, mut ledger) = world.blocks.last().map_or_else(
            || (B256::ZERO, LedgerHead::genesis(binding().chain_id, binding().ledger)),
            |last| (last.header.at.hash, last.ledger),
        );
        let hash = keccak256([parent.as_slice(), &[salt], &number.to_be_bytes()].concat());
        let mut bloom = Bloom::ZERO;
        let mut logs = Vec::new();
        for log_index in 0..deposits {
            let account = Address::repeat_byte(u8::try_from(1 + log_index).expect("few") ^ (salt << 4));
            let amount = Amount::from_units(1_000 * u128::from(number) + log_index);
            let entry = Move {
                seq: ledger.seq + 1,
                from: account,
                from_bucket: Bucket::Outside,
                to: account,
                to_bucket: Bucket::Free,
                amount,
                reason: Reason::Deposit,
                reference: B256::ZERO,
            };
            ledger = ledger.after(&entry);
            let event = Ledger::Moved {
                seq: entry.seq,
                from: entry.from,
                fromBucket: entry.from_bucket.code(),
                to: entry.to,
                toBucket: entry.to_bucket.code(),
                amount: entry.amount.units(),
                reason: entry.reason.code(),
                referenceId: entry.reference,
                head: ledger.hash,
            };
            let data = event.encode_log_data();
            bloom.accrue_raw_log(binding().ledger, data.topics());
            logs.push(RawLog {
                block_number: number,
                block_hash: hash,
                tx_hash: B256::with_last_byte(u8::try_from(log_index).expect("few")),
                tx_index: 0,
                log_index: u64::try_from(log_index).expect("few"),
                address: binding().ledger,
                data,
                removed: false,
            });
        }
        let header = BlockHeader { at: BlockRef { number, hash, timestamp: 1_800_000_000 + 2 * number }, parent, bloom };
        world.blocks.push(Made { header, logs, ledger });
    }

    /// Takes so many of the newest blocks back.
    pub(crate) fn take_back(&self, count: usize) {
        let mut world = self.world();
        let keep = world.blocks.len() - count;
        world.blocks.truncate(keep);
    }

    /// Makes every block up to `number` final.
    pub(crate) fn finalize(&self, number: usize) {
        self.world().finalized = number;
    }

    /// Whether it answers.
    pub(crate) fn set_down(&self, down: bool) {
        self.world().down = down;
    }

    pub(crate) fn tip(&self) -> BlockRef {
        self.world().blocks.last().expect("never empty").header.at
    }

    /// The ledger's head on the canonical chain.
    pub(crate) fn ledger(&self) -> LedgerHead {
        self.world().blocks.last().expect("never empty").ledger
    }

    fn answering(&self) -> Result<MutexGuard<'_, World>> {
        let world = self.world();
        if world.down {
            return Err(Error::Timeout { method: "test", endpoint: "double".into(), after: Duration::ZERO });
        }
        Ok(world)
    }
}

#[async_trait]
impl BlockSource for Node {
    async fn heads(&self) -> Result<Heads> {
        let world = self.answering()?;
        let finalized = world.blocks[world.finalized].header.at;
        let latest = world.blocks.last().expect("never empty").header.at;
        Ok(Heads { latest, safe: finalized, finalized })
    }

    async fn header(&self, number: u64) -> Result<Option<BlockHeader>> {
        let world = self.answering()?;
        Ok(world.blocks.get(usize::try_from(number).expect("fits")).map(|made| made.header))
    }

    async fn headers(&self, numbers: RangeInclusive<u64>) -> Result<Vec<BlockHeader>> {
        let world = self.answering()?;
        Ok(world.blocks.iter().map(|made| made.header).filter(|header| numbers.contains(&header.at.number)).collect())
    }

    async fn logs_in_range(&self, filter: &LogFilter, numbers: RangeInclusive<u64>) -> Result<Vec<RawLog>> {
        let world = self.answering()?;
        let logs = world.blocks.iter().filter(|made| numbers.contains(&made.header.at.number)).flat_map(|made| made.logs.clone());
        Ok(logs.filter(|log| filter.wants(log.address)).collect())
    }

    async fn logs_of_block(&self, filter: &LogFilter, block: B256) -> Result<Vec<RawLog>> {
        let logs = self.all_logs_of_block(block).await?.unwrap_or_default();
        Ok(logs.into_iter().filter(|log| filter.wants(log.address)).collect())
    }

    async fn all_logs_of_block(&self, block: B256) -> Result<Option<Vec<RawLog>>> {
        let world = self.answering()?;
        Ok(world.blocks.iter().find(|made| made.header.at.hash == block).map(|made| made.logs.clone()))
    }
}
