//! What a command opens from the configuration: chain and contracts, the key, the sender of transactions, content stores.
//!
//! Everything that can be wrong with them is said here once, with what to do about it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quern_bindings::Revert;
use quern_chain::{
    Client, ClientConfig, StreamConfig,
    deployment::Deployment,
    keys::Key,
    sender::{Call, Observer, SenderConfig, SenderEvent, TxReceipt},
};
use quern_client::{Actor, ClientError, Market, RunJournal};
use quern_store::{
    ContentStore, EmbeddedConfig, EmbeddedStore, GatewayConfig, GatewayStore, KuboConfig, KuboReach, KuboStore, LayeredStore,
};
use quern_types::{Address, Amount, B256, Bucket, Head, U256, keccak256};
use serde_json::json;

use crate::{
    app::Context,
    config::Config,
    failure::{Exit, Failure},
    keystore::{self, Keystore},
    output,
};

/// Wait between two looks at the node while a person waits for a transaction.
const POLL: Duration = Duration::from_millis(500);
/// Longest time for one block of content (at most 2 MiB) from one gateway.
const GATEWAY_TIMEOUT_MS: u64 = 30_000;
/// Longest time for one call to a Kubo node; a recursive pin of a large file is one call.
const KUBO_TIMEOUT_MS: u64 = 120_000;

/// Which contracts: the configured deployment file.
///
/// # Errors
/// None is configured, or it cannot be read.
pub fn deployment(config: &Config) -> Result<Deployment, Failure> {
    let remedy =
        "pass --deployment FILE, or remember it with `quern init --force --deployment FILE`; whoever deployed the contracts has it";
    let path = config.deployment.as_ref().ok_or_else(|| Failure::usage("no deployment file is configured", remedy))?;
    Deployment::read(path).map_err(|error| Failure::usage(error.to_string(), remedy))
}

/// How to reach the chain of a deployment.
pub fn client_config(config: &Config, deployment: &Deployment) -> ClientConfig {
    ClientConfig { endpoints: config.rpc.clone(), ..ClientConfig::new("", deployment.chain_id) }
}

/// A connection that was asked for its chain id, and the deployment.
///
/// # Errors
/// As [`deployment`]; no node of that chain answers.
pub async fn connect(config: &Config) -> anyhow::Result<(Client, Deployment)> {
    let deployment = deployment(config)?;
    let client = Client::connect(client_config(config, &deployment)).await?;
    Ok((client, deployment))
}

/// The market, once the code of every contract was compared with the deployment file.
///
/// # Errors
/// As [`connect`]; a contract that is not there, or not the one.
pub async fn market(config: &Config) -> anyhow::Result<Market> {
    let (client, deployment) = connect(config).await?;
    deployment.verify(&client).await?;
    Ok(Market::new(client, deployment))
}

/// The knobs of an event stream that a person waits for.
pub fn stream_config() -> StreamConfig {
    StreamConfig { poll: POLL, ..StreamConfig::default() }
}

/// The configured key, opened.
///
/// # Errors
/// There is none, or its password is not at hand or wrong.
pub fn signer(config: &Config) -> Result<Key, Failure> {
    let entry = keystore::choose(config)?;
    let password = keystore::password(config, &format!("Password of key {:?}: ", entry.name))?;
    Ok(Keystore::new(config.keys_dir()).open(&entry.name, &password)?.into())
}

/// The address that a command is about: the one given, else that of the configured key. Needs no password.
///
/// # Errors
/// None is given and no key is configured.
pub fn account(config: &Config, given: Option<Address>) -> Result<Address, Failure> {
    match given {
        Some(address) => Ok(address),
        None => Ok(keystore::choose(config)?.address),
    }
}

/// The configured key as an account that acts, with its journal of transactions below HOME/journal.
///
/// # Errors
/// As [`signer`]; another process sends for the account; the journal is damaged.
pub fn actor(config: &Config, market: Market) -> anyhow::Result<Actor> {
    actor_of(config, market, signer(config)?)
}

