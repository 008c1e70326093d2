//! The projections: what the index holds of the present. Each is one row of its table.

use quern_types::{Address, Amount, B256, Bucket, JobId, JobSpec, JobState, ModelId, PackageRoot, Receipt};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;

use super::{
    change::{Place, Prices, Registration},
    entity::{At, Entity, Values},
};
use crate::{
    Result,
    value::{Reader, amount, counted, integer, wide},
};

/// How a job came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Paid.
    Completed,
    /// The client took it back before anybody claimed.
    Cancelled,
    /// Nobody claimed in time.
    Expired,
    /// The provider did not deliver in time.
    Undelivered,
    /// The provider was convicted.
    Slashed,
}

/// A provider's claim of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who has the job.
    pub provider: Address,
    /// The key that works on it, for ever.
    pub operator: Address,
    /// The price, in 1/10,000 of the maximum.
    pub price_bps: u16,
    /// Last second to submit, Unix seconds.
    pub deadline: u64,
    /// Stake behind the job.
    pub lock: Amount,
    /// Where it was claimed.
    pub place: Place,
}

/// A receipt that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// What the provider attests.
    pub receipt: Receipt,
    /// The EIP-712 digest that the operator signed.
    pub digest: B256,
    /// Last second to challenge it, Unix seconds.
    pub window_end: u64,
    /// Where it was submitted.
    pub place: Place,
}

/// Who got what at a job's end; the parts that an ending does not have are zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// How the job ended.
    pub ending: Ending,
    /// What the job cost, the royalty included.
    pub fee: Amount,
    /// The publisher's part of the fee.
    pub royalty: Amount,
    /// What the client got back out of its escrow.
    pub refund: Amount,
    /// What the client got out of the provider's lock.
    pub penalty: Amount,
    /// Where it ended.
    pub place: Place,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub job: JobId,
    /// What the client asked for.
    pub spec: JobSpec,
    /// Where it is in its life.
    pub state: JobState,
    /// What the client put into escrow.
    pub max_fee: Amount,
    /// When its price began to rise, Unix seconds.
    pub posted_at: u64,
    /// Where it was posted.
    pub posted: Place,
    /// Who works on it; `None` while nobody does.
    pub claim: Option<Claim>,
    /// The receipt; `None` before it.
    pub submission: Option<Submission>,
    /// Challenges that are open.
    pub challenges_open: u16,
    /// How it ended; `None` while it lives.
    pub settlement: Option<Settlement>,
    /// Where it last changed.
    pub changed: Place,
}

/// A provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Owner address.
    pub provider: Address,
    /// Key that works for it now; zero: none.
    pub operator: Address,
    /// URL of its content gateway, free text; empty: none.
    pub gateway: String,
    /// When its unbonding stake can be withdrawn, Unix seconds; 0 if it never unbonded.
    pub unbonded_at: u64,
    /// Jobs claimed.
    pub claimed: u64,
    /// Receipts submitted.
    pub submitted: u64,
    /// Jobs paid.
    pub completed: u64,
    /// Jobs not delivered.
    pub undelivered: u64,
    /// Convictions.
    pub slashed: u64,
    /// Fees less royalties.
    pub earned: Amount,
    /// Sum over its receipts as it claims, millijoules.
    pub energy_millijoules: u128,
    /// Where it last changed.
    pub changed: At,
}

impl Provider {
    pub(crate) fn new(provider: Address, changed: At) -> Self {
        Self {
            provider,
            operator: Address::ZERO,
            gateway: String::new(),
            unbonded_at: 0,
            claimed: 0,
            submitted: 0,
            completed: 0,
            undelivered: 0,
            slashed: 0,
            earned: Amount::ZERO,
            energy_millijoules: 0,
            changed,
        }
    }
}

/// What a provider asks for a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Who asks.
    pub provider: Address,
    /// For which model.
    pub model: ModelId,
    /// How much.
    pub prices: Prices,
    /// Where it was listed.
    pub changed: At,
}

/// A registered model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its id.
    pub model: ModelId,
    /// Who registered it.
    pub publisher: Address,
    /// The arithmetic.
    pub package_root: PackageRoot,
    /// 1 encoder, 2 decoder.
    pub family: u8,
    /// Linear multiply-adds per token.
    pub macs_per_token: u64,
    /// What the publisher said.
    pub registration: Registration,
    /// CID codec and sha2-256 of the package as announced last.
    pub package: (u8, B256),
    /// Jobs posted for it.
    pub jobs_posted: u64,
    /// Jobs of it that were paid.
    pub jobs_completed: u64,
    /// Where it was registered.
    pub registered: Place,
    /// Where it last changed.
    pub changed: At,
}

