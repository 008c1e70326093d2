//! The canonical event stream: every wanted log of the canonical chain, in order, without gap, exactly once; and a step back whenever the chain takes
//! blocks back.
//!
//! What is believed is the hash chain alone. Each delivered block names the hash of the one delivered before it as its parent; a log counts if and only
//! if it names the hash of a delivered block. `removed` flags, error texts and subscriptions decide nothing.
//!
//! Far from the newest block logs are asked for in ranges whose size adapts; near it block by block, by hash. The bloom filter in each header tells which
//! blocks must not come back empty, so a node that truncates an answer, or answers for a block that it does not have, is noticed and its receipts are asked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::primitives::B256;
use quern_types::{BlockRef, Heads};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{
    Error, NewHeads, Result, RetryPolicy, Severity,
    range::RangeSize,
    source::{BlockHeader, BlockSource, LogFilter, RawLog},
    window::Window,
};

/// The last block whose events the caller has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

impl From<BlockRef> for Cursor {
    fn from(block: BlockRef) -> Self {
        Self { number: block.number, hash: block.hash }
    }
}

/// Where a stream begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// The first block that can hold a wanted log, at least 1: the deployment's block. The stream never goes back past the block before it.
    pub first_block: u64,
    /// The last block that the caller has stored; `None` at the first start.
    pub cursor: Option<Cursor>,
    /// Blocks that the caller has stored up to and including the cursor, ascending, without gaps. With them a reorganisation that happened while the caller
    /// was away is undone exactly; without them the stream goes back to the finalized block.
    pub history: Vec<BlockRef>,
}

impl Start {
    /// From the beginning of a deployment.
    pub const fn at_block(first_block: u64) -> Self {
        Self { first_block, cursor: None, history: Vec::new() }
    }

    /// After a stored block.
    pub const fn after(first_block: u64, cursor: Cursor) -> Self {
        Self { first_block, cursor: Some(cursor), history: Vec::new() }
    }
}

/// Knobs of the stream. None of them changes what is delivered, only when and at which cost, except `window`.
#[derive(Debug, Clone, Copy)]
pub struct StreamConfig {
    /// Wait between looks at the node while there is nothing new. Default 1 s.
    pub poll: Duration,
    /// Blocks remembered to find a fork point; a deeper reorganisation is fatal. Default 32,768: 18 hours of 2-second blocks, more than the 12 hours that a
    /// sequencer may take to reach the L1. 40 bytes each.
    pub window: usize,
    /// Blocks closer than this to the newest one are asked for one by one, by hash. Default 64.
    pub tip_blocks: u64,
    /// Largest number of blocks in one range request, and in one batch. Default 2,000.
    pub max_range: u64,
    /// Ranges shrink when an answer holds more logs than this. Default 5,000.
    pub target_logs: usize,
    /// How many looks in a row must find the node's newest block below ours, on our chain, before its shorter chain is believed; and how many must find a
    /// finalized block gone before the stream stops for good. Default 30.
    pub patience: u32,
    /// Waits after failures.
    pub retry: RetryPolicy,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            window: 32_768,
            tip_blocks: 64,
            max_range: 2_000,
            target_logs: 5_000,
            patience: 30,
            retry: RetryPolicy::default(),
        }
    }
}

/// What the stream says next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<E = RawLog> {
    /// Blocks that follow the last delivered one.
    Batch(Batch<E>),
    /// The chain took blocks back.
    Unwind(Unwind),
}

/// Consecutive blocks of the canonical chain with all their wanted events. Empty when only the heads have moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<E = RawLog> {
    /// The blocks, ascending, none left out.
    pub blocks: Vec<BlockHeader>,
    /// Their events, by block, then by log index.
    pub events: Vec<E>,
    /// The heads under which the blocks stand. `heads.latest` may be above the last block while catching up.
    pub heads: Heads,
}

/// Everything above `to` is no longer on the chain: undo it, then go on. `to` is a block that was delivered before (or stands in the history given at the
/// start), or the one before the first. Only a stream that began with a cursor and no history may offer a finalized block that the caller does not hold;
/// a caller that stored another hash at its height then begins again with its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwind {
    /// The newest block that stays.
    pub to: BlockRef,
    /// The heads of the node.
    pub heads: Heads,
}

/// How the stream is doing, for health checks.
#[derive(Debug, Clone)]
pub struct StreamHealth {
    /// Failures since the last answer that could be used.
    pub failures: u32,
    /// The last failure, while there is one.
    pub last_error: Option<String>,
    /// When the node last gave an answer that could be used.
    pub last_success: Instant,
    /// The heads then.
    pub heads: Option<Heads>,
}

