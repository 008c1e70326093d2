//! A fixed story in the index's words: one job from end to end, a second one just posted.

use quern_db::index::{Batch, Block, Change, Event, IndexBinding, Place, Prices, Registration};
use quern_types::{
    Address, Amount, B256, BlockRef, Bucket, ContentCodec, ContentId, EnergyMethod, Heads, JobId, JobKind, JobSpec, LedgerHead, ModelId,
    Move, PackageRoot, Reason, Receipt,
};

pub(crate) const CLIENT: Address = Address::repeat_byte(0xc1);
pub(crate) const PROVIDER: Address = Address::repeat_byte(0xf0);
const OPERATOR: Address = Address::repeat_byte(0x0e);
const PUBLISHER: Address = Address::repeat_byte(0xb0);
const MARKET: Address = Address::repeat_byte(0x12);
const LEDGER: Address = Address::repeat_byte(0x11);
pub(crate) const JOB: JobId = JobId(B256::repeat_byte(0xa1));
const SECOND_JOB: JobId = JobId(B256::repeat_byte(0xa2));
pub(crate) const MODEL: ModelId = ModelId(B256::repeat_byte(0x3d));

pub(crate) fn binding() -> IndexBinding {
    IndexBinding {
        chain_id: 901,
        genesis_hash: B256::repeat_byte(0x99),
        ledger: LEDGER,
        market: MARKET,
        provider_registry: Address::repeat_byte(0x13),
        model_registry: Address::repeat_byte(0x14),
        first_block: 10,
    }
}

pub(crate) fn tokens(count: u128) -> Amount {
    Amount::from_units(count * 1_000_000_000_000_000_000)
}

fn block(number: u64) -> BlockRef {
    let byte = u8::try_from(number).expect("small");
    BlockRef { number, hash: B256::repeat_byte(byte), timestamp: 1_800_000_000 + 2 * number }
}

pub(crate) fn spec(salt: u8) -> JobSpec {
    JobSpec {
        client: CLIENT,
        model_id: MODEL,
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
        base_price: tokens(1),
        input_price: Amount::ZERO,
        output_price: Amount::ZERO,
        item_price: tokens(2),
        ramp_floor_bps: 5_000,
        ramp_secs: 60,
        claim_by: 1_800_000_600,
        deliver_within: 300,
        designated: Address::ZERO,
        input: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(4) },
        salt: B256::repeat_byte(salt),
    }
}

pub(crate) fn receipt() -> Receipt {
    Receipt {
        job_id: JOB,
        provider: PROVIDER,
        output_root: B256::repeat_byte(5),
        output_len: 0,
        output: ContentId { codec: ContentCodec::DagPb, digest: B256::repeat_byte(6) },
        work_digest: B256::repeat_byte(7),
        energy_millijoules: 12_345,
        energy_method: EnergyMethod::Estimated,
    }
}

/// Builds blocks of changes, and the ledger's head along the way.
pub(crate) struct Teller {
    ledger: LedgerHead,
    batch: Batch,
}

impl Teller {
    pub(crate) fn new() -> Self {
        let heads = Heads { latest: block(17), safe: block(14), finalized: block(12) };
        let batch = Batch { blocks: Vec::new(), events: Vec::new(), heads };
        Self { ledger: LedgerHead::genesis(binding().chain_id, LEDGER), batch }
    }

    pub(crate) fn tell(&mut self, changes: Vec<Change>) {
        let number = 10 + self.batch.blocks.len() as u64;
        self.batch.blocks.push(Block { at: block(number), parent: block(number - 1).hash });
        for (log_index, change) in (0u64..).zip(changes) {
            let contract = if matches!(change, Change::Moved { .. }) { LEDGER } else { MARKET };
            let place = Place { block: block(number), log_index, tx_hash: B256::with_last_byte(u8::try_from(number).expect("small")) };
            self.batch.events.push(Event { place, contract, change });
        }
    }

    pub(crate) fn moved(
        &mut self,
        from: (Address, Bucket),
        to: (Address, Bucket),
        amount: Amount,
        reason: Reason,
        job: Option<JobId>,
    ) -> Change {
        let entry = Move {
            seq: self.ledger.seq + 1,
            from: from.0,
            from_bucket: from.1,
            to: to.0,
            to_bucket: to.1,
            amount,
            reason,
            reference: job.map(B256::from).unwrap_or_default(),
        };
        self.ledger = self.ledger.after(&entry);
        Change::Moved { entry, head: self.ledger.hash }
    }

