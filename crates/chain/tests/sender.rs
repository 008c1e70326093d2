//! The sender against a real node: crashes, reorganisations, lost transactions, a foreign hand on the key. In each the chain counts as many transactions as
//! there were intentions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod node;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, U256},
    sol_types::SolError,
};
use async_trait::async_trait;
use quern_bindings::{Revert, abi::JobMarket};
use quern_chain::{
    At, Client, Error, Severity,
    keys::Key,
    sender::{
        Attempt, Call, FeeCaps, GAS_PRICE_ORACLE, Intent, IntentStatus, Journal, JournalError, MemoryJournal, Mined, NewIntent, Outcome,
        SendError, SenderConfig, SenderEvent, TxSender,
    },
};
use quern_types::Head;
use serde_json::json;

use node::{ECHO, fail, log, mine, reorg, rpc, soon};

fn config() -> SenderConfig {
    SenderConfig {
        poll: Duration::from_millis(20),
        give_up_after: Duration::from_secs(30),
        replace_after_blocks: 3,
        foreign_after_passes: 3,
        ..SenderConfig::default()
    }
}

/// What the sender reported.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<SenderEvent>>>);

impl Seen {
    fn count(&self, which: impl Fn(&SenderEvent) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| which(event)).count()
    }
}

struct Bench {
    client: Client,
    key: Key,
    journal: Arc<MemoryJournal>,
    seen: Seen,
}

impl Bench {
    fn new(devnet: &quern_testkit::Devnet, account: usize) -> Self {
        Self { client: node::client(devnet.url()), key: node::key(devnet, account), journal: Arc::default(), seen: Seen::default() }
    }

    /// A sender as it is after a restart of the process: only the journal remembers.
    fn sender(&self) -> TxSender {
        self.sender_over(self.journal.clone(), config())
    }

    fn sender_over(&self, journal: Arc<dyn Journal>, config: SenderConfig) -> TxSender {
        let seen = self.seen.clone();
        TxSender::new(self.client.clone(), self.key.clone(), journal, config)
            .observe(Arc::new(move |event| seen.0.lock().unwrap().push(event.clone())))
    }

    async fn used(&self) -> u64 {
        self.client.nonce(self.key.address(), At::Latest).await.unwrap()
    }

    async fn automine(&self, on: bool) {
        rpc(&self.client, "evm_setAutomine", json!([on])).await;
    }

    /// Somebody else with the same key.
    async fn foreign(&self, nonce: u64) {
        rpc(&self.client, "anvil_impersonateAccount", json!([self.key.address()])).await;
        let tx = json!({"from": self.key.address(), "to": Address::ZERO, "value": "0x1", "nonce": format!("{nonce:#x}"), "gas": "0x5208",
            "maxFeePerGas": "0x174876e800", "maxPriorityFeePerGas": "0x12a05f200"});
        rpc(&self.client, "eth_sendTransaction", json!([tx])).await;
    }
}

fn done(outcome: Outcome) -> quern_chain::sender::TxReceipt {
    match outcome {
        Outcome::Done(receipt) => receipt,
        other => panic!("not done: {other:?}"),
    }
}

#[test]
fn one_intention_is_one_transaction_however_often_it_is_asked_for() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        let first = done(bench.sender().send("a", &log(7), Head::Latest).await.unwrap());
        assert_eq!((first.logs.len(), first.logs[0].data.topics()[0]), (1, B256::from(U256::from(7))));
        assert!(first.cost() > U256::ZERO && first.succeeded);
        // Asked again, by a restarted process too: the same transaction.
        let sender = bench.sender();
        assert_eq!(done(sender.send("a", &log(7), Head::Latest).await.unwrap()), first);
        assert_eq!(bench.used().await, 1);
        // Another call under the same key is a mistake, not a transaction.
        let error = sender.send("a", &log(8), Head::Latest).await.unwrap_err();
        assert!(
            matches!(&error, Error::Send(SendError::KeyReused { key }) if key == "a") && error.severity() == Severity::Fatal,
            "{error}"
        );
        assert_eq!(bench.used().await, 1);
    }));
}