/// The stream of raw logs. [`crate::EventStream`] decodes them.
pub struct LogStream<S> {
    source: S,
    filter: LogFilter,
    config: StreamConfig,
    start: Start,
    window: Window,
    /// The last delivered block; `None` before the first look at the node.
    position: Option<BlockRef>,
    /// A delivered block that was finalized when the heads said so. INVARIANT: its number never decreases.
    anchor: Option<BlockRef>,
    heads: Option<Heads>,
    range: RangeSize,
    /// Looks in a row that found the node behind us.
    behind: u32,
    /// Looks in a row that found a block gone which cannot go.
    alarms: u32,
    wake: Option<NewHeads>,
    health: Arc<watch::Sender<StreamHealth>>,
}

impl<S: BlockSource> LogStream<S> {
    /// A stream over `source`.
    ///
    /// # Errors
    /// [`Error::Config`] where `start` contradicts itself.
    pub fn new(source: S, filter: LogFilter, start: Start, config: StreamConfig) -> Result<Self> {
        let refuse = |what: String| Err(Error::Config { what });
        if start.first_block == 0 {
            return refuse("the first block of a stream must be at least 1".into());
        }
        if filter.addresses().is_empty() {
            return refuse("a stream without contracts would deliver every log of the chain".into());
        }
        if start.history.windows(2).any(|pair| pair[1].number != pair[0].number + 1) {
            return refuse("the stored blocks given to the stream have gaps: the local database is damaged".into());
        }
        match (start.cursor, start.history.last()) {
            (Some(cursor), Some(last)) if Cursor::from(*last) != cursor => {
                return refuse(format!(
                    "the stored cursor is block {} but the last stored block is {}: the local database is damaged",
                    cursor.number, last.number
                ));
            }
            (None, Some(_)) => return refuse("stored blocks without a cursor: the local database is damaged".into()),
            (Some(cursor), _) if cursor.number + 1 < start.first_block => {
                return refuse(format!(
                    "the stored cursor is block {}, before the deployment in block {}",
                    cursor.number, start.first_block
                ));
            }
            _ => {}
        }
        let mut window = Window::new(config.window);
        start.history.iter().for_each(|block| window.push(*block));
        let health = StreamHealth { failures: 0, last_error: None, last_success: Instant::now(), heads: None };
        Ok(Self {
            source,
            filter,
            config,
            start,
            window,
            position: None,
            anchor: None,
            heads: None,
            range: RangeSize::new(config.max_range, config.target_logs),
            behind: 0,
            alarms: 0,
            wake: None,
            health: Arc::new(watch::channel(health).0),
        })
    }

    /// Looks at the node as soon as it announces a block, not only once per poll interval.
    #[must_use]
    pub fn wake_on(mut self, new_heads: Option<NewHeads>) -> Self {
        self.wake = new_heads;
        self
    }

    /// How the stream is doing; stays valid while the stream is in use elsewhere.
    pub fn health(&self) -> watch::Receiver<StreamHealth> {
        self.health.subscribe()
    }

    /// The next step. Waits while there is nothing new, and through failures of the node for as long as they last. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Only those that a person must look at ([`Severity::Fatal`]).
    pub async fn next(&mut self) -> Result<Step> {
        loop {
            match self.look().await {
                Ok(step) => {
                    self.alarms = 0;
                    self.health.send_modify(|health| {
                        health.failures = 0;
                        health.last_error = None;
                        health.last_success = Instant::now();
                        health.heads = self.heads;
                    });
                    match step {
                        Some(step) => return Ok(step),
                        None => self.wait().await,
                    }
                }
                Err(error) => {
                    // One node of many on a wrong fork, or one that lags, must not stop anybody; one that insists must.
                    let doubtful = matches!(error, Error::ReorgBelowFinalized { .. } | Error::ReorgTooDeep { .. });
                    self.alarms = if doubtful { self.alarms + 1 } else { 0 };
                    if error.severity() == Severity::Fatal && (!doubtful || self.alarms > self.config.patience) {
                        return Err(error);
                    }
                    let text = error.chain();
                    let mut failures = 0;
                    self.health.send_modify(|health| {
                        health.failures = health.failures.saturating_add(1);
                        failures = health.failures;
                        health.last_error = Some(text.clone());
                    });
                    warn!(failures, error = text, "stream.retry");
                    tokio::time::sleep(self.config.retry.wait(failures)).await;
                }
            }
        }
    }

