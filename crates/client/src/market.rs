//! One account at a market: what it can read, and what it can do. Every action is one intention with a key of its own, so none is done twice.

use std::{path::Path, sync::Arc};

use quern_bindings::{
    JobRecord, MarketParameters, ModelRecord, Revert,
    abi::{JobMarket, Ledger, ModelRegistry, ProviderRegistry, QuernToken},
};
use quern_chain::{
    At, Client,
    deployment::Deployment,
    keys::Key,
    sender::{Call, IntentStatus, Journal as _, Observer, SendError, SenderConfig, TxReceipt, TxSender},
};
use quern_types::{Address, Amount, Head, JobId, JobSpec, ModelId, Receipt, U256};
use serde::Serialize;

use crate::{ClientError, FileJournal};

/// Reads of a deployment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Market {
    client: Client,
    deployment: Arc<Deployment>,
}

/// What an account has, in the token's smallest unit, and its coin for gas in wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Balances {
    /// The token, outside the Ledger.
    pub token: Amount,
    /// In the Ledger, to spend or withdraw.
    pub free: Amount,
    /// Behind posted jobs.
    pub escrow: Amount,
    /// At stake, behind no job.
    pub stake: Amount,
    /// Stake on its way out.
    pub unbonding: Amount,
    /// Stake behind claimed jobs.
    pub lock: Amount,
    /// Behind challenges.
    pub bond: Amount,
    /// The chain's own coin, in wei.
    pub gas: U256,
}

impl Market {
    /// A deployment as seen through a node.
    pub fn new(client: Client, deployment: Deployment) -> Self {
        Self { client, deployment: Arc::new(deployment) }
    }