#[test]
fn many_intentions_at_once_get_consecutive_nonces() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        let sender = Arc::new(bench.sender());
        let tasks: Vec<_> = (0..12)
            .map(|number| {
                let sender = sender.clone();
                tokio::spawn(async move { done(sender.send(&format!("job/{number}"), &log(number), Head::Latest).await.unwrap()) })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(bench.used().await, 12);
        let mut nonces: Vec<u64> = bench.journal.unfinished(bench.key.address()).await.unwrap().iter().map(|intent| intent.nonce).collect();
        nonces.dedup();
        assert!(nonces.len() <= 12 && nonces.is_sorted());
    }));
}

#[test]
fn call_that_would_revert_is_refused_with_its_typed_reason_and_costs_nothing() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    let reason = JobMarket::JobNotInState { jobId: B256::repeat_byte(5), expected: 1, actual: 2 };
    node::runtime().block_on(soon(async {
        let outcome = bench.sender().send("claim", &fail(&reason.abi_encode()), Head::Latest).await.unwrap();
        assert_eq!(outcome, Outcome::Refused { revert: Revert::JobNotInState(reason) });
        assert_eq!((bench.used().await, bench.journal.get("claim").await.unwrap()), (0, None));
        // The key is free: the next try may go through.
        done(bench.sender().send("claim", &log(1), Head::Latest).await.unwrap());
    }));
}

#[test]
fn call_that_reverts_in_its_block_is_reported_with_its_reason_and_never_sent_again() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    let reason = JobMarket::AlreadyExtended { jobId: B256::repeat_byte(5) };
    // Reverts with whatever its calldata says after the first byte, always.
    let always_fail = [&node::ECHO_CODE[30..31], &node::ECHO_CODE[31..]].concat();
    let call = Call { to: ECHO, calldata: [&[0x01], reason.abi_encode().as_slice()].concat().into(), value_wei: 0 };
    node::runtime().block_on(soon(async {
        bench.automine(false).await;
        let sender = bench.sender();
        assert_eq!(sender.submit("x", &call).await.unwrap(), None);
        rpc(&bench.client, "anvil_setCode", json!([ECHO, alloy::primitives::Bytes::from(always_fail)])).await;
        mine(&bench.client, 1).await;
        let Outcome::Reverted { receipt, revert } = sender.send("x", &call, Head::Latest).await.unwrap() else { panic!("not reverted") };
        assert!(!receipt.succeeded);
        assert_eq!(revert, Revert::AlreadyExtended(reason));
        bench.automine(true).await;
        assert!(matches!(bench.sender().send("x", &call, Head::Latest).await.unwrap(), Outcome::Reverted { .. }));
        assert_eq!(bench.used().await, 1);
    }));
}

/// A journal whose process dies at a chosen write: the write is durable, and nothing after it happens.
struct Dies {
    inner: Arc<MemoryJournal>,
    at: &'static str,
    dead: AtomicBool,
}

impl Dies {
    fn after(&self, what: &'static str) -> Result<(), JournalError> {
        if what == self.at {
            self.dead.store(true, Ordering::SeqCst);
        }
        self.alive()
    }

