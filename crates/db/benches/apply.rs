//! How fast batches go into the index: 200,000 events in batches of 5,000, each batch one transaction with raw rows, projections and cursor.
//!
//! `cargo bench -p quern-db --bench apply`. Two mixes: whole lives of jobs (nine events each, 100 providers, two balances per move), and bare events with
//! one aggregate row per provider, which is what other indexers are measured with.
#![allow(clippy::print_stdout, reason = "the figure is the result")]

use std::time::Instant;

use quern_db::index::{Batch, Block, Change, Event, Index, IndexBinding, Place};
use quern_types::{
    Address, Amount, B256, BlockRef, Bucket, ContentCodec, ContentId, EnergyMethod, Heads, JobId, JobKind, JobSpec, LedgerHead, ModelId,
    Move, Reason, Receipt, keccak256,
};

const EVENTS: usize = 200_000;
const EVENTS_PER_BLOCK: usize = 100;
const BLOCKS_PER_BATCH: usize = 50;
const PROVIDERS: usize = 100;
const CHAIN: u64 = 901;
const LEDGER: Address = Address::repeat_byte(0x11);

fn address(kind: u8, number: usize) -> Address {
    let mut bytes = [kind; 20];
    bytes[12..].copy_from_slice(&(number as u64).to_be_bytes());
    Address::from(bytes)
}

fn spec(number: usize) -> JobSpec {
    JobSpec {
        client: address(1, number % 1_000),
        model_id: ModelId(B256::repeat_byte(2)),
        kind: JobKind::Embed,
        item_count: 3,
        samples_per_item: 1,
        input_root: B256::repeat_byte(3),
        input_len: 40,
        max_output: 0,
        stop_ids: [0; 8],
        temperature: 0,
        min_p: 0,
        seed: B256::ZERO,
        base_price: Amount::from_units(100),
        input_price: Amount::ZERO,
        output_price: Amount::ZERO,
        item_price: Amount::from_units(10),
        ramp_floor_bps: 5_000,
        ramp_secs: 100,
        claim_by: 1_900_000_000,
        deliver_within: 60,
        designated: Address::ZERO,
        input: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(4) },
        salt: keccak256((number as u64).to_be_bytes()),
    }
}

struct Lives {
    ledger: LedgerHead,
}

impl Lives {
    fn moved(&mut self, from: (Address, Bucket), to: (Address, Bucket), reason: Reason, job: JobId) -> Change {
        let amount = Amount::from_units(1_000);
        let (seq, reference) = (self.ledger.seq + 1, job.0);
        let entry = Move { seq, from: from.0, from_bucket: from.1, to: to.0, to_bucket: to.1, amount, reason, reference };
        self.ledger = self.ledger.after(&entry);
        Change::Moved { entry, head: self.ledger.hash }
    }

    /// The nine events of job number `number`.
    fn life(&mut self, number: usize) -> [Change; 9] {
        let job = JobId(keccak256((number as u64).to_le_bytes()));
        let (spec, provider) = (spec(number), address(2, number % PROVIDERS));
        let (client, model) = (spec.client, spec.model_id);
        let amount = Amount::from_units(1_000);
        let receipt = Receipt {
            job_id: job,
            provider,
            output_root: B256::repeat_byte(5),
            output_len: 0,
            output: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(6) },
            work_digest: B256::repeat_byte(7),
            energy_millijoules: 1_000,
            energy_method: EnergyMethod::Measured,
        };
        [
            self.moved((client, Bucket::Outside), (client, Bucket::Free), Reason::Deposit, job),
            self.moved((client, Bucket::Free), (client, Bucket::Escrow), Reason::Escrowed, job),
            Change::JobPosted { job, client, model, max_fee: amount, posted_at: 1_800_000_000, spec: Box::new(spec) },
            Change::JobClaimed { job, provider, operator: provider, price_bps: 10_000, deadline: 1_800_000_060, lock: Amount::ZERO },
            Change::ReceiptSubmitted { job, provider, receipt_digest: job.0, window_end: 1_800_000_090, receipt: Box::new(receipt) },
            Change::JobCompleted { job, provider, publisher: client, fee: amount, royalty: Amount::ZERO, change: Amount::ZERO },
            self.moved((client, Bucket::Escrow), (provider, Bucket::Free), Reason::Fee, job),
            self.moved((provider, Bucket::Free), (provider, Bucket::Stake), Reason::Staked, job),
            self.moved((provider, Bucket::Stake), (provider, Bucket::Unbonding), Reason::UnbondStarted, job),
        ]
    }
}

fn batches(changes: Vec<Change>) -> Vec<Batch> {
    let mut blocks = Vec::new();
    let mut parent = B256::ZERO;
    for (index, changes) in changes.chunks(EVENTS_PER_BLOCK).enumerate() {
        let number = 1 + index as u64;
        let at = BlockRef { number, hash: keccak256(number.to_be_bytes()), timestamp: 1_800_000_000 + 2 * number };
        let events: Vec<Event> = (0u64..)
            .zip(changes)
            .map(|(log_index, change)| {
                let tx_hash = keccak256([number.to_be_bytes(), log_index.to_be_bytes()].concat());
                Event { place: Place { block: at, log_index, tx_hash }, contract: LEDGER, change: change.clone() }
            })
            .collect();
        blocks.push((Block { at, parent }, events));
        parent = at.hash;
    }
    let tip = blocks.last().map_or(BlockRef { number: 0, hash: B256::ZERO, timestamp: 0 }, |(block, _)| block.at);
    let heads = Heads { latest: tip, safe: tip, finalized: tip };
    blocks
        .chunks(BLOCKS_PER_BATCH)
        .map(|chunk| Batch {
            blocks: chunk.iter().map(|(block, _)| *block).collect(),
            events: chunk.iter().flat_map(|(_, events)| events.clone()).collect(),
            heads,
        })
        .collect()
}

async fn measure(name: &str, changes: Vec<Change>) -> Result<(), Box<dyn std::error::Error>> {
    let count = changes.len();
    let batches = batches(changes);
    let folder = tempfile::tempdir()?;
    let address = Address::ZERO;
    let binding = IndexBinding {
        chain_id: CHAIN,
        genesis_hash: B256::ZERO,
        ledger: LEDGER,
        market: address,
        provider_registry: address,
        model_registry: address,
        first_block: 1,
    };
    let index = Index::open(&folder.path().join("index.db"), &binding).await?;
    let begun = Instant::now();
    let mut alarms = 0;
    for batch in &batches {
        alarms += index.apply(batch).await?.alarms.len();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let audit = index.audit().await?;
    let audited = begun.elapsed().as_secs_f64();
    println!(
        "{name}: {count} events in {seconds:.2} s = {:.0} events/s; {alarms} alarms; audit of {} entries in {audited:.2} s, {} differences",
        count as f64 / seconds,
        audit.entries,
        audit.differences.len()
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut lives = Lives { ledger: LedgerHead::genesis(CHAIN, LEDGER) };
    let whole: Vec<Change> = (0..EVENTS / 9).flat_map(|number| lives.life(number)).collect();
    measure("whole lives of jobs", whole).await?;
    let bare = (0..EVENTS).map(|i| Change::StakeAdded { provider: address(2, i % PROVIDERS), amount: Amount::from_units(i as u128) });
    measure("bare events, one aggregate per provider", bare.collect()).await
}
