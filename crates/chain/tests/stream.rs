//! The event stream against a chain that reorganises and a node that lags, flaps between forks, truncates, errs and lies: whatever it does, folding the
//! batches and unwinds gives the log of the canonical chain, and no block is ever delivered with other logs than it has.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::primitives::{Address, B256, Bloom, Bytes, LogData, keccak256};
use async_trait::async_trait;
use proptest::prelude::*;
use quern_chain::{BlockHeader, BlockSource, Cursor, Error, LogFilter, LogStream, RawLog, Result, RetryPolicy, Start, Step, StreamConfig};
use quern_types::{BlockRef, Heads};

const OURS: [Address; 2] = [Address::repeat_byte(0x11), Address::repeat_byte(0x22)];
const FOREIGN: Address = Address::repeat_byte(0x99);

/// xorshift64*: small, and enough to be unpleasant.
struct Dice(AtomicU64);

impl Dice {
    fn roll(&self, sides: u64) -> u64 {
        let mut x = self.0.load(Ordering::Relaxed).max(1);
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.store(x, Ordering::Relaxed);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

#[derive(Clone)]
struct Block {
    header: BlockHeader,
    logs: Vec<RawLog>,
}

/// What one node takes for the chain: block hashes by height, and how much of it is safe and finalized.
#[derive(Clone)]
struct View {
    chain: Vec<B256>,
    safe: usize,
    finalized: usize,
}

struct World {
    blocks: HashMap<B256, Block>,
    truth: View,
    /// Views of nodes that did not keep up; some of them on forks that lost.
    stale: Vec<View>,
    salt: u64,
    /// Number of the block that is always there, in one form or another: the one before the deployment.
    base: u64,
}

impl World {
    fn new(base: u64) -> Self {
        let mut world = Self { blocks: HashMap::new(), truth: View { chain: vec![], safe: 0, finalized: 0 }, stale: vec![], salt: 0, base };
        world.append(0, 0);
        world
    }

    fn append(&mut self, ours: u64, foreign: u64) {
        self.salt += 1;
        let number = self.truth.chain.len() as u64;
        let parent = self.truth.chain.last().copied().unwrap_or_default();
        let hash = keccak256([parent.as_slice(), &number.to_be_bytes(), &self.salt.to_be_bytes()].concat());
        let mut bloom = Bloom::ZERO;
        let mut logs = Vec::new();
        for log_index in 0..ours + foreign {
            let address = if log_index < foreign { FOREIGN } else { OURS[(log_index % 2) as usize] };
            let topic = keccak256((self.salt * 1_000 + log_index).to_be_bytes());
            let data = LogData::new_unchecked(vec![topic], Bytes::new());
            bloom.accrue_raw_log(address, data.topics());
            logs.push(RawLog {
                block_number: number,
                block_hash: hash,
                tx_hash: topic,
                tx_index: log_index,
                log_index,
                address,
                data,
                removed: false,
            });
        }
        let header = BlockHeader { at: BlockRef { number, hash, timestamp: 1_000 + 2 * number }, parent, bloom };
        self.blocks.insert(hash, Block { header, logs });
        self.truth.chain.push(hash);
    }

    fn mine(&mut self, dice: &Dice) {
        let ours = if dice.roll(3) == 0 { dice.roll(5) } else { 0 };
        self.append(ours, dice.roll(3));
    }

    /// Something happens to the chain.
    fn move_on(&mut self, dice: &Dice) {
        match dice.roll(10) {
            0..5 => (0..=dice.roll(4)).for_each(|_| self.mine(dice)),
            5 => (0..=dice.roll(120)).for_each(|_| self.mine(dice)),
            6 => {
                // A reorganisation above the finalized block, to a shorter or longer chain.
                let open = self.truth.chain.len() - 1 - self.truth.finalized;
                let keep = self.truth.chain.len() - dice.roll(open as u64 + 1) as usize;
                self.stale.push(self.truth.clone());
                self.truth.chain.truncate(keep.max(1));
                self.truth.safe = self.truth.safe.min(self.truth.chain.len() - 1);
                (0..dice.roll(6)).for_each(|_| self.mine(dice));
                while self.truth.chain.len() as u64 <= self.base {
                    self.mine(dice);
                }
            }
            7 => {
                self.truth.finalized += dice.roll((self.truth.safe - self.truth.finalized) as u64 + 1) as usize;
            }
            8 => self.truth.safe += dice.roll((self.truth.chain.len() - self.truth.safe) as u64) as usize,
            _ => self.stale.push(self.truth.clone()),
        }
        if self.stale.len() > 4 {
            self.stale.remove(0);
        }
    }

    fn true_logs(&self, hash: B256) -> Vec<RawLog> {
        self.blocks[&hash].logs.iter().filter(|log| OURS.contains(&log.address)).cloned().collect()
    }
}

/// A node that answers from the world, with faults for its first `faulty` requests.
struct Node {
    world: Arc<Mutex<World>>,
    dice: Arc<Dice>,
    requests: Arc<AtomicU64>,
    faulty: u64,
}

fn lost() -> Error {
    Error::Timeout { method: "test", endpoint: "double".into(), after: Duration::ZERO }
}

impl Node {
    /// Moves the world, perhaps fails, and chooses which node behind the address answers.
    async fn view(&self) -> Result<(View, bool)> {
        if self.dice.roll(3) == 0 {
            // Somewhere to be cancelled.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        assert!(count < 200_000, "the stream does not come to rest");
        let mut world = self.world.lock().expect("lock");
        if count >= self.faulty {
            return Ok((world.truth.clone(), false));
        }
        if self.dice.roll(4) == 0 {
            world.move_on(&self.dice);
        }
        if self.dice.roll(12) == 0 {
            return Err(lost());
        }
        let stale = world.stale.len() as u64;
        if stale > 0 && self.dice.roll(6) == 0 {
            return Ok((world.stale[self.dice.roll(stale) as usize].clone(), true));
        }
        Ok((world.truth.clone(), true))
    }

    fn header_in(&self, view: &View, number: u64) -> Option<BlockHeader> {
        let world = self.world.lock().expect("lock");
        view.chain.get(usize::try_from(number).expect("fits")).map(|hash| world.blocks[hash].header)
    }
}

#[async_trait]
impl BlockSource for Node {
    async fn heads(&self) -> Result<Heads> {
        let (view, _) = self.view().await?;
        let at = |index: usize| self.header_in(&view, index as u64).expect("in the view").at;
        Ok(Heads { latest: at(view.chain.len() - 1), safe: at(view.safe.min(view.chain.len() - 1)), finalized: at(view.finalized) })
    }

    async fn header(&self, number: u64) -> Result<Option<BlockHeader>> {
        let (view, _) = self.view().await?;
        Ok(self.header_in(&view, number))
    }

    async fn headers(&self, numbers: RangeInclusive<u64>) -> Result<Vec<BlockHeader>> {
        let (view, faulty) = self.view().await?;
        let mut headers: Vec<BlockHeader> = numbers.map_while(|number| self.header_in(&view, number)).collect();
        if faulty && !headers.is_empty() && self.dice.roll(10) == 0 {
            headers.truncate(self.dice.roll(headers.len() as u64) as usize);
        }
        Ok(headers)
    }

    async fn logs_in_range(&self, filter: &LogFilter, numbers: RangeInclusive<u64>) -> Result<Vec<RawLog>> {
        let (view, faulty) = self.view().await?;
        let world = self.world.lock().expect("lock");
        let hashes = numbers.filter_map(|number| view.chain.get(usize::try_from(number).expect("fits")));
        let mut logs: Vec<RawLog> =
            hashes.flat_map(|hash| world.blocks[hash].logs.clone()).filter(|log| filter.wants(log.address)).collect();
        if faulty {
            let some = |logs: &[RawLog]| self.dice.roll(logs.len() as u64 + 1) as usize;
            match self.dice.roll(12) {
                0 => logs.truncate(some(&logs)),
                1 => drop(logs.drain(..some(&logs))),
                2 => logs.iter_mut().for_each(|log| log.removed = true),
                3 => logs.clear(),
                4 => logs.reverse(),
                5 => logs.extend(logs.first().cloned()),
                6 if logs.len() > 3 => {
                    return Err(Error::Rpc {
                        method: "eth_getLogs", code: -32_602, message: "новая формулировка".into(), data: None
                    });
                }
                _ => {}
            }
        }
        Ok(logs)
    }

    async fn logs_of_block(&self, filter: &LogFilter, block: B256) -> Result<Vec<RawLog>> {
        let (view, faulty) = self.view().await?;
        let world = self.world.lock().expect("lock");
        // An honest node errs on a block that it does not have; many answer with nothing instead.
        if !view.chain.contains(&block) || (faulty && self.dice.roll(10) == 0) {
            return Ok(vec![]);
        }
        Ok(world.blocks[&block].logs.iter().filter(|log| filter.wants(log.address)).cloned().collect())
    }

    async fn all_logs_of_block(&self, block: B256) -> Result<Option<Vec<RawLog>>> {
        let (view, faulty) = self.view().await?;
        let world = self.world.lock().expect("lock");
        if !view.chain.contains(&block) {
            return Ok(None);
        }
        let mut logs = world.blocks[&block].logs.clone();
        if faulty && self.dice.roll(5) == 0 {
            logs.pop();
        }
        Ok(Some(logs))
    }
}

/// What a consumer keeps: the delivered blocks above the deployment, with their logs.
#[derive(Default)]
struct Folded {
    blocks: Vec<(BlockHeader, Vec<RawLog>)>,
    below: Option<B256>,
}

impl Folded {
    fn tip(&self) -> Option<BlockRef> {
        self.blocks.last().map(|(header, _)| header.at)
    }

    /// Whether an unwind lands on a block that this consumer does not hold: then it must not be applied.
    fn contradicts(&self, step: &Step) -> bool {
        let Step::Unwind(unwind) = step else { return false };
        self.blocks.iter().any(|(header, _)| header.at.number == unwind.to.number && header.at.hash != unwind.to.hash)
    }

    fn apply(&mut self, step: Step, first_block: u64, world: &World) {
        match step {
            Step::Batch(batch) => {
                let mut events = batch.events.into_iter().peekable();
                for header in batch.blocks {
                    let (number, parent) = match self.blocks.last() {
                        Some((last, _)) => (last.at.number + 1, Some(last.at.hash)),
                        None => (first_block, self.below),
                    };
                    assert_eq!(header.at.number, number, "a gap");
                    assert!(parent.is_none_or(|parent| parent == header.parent), "block {number} does not follow");
                    let mut logs = Vec::new();
                    while let Some(log) = events.next_if(|log| log.block_hash == header.at.hash) {
                        logs.push(log);
                    }
                    assert_eq!(logs, world.true_logs(header.at.hash), "logs of block {number}");
                    self.blocks.push((header, logs));
                }
                assert_eq!(events.next(), None, "an event without its block");
                let heads = batch.heads;
                assert!(heads.finalized.number <= heads.safe.number && heads.safe.number <= heads.latest.number);
            }
            Step::Unwind(unwind) => {
                let to = unwind.to;
                // With nothing delivered the block before the deployment may still change.
                assert!(self.tip().is_none_or(|tip| to.number < tip.number), "an unwind that goes nowhere: {to:?}");
                self.blocks.retain(|(header, _)| header.at.number <= to.number);
                match self.tip() {
                    Some(tip) => assert_eq!(tip.hash, to.hash, "unwound to a block that was never delivered"),
                    None => {
                        assert_eq!(to.number, first_block - 1);
                        self.below = Some(to.hash);
                    }
                }
            }
        }
    }
}

fn config() -> StreamConfig {
    StreamConfig {
        poll: Duration::from_millis(100),
        tip_blocks: 8,
        max_range: 64,
        target_logs: 20,
        patience: 12,
        retry: RetryPolicy { attempts: 1, first: Duration::from_millis(1), longest: Duration::from_millis(50) },
        ..StreamConfig::default()
    }
}

/// Time stands still in it and jumps to the next timer when nothing else can happen: no test waits.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime")
}

/// Runs a consumer that is restarted now and then until the world rests, and compares.
fn run(seed: u64, faulty: u64, first_block: u64) {
    let world = Arc::new(Mutex::new(World::new(first_block - 1)));
    let dice = Arc::new(Dice(AtomicU64::new(seed)));
    let requests = Arc::new(AtomicU64::new(0));
    {
        let mut world = world.lock().expect("lock");
        (0..first_block + dice.roll(200)).for_each(|_| world.mine(&dice));
    }
    let open = |folded: &Folded, with_history: bool| {
        let node = Node { world: world.clone(), dice: dice.clone(), requests: requests.clone(), faulty };
        let cursor = folded.tip().map(Cursor::from);
        let history = match cursor {
            Some(_) if with_history => folded.blocks.iter().map(|(header, _)| header.at).collect(),
            _ => Vec::new(),
        };
        LogStream::new(node, LogFilter::new(OURS), Start { first_block, cursor, history }, config()).expect("a valid start")
    };
    runtime().block_on(async {
        let mut folded = Folded::default();
        let mut stream = open(&folded, true);
        let mut with_history = true;
        loop {
            let resting = requests.load(Ordering::Relaxed) >= faulty;
            let patience = if resting { Duration::from_secs(20) } else { Duration::from_millis(dice.roll(40)) };
            match tokio::time::timeout(patience, stream.next()).await {
                Ok(step) => {
                    // Without history the stream can only offer the finalized block, and what was stored may be on a fork that lost before it.
                    let lost = |step: &Result<Step>| step.as_ref().map_or(true, |step| folded.contradicts(step));
                    if lost(&step) {
                        assert!(!with_history, "unwound to a block that was never delivered, or gave up: {step:?}");
                        with_history = true;
                        stream = open(&folded, true);
                        continue;
                    }
                    folded.apply(step.expect("checked"), first_block, &world.lock().expect("lock"));
                }
                Err(_) if resting => break,
                // Cancelled in the middle: nothing may be lost by that.
                Err(_) => {}
            }
            if dice.roll(15) == 0 {
                folded.below = None;
                with_history = dice.roll(2) == 0;
                stream = open(&folded, with_history);
            }
        }
        let world = world.lock().expect("lock");
        let delivered: Vec<B256> = folded.blocks.iter().map(|(header, _)| header.at.hash).collect();
        let canonical = world.truth.chain.get(usize::try_from(first_block).expect("fits")..).unwrap_or_default();
        assert!(delivered == canonical, "the folded chain is not the canonical one: {} blocks and {}", delivered.len(), canonical.len());
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn folding_batches_and_unwinds_gives_the_canonical_log(seed in 1u64.., faulty in 0u64..600, first_block in 1u64..6) {
        run(seed, faulty, first_block);
    }
}

/// A chain of `len` blocks, honest from the first request on.
fn rest(len: u64) -> (Arc<Mutex<World>>, impl Fn(u64) -> Node) {
    let world = Arc::new(Mutex::new(World::new(0)));
    let dice = Arc::new(Dice(AtomicU64::new(7)));
    (0..len).for_each(|_| world.lock().expect("lock").mine(&dice));
    let node = {
        let world = world.clone();
        move |faulty| Node { world: world.clone(), dice: dice.clone(), requests: Arc::default(), faulty }
    };
    (world, node)
}

/// Replaces every block from `number` on.
fn replace_from(world: &Mutex<World>, number: usize, len: usize) {
    let mut world = world.lock().expect("lock");
    world.truth.chain.truncate(number);
    (0..len).for_each(|_| world.append(1, 1));
}

async fn catch_up(stream: &mut LogStream<Node>, to: u64) -> Result<()> {
    loop {
        if let Step::Batch(batch) = stream.next().await?
            && batch.blocks.last().is_some_and(|last| last.at.number == to)
        {
            return Ok(());
        }
    }
}

fn stream(node: Node, config: StreamConfig) -> LogStream<Node> {
    LogStream::new(node, LogFilter::new(OURS), Start::at_block(1), config).expect("a valid start")
}

#[test]
fn reorganisation_below_a_finalized_block_is_fatal_once_the_node_insists() {
    let (world, node) = rest(100);
    world.lock().expect("lock").truth.safe = 60;
    world.lock().expect("lock").truth.finalized = 50;
    let mut stream = stream(node(0), config());
    runtime().block_on(async {
        catch_up(&mut stream, 100).await.expect("honest");
        replace_from(&world, 40, 80);
        let error = stream.next().await.expect_err("block 50 was finalized");
        assert!(matches!(error, Error::ReorgBelowFinalized { known } if known.number == 50), "{error}");
        assert_eq!(error.severity(), quern_chain::Severity::Fatal);
    });
}

#[test]
fn reorganisation_deeper_than_the_window_is_fatal_and_a_shallower_one_is_undone() {
    let (world, node) = rest(100);
    let mut stream = stream(node(0), StreamConfig { window: 20, ..config() });
    runtime().block_on(async {
        catch_up(&mut stream, 100).await.expect("honest");
        replace_from(&world, 85, 20);
        assert!(matches!(stream.next().await.expect("shallow"), Step::Unwind(unwind) if unwind.to.number == 84));
        catch_up(&mut stream, 104).await.expect("honest");
        replace_from(&world, 60, 60);
        let error = stream.next().await.expect_err("deeper than the window");
        assert!(matches!(error, Error::ReorgTooDeep { lowest: 85, highest: 104, remembered: 20 }), "{error}");
    });
}

#[test]
fn chain_that_stays_shorter_is_believed_after_a_while_and_a_lagging_node_is_not() {
    let (world, node) = rest(30);
    let mut stream = stream(node(0), config());
    runtime().block_on(async {
        catch_up(&mut stream, 30).await.expect("honest");
        let behind = world.lock().expect("lock").truth.chain.split_off(25);
        // A short lag: nothing is said.
        assert!(tokio::time::timeout(Duration::from_millis(200), stream.next()).await.is_err());
        world.lock().expect("lock").truth.chain.extend(behind.iter().copied());
        assert!(tokio::time::timeout(Duration::from_millis(500), stream.next()).await.is_err());
        assert_eq!(stream.health().borrow().failures, 0);

        world.lock().expect("lock").truth.chain.truncate(25);
        assert!(matches!(stream.next().await.expect("a shorter chain"), Step::Unwind(unwind) if unwind.to.number == 24));
    });
}

#[test]
fn failures_show_in_the_health_and_end_there() {
    struct Down(AtomicU64, Node);
    #[async_trait]
    impl BlockSource for Down {
        async fn heads(&self) -> Result<Heads> {
            if self.0.fetch_sub(1, Ordering::Relaxed) > 1 { Err(lost()) } else { self.1.heads().await }
        }
        async fn header(&self, number: u64) -> Result<Option<BlockHeader>> {
            self.1.header(number).await
        }
        async fn headers(&self, numbers: RangeInclusive<u64>) -> Result<Vec<BlockHeader>> {
            self.1.headers(numbers).await
        }
        async fn logs_in_range(&self, filter: &LogFilter, numbers: RangeInclusive<u64>) -> Result<Vec<RawLog>> {
            self.1.logs_in_range(filter, numbers).await
        }
        async fn logs_of_block(&self, filter: &LogFilter, block: B256) -> Result<Vec<RawLog>> {
            self.1.logs_of_block(filter, block).await
        }
        async fn all_logs_of_block(&self, block: B256) -> Result<Option<Vec<RawLog>>> {
            self.1.all_logs_of_block(block).await
        }
    }
    let (_, node) = rest(3);
    let mut stream = LogStream::new(Down(AtomicU64::new(6), node(0)), LogFilter::new(OURS), Start::at_block(1), config()).expect("valid");
    let health = stream.health();
    runtime().block_on(async {
        let watcher = async {
            let mut health = health.clone();
            let seen = health.wait_for(|health| health.failures == 5).await.expect("the stream lives").clone();
            assert!(seen.last_error.expect("an error").contains("did not answer"));
        };
        let (step, ()) = tokio::join!(stream.next(), watcher);
        assert!(matches!(step.expect("the node is back"), Step::Batch(_)));
        assert_eq!((health.borrow().failures, health.borrow().last_error.clone()), (0, None));
    });
}

#[test]
fn start_that_contradicts_itself_is_refused_with_the_reason() {
    let (_, node) = rest(3);
    let block = |number| BlockRef { number, hash: B256::repeat_byte(u8::try_from(number).expect("small")), timestamp: 0 };
    let refuse = |start: Start, addresses: &[Address]| {
        let opened = LogStream::new(node(0), LogFilter::new(addresses.iter().copied()), start, config());
        opened.map(|_| ()).expect_err("refused").to_string()
    };
    let start = |cursor: Option<u64>, history: &[u64]| Start {
        first_block: 5,
        cursor: cursor.map(|number| block(number).into()),
        history: history.iter().map(|number| block(*number)).collect(),
    };
    assert!(refuse(Start::at_block(0), &OURS).contains("at least 1"));
    assert!(refuse(start(None, &[]), &[]).contains("without contracts"));
    assert!(refuse(start(Some(9), &[6, 8, 9]), &OURS).contains("gaps"));
    assert!(refuse(start(Some(9), &[7, 8]), &OURS).contains("damaged"));
    assert!(refuse(start(None, &[7, 8]), &OURS).contains("without a cursor"));
    assert!(refuse(start(Some(3), &[]), &OURS).contains("before the deployment"));
}