    async fn wait(&self) {
        match &self.wake {
            None => tokio::time::sleep(self.config.poll).await,
            Some(wake) => {
                let _ = tokio::time::timeout(self.config.poll, wake.notify.notified()).await;
            }
        }
    }

    /// One look at the node; `None` where nothing is new. State changes only after the last await.
    async fn look(&mut self) -> Result<Option<Step>> {
        let mut heads = self.source.heads().await?;
        if heads.finalized.number > heads.safe.number || heads.safe.number > heads.latest.number {
            return Err(bad(format!(
                "heads out of order: latest {}, safe {}, finalized {}",
                heads.latest.number, heads.safe.number, heads.finalized.number
            )));
        }
        let position = match self.position {
            Some(position) => position,
            None => match self.begin(heads).await? {
                Begin::At(position) => position,
                Begin::Back(unwind) => return Ok(Some(Step::Unwind(unwind))),
            },
        };
        if heads.latest.number < position.number {
            return self.node_is_behind(position, heads).await;
        }
        let same_height = if heads.latest.number == position.number { heads.latest } else { self.canonical(position.number).await?.at };
        if same_height.hash != position.hash {
            return self.fork(position, heads).await.map(Some);
        }
        self.behind = 0;

        // REORG: a finalized block never goes back, so an older answer comes from a node that lags. Keep the newest.
        let anchor = self.anchor_for(&heads)?;
        if let Some(anchor) = anchor.filter(|anchor| anchor.number > heads.finalized.number) {
            heads.finalized = anchor;
            if heads.safe.number < anchor.number {
                heads.safe = anchor;
            }
        }

        if position.number == heads.latest.number {
            self.anchor = anchor;
            let news = self.heads != Some(heads);
            self.heads = Some(heads);
            return Ok(news.then(|| Step::Batch(Batch { blocks: Vec::new(), events: Vec::new(), heads })));
        }
        let (blocks, events) = self.fetch(position, &heads).await?;
        let Some(last) = blocks.last() else { return Err(bad("no block follows ours, though a newer one exists".into())) };
        let ours = blocks.iter().find(|block| block.at.number == heads.finalized.number).map(|block| block.at);
        if ours.is_some_and(|ours| ours.hash != heads.finalized.hash) {
            return Err(not_an_ancestor(heads.finalized));
        }
        let anchor = ours.or(anchor);
        self.position = Some(last.at);
        self.heads = Some(heads);
        self.anchor = anchor;
        for block in &blocks {
            self.window.push(block.at);
        }
        if let Some(anchor) = anchor {
            self.window.forget_below(anchor.number);
        }
        Ok(Some(Step::Batch(Batch { blocks, events, heads })))
    }

    /// Finds the block to stand on at the first look.
    async fn begin(&mut self, heads: Heads) -> Result<Begin> {
        let base = self.start.first_block - 1;
        let Some(cursor) = self.start.cursor else {
            if heads.latest.number < base {
                return Err(Error::NodeBehind { node: heads.latest.number, ours: base });
            }
            let block = self.canonical(base).await?.at;
            self.window.push(block);
            self.position = Some(block);
            return Ok(Begin::At(block));
        };
        if heads.latest.number < cursor.number {
            // Either the node lags or its chain is shorter; what we have stored decides as soon as it is known.
            if let Some(position) = self.window.last() {
                self.position = Some(position);
                return Ok(Begin::At(position));
            }
            self.behind += 1;
            if self.behind <= self.config.patience {
                return Err(Error::NodeBehind { node: heads.latest.number, ours: cursor.number });
            }
            return self.back_to_finalized(cursor.number, heads).await.map(Begin::Back);
        }
        let block = self.canonical(cursor.number).await?.at;
        if block.hash == cursor.hash {
            if self.window.last().is_none() {
                self.window.push(block);
            }
            self.position = Some(block);
            return Ok(Begin::At(block));
        }
        if let Some(position) = self.window.last() {
            self.position = Some(position);
            return Ok(Begin::At(position));
        }
        self.back_to_finalized(cursor.number, heads).await.map(Begin::Back)
    }