    pub(crate) fn told(self) -> Batch {
        self.batch
    }
}

pub(crate) fn registration() -> Registration {
    Registration {
        header: (1..=40).collect(),
        weights_root: B256::repeat_byte(0x31),
        tokenizer_hash: B256::repeat_byte(0x32),
        royalty_bps: 500,
        package_codec: 0x70,
        package_digest: B256::repeat_byte(0x33),
        name: "all-MiniLM-L6-v2 <script>".into(),
        tags: "embedding,english".into(),
    }
}

/// The story, as one batch.
pub(crate) fn story() -> Batch {
    use Bucket::{Escrow, Free, Lock, Outside, Stake};
    let mut teller = Teller::new();
    teller.tell(vec![Change::ModelRegistered {
        model: MODEL,
        publisher: PUBLISHER,
        package_root: PackageRoot(B256::repeat_byte(0x30)),
        family: 1,
        macs_per_token: 10_616_832,
        registration: Box::new(registration()),
    }]);
    let deposits = [
        teller.moved((CLIENT, Outside), (CLIENT, Free), tokens(100), Reason::Deposit, None),
        teller.moved((PROVIDER, Outside), (PROVIDER, Free), tokens(50), Reason::Deposit, None),
        teller.moved((PROVIDER, Free), (PROVIDER, Stake), tokens(40), Reason::Staked, None),
    ];
    let prices = Prices { base: tokens(1), input: Amount::ZERO, output: Amount::ZERO, item: tokens(2) };
    teller.tell(
        deposits
            .into_iter()
            .chain([
                Change::StakeAdded { provider: PROVIDER, amount: tokens(40) },
                Change::OperatorChanged { provider: PROVIDER, operator: OPERATOR },
                Change::ProviderAnnounced { provider: PROVIDER, gateway: "http://gateway.example".into() },
                Change::PriceListed { provider: PROVIDER, model: MODEL, prices },
            ])
            .collect(),
    );
    let post = |job, salt, posted_at| Change::JobPosted {
        job,
        client: CLIENT,
        model: MODEL,
        max_fee: tokens(7),
        posted_at,
        spec: Box::new(spec(salt)),
    };
    let escrowed = teller.moved((CLIENT, Free), (CLIENT, Escrow), tokens(7), Reason::Escrowed, Some(JOB));
    teller.tell(vec![escrowed, post(JOB, 1, 1_800_000_024)]);
    let locked = teller.moved((PROVIDER, Stake), (PROVIDER, Lock), tokens(10), Reason::Locked, Some(JOB));
    let claimed = Change::JobClaimed {
        job: JOB,
        provider: PROVIDER,
        operator: OPERATOR,
        price_bps: 5_166,
        deadline: 1_800_000_326,
        lock: tokens(10),
    };
    teller.tell(vec![claimed, locked]);
    teller.tell(vec![Change::ReceiptSubmitted {
        job: JOB,
        provider: PROVIDER,
        receipt_digest: B256::repeat_byte(8),
        window_end: 1_800_000_088,
        receipt: Box::new(receipt()),
    }]);
    let (fee, royalty) = (tokens(3), tokens(1));
    let completed = Change::JobCompleted { job: JOB, provider: PROVIDER, publisher: PUBLISHER, fee, royalty, change: tokens(4) };
    let moves = [
        teller.moved((CLIENT, Escrow), (PROVIDER, Free), tokens(2), Reason::Fee, Some(JOB)),
        teller.moved((CLIENT, Escrow), (PUBLISHER, Free), tokens(1), Reason::Royalty, Some(JOB)),
        teller.moved((CLIENT, Escrow), (CLIENT, Free), tokens(4), Reason::Change, Some(JOB)),
        teller.moved((PROVIDER, Lock), (PROVIDER, Stake), tokens(10), Reason::Unlocked, Some(JOB)),
    ];
    teller.tell([completed].into_iter().chain(moves).collect());
    let escrowed = teller.moved((CLIENT, Free), (CLIENT, Escrow), tokens(7), Reason::Escrowed, Some(SECOND_JOB));
    teller.tell(vec![escrowed, post(SECOND_JOB, 2, 1_800_000_032)]);
    teller.tell(vec![]);
    teller.told()
}