    fn alive(&self) -> Result<(), JournalError> {
        if self.dead.load(Ordering::SeqCst) { Err(JournalError::Storage("killed".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Journal for Dies {
    async fn get(&self, key: &str) -> Result<Option<Intent>, JournalError> {
        self.alive()?;
        self.inner.get(key).await
    }
    async fn unfinished(&self, from: Address) -> Result<Vec<Intent>, JournalError> {
        self.alive()?;
        self.inner.unfinished(from).await
    }
    async fn next_nonce(&self, from: Address) -> Result<Option<u64>, JournalError> {
        self.alive()?;
        self.inner.next_nonce(from).await
    }
    async fn begin(&self, what: &NewIntent, nonce: u64) -> Result<(), JournalError> {
        self.inner.begin(what, nonce).await?;
        self.after("begin")
    }
    async fn attempt(&self, key: &str, attempt: &Attempt) -> Result<(), JournalError> {
        self.inner.attempt(key, attempt).await?;
        self.after("attempt")
    }
    async fn mined(&self, key: &str, mined: &Mined) -> Result<(), JournalError> {
        self.inner.mined(key, mined).await?;
        self.after("mined")
    }
    async fn taken_back(&self, key: &str) -> Result<(), JournalError> {
        self.inner.taken_back(key).await
    }
    async fn finalized(&self, key: &str) -> Result<(), JournalError> {
        self.inner.finalized(key).await
    }
}

#[test]
fn crash_after_any_write_ends_in_one_transaction() {
    let Some(devnet) = node::start() else { return };
    node::runtime().block_on(soon(async {
        for (account, at) in ["begin", "attempt", "mined"].into_iter().enumerate() {
            let bench = Bench::new(&devnet, account);
            let dies = Arc::new(Dies { inner: bench.journal.clone(), at, dead: AtomicBool::new(false) });
            let error = bench.sender_over(dies, config()).send("k", &log(1), Head::Latest).await.unwrap_err();
            assert!(matches!(error, Error::Send(SendError::Journal(_))), "{at}: {error}");
            assert_eq!(bench.used().await, u64::from(at == "mined"), "{at}: nothing is broadcast before it is journalled");
            // The next process goes on, and later intentions are not held up by the gap.
            let sender = bench.sender();
            done(sender.send("later", &log(2), Head::Latest).await.unwrap());
            done(sender.send("k", &log(1), Head::Latest).await.unwrap());
            assert_eq!(bench.used().await, 2, "{at}");
        }
    }));
}

#[test]
fn crash_after_the_broadcast_ends_in_one_transaction() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        bench.automine(false).await;
        bench.sender().submit("k", &log(1)).await.unwrap();
        // The process is gone; its transaction waits in the pool. The next one broadcasts nothing new.
        let sender = bench.sender();
        sender.maintain().await.unwrap();
        assert_eq!(bench.seen.count(|event| matches!(event, SenderEvent::Broadcast { .. })), 1);
        mine(&bench.client, 1).await;
        done(sender.send("k", &log(1), Head::Latest).await.unwrap());
        assert_eq!(bench.used().await, 1);
    }));
}

#[test]
fn intention_that_would_revert_by_now_still_uses_up_its_nonce() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    let reason = JobMarket::AlreadyExtended { jobId: B256::ZERO };
    let call = fail(&reason.abi_encode());
    node::runtime().block_on(soon(async {
        // Begun when it would have succeeded, killed before its first transaction.
        let what = NewIntent { key: "k".into(), from: bench.key.address(), to: call.to, value_wei: 0, calldata: call.calldata.clone() };
        bench.journal.begin(&what, 0).await.unwrap();
        let sender = bench.sender();
        done(sender.send("next", &log(1), Head::Latest).await.unwrap());
        let outcome = sender.send("k", &call, Head::Latest).await.unwrap();
        assert!(matches!(outcome, Outcome::Reverted { revert: Revert::AlreadyExtended(_), .. }), "{outcome:?}");
        assert_eq!(bench.used().await, 2);
    }));
}

#[test]
fn reorganisation_that_takes_a_transaction_back_makes_it_be_sent_again_unchanged() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        mine(&bench.client, 3).await;
        let sender = bench.sender();
        let first = done(sender.send("k", &log(1), Head::Latest).await.unwrap());
        reorg(&bench.client, 2).await;
        assert_eq!(bench.used().await, 0);
        // Nobody waits for it: maintenance alone brings it back.
        while bench.used().await == 0 {
            sender.maintain().await.unwrap();
        }
        let again = done(sender.send("k", &log(1), Head::Latest).await.unwrap());
        assert_eq!(again.tx_hash, first.tx_hash);
        assert_ne!(again.block.hash, first.block.hash);
        assert_eq!(bench.seen.count(|event| matches!(event, SenderEvent::TakenBack { .. })), 1);

        // Under the finalized head it is finished for good.
        let call = log(1);
        let waiting = sender.send("k", &call, Head::Finalized);
        let (outcome, ()) = tokio::join!(waiting, mine(&bench.client, 6));
        assert_eq!(done(outcome.unwrap()).tx_hash, first.tx_hash);
        sender.maintain().await.unwrap();
        assert_eq!(bench.journal.get("k").await.unwrap().unwrap().status, IntentStatus::Final);
        assert_eq!(bench.used().await, 1);
    }));
}