    /// The cursor is gone and nothing below it is known: all that is certain to be still there is what is finalized.
    async fn back_to_finalized(&mut self, from: u64, heads: Heads) -> Result<Unwind> {
        let base = self.start.first_block - 1;
        let floor = heads.finalized.number.max(base);
        if floor >= from {
            let known = BlockRef { number: from, hash: self.start.cursor.map_or(B256::ZERO, |cursor| cursor.hash), timestamp: 0 };
            return Err(Error::ReorgBelowFinalized { known });
        }
        let to = if floor == heads.finalized.number { heads.finalized } else { self.canonical(floor).await?.at };
        info!(from, to = to.number, hash = %to.hash, "stream.unwind_to_finalized");
        self.stand_on(to, heads);
        Ok(Unwind { to, heads })
    }

    fn stand_on(&mut self, to: BlockRef, heads: Heads) {
        self.window.truncate_above(to.number);
        if self.window.last().is_none() {
            self.window.push(to);
        }
        self.position = Some(to);
        self.heads = Some(heads);
        self.behind = 0;
    }

    /// The node's newest block is below ours. A node that lags is waited for; a chain that became shorter is believed once it has lasted.
    async fn node_is_behind(&mut self, position: BlockRef, heads: Heads) -> Result<Option<Step>> {
        let node = heads.latest;
        let below_anchor = self.anchor.is_some_and(|anchor| node.number < anchor.number);
        if !below_anchor && self.window.get(node.number).is_some_and(|ours| ours.hash != node.hash) {
            return self.fork(position, heads).await.map(Some);
        }
        // REORG: what is finalized does not become shorter, so a node below it can only lag, however long that lasts.
        if below_anchor || self.behind < self.config.patience {
            self.behind = self.behind.saturating_add(1);
            return Err(Error::NodeBehind { node: node.number, ours: position.number });
        }
        self.fork(position, heads).await.map(Some)
    }

    /// Our last block is not on the node's chain: find the newest one that is.
    async fn fork(&mut self, position: BlockRef, heads: Heads) -> Result<Step> {
        let lowest = self.window.first().map_or(position.number, |block| block.number);
        // Every block on our side at or below the fork point is on the node's chain and none above it is: a binary search, tried close to the tip first.
        let mut bad_from = position.number.min(heads.latest.number.saturating_add(1)).max(lowest);
        if self.on_node(bad_from, &heads).await? {
            bad_from = bad_from.saturating_add(1);
        }
        let mut reach = 1u64;
        let mut good = None;
        while good.is_none() && bad_from > lowest {
            let try_at = bad_from.saturating_sub(reach).max(lowest);
            if self.on_node(try_at, &heads).await? {
                good = Some(try_at);
            } else {
                bad_from = try_at;
                reach = reach.saturating_mul(2);
            }
        }
        let Some(mut good) = good else { return self.nothing_in_common(position, lowest, heads).await };
        while bad_from - good > 1 {
            let middle = good + (bad_from - good) / 2;
            if self.on_node(middle, &heads).await? {
                good = middle;
            } else {
                bad_from = middle;
            }
        }
        let to = self.window.get(good).ok_or_else(|| bad("the fork point is outside the window".into()))?;
        if to.number >= position.number {
            return Err(bad("the node took our last block back and returned it while we looked".into()));
        }
        if let Some(anchor) = self.anchor.filter(|anchor| to.number < anchor.number) {
            return Err(Error::ReorgBelowFinalized { known: anchor });
        }
        info!(from = position.number, to = to.number, hash = %to.hash, depth = position.number - to.number, "stream.unwind");
        self.stand_on(to, heads);
        Ok(Step::Unwind(Unwind { to, heads }))
    }

    async fn nothing_in_common(&mut self, position: BlockRef, lowest: u64, heads: Heads) -> Result<Step> {
        let base = self.start.first_block - 1;
        if let Some(known) = self.anchor.filter(|anchor| anchor.number >= lowest) {
            return Err(Error::ReorgBelowFinalized { known });
        }
        if heads.latest.number < base {
            return Err(Error::NodeBehind { node: heads.latest.number, ours: position.number });
        }
        if lowest <= base + 1 {
            // Everything from the deployment on changed, and nothing of ours was ever finalized: begin again.
            let to = self.canonical(base).await?.at;
            self.window.clear();
            info!(from = position.number, to = to.number, hash = %to.hash, "stream.unwind_all");
            self.stand_on(to, heads);
            return Ok(Step::Unwind(Unwind { to, heads }));
        }
        if self.anchor.is_none() && lowest > heads.finalized.number.max(base) && self.window.len() < self.config.window {
            // We were restarted with less history than the reorganisation is deep.
            self.window.clear();
            return self.back_to_finalized(lowest, heads).await.map(Step::Unwind);
        }
        Err(Error::ReorgTooDeep { lowest, highest: position.number, remembered: self.window.len() })
    }