/// What an account has in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Whose; zero for the buckets that belong to nobody.
    pub account: Address,
    /// Where.
    pub bucket: Bucket,
    /// How much.
    pub amount: Amount,
    /// Where it last changed.
    pub changed: At,
}

/// The ledger as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Last entry.
    pub seq: u64,
    /// Head after it, as the contract says.
    pub head: B256,
    /// Deposits less withdrawals: what all balances add up to.
    pub total: Amount,
    /// Where the last entry was made.
    pub changed: At,
}

fn name_of<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, text: &str) -> Option<T> {
    all.iter().copied().find(|value| name(*value) == text)
}

fn bucket(name: &str) -> Option<Bucket> {
    name_of(Bucket::ALL, Bucket::name, name)
}

fn bind_at(values: &mut Values<'_>, at: &At) -> Result<()> {
    values.push_bind(integer("block number", at.number)?);
    values.push_bind(at.hash.to_vec());
    values.push_bind(integer("log index", at.log_index)?);
    Ok(())
}

fn read_at(row: &Reader<'_>) -> Result<At> {
    Ok(At { number: row.number("block_number")?, hash: row.hash("block_hash")?, log_index: row.number("log_index")? })
}

fn body<T: serde::de::DeserializeOwned>(table: &'static str, row: &SqliteRow) -> Result<T> {
    let row = Reader::new(table, row);
    serde_json::from_str(row.text("body")?).map_err(|error| row.bad("body", error))
}

fn json<T: Serialize>(table: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| crate::Error::bad_value(table, "body", error))
}

impl Entity for Job {
    type Key = JobId;
    const TABLE: &'static str = "job";
    const KEY: &'static [&'static str] = &["job_id"];
    const COLUMNS: &'static [&'static str] = &[
        "client",
        "model_id",
        "provider",
        "state",
        "posted_number",
        "posted_log_index",
        "block_number",
        "block_hash",
        "log_index",
        "body",
    ];

    fn key(&self) -> JobId {
        self.job
    }

    fn bind_key(key: &JobId, values: &mut Values<'_>) {
        values.push_bind(key.0.to_vec());
    }

    fn bind(&self, values: &mut Values<'_>) -> Result<()> {
        values.push_bind(self.spec.client.to_vec());
        values.push_bind(self.spec.model_id.0.to_vec());
        values.push_bind(self.claim.as_ref().map(|claim| claim.provider.to_vec()));
        values.push_bind(self.state.name());
        values.push_bind(integer("block number", self.posted.block.number)?);
        values.push_bind(integer("log index", self.posted.log_index)?);
        bind_at(values, &At::from(self.changed))?;
        values.push_bind(json(Self::TABLE, self)?);
        Ok(())
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        body(Self::TABLE, row)
    }
}

impl Entity for Model {
    type Key = ModelId;
    const TABLE: &'static str = "model";
    const KEY: &'static [&'static str] = &["model_id"];
    const COLUMNS: &'static [&'static str] =
        &["registered_number", "registered_log_index", "block_number", "block_hash", "log_index", "body"];

    fn key(&self) -> ModelId {
        self.model
    }

    fn bind_key(key: &ModelId, values: &mut Values<'_>) {
        values.push_bind(key.0.to_vec());
    }

    fn bind(&self, values: &mut Values<'_>) -> Result<()> {
        values.push_bind(integer("block number", self.registered.block.number)?);
        values.push_bind(integer("log index", self.registered.log_index)?);
        bind_at(values, &self.changed)?;
        values.push_bind(json(Self::TABLE, self)?);
        Ok(())
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        body(Self::TABLE, row)
    }
}