/// As [`actor`], with a key that is open already.
///
/// # Errors
/// Another process sends for the account; the journal is damaged.
pub fn actor_of(config: &Config, market: Market, key: Key) -> anyhow::Result<Actor> {
    let journal = journal(config, &market, key.address());
    let sender = SenderConfig { poll: POLL, ..SenderConfig::default() };
    Ok(Actor::open(market, key, &journal.intents_dir(), sender, Some(low_gas_warning()))?)
}

/// Tells a person, once per run of a command, that gas money runs out: the sender's own log is not shown there.
fn low_gas_warning() -> Observer {
    let told = AtomicBool::new(false);
    Arc::new(move |event: &SenderEvent| {
        if let SenderEvent::LowBalance { account, balance, threshold } = event
            && !told.swap(true, Ordering::Relaxed)
        {
            output::warn(&low_gas_text(*account, *balance, *threshold));
        }
    })
}

fn low_gas_text(account: Address, balance: U256, threshold: U256) -> String {
    // The coin has 18 decimals, as the token has.
    let coins = |wei: U256| Amount::try_from(wei).map_or_else(|_| format!("{wei} / 10^18"), Amount::to_tokens);
    let (held, wanted) = (coins(balance), coins(threshold));
    format!(
        "warning: {account} holds {held} of the chain's own coin, which pays for gas, and less than {wanted} runs out soon: send it more"
    )
}

/// The journal of an account in a deployment.
pub fn journal(config: &Config, market: &Market, account: Address) -> RunJournal {
    RunJournal::new(RunJournal::place(&config.journal_dir(), &market.deployment().domain(), account))
}

/// Chain, contracts and the configured key, for commands that send one transaction.
///
/// # Errors
/// As [`market()`] and [`actor`].
pub async fn acting(config: &Config) -> anyhow::Result<Actor> {
    // The key first: a wrong password should not wait for a node.
    keystore::choose(config)?;
    actor(config, market(config).await?)
}

/// Carries out one intention of a person and waits until it is in a block.
///
/// # Errors
/// The contract refuses it, and nothing was sent; it was interrupted or is not mined in time, and may still be mined.
pub async fn act(context: &Context, actor: &Actor, action: &'static str, call: &Call) -> anyhow::Result<TxReceipt> {
    let meaning = keccak256([call.to.as_slice(), &call.value_wei.to_be_bytes(), &call.calldata].concat());
    match finish_interrupted(context, actor, action, meaning).await? {
        Some(receipt) => Ok(receipt),
        None => act_as(context, actor, action, meaning, call).await,
    }
}

/// As [`act`], for a call whose bytes differ from run to run: `meaning` is what two runs for the same purpose have in common.
///
/// # Errors
/// As [`act`].
pub async fn act_as(context: &Context, actor: &Actor, action: &'static str, meaning: B256, call: &Call) -> anyhow::Result<TxReceipt> {
    // Every run of a command is an intention of its own: who says `deposit 5` twice means 10.
    let key = format!("{}{:032x}", prefix(action, meaning), rand::random::<u128>());
    carry_out(context, actor, action, &key, call).await
}

/// Where an earlier run of the same command died before it saw its transaction mined: finishes that one. Who repeats a command because its first
/// run was killed does not mean it twice.
///
/// # Errors
/// As [`act`].
pub async fn finish_interrupted(
    context: &Context,
    actor: &Actor,
    action: &'static str,
    meaning: B256,
) -> anyhow::Result<Option<TxReceipt>> {
    let Some((key, call)) = actor.interrupted(&prefix(action, meaning)).await? else { return Ok(None) };
    context.out.note(&format!("an earlier run was interrupted while {action} was under way: this run finishes it, and does nothing twice"));
    carry_out(context, actor, action, &key, &call).await.map(Some)
}

fn prefix(action: &str, meaning: B256) -> String {
    format!("{action}/{meaning:x}/")
}