    /// Whether our block of this height is on the node's chain.
    async fn on_node(&self, number: u64, heads: &Heads) -> Result<bool> {
        let Some(ours) = self.window.get(number) else { return Ok(false) };
        if number > heads.latest.number {
            return Ok(false);
        }
        // A missing block is no answer: behind one address there may be nodes that lag.
        Ok(self.canonical(number).await?.at.hash == ours.hash)
    }

    async fn canonical(&self, number: u64) -> Result<BlockHeader> {
        let block = self.source.header(number).await?.ok_or_else(|| bad(format!("block {number} is missing below the newest block")))?;
        if block.at.number != number {
            return Err(bad(format!("asked for block {number}, got {}", block.at.number)));
        }
        Ok(block)
    }

    /// The newest delivered block that a node called finalized by its very hash. A finalized block above ours proves nothing about ours: behind one address
    /// there may be nodes on different forks.
    fn anchor_for(&self, heads: &Heads) -> Result<Option<BlockRef>> {
        let finalized = heads.finalized;
        match self.window.get(finalized.number) {
            Some(ours) if ours.hash != finalized.hash => Err(not_an_ancestor(finalized)),
            Some(ours) if self.anchor.is_none_or(|old| old.number < ours.number) => Ok(Some(ours)),
            _ => Ok(self.anchor),
        }
    }

