//! Drives intentions: see the table in the module above.

use std::{collections::HashMap, sync::Arc, time::Duration};

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::{BlockId, eip2718::Encodable2718, eip2930::AccessList},
    primitives::{B256, Bytes, TxKind, U64, U256},
    rpc::types::{TransactionInput, TransactionRequest},
    signers::SignerSync as _,
};
use quern_bindings::Revert;
use quern_types::{BlockRef, Head, Heads};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use tracing::{debug, info, warn};

use super::{
    Attempt, Call, Fees, Intent, IntentStatus, Journal, Mined, NewIntent, Observer, Outcome, Quote, SendError, SenderConfig, SenderEvent,
    TxReceipt,
};
use crate::{At, Client, Error, Result, Severity, keys::Key, source::BlockSource as _};

/// Sends transactions of one account. Share it by `Arc`; give each account one sender and one journal.
pub struct TxSender {
    client: Client,
    key: Key,
    journal: Arc<dyn Journal>,
    config: SenderConfig,
    observer: Option<Observer>,
    /// One pass or one new intention at a time.
    turn: Mutex<Turn>,
}

impl std::fmt::Debug for TxSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxSender").field("account", &self.key.address()).field("client", &self.client).finish_non_exhaustive()
    }
}

/// What is remembered between passes; all of it can be lost.
#[derive(Default)]
struct Turn {
    /// When the last pass ended and under which heads.
    last: Option<(Instant, Heads)>,
    /// Passes in a row that found a nonce used by none of ours.
    foreign: HashMap<u64, u32>,
    /// Newest block when a transaction was first seen to wait.
    waiting: HashMap<B256, u64>,
}

/// Gas for a transaction that will revert and is only sent to use up its nonce.
const GAS_LIMIT_OF_REVERT: u64 = 500_000;

/// A transaction as the pool knows it; only its presence matters.
#[derive(Debug, Clone, Deserialize)]
struct InPool {}

impl TxSender {
    /// A sender for the account of `key`. Makes no request.
    pub fn new(client: Client, key: Key, journal: Arc<dyn Journal>, config: SenderConfig) -> Self {
        Self { client, key, journal, config, observer: None, turn: Mutex::new(Turn::default()) }
    }