async fn carry_out(context: &Context, actor: &Actor, action: &'static str, key: &str, call: &Call) -> anyhow::Result<TxReceipt> {
    let acted = tokio::select! {
        acted = actor.act(action, key, call, Head::Latest) => acted,
        () = context.cancel.cancelled() => {
            let remedy = "it may be mined yet; repeat the command to finish it, nothing is done twice";
            return Err(Failure::new(format!("interrupted while {action} was under way"), remedy).with_exit(Exit::Interrupted).into());
        }
    };
    acted.map_err(explain)
}

/// What a command says about a transaction.
pub fn receipt_json(receipt: &TxReceipt) -> serde_json::Value {
    json!({
        "tx": receipt.tx_hash, "block": receipt.block.number, "gasUsed": receipt.gas_used.to_string(), "cost": receipt.cost().to_string(),
    })
}

/// The same in words.
pub fn receipt_text(receipt: &TxReceipt) -> String {
    format!("transaction {:#x}, block {}", receipt.tx_hash, receipt.block.number)
}

/// Tokens in words.
pub fn in_tokens(amount: Amount) -> String {
    let tokens = amount.to_tokens();
    if amount == Amount::ONE_TOKEN { format!("{tokens} token") } else { format!("{tokens} tokens") }
}

/// A refusal of a contract with what to do about it; every other error as it is.
pub fn explain(error: ClientError) -> anyhow::Error {
    let ClientError::Refused { action, revert } = &error else { return error.into() };
    let tokens = |units: quern_types::U256| Amount::try_from(units).map_or_else(|_| format!("{units} units"), in_tokens);
    let (why, remedy) = match revert {
        Revert::InsufficientBalance(e) => {
            let bucket = Bucket::try_from(e.bucket).ok();
            let remedy = match bucket {
                Some(Bucket::Free) => {
                    "bring more with `quern wallet deposit AMOUNT`, or take a smaller amount; `quern wallet balance` shows what there is"
                }
                Some(Bucket::Stake) => {
                    "stake behind claimed jobs is locked until they are over; `quern provider status` shows what can be moved"
                }
                _ => "`quern wallet balance` shows what there is",
            };
            let name = bucket.map_or_else(|| format!("bucket {}", e.bucket), |bucket| bucket.name().to_lowercase());
            (format!("{} has {} in {name}, and {} are needed", e.account, tokens(e.available), tokens(e.required)), remedy)
        }
        Revert::ERC20InsufficientBalance(e) => (
            format!("{} holds {} outside the Ledger, and {} are needed", e.sender, tokens(e.balance), tokens(e.needed)),
            "get more of the token first; `quern wallet balance` shows what there is",
        ),
        Revert::StillUnbonding(e) => (
            format!(
                "stake of {} is unbonding for another {} s",
                e.provider,
                e.unbondedAt.saturating_sub(e.nowSecs) + quern_types::U256::ONE
            ),
            "wait until then; `quern provider status` shows the time",
        ),
        Revert::EntriesAreStopped(_) => {
            ("the guardian has stopped new jobs, stakes and models".into(), "wait until they are open again; everything else still works")
        }
        Revert::NotProvider(e) => (
            format!("{} is neither provider {} nor its operator {}", e.actual, e.provider, e.operator),
            "use the provider's or the operator's key: --key NAME",
        ),
        Revert::RecipientNotAllowed(e) => {
            (format!("{} cannot be paid to", e.recipient), "name the address of a person or of another contract")
        }
        other => (other.to_string(), ""),
    };
    Failure::new(format!("{action} was refused by the contract, and nothing was sent: {why}"), remedy).into()
}

/// Where content is kept and fetched from.
#[derive(Debug, Clone)]
pub struct Content {
    /// What this machine holds: the embedded store, or a Kubo node. Serve this one.
    pub local: Arc<dyn ContentStore>,
    /// The embedded store, where it is the local one.
    pub embedded: Option<EmbeddedStore>,
    /// Reads what is missing from the gateways (or, without any, through the Kubo node), verified, and keeps it in the local one.
    pub layered: LayeredStore,
}