    /// The chain.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The contracts.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// What an account has now.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn balances(&self, account: Address) -> Result<Balances, ClientError> {
        use quern_chain::BlockSource as _;
        let contracts = &self.deployment.contracts;
        // All from one block, so that the numbers agree with each other.
        let at = At::Block(self.client.heads().await?.latest.hash);
        let held = self.client.call(contracts.ledger.address, &Ledger::balancesOfCall { account }, at).await?;
        let token = self.client.call(contracts.quern_token.address, &QuernToken::balanceOfCall { account }, at).await?;
        let units = Amount::from_units;
        Ok(Balances {
            token: amount(token),
            free: units(held.free),
            escrow: units(held.escrow),
            stake: units(held.stake),
            unbonding: units(held.unbonding),
            lock: units(held.lock),
            bond: units(held.bond),
            gas: self.client.gas_balance(account, at).await?,
        })
    }

    /// What the market stores of a job; its state is `None` where it was never posted.
    ///
    /// # Errors
    /// The node does not answer, or with a state that we do not know.
    pub async fn record(&self, job: JobId) -> Result<JobRecord, ClientError> {
        let raw = self.client.call(self.deployment.contracts.job_market.address, &JobMarket::jobCall { jobId: job.0 }, At::Latest).await?;
        Ok(JobRecord::try_from(&raw)?)
    }

    /// Parameters of the market, fixed for ever.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn parameters(&self) -> Result<MarketParameters, ClientError> {
        let raw = self.client.call(self.deployment.contracts.job_market.address, &JobMarket::parametersCall {}, At::Latest).await?;
        Ok(MarketParameters::from(&raw))
    }

    /// A registered model.
    ///
    /// # Errors
    /// [`ClientError::UnknownModel`]; the node does not answer.
    pub async fn model(&self, model: ModelId) -> Result<ModelRecord, ClientError> {
        let call = ModelRegistry::modelCall { modelId: model.0 };
        let raw = self.client.call(self.deployment.contracts.model_registry.address, &call, At::Latest).await?;
        let record = ModelRecord::from(&raw);
        if record.family == 0 { Err(ClientError::UnknownModel { model }) } else { Ok(record) }
    }

    /// The key that works for a provider now; zero: none.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn operator(&self, provider: Address) -> Result<Address, ClientError> {
        let call = ProviderRegistry::operatorOfCall { provider };
        Ok(self.client.call(self.deployment.contracts.provider_registry.address, &call, At::Latest).await?)
    }

    /// Last second in which unbonding stake cannot be withdrawn, Unix time; 0: the provider never unbonded.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn unbonded_at(&self, provider: Address) -> Result<u64, ClientError> {
        let call = ProviderRegistry::unbondedAtCall { provider };
        Ok(self.client.call(self.deployment.contracts.provider_registry.address, &call, At::Latest).await?.to())
    }

    /// Allowance that the account has given to the Ledger.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn allowance(&self, owner: Address) -> Result<U256, ClientError> {
        let contracts = &self.deployment.contracts;
        let call = QuernToken::allowanceCall { owner, spender: contracts.ledger.address };
        Ok(self.client.call(contracts.quern_token.address, &call, At::Latest).await?)
    }

    /// A call that posts a job.
    ///
    /// # Errors
    /// An amount that the contract's fields cannot hold.
    pub fn post(&self, spec: &JobSpec) -> Result<Call, ClientError> {
        Ok(Call::new(self.market(), &JobMarket::postCall { spec: spec.try_into()? }))
    }

    /// A call that takes an unclaimed job back.
    ///
    /// # Errors
    /// As [`Market::post`].
    pub fn cancel(&self, spec: &JobSpec) -> Result<Call, ClientError> {
        Ok(Call::new(self.market(), &JobMarket::cancelCall { spec: spec.try_into()? }))
    }

    /// A call that refunds a job that nobody claimed in time.
    ///
    /// # Errors
    /// As [`Market::post`].
    pub fn expire(&self, spec: &JobSpec) -> Result<Call, ClientError> {
        Ok(Call::new(self.market(), &JobMarket::expireCall { spec: spec.try_into()? }))
    }

    /// A call that refunds a job that was claimed and not delivered in time.
    ///
    /// # Errors
    /// As [`Market::post`].
    pub fn refund_undelivered(&self, spec: &JobSpec) -> Result<Call, ClientError> {
        Ok(Call::new(self.market(), &JobMarket::refundUndeliveredCall { spec: spec.try_into()? }))
    }

    /// A call that pays a job whose challenge window is over.
    ///
    /// # Errors
    /// As [`Market::post`].
    pub fn complete(&self, spec: &JobSpec, receipt: &Receipt) -> Result<Call, ClientError> {
        Ok(Call::new(self.market(), &JobMarket::completeCall { spec: spec.try_into()?, receipt: receipt.into() }))
    }

    /// A call that lets the Ledger take `amount` of the token.
    pub fn approve(&self, amount: Amount) -> Call {
        let contracts = &self.deployment.contracts;
        Call::new(contracts.quern_token.address, &QuernToken::approveCall { spender: contracts.ledger.address, value: amount.to_u256() })
    }

    /// A call that brings `amount` of the token into the Ledger, for `account`. Needs an allowance.
    pub fn deposit(&self, account: Address, amount: Amount) -> Call {
        Call::new(self.deployment.contracts.ledger.address, &Ledger::depositCall { account, amount: amount.units() })
    }

    /// A call that pays `amount` of the sender's free money out to `to`.
    pub fn withdraw(&self, to: Address, amount: Amount) -> Call {
        Call::new(self.deployment.contracts.ledger.address, &Ledger::withdrawCall { to, amount: amount.units() })
    }

    fn market(&self) -> Address {
        self.deployment.contracts.job_market.address
    }
}

fn amount(value: U256) -> Amount {
    // A token with a balance past 128 bits is none that the Ledger can hold; what counts here is that it is enough.
    Amount::try_from(value).unwrap_or(Amount::from_units(u128::MAX))
}

/// An account that acts.
#[derive(Debug)]
pub struct Actor {
    market: Market,
    sender: Arc<TxSender>,
    journal: Arc<FileJournal>,
}

impl Actor {
    /// Opens an account. `dir` is where its transactions are remembered; several processes may share it. `observer` is told what the sender finds.
    ///
    /// # Errors
    /// A journal that cannot be read or is damaged.
    pub fn open(market: Market, key: Key, dir: &Path, config: SenderConfig, observer: Option<Observer>) -> Result<Self, ClientError> {
        let journal = Arc::new(FileJournal::open(dir)?);
        let mut sender = TxSender::new(market.client().clone(), key, journal.clone(), config);
        if let Some(observer) = observer {
            sender = sender.observe(observer);
        }
        Ok(Self { market, sender: Arc::new(sender), journal })
    }

    /// The account.
    pub fn account(&self) -> Address {
        self.sender.account()
    }

    /// The market.
    pub fn market(&self) -> &Market {
        &self.market
    }

    /// The sender, for [`TxSender::run`].
    pub fn sender(&self) -> &Arc<TxSender> {
        &self.sender
    }

