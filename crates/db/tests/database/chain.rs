//! A chain out of numbers: blocks with events that are mostly what the contracts would emit, and forks of it.

use std::path::Path;

use quern_db::index::{Batch, Block, Change, Event, Index, IndexBinding, Place, Prices, Registration};
use quern_types::{
    Address, Amount, B256, BlockRef, Bucket, ContentCodec, ContentId, EnergyMethod, Heads, JobId, LedgerHead, ModelId, Move, PackageRoot,
    Reason, Receipt, keccak256,
};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::support::spec;

pub(crate) const FIRST: u64 = 5;

pub(crate) fn binding() -> IndexBinding {
    IndexBinding {
        chain_id: 901,
        genesis_hash: B256::repeat_byte(7),
        ledger: Address::repeat_byte(0x11),
        market: Address::repeat_byte(0x12),
        provider_registry: Address::repeat_byte(0x13),
        model_registry: Address::repeat_byte(0x14),
        first_block: FIRST,
    }
}

pub(crate) async fn open(path: &Path) -> Index {
    Index::open(path, &binding()).await.expect("the index opens")
}

/// A block with its events, and the ledger after it.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) block: Block,
    pub(crate) events: Vec<Event>,
    ledger: LedgerHead,
}

/// A chain of made blocks from `FIRST` on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain(pub(crate) Vec<Made>);

impl Chain {
    pub(crate) fn tip(&self) -> BlockRef {
        self.0.last().map_or(BlockRef { number: FIRST - 1, hash: B256::ZERO, timestamp: 0 }, |made| made.block.at)
    }

    pub(crate) fn at(&self, number: u64) -> BlockRef {
        self.0.iter().map(|made| made.block.at).find(|at| at.number == number).unwrap_or(BlockRef {
            number,
            hash: B256::ZERO,
            timestamp: 0,
        })
    }

    /// Appends a block whose hash and events follow from `seed`.
    pub(crate) fn extend(&mut self, seed: u64, events: &[u32]) {
        let parent = self.tip();
        let number = parent.number + 1;
        let hash = keccak256([parent.hash.as_slice(), &seed.to_be_bytes(), &number.to_be_bytes()].concat());
        let at = BlockRef { number, hash, timestamp: 1_700_000_000 + 2 * number };
        let mut ledger = self.0.last().map_or_else(|| LedgerHead::genesis(binding().chain_id, binding().ledger), |made| made.ledger);
        let events = (0u64..)
            .zip(events)
            .map(|(index, choice)| {
                // The same transaction may be mined again in a fork.
                let place = Place { block: at, log_index: index * 3, tx_hash: B256::with_last_byte(*choice as u8) };
                let change = change(*choice, &mut ledger, number);
                Event { place, contract: binding().market, change }
            })
            .collect();
        self.0.push(Made { block: Block { at, parent: parent.hash }, events, ledger });
    }

    /// The blocks above `number` as one batch.
    pub(crate) fn batch_above(&self, number: u64, up_to: u64, heads: Heads) -> Batch {
        let made: Vec<&Made> = self.0.iter().filter(|made| made.block.at.number > number && made.block.at.number <= up_to).collect();
        Batch {
            blocks: made.iter().map(|made| made.block).collect(),
            events: made.iter().flat_map(|made| made.events.clone()).collect(),
            heads,
        }
    }

    /// Heads with the newest block of this chain, and `finalized` below it.
    pub(crate) fn heads(&self, finalized: u64) -> Heads {
        Heads { latest: self.tip(), safe: self.at(finalized), finalized: self.at(finalized) }
    }
}