#[test]
fn transaction_that_fell_out_of_the_pool_is_broadcast_again() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        bench.automine(false).await;
        let sender = bench.sender();
        for key in ["a", "b"] {
            sender.submit(key, &log(1)).await.unwrap();
        }
        rpc(&bench.client, "anvil_dropAllTransactions", json!([])).await;
        sender.maintain().await.unwrap();
        mine(&bench.client, 1).await;
        for key in ["a", "b"] {
            done(sender.send(key, &log(1), Head::Latest).await.unwrap());
        }
        assert_eq!(bench.used().await, 2);
    }));
}

#[test]
fn transaction_that_nobody_mines_is_replaced_by_a_dearer_one_and_only_one_is_mined() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        bench.automine(false).await;
        let sender = bench.sender();
        sender.submit("k", &log(1)).await.unwrap();
        let cheap = bench.journal.get("k").await.unwrap().unwrap().attempts[0].fees;
        for _ in 0..4 {
            // The base fee stays above what the first attempt offers.
            rpc(&bench.client, "anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", cheap.max_fee_per_gas * 3)])).await;
            mine(&bench.client, 1).await;
            sender.maintain().await.unwrap();
        }
        let intent = bench.journal.get("k").await.unwrap().unwrap();
        assert!(intent.attempts.len() >= 2, "{} attempts", intent.attempts.len());
        let dear = intent.attempts[1].fees;
        assert!(
            dear.max_fee_per_gas * 8 >= cheap.max_fee_per_gas * 9
                && dear.max_priority_fee_per_gas * 8 >= cheap.max_priority_fee_per_gas * 9
        );
        mine(&bench.client, 2).await;
        let receipt = done(sender.send("k", &log(1), Head::Latest).await.unwrap());
        assert!(intent.attempts[1..].iter().any(|attempt| attempt.hash == receipt.tx_hash));
        assert_eq!((bench.used().await, intent.nonce), (1, 0));
    }));
}

#[test]
fn replacement_stops_at_the_fee_cap_and_says_so() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        let quote = bench.sender().quote(&log(1)).await.unwrap();
        bench.automine(false).await;
        let caps = FeeCaps { max_fee_per_gas: quote.fees.max_fee_per_gas, ..FeeCaps::default() };
        let sender = bench.sender_over(bench.journal.clone(), SenderConfig { caps, ..config() });
        sender.submit("k", &log(1)).await.unwrap();
        rpc(&bench.client, "anvil_dropAllTransactions", json!([])).await;
        sender.maintain().await.unwrap();
        rpc(&bench.client, "anvil_dropAllTransactions", json!([])).await;
        mine(&bench.client, 5).await;
        sender.maintain().await.unwrap();
        assert_eq!(bench.seen.count(|event| matches!(event, SenderEvent::FeeCapReached { .. })), 1);
        assert_eq!(bench.journal.get("k").await.unwrap().unwrap().attempts.len(), 1);

        let low = SenderConfig { caps: FeeCaps { max_fee_per_gas: 1, ..FeeCaps::default() }, ..config() };
        let error = bench.sender_over(bench.journal.clone(), low).submit("other", &log(1)).await.unwrap_err();
        assert!(matches!(error, Error::Send(SendError::FeeCap { cap: 1, .. })) && error.severity() == Severity::Retry, "{error}");
    }));
}