    /// Hands a transaction to the network without waiting. Doing it again with the same key does nothing new, unless the first time was mined and
    /// reverted: then it is tried again.
    ///
    /// # Errors
    /// [`ClientError::Refused`] where the call would revert, and then nothing was sent; a failure of the node or the journal.
    pub async fn submit(&self, action: &'static str, key: &str, call: &Call) -> Result<(), ClientError> {
        loop {
            let key = self.usable_key(key).await?;
            match self.sender.submit(&key, call).await {
                Ok(None) => return Ok(()),
                Ok(Some(revert)) => return Err(ClientError::Refused { action, revert }),
                Err(error) if is_lost_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Carries out an intention once and waits until it stands under `head`.
    ///
    /// # Errors
    /// As [`Actor::submit`]; the transaction was mined and reverted.
    pub async fn act(&self, action: &'static str, key: &str, call: &Call, head: Head) -> Result<TxReceipt, ClientError> {
        loop {
            let key = self.usable_key(key).await?;
            match self.sender.send(&key, call, head).await {
                Ok(outcome) => return outcome.success().map_err(|revert| ClientError::Refused { action, revert }),
                Err(error) if is_lost_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An intention with a key that begins so, which a run that died had written down and that is not known to be mined: its key and call.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn interrupted(&self, prefix: &str) -> Result<Option<(String, Call)>, ClientError> {
        let unfinished = self.journal.unfinished(self.account()).await.map_err(SendError::from).map_err(quern_chain::Error::from)?;
        let open = unfinished.into_iter().map(|intent| (intent.status, intent.what));
        let found =
            open.filter(|(status, what)| *status == IntentStatus::Open && what.key.starts_with(prefix)).map(|(_, what)| what).next();
        Ok(found.map(|what| (what.key, Call { to: what.to, calldata: what.calldata, value_wei: what.value_wei })))
    }

    /// The key itself, or, where its transaction was mined and reverted, the next one with a number that was not. Also looks whether other programs
    /// have sent for this account, before a new intention takes a nonce.
    async fn usable_key(&self, key: &str) -> Result<String, ClientError> {
        let mut name = key.to_owned();
        for attempt in 2u32.. {
            let known = self.journal.get(&name).await.map_err(SendError::from).map_err(quern_chain::Error::from)?;
            match known {
                Some(intent) if intent.mined.is_some_and(|mined| !mined.succeeded) => name = format!("{key}/{attempt}"),
                Some(_) => break,
                None => {
                    let count = self.market.client().nonce(self.account(), At::Latest).await?;
                    self.journal.allow_foreign(count);
                    break;
                }
            }
        }
        Ok(name)
    }

    /// Posts a job, unless it stands on the chain already. Returns whether something was handed to the network.
    ///
    /// # Errors
    /// As [`Actor::submit`].
    pub async fn post(&self, id: JobId, spec: &JobSpec) -> Result<bool, ClientError> {
        if self.market.record(id).await?.state.is_some() {
            return Ok(false);
        }
        let call = self.market.post(spec)?;
        match self.submit("posting the job", &keys::post(id), &call).await {
            // Our own earlier transaction was mined between the look and the call.
            Err(ClientError::Refused { revert: Revert::JobNotInState(_), .. }) if self.market.record(id).await?.state.is_some() => {
                Ok(false)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }
}

/// Another process of ours took the nonce, or began the same intention, between our look and our write: look again.
fn is_lost_race(error: &quern_chain::Error) -> bool {
    use quern_chain::sender::JournalError;
    matches!(error, quern_chain::Error::Send(SendError::Journal(JournalError::NonceTaken { .. } | JournalError::KeyExists { .. })))
}

/// Names of intentions in the journal.
pub mod keys {
    use quern_types::JobId;

    /// Posting a job.
    pub fn post(id: JobId) -> String {
        format!("job/{id}/post")
    }

    /// Taking a job back.
    pub fn cancel(id: JobId) -> String {
        format!("job/{id}/cancel")
    }

    /// Refunding a job that nobody claimed.
    pub fn expire(id: JobId) -> String {
        format!("job/{id}/expire")
    }

    /// Refunding a job that was not delivered.
    pub fn refund(id: JobId) -> String {
        format!("job/{id}/refund")
    }

    /// Paying a job.
    pub fn complete(id: JobId) -> String {
        format!("job/{id}/complete")
    }
}