    /// Reports what happens, for metrics.
    #[must_use]
    pub fn observe(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The account.
    pub fn account(&self) -> alloy::primitives::Address {
        self.key.address()
    }

    /// The chain that this sends to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Carries out an intention, at most once for ever, and waits until it stands under `head`.
    ///
    /// A key that is known already sends nothing new: it waits for, or returns, the outcome of the first time. A call that would revert is refused before
    /// anything is written. Dropping the future does not take the intention back; [`TxSender::maintain`] or the next `send` drives it on.
    ///
    /// # Errors
    /// [`SendError`] and why the node did not answer; [`Error::severity`] tells whether asking again with the same key makes sense.
    pub async fn send(&self, key: &str, call: &Call, head: Head) -> Result<Outcome> {
        let began = Instant::now();
        if let Some(revert) = self.submit(key, call).await? {
            return Ok(Outcome::Refused { revert });
        }
        self.wait(key, head, began).await
    }

    /// Journals and broadcasts an intention without waiting. Returns the revert where the call would revert, and then nothing was written.
    ///
    /// # Errors
    /// As [`TxSender::send`].
    pub async fn submit(&self, key: &str, call: &Call) -> Result<Option<Revert>> {
        let turn = self.turn.lock().await;
        if let Some(intent) = self.journal.get(key).await.map_err(SendError::from)? {
            let what = &intent.what;
            if (what.to, &what.calldata, what.value_wei, what.from) != (call.to, &call.calldata, call.value_wei, self.account()) {
                return Err(SendError::KeyReused { key: key.into() }.into());
            }
            return Ok(None);
        }
        let nonce = self.next_nonce().await?;
        let quote = match self.quote(call).await {
            Ok(quote) => quote,
            Err(Error::Reverted { revert, .. }) => return Ok(Some(revert)),
            Err(error) => return Err(error),
        };
        self.check_funds(call, &quote).await?;
        let what =
            NewIntent { key: key.into(), from: self.account(), to: call.to, value_wei: call.value_wei, calldata: call.calldata.clone() };
        // INVARIANT: nothing reaches the network before the rows that name it are durable.
        self.journal.begin(&what, nonce).await.map_err(SendError::from)?;
        let mut intent = Intent { what, nonce, status: IntentStatus::Open, attempts: Vec::new(), mined: None };
        self.sign(&mut intent, quote.gas_limit, quote.fees).await?;
        info!(key, nonce, to = %call.to, fees = %quote.fees, "tx.journalled");
        self.broadcast(&intent).await;
        drop(turn);
        Ok(None)
    }

    /// What a call would cost now.
    ///
    /// # Errors
    /// [`Error::Reverted`] where the call would revert; [`SendError::FeeCap`]; why the node did not answer.
    pub async fn quote(&self, call: &Call) -> Result<Quote> {
        let request = TransactionRequest {
            from: Some(self.account()),
            to: Some(TxKind::Call(call.to)),
            value: Some(U256::from(call.value_wei)),
            input: TransactionInput::both(call.calldata.clone()),
            ..Default::default()
        };
        // The call first: its answer carries the reason of a revert on every node, and costs nothing.
        self.client.simulate(request.clone(), call.to).await?;
        let estimate: U64 = self.client.request("eth_estimateGas", (request, BlockId::latest())).await?;
        let estimate = estimate.to::<u64>();
        let gas_limit = estimate.saturating_add(estimate / 5);
        let fees = self.client.fees(&self.config.caps).await?;
        let tx = self.transaction(call, u64::MAX, gas_limit, fees);
        let l1_fee = self.client.l1_fee(&tx).await?;
        Ok(Quote { gas_limit, fees, l1_fee })
    }

    /// Drives every unfinished intention of the account one step, whoever began it, and returns how many are left. Call it at start and now and then, so that
    /// what a reorganisation takes back is sent again even when nobody waits for it.
    ///
    /// # Errors
    /// As [`TxSender::send`].
    pub async fn maintain(&self) -> Result<usize> {
        let mut turn = self.turn.lock().await;
        self.pass(&mut turn).await
    }

    /// Calls [`TxSender::maintain`] for ever, through failures of the node.
    ///
    /// # Errors
    /// Only [`Severity::Fatal`] ones.
    pub async fn run(&self) -> Result<std::convert::Infallible> {
        let mut failures = 0;
        loop {
            match self.maintain().await {
                Ok(_) => {
                    failures = 0;
                    tokio::time::sleep(self.config.poll).await;
                }
                Err(error) if error.severity() == Severity::Fatal => return Err(error),
                Err(error) => {
                    failures += 1;
                    warn!(failures, error = error.chain(), "tx.retry");
                    tokio::time::sleep(self.client.retry().wait(failures)).await;
                }
            }
        }
    }

    async fn wait(&self, key: &str, head: Head, began: Instant) -> Result<Outcome> {
        loop {
            let failure = {
                let mut turn = self.turn.lock().await;
                let due = turn.last.is_none_or(|(at, _)| at.elapsed() >= self.config.poll);
                let passed = if due { self.pass(&mut turn).await.map(|_| ()) } else { Ok(()) };
                match passed {
                    Ok(()) => match self.outcome(key, head, turn.last).await {
                        Ok(Some(outcome)) => return Ok(outcome),
                        Ok(None) => None,
                        Err(error) => Some(error),
                    },
                    Err(error) => Some(error),
                }
            };
            let late = began.elapsed() >= self.config.give_up_after;
            match failure {
                Some(error) if late || error.severity() == Severity::Fatal => return Err(error),
                Some(error) => debug!(key, error = error.chain(), "tx.wait_retry"),
                None if late => {
                    let nonce = self.row(key).await?.nonce;
                    return Err(SendError::NotYet { key: key.into(), nonce, head, waited: began.elapsed() }.into());
                }
                None => {}
            }
            tokio::time::sleep(self.config.poll).await;
        }
    }

    async fn row(&self, key: &str) -> Result<Intent> {
        let intent = self.journal.get(key).await.map_err(SendError::from)?;
        Ok(intent.ok_or_else(|| SendError::Journal(super::JournalError::Missing { key: key.into() }))?)
    }

    /// The outcome of an intention, once it stands under `head` in the chain that the last pass saw.
    async fn outcome(&self, key: &str, head: Head, last: Option<(Instant, Heads)>) -> Result<Option<Outcome>> {
        let intent = self.row(key).await?;
        let (Some(mined), Some((_, heads))) = (intent.mined, last) else { return Ok(None) };
        if intent.status != IntentStatus::Final && mined.block.number > heads.get(head).number {
            return Ok(None);
        }
        // REORG: read again, so that what is returned is on the chain now.
        let Some(receipt) = self.client.receipt(mined.tx_hash).await? else { return Ok(None) };
        if receipt.block.number > heads.get(head).number {
            return Ok(None);
        }
        if receipt.succeeded {
            return Ok(Some(Outcome::Done(receipt)));
        }
        let revert = self.reason(&intent, receipt.block).await?;
        Ok(Some(Outcome::Reverted { receipt, revert }))
    }

    /// Why a mined call reverted, from a call on the state before its block: good enough where the block's earlier transactions did not matter.
    async fn reason(&self, intent: &Intent, block: BlockRef) -> Result<Revert> {
        let unknown = Revert::Unknown(Bytes::new());
        let Some(parent) = self.client.block_by_hash(block.hash).await?.map(|block| block.parent) else { return Ok(unknown) };
        for at in [parent, block.hash] {
            match self.client.call_raw(intent.what.to, intent.what.calldata.clone(), Some(intent.what.from), At::Block(at)).await {
                Err(Error::Reverted { revert, .. }) => return Ok(revert),
                Ok(_) | Err(Error::Rpc { .. } | Error::MissingBlock { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(unknown)
    }

    /// The nonce for a new intention.
    async fn next_nonce(&self) -> Result<u64> {
        let account = self.account();
        let on_chain = self.client.nonce(account, At::Latest).await?;
        match self.journal.next_nonce(account).await.map_err(SendError::from)? {
            Some(next) if on_chain > next => Err(SendError::ForeignNonce { account, expected: next, actual: on_chain }.into()),
            Some(next) => Ok(next),
            None => {
                let pending = self.client.pending_nonce(account).await?.saturating_sub(on_chain);
                if pending > 0 {
                    return Err(SendError::UnknownPending { account, pending }.into());
                }
                Ok(on_chain)
            }
        }
    }

    async fn check_funds(&self, call: &Call, quote: &Quote) -> Result<()> {
        let account = self.account();
        let balance = self.client.gas_balance(account, At::Latest).await?;
        let threshold = self.config.low_balance;
        if balance < threshold {
            warn!(%account, %balance, %threshold, "tx.low_balance");
            self.report(&SenderEvent::LowBalance { account, balance, threshold });
        }
        let needed = quote.most() + U256::from(call.value_wei);
        if balance < needed {
            return Err(SendError::InsufficientFunds { account, balance, needed }.into());
        }
        Ok(())
    }

    fn transaction(&self, call: &Call, nonce: u64, gas_limit: u64, fees: Fees) -> TxEip1559 {
        TxEip1559 {
            chain_id: self.client.chain_id(),
            nonce,
            gas_limit,
            max_fee_per_gas: fees.max_fee_per_gas,
            max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
            to: TxKind::Call(call.to),
            value: U256::from(call.value_wei),
            access_list: AccessList::default(),
            input: call.calldata.clone(),
        }
    }

    /// Signs a transaction of the intention and journals it.
    async fn sign(&self, intent: &mut Intent, gas_limit: u64, fees: Fees) -> Result<()> {
        let call = Call { to: intent.what.to, calldata: intent.what.calldata.clone(), value_wei: intent.what.value_wei };
        let tx = self.transaction(&call, intent.nonce, gas_limit, fees);
        let signature = self
            .key
            .signer()
            .sign_hash_sync(&tx.signature_hash())
            .map_err(|error| Error::Config { what: format!("account {} cannot sign: {error}", self.account()) })?;
        let envelope = TxEnvelope::Eip1559(tx.into_signed(signature));
        let attempt = Attempt { hash: *envelope.tx_hash(), gas_limit, fees, raw: envelope.encoded_2718().into() };
        self.journal.attempt(&intent.what.key, &attempt).await.map_err(SendError::from)?;
        intent.attempts.push(attempt);
        Ok(())
    }

    /// Hands the newest attempt to the node. What the node says is informative: the next pass looks at the chain and the pool.
    async fn broadcast(&self, intent: &Intent) {
        let Some(attempt) = intent.attempts.last() else { return };
        match self.client.request::<_, B256>("eth_sendRawTransaction", (attempt.raw.clone(),)).await {
            Ok(_) => {
                info!(key = intent.what.key, nonce = intent.nonce, hash = %attempt.hash, "tx.broadcast");
                self.report(&SenderEvent::Broadcast {
                    key: intent.what.key.clone(),
                    nonce: intent.nonce,
                    hash: attempt.hash,
                    attempt: intent.attempts.len(),
                });
            }
            Err(error) => warn!(key = intent.what.key, nonce = intent.nonce, hash = %attempt.hash, error = error.chain(), "tx.not_taken"),
        }
    }

    /// One look at the chain for every unfinished intention.
    async fn pass(&self, turn: &mut Turn) -> Result<usize> {
        let account = self.account();
        let heads = self.client.heads().await?;
        let rows = self.journal.unfinished(account).await.map_err(SendError::from)?;
        let used = self.client.nonce(account, At::Block(heads.latest.hash)).await?;
        let lowest = match rows.first() {
            Some(row) => Some(row.nonce),
            None => self.journal.next_nonce(account).await.map_err(SendError::from)?,
        };
        if let Some(expected) = lowest.filter(|&lowest| used < lowest) {
            return Err(SendError::ChainBehindJournal { account, expected, actual: used }.into());
        }
        // REORG: while our last newest block is still on the chain, nothing mined below it has moved.
        let unmoved = match turn.last {
            Some((_, last)) => self.client.header(last.latest.number).await?.is_some_and(|block| block.at.hash == last.latest.hash),
            None => false,
        };
        let mut left = rows.len();
        for mut intent in rows {
            if intent.nonce >= used {
                turn.foreign.remove(&intent.nonce);
                self.push(&mut intent, used, heads.latest, turn).await?;
                continue;
            }
            let settled =
                intent.mined.filter(|mined| intent.status == IntentStatus::Mined && unmoved && mined.block.number > heads.finalized.number);
            if settled.is_some() {
                continue;
            }
            if self.settle(&mut intent, &heads, turn).await? {
                left -= 1;
            }
        }
        turn.last = Some((Instant::now(), heads));
        Ok(left)
    }

    /// The nonce is not used on the chain: see that one of our transactions waits in the pool.
    async fn push(&self, intent: &mut Intent, used: u64, latest: BlockRef, turn: &mut Turn) -> Result<()> {
        let (key, nonce) = (intent.what.key.clone(), intent.nonce);
        if let Some(mined) = intent.mined.take() {
            self.journal.taken_back(&key).await.map_err(SendError::from)?;
            intent.status = IntentStatus::Open;
            warn!(key, nonce, hash = %mined.tx_hash, block = mined.block.number, "tx.taken_back");
            self.report(&SenderEvent::TakenBack { key, hash: mined.tx_hash });
        }
        let Some(attempt) = intent.attempts.last().cloned() else {
            // A crash between the intention and its first transaction.
            let quote = self.quote_begun(intent).await?;
            self.sign(intent, quote.gas_limit, quote.fees).await?;
            self.broadcast(intent).await;
            return Ok(());
        };
        let since = *turn.waiting.entry(attempt.hash).or_insert(latest.number);
        let waited = latest.number.saturating_sub(since);
        if nonce == used && waited >= self.config.replace_after_blocks && self.replace(intent, &attempt).await? {
            turn.waiting.remove(&attempt.hash);
            return Ok(());
        }
        let in_pool: Option<InPool> = self.client.request("eth_getTransactionByHash", (attempt.hash,)).await?;
        if in_pool.is_none() {
            self.broadcast(intent).await;
        }
        Ok(())
    }

    /// A quote for an intention that has its nonce but no transaction yet. Its nonce must be used up even where the call would revert by now, or no later
    /// transaction of the account would be mined.
    async fn quote_begun(&self, intent: &Intent) -> Result<Quote> {
        let what = &intent.what;
        match self.quote(&Call { to: what.to, calldata: what.calldata.clone(), value_wei: what.value_wei }).await {
            Err(Error::Reverted { revert, .. }) => {
                warn!(key = what.key, nonce = intent.nonce, %revert, "tx.will_revert");
                Ok(Quote { gas_limit: GAS_LIMIT_OF_REVERT, fees: self.client.fees(&self.config.caps).await?, l1_fee: U256::ZERO })
            }
            quote => quote,
        }
    }

    async fn replace(&self, intent: &mut Intent, old: &Attempt) -> Result<bool> {
        let (key, nonce) = (intent.what.key.clone(), intent.nonce);
        let fresh = self.client.fees(&self.config.caps).await?;
        let Some(fees) = old.fees.replace(fresh, &self.config.caps) else {
            warn!(key, nonce, fees = %old.fees, "tx.fee_cap_reached");
            self.report(&SenderEvent::FeeCapReached { key, nonce });
            return Ok(false);
        };
        self.sign(intent, old.gas_limit, fees).await?;
        let hash = intent.attempts.last().map_or(old.hash, |attempt| attempt.hash);
        info!(key, nonce, %hash, %fees, "tx.replaced");
        self.report(&SenderEvent::Replaced { key, nonce, hash, fees });
        self.broadcast(intent).await;
        Ok(true)
    }

    /// The nonce is used on the chain: find which of our transactions it was. Whether the intention is finished.
    async fn settle(&self, intent: &mut Intent, heads: &Heads, turn: &mut Turn) -> Result<bool> {
        let Some(receipt) = self.find(intent).await? else {
            let passes = turn.foreign.entry(intent.nonce).or_default();
            *passes += 1;
            // The first times it only means that the node had the nonce before it had the receipt.
            if *passes * 2 < self.config.foreign_after_passes {
                debug!(key = intent.what.key, nonce = intent.nonce, passes = *passes, "tx.receipt_lags");
            } else {
                warn!(key = intent.what.key, nonce = intent.nonce, passes = *passes, "tx.nonce_used_by_none_of_ours");
            }
            if *passes >= self.config.foreign_after_passes {
                return Err(SendError::NonceTaken { account: intent.what.from, nonce: intent.nonce, key: intent.what.key.clone() }.into());
            }
            return Ok(false);
        };
        turn.foreign.remove(&intent.nonce);
        let mined = Mined { tx_hash: receipt.tx_hash, block: receipt.block.into(), succeeded: receipt.succeeded };
        let key = intent.what.key.clone();
        for attempt in &intent.attempts {
            turn.waiting.remove(&attempt.hash);
        }
        if intent.mined != Some(mined) {
            self.journal.mined(&key, &mined).await.map_err(SendError::from)?;
            intent.status = IntentStatus::Mined;
            info!(key, nonce = intent.nonce, hash = %mined.tx_hash, block = mined.block.number, succeeded = mined.succeeded, "tx.mined");
            self.report(&SenderEvent::Mined { key: key.clone(), hash: mined.tx_hash, succeeded: mined.succeeded });
            intent.mined = Some(mined);
        }
        if receipt.block.number <= heads.finalized.number {
            self.journal.finalized(&key).await.map_err(SendError::from)?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn find(&self, intent: &Intent) -> Result<Option<TxReceipt>> {
        for attempt in intent.attempts.iter().rev() {
            if let Some(receipt) = self.client.receipt(attempt.hash).await? {
                return Ok(Some(receipt));
            }
        }
        Ok(None)
    }

    fn report(&self, event: &SenderEvent) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    /// How long to wait between looks; for callers that poll beside it.
    pub fn poll(&self) -> Duration {
        self.config.poll
    }
}