#[test]
fn foreign_hand_on_the_key_stops_the_sender() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        let sender = bench.sender();
        done(sender.send("a", &log(1), Head::Latest).await.unwrap());
        bench.foreign(1).await;
        let error = sender.send("b", &log(2), Head::Latest).await.unwrap_err();
        assert!(matches!(error, Error::Send(SendError::ForeignNonce { expected: 1, actual: 2, .. })), "{error}");
        assert_eq!(error.severity(), Severity::Fatal);

        // And where it takes the very nonce of an intention under way.
        let bench = Bench::new(&devnet, 1);
        bench.automine(false).await;
        let sender = bench.sender();
        sender.submit("a", &log(1)).await.unwrap();
        rpc(&bench.client, "anvil_dropAllTransactions", json!([])).await;
        bench.foreign(0).await;
        mine(&bench.client, 1).await;
        let error = sender.send("a", &log(1), Head::Latest).await.unwrap_err();
        assert!(matches!(&error, Error::Send(SendError::NonceTaken { nonce: 0, key, .. }) if key == "a"), "{error}");

        // And where its transactions wait in the pool before we have sent anything.
        let bench = Bench::new(&devnet, 2);
        bench.foreign(0).await;
        let error = bench.sender().submit("a", &log(1)).await.unwrap_err();
        assert!(matches!(error, Error::Send(SendError::UnknownPending { pending: 1, .. })), "{error}");
    }));
}

#[test]
fn account_without_money_is_told_how_much_is_missing_before_anything_is_journalled() {
    let Some(devnet) = node::start() else { return };
    let mut bench = Bench::new(&devnet, 0);
    bench.key = Key::random();
    node::runtime().block_on(soon(async {
        rpc(&bench.client, "anvil_setBalance", json!([bench.key.address(), "0x64"])).await;
        let error = bench.sender().submit("a", &log(1)).await.unwrap_err();
        assert!(matches!(error, Error::Send(SendError::InsufficientFunds { balance, .. }) if balance == U256::from(100)), "{error}");
        assert_eq!(bench.seen.count(|event| matches!(event, SenderEvent::LowBalance { .. })), 1);
        assert_eq!(bench.journal.get("a").await.unwrap(), None);
    }));
}

#[test]
fn l1_fee_is_part_of_the_price_where_the_chain_has_it() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    // Answers 0x1234 to any call: push 1234, push 0, mstore, push 20, push 0, return.
    let oracle = alloy::primitives::hex!("61123460005260206000f3");
    node::runtime().block_on(soon(async {
        let without = bench.sender().quote(&log(1)).await.unwrap();
        assert_eq!(without.l1_fee, U256::ZERO);
        rpc(&bench.client, "anvil_setCode", json!([GAS_PRICE_ORACLE, alloy::primitives::Bytes::from(oracle)])).await;
        let with = bench.sender().quote(&log(1)).await.unwrap();
        assert_eq!(
            (with.l1_fee, with.most() - with.l1_fee),
            (U256::from(0x1234), U256::from(with.gas_limit) * U256::from(with.fees.max_fee_per_gas))
        );
    }));
}

#[test]
fn chain_that_was_reset_is_noticed() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        let sender = bench.sender();
        done(sender.send("a", &log(1), Head::Latest).await.unwrap());
        mine(&bench.client, 6).await;
        assert_eq!(sender.maintain().await.unwrap(), 0);
        rpc(&bench.client, "anvil_setNonce", json!([bench.key.address(), "0x0"])).await;
        let error = sender.maintain().await.unwrap_err();
        assert!(matches!(error, Error::Send(SendError::ChainBehindJournal { expected: 1, actual: 0, .. })), "{error}");
    }));
}

#[test]
fn wait_that_takes_too_long_ends_and_the_intention_lives_on() {
    let Some(devnet) = node::start() else { return };
    let bench = Bench::new(&devnet, 0);
    node::runtime().block_on(soon(async {
        bench.automine(false).await;
        let sender = bench.sender_over(bench.journal.clone(), SenderConfig { give_up_after: Duration::from_millis(200), ..config() });
        let error = sender.send("a", &log(1), Head::Latest).await.unwrap_err();
        assert!(
            matches!(error, Error::Send(SendError::NotYet { nonce: 0, head: Head::Latest, .. })) && error.severity() == Severity::Retry,
            "{error}"
        );
        mine(&bench.client, 1).await;
        done(sender.send("a", &log(1), Head::Latest).await.unwrap());
        assert_eq!(bench.used().await, 1);
    }));
}