/// Opens the configured content stores. `more` gateways are asked after the configured ones.
///
/// # Errors
/// The directory is not a store, no Kubo answers, or a gateway is no address.
pub async fn content(config: &Config, more: &[String]) -> anyhow::Result<Content> {
    let gateways: Vec<String> = config.gateways.iter().chain(more).cloned().collect();
    let kubo = |reach| {
        let address = config.store.kubo.clone();
        async move {
            match address {
                None => Ok(None),
                Some(address) => KuboStore::connect(&KuboConfig { address, call_timeout_ms: KUBO_TIMEOUT_MS, reach }).await.map(Some),
            }
        }
    };
    let (local, embedded): (Arc<dyn ContentStore>, _) = match kubo(KuboReach::Node).await? {
        Some(store) => (Arc::new(store), None),
        None => {
            let store = embedded(&config.store.dir, config.store.limit_bytes).await?;
            (Arc::new(store.clone()), Some(store))
        }
    };
    let remote: Arc<dyn ContentStore> = match kubo(KuboReach::Network).await? {
        Some(store) if gateways.is_empty() => Arc::new(store),
        _ => Arc::new(GatewayStore::new(&GatewayConfig { gateways, block_timeout_ms: GATEWAY_TIMEOUT_MS })?),
    };
    let layered = LayeredStore::new(Arc::clone(&local), remote);
    Ok(Content { local, embedded, layered })
}

async fn embedded(dir: &Path, max_bytes: u64) -> anyhow::Result<EmbeddedStore> {
    Ok(EmbeddedStore::open(dir, EmbeddedConfig { max_bytes, ..EmbeddedConfig::default() }).await?)
}

#[cfg(test)]
mod tests {
    use quern_bindings::abi::{JobMarket, Ledger, ProviderRegistry};

    use super::*;

    fn said(revert: Revert) -> Failure {
        Failure::of(&explain(ClientError::Refused { action: "the withdrawal", revert }))
    }

    #[test]
    fn refusal_says_how_much_is_missing_and_what_to_do() {
        let units = |tokens: u64| U256::from(tokens) * Amount::ONE_TOKEN.to_u256();
        let revert =
            Ledger::InsufficientBalance { account: Address::ZERO, bucket: Bucket::Free.code(), required: units(5), available: units(1) };
        let failure = said(Revert::InsufficientBalance(revert));
        assert!(failure.what.contains("has 1 token in free, and 5 tokens"), "{failure}");
        assert!(failure.remedy.contains("quern wallet deposit"), "{failure}");
    }

    #[test]
    fn unbonding_stake_is_told_in_seconds() {
        let revert = ProviderRegistry::StillUnbonding { provider: Address::ZERO, unbondedAt: U256::from(100), nowSecs: U256::from(71) };
        assert!(said(Revert::StillUnbonding(revert)).what.contains("another 30 s"));
    }

    #[test]
    fn stopped_entries_are_named_as_the_three_that_the_contracts_stop() {
        let failure = said(Revert::EntriesAreStopped(JobMarket::EntriesAreStopped {}));
        assert!(failure.what.contains("new jobs, stakes and models") && !failure.what.contains("claim"), "{failure}");
    }

    #[test]
    fn low_gas_is_told_in_coins_with_what_to_do() {
        let text = low_gas_text(Address::ZERO, U256::from(2_500_000_000_000_000u64), U256::from(10_000_000_000_000_000u64));
        assert!(text.contains("holds 0.0025 of") && text.contains("less than 0.01 ") && text.contains("send it more"), "{text}");
    }

    #[test]
    fn refusal_that_nobody_foresaw_keeps_its_words() {
        assert!(said(Revert::Message("odd".into())).what.contains("odd"));
    }
}