impl Entity for Provider {
    type Key = Address;
    const TABLE: &'static str = "provider";
    const KEY: &'static [&'static str] = &["provider"];
    const COLUMNS: &'static [&'static str] = &[
        "operator",
        "gateway",
        "unbonded_at",
        "claimed",
        "submitted",
        "completed",
        "undelivered",
        "slashed",
        "earned",
        "energy_millijoules",
        "block_number",
        "block_hash",
        "log_index",
    ];

    fn key(&self) -> Address {
        self.provider
    }

    fn bind_key(key: &Address, values: &mut Values<'_>) {
        values.push_bind(key.to_vec());
    }

    fn bind(&self, values: &mut Values<'_>) -> Result<()> {
        values.push_bind(self.operator.to_vec());
        values.push_bind(self.gateway.clone());
        values.push_bind(integer("time of unbonding", self.unbonded_at)?);
        for (what, count) in [
            ("jobs claimed", self.claimed),
            ("receipts submitted", self.submitted),
            ("jobs completed", self.completed),
            ("jobs undelivered", self.undelivered),
            ("convictions", self.slashed),
        ] {
            values.push_bind(integer(what, count)?);
        }
        values.push_bind(amount(self.earned));
        values.push_bind(wide(self.energy_millijoules));
        bind_at(values, &self.changed)
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        let row = Reader::new(Self::TABLE, row);
        Ok(Self {
            provider: row.address("provider")?,
            operator: row.address("operator")?,
            gateway: row.text("gateway")?.to_owned(),
            unbonded_at: row.number("unbonded_at")?,
            claimed: row.number("claimed")?,
            submitted: row.number("submitted")?,
            completed: row.number("completed")?,
            undelivered: row.number("undelivered")?,
            slashed: row.number("slashed")?,
            earned: row.amount("earned")?,
            energy_millijoules: row.wide("energy_millijoules")?,
            changed: read_at(&row)?,
        })
    }
}

impl Entity for Price {
    type Key = (Address, ModelId);
    const TABLE: &'static str = "price";
    const KEY: &'static [&'static str] = &["provider", "model_id"];
    const COLUMNS: &'static [&'static str] =
        &["base_amount", "input_amount", "output_amount", "item_amount", "block_number", "block_hash", "log_index"];

    fn key(&self) -> (Address, ModelId) {
        (self.provider, self.model)
    }

    fn bind_key((provider, model): &(Address, ModelId), values: &mut Values<'_>) {
        values.push_bind(provider.to_vec());
        values.push_bind(model.0.to_vec());
    }

    fn bind(&self, values: &mut Values<'_>) -> Result<()> {
        for part in [self.prices.base, self.prices.input, self.prices.output, self.prices.item] {
            values.push_bind(amount(part));
        }
        bind_at(values, &self.changed)
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        let row = Reader::new(Self::TABLE, row);
        Ok(Self {
            provider: row.address("provider")?,
            model: ModelId(row.hash("model_id")?),
            prices: Prices {
                base: row.amount("base_amount")?,
                input: row.amount("input_amount")?,
                output: row.amount("output_amount")?,
                item: row.amount("item_amount")?,
            },
            changed: read_at(&row)?,
        })
    }
}

impl Entity for Balance {
    type Key = (Address, Bucket);
    const TABLE: &'static str = "balance";
    const KEY: &'static [&'static str] = &["account", "bucket"];
    const COLUMNS: &'static [&'static str] = &["amount", "block_number", "block_hash", "log_index"];

    fn key(&self) -> (Address, Bucket) {
        (self.account, self.bucket)
    }

    fn bind_key((account, bucket): &(Address, Bucket), values: &mut Values<'_>) {
        values.push_bind(account.to_vec());
        values.push_bind(bucket.name());
    }

    fn bind(&self, values: &mut Values<'_>) -> Result<()> {
        values.push_bind(amount(self.amount));
        bind_at(values, &self.changed)
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        let row = Reader::new(Self::TABLE, row);
        Ok(Self {
            account: row.address("account")?,
            bucket: row.named("bucket", bucket)?,
            amount: row.amount("amount")?,
            changed: read_at(&row)?,
        })
    }
}

impl Entity for Ledger {
    type Key = u8;
    const TABLE: &'static str = "ledger";
    const KEY: &'static [&'static str] = &["id"];
    const COLUMNS: &'static [&'static str] = &["seq", "head", "total", "block_number", "block_hash", "log_index"];

    fn key(&self) -> u8 {
        1
    }

    fn bind_key(key: &u8, values: &mut Values<'_>) {
        values.push_bind(i64::from(*key));
    }

    fn bind(&self, values: &mut Values<'_>) -> Result<()> {
        values.push_bind(counted(self.seq));
        values.push_bind(self.head.to_vec());
        values.push_bind(amount(self.total));
        bind_at(values, &self.changed)
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        let row = Reader::new(Self::TABLE, row);
        Ok(Self { seq: row.number("seq")?, head: row.hash("head")?, total: row.amount("total")?, changed: read_at(&row)? })
    }
}