/// An event out of a number; few jobs, accounts and models, so that they meet.
pub(crate) fn change(choice: u32, ledger: &mut LedgerHead, number: u64) -> Change {
    let (kind, rest) = (choice % 24, choice / 24);
    let byte = |count: u32| u8::try_from(rest % count).expect("small") + 1;
    let job = JobId(B256::repeat_byte(byte(5)));
    let provider = Address::repeat_byte(0x20 + byte(3));
    let client = Address::repeat_byte(0x30 + byte(2));
    let model = ModelId(B256::repeat_byte(2));
    let amount = Amount::from_units(u128::from(rest) + 1);
    match kind {
        0..=3 => moved(ledger, client, Bucket::Outside, client, Bucket::Free, Amount::from_units(1_000_000), Reason::Deposit),
        4 | 5 => moved(ledger, client, Bucket::Free, client, Bucket::Escrow, amount, Reason::Escrowed),
        6 => moved(ledger, client, Bucket::Free, provider, Bucket::Free, amount, Reason::Fee),
        7 => moved(ledger, client, Bucket::Free, client, Bucket::Outside, amount, Reason::Withdrawal),
        8 | 9 => Change::JobPosted { job, client, model, max_fee: amount, posted_at: number, spec: Box::new(spec(byte(5))) },
        10 | 11 => Change::JobClaimed { job, provider, operator: client, price_bps: 9_000, deadline: number + 9, lock: amount },
        12 => Change::ReceiptSubmitted {
            job,
            provider,
            receipt_digest: B256::repeat_byte(8),
            window_end: number + 99,
            receipt: Box::new(receipt(job, provider)),
        },
        13 => Change::JobCompleted { job, provider, publisher: client, fee: amount, royalty: Amount::ZERO, change: amount },
        14 => Change::JobCancelled { job, client, refund: amount },
        15 => Change::JobUndelivered { job, client, provider, refund: amount, penalty: amount, unlocked: amount },
        16 => Change::ChallengeOpened { job, challenges_open: 1 },
        17 => Change::ChallengeDismissed { job, challenges_open: 0 },
        18 => Change::JobSlashed {
            job,
            provider,
            challenger: client,
            to_challenger: amount,
            to_client: amount,
            delayed: amount,
            refund: amount,
        },
        19 => Change::OperatorChanged { provider, operator: client },
        20 => Change::PriceListed { provider, model, prices: Prices { base: amount, input: amount, output: amount, item: amount } },
        21 => Change::PriceUnlisted { provider, model },
        22 => Change::ModelRegistered {
            model,
            publisher: client,
            package_root: PackageRoot(B256::repeat_byte(9)),
            family: 1,
            macs_per_token: u64::MAX,
            registration: Box::new(registration()),
        },
        _ => Change::ProviderAnnounced { provider, gateway: format!("http://gateway.example/{rest}\0'\"") },
    }
}

fn moved(
    ledger: &mut LedgerHead,
    from: Address,
    from_bucket: Bucket,
    to: Address,
    to_bucket: Bucket,
    amount: Amount,
    reason: Reason,
) -> Change {
    let entry = Move { seq: ledger.seq + 1, from, from_bucket, to, to_bucket, amount, reason, reference: B256::ZERO };
    *ledger = ledger.after(&entry);
    Change::Moved { entry, head: ledger.hash }
}

pub(crate) fn receipt(job_id: JobId, provider: Address) -> Receipt {
    Receipt {
        job_id,
        provider,
        output_root: B256::repeat_byte(1),
        output_len: 0,
        output: ContentId { codec: ContentCodec::DagPb, digest: B256::repeat_byte(2) },
        work_digest: B256::repeat_byte(3),
        energy_millijoules: u64::MAX,
        energy_method: EnergyMethod::Estimated,
    }
}

pub(crate) fn registration() -> Registration {
    Registration {
        header: vec![1; 40],
        weights_root: B256::repeat_byte(4),
        tokenizer_hash: B256::repeat_byte(5),
        royalty_bps: 250,
        package_codec: 0x70,
        package_digest: B256::repeat_byte(6),
        name: "MiniLM".into(),
        tags: "embedding,english".into(),
    }
}

/// Every row of every table, as text.
pub(crate) async fn dump(path: &Path) -> Vec<String> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("opens");
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'")
            .fetch_all(&mut connection)
            .await
            .expect("reads");
    assert!(tables.len() >= 13, "{tables:?}");
    let mut lines = Vec::new();
    for table in tables {
        let columns: Vec<String> =
            sqlx::query_scalar("SELECT name FROM pragma_table_info(?)").bind(&table).fetch_all(&mut connection).await.expect("reads");
        let quoted: Vec<String> = columns.iter().map(|column| format!("quote({column})")).collect();
        let sql = format!("SELECT '{table}: ' || {} FROM {table} ORDER BY 1", quoted.join(" || ', ' || "));
        lines.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("reads"));
    }
    connection.close().await.expect("closes");
    lines
}