    /// The blocks that follow `position`, at least one, with their logs.
    async fn fetch(&mut self, position: BlockRef, heads: &Heads) -> Result<(Vec<BlockHeader>, Vec<RawLog>)> {
        let from = position.number + 1;
        let distance = heads.latest.number - position.number;
        if distance <= self.config.tip_blocks {
            return self.fetch_by_hash(position, from, heads.latest.number).await;
        }
        loop {
            let to = (from + self.range.blocks() - 1).min(heads.latest.number - self.config.tip_blocks);
            match self.fetch_range(position, from, to).await {
                Ok((blocks, logs)) => {
                    self.range.answered(logs.len());
                    return Ok((blocks, logs));
                }
                Err(error) if error.severity() == Severity::Fatal => return Err(error),
                Err(error) if from == to => {
                    debug!(block = from, error = error.chain(), "stream.single_block");
                    return self.fetch_by_hash(position, from, to).await;
                }
                Err(error) => {
                    self.range.failed(to - from + 1);
                    debug!(from, to, next = self.range.blocks(), error = error.chain(), "stream.halve");
                    // An answer that was too large can look like a lost connection, but a lost connection wants a pause.
                    if matches!(error, Error::Transport { .. }) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Headers of `from..=to`, each the child of the one before, the first of them a child of `position`. Cut short where the chain moved meanwhile.
    async fn linked_headers(&self, position: BlockRef, from: u64, to: u64) -> Result<Vec<BlockHeader>> {
        let mut headers = self.source.headers(from..=to).await?;
        let mut parent = position.hash;
        let mut linked = 0;
        for (header, number) in headers.iter().zip(from..=to) {
            if header.at.number != number || header.parent != parent {
                break;
            }
            parent = header.at.hash;
            linked += 1;
        }
        if linked == 0 {
            return Err(bad(format!("block {from} does not follow block {} ({})", position.number, position.hash)));
        }
        headers.truncate(linked);
        Ok(headers)
    }

    async fn fetch_by_hash(&self, position: BlockRef, from: u64, to: u64) -> Result<(Vec<BlockHeader>, Vec<RawLog>)> {
        let mut headers = self.linked_headers(position, from, to).await?;
        let mut events = Vec::new();
        for index in 0..headers.len() {
            match self.logs_of(&headers[index]).await {
                Ok(logs) => events.extend(logs),
                // What is certain is delivered; the rest is tried again.
                Err(error) if index > 0 => {
                    debug!(block = headers[index].at.number, error = error.chain(), "stream.partial");
                    headers.truncate(index);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((headers, events))
    }

    async fn fetch_range(&self, position: BlockRef, from: u64, to: u64) -> Result<(Vec<BlockHeader>, Vec<RawLog>)> {
        let headers = self.linked_headers(position, from, to).await?;
        let to = from + headers.len() as u64 - 1;
        let mut logs = self.source.logs_in_range(&self.filter, from..=to).await?;
        logs.sort_by_key(|log| (log.block_number, log.log_index));
        let mut events = Vec::with_capacity(logs.len());
        let (first, last) = (logs.first().map(|log| log.block_number), logs.last().map(|log| log.block_number));
        let mut rest = logs.into_iter().peekable();
        for header in &headers {
            let number = header.at.number;
            let mut of_block = Vec::new();
            while let Some(log) = rest.next_if(|log| log.block_number == number) {
                of_block.push(log);
            }
            check(&self.filter, header, &of_block, "eth_getLogs")?;
            // A truncated answer ends or begins inside a block, and leaves out the blocks beyond it.
            let suspicious =
                if of_block.is_empty() { self.filter.may_match(&header.bloom) } else { first == Some(number) || last == Some(number) };
            if suspicious {
                let exact = self.logs_of(header).await?;
                if exact.len() != of_block.len() {
                    debug!(block = number, range = of_block.len(), exact = exact.len(), "stream.truncated_answer");
                }
                of_block = exact;
            }
            events.extend(of_block);
        }
        if let Some(stray) = rest.next() {
            return Err(bad(format!("a log of block {} in an answer about blocks {from} to {to}", stray.block_number)));
        }
        Ok((headers, events))
    }

    /// The wanted logs of one block, by its hash.
    async fn logs_of(&self, header: &BlockHeader) -> Result<Vec<RawLog>> {
        let possible = self.filter.may_match(&header.bloom);
        match self.source.logs_of_block(&self.filter, header.at.hash).await {
            Ok(mut logs) => {
                logs.sort_by_key(|log| log.log_index);
                check(&self.filter, header, &logs, "eth_getLogs")?;
                if !(logs.is_empty() && possible) {
                    return Ok(logs);
                }
            }
            Err(error) if error.severity() == Severity::Fatal => return Err(error),
            Err(error) => debug!(block = header.at.number, error = error.chain(), "stream.ask_receipts"),
        }
        self.logs_from_receipts(header).await
    }

    /// The wanted logs of one block out of all its receipts, which the header's bloom filter vouches for.
    async fn logs_from_receipts(&self, header: &BlockHeader) -> Result<Vec<RawLog>> {
        let (number, hash) = (header.at.number, header.at.hash);
        let mut logs =
            self.source.all_logs_of_block(hash).await?.ok_or(Error::MissingBlock { method: "eth_getBlockReceipts", block: hash })?;
        let mut bloom = alloy::primitives::Bloom::ZERO;
        for log in &logs {
            bloom.accrue_raw_log(log.address, log.data.topics());
        }
        if bloom != header.bloom {
            return Err(Error::BadAnswer {
                method: "eth_getBlockReceipts",
                what: format!("the receipts of block {number} ({hash}) do not give its bloom filter"),
            });
        }
        logs.retain(|log| self.filter.wants(log.address));
        logs.sort_by_key(|log| log.log_index);
        check(&self.filter, header, &logs, "eth_getBlockReceipts")?;
        Ok(logs)
    }
}

enum Begin {
    At(BlockRef),
    Back(Unwind),
}

/// Whether these logs, sorted by index, can be the wanted logs of this block.
fn check(filter: &LogFilter, header: &BlockHeader, logs: &[RawLog], method: &'static str) -> Result<()> {
    let number = header.at.number;
    let refuse = |what: String| Err(Error::BadAnswer { method, what });
    for log in logs {
        if log.removed {
            return refuse(format!("a removed log in block {number}"));
        }
        if log.block_hash != header.at.hash || log.block_number != number {
            return refuse(format!(
                "a log of block {} ({}) where block {number} ({}) was asked for",
                log.block_number, log.block_hash, header.at.hash
            ));
        }
        if !filter.wants(log.address) {
            return refuse(format!("a log of {} which was not asked for", log.address));
        }
    }
    if logs.windows(2).any(|pair| pair[0].log_index >= pair[1].log_index) {
        return refuse(format!("the same log twice in block {number}"));
    }
    if !logs.is_empty() && !filter.may_match(&header.bloom) {
        return refuse(format!("logs in block {number} whose bloom filter excludes them"));
    }
    Ok(())
}

fn not_an_ancestor(finalized: BlockRef) -> Error {
    bad(format!("the finalized block {} ({}) is not an ancestor of the newest block", finalized.number, finalized.hash))
}

fn bad(what: String) -> Error {
    Error::BadAnswer { method: "stream", what }
}
