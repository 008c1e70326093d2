//! A ledger and a market that do what the contracts do, as far as events show it: what the replay is tested against.

use std::collections::HashMap;

use quern_bindings::{MarketParameters, Registration};
use quern_types::{
    Address, Amount, B256, Bucket, ContentCodec, ContentId, EnergyMethod, JobId, JobParameters, JobSpec, LedgerHead, ModelId, Move,
    PackageRoot, Reason, Receipt,
};

use super::replay::{Terms, buckets};
use crate::{
    event::{Event, Logged},
    fixture::{self, DOMAIN, block},
};

pub(super) const LEDGER: Address = Address::repeat_byte(0x1e);
pub(super) const PUBLISHER: Address = Address::repeat_byte(0xbb);
const ROYALTY_BPS: u16 = 250;
const MACS: u64 = 10_000_000;

pub(super) const TERMS: Terms = Terms {
    domain: DOMAIN,
    ledger: LEDGER,
    parameters: MarketParameters {
        job: JobParameters { challenge_window_secs: 30, min_lock: Amount::from_units(500), lock_factor_bps: 20_000, penalty_bps: 1_000 },
        extension_secs: 100,
        max_game_secs: 1_000,
        challenger_share_bps: 2_500,
        client_share_bps: 2_000,
    },
};

pub(super) fn client(n: u8) -> Address {
    Address::repeat_byte(0x10 + n)
}

pub(super) fn provider(n: u8) -> Address {
    Address::repeat_byte(0x20 + n)
}

fn operator(n: u8) -> Address {
    Address::repeat_byte(0x30 + n)
}

#[derive(Debug, Clone)]
struct Live {
    spec: JobSpec,
    posted_at: u64,
    claim: Option<(u8, u16, u64, Amount)>,
    receipt: Option<(Receipt, u64)>,
    challenged: u16,
    over: bool,
}

/// Time, money and jobs, and every event so far.
#[derive(Debug)]
pub(super) struct Simulation {
    pub(super) events: Vec<Logged>,
    pub(super) head: LedgerHead,
    pub(super) balances: HashMap<(Address, Bucket), u128>,
    jobs: Vec<Live>,
    now: u64,
    log_index: u64,
    transactions: u64,
}

/// One thing that somebody does, chosen by random numbers; what makes no sense at the moment does nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Act {
    pub(super) kind: u8,
    pub(super) who: u8,
    pub(super) job: u8,
    pub(super) secs: u16,
    pub(super) amount: u16,
}

impl Simulation {
    pub(super) fn new() -> Self {
        let mut simulation = Self {
            events: Vec::new(),
            head: LedgerHead::genesis(DOMAIN.chain_id, LEDGER),
            balances: HashMap::new(),
            jobs: Vec::new(),
            now: 1_000,
            log_index: 0,
            transactions: 0,
        };
        simulation.transaction(vec![Event::ModelRegistered {
            model_id: model(),
            publisher: PUBLISHER,
            package_root: package(),
            family: 1,
            macs_per_token: MACS,
            registration: Box::new(Registration {
                header: vec![0; 160],
                weights_root: B256::ZERO,
                tokenizer_hash: B256::ZERO,
                royalty_bps: ROYALTY_BPS,
                package_codec: 0x55,
                package_digest: B256::ZERO,
                name: "model".into(),
                tags: String::new(),
            }),
        }]);
        for n in 0..2 {
            simulation.transaction(vec![Event::OperatorChanged { provider: provider(n), operator: operator(n) }]);
            for who in [client(n), provider(n)] {
                simulation.begin();
                simulation.moved(Reason::Deposit, who, who, 1_000_000, B256::ZERO);
            }
            simulation.begin();
            simulation.log(Event::StakeAdded { provider: provider(n), amount: Amount::from_units(100_000) });
            simulation.moved(Reason::Staked, provider(n), provider(n), 100_000, B256::ZERO);
        }
        simulation
    }

    fn begin(&mut self) {
        self.transactions += 1;
    }

    fn log(&mut self, event: Event) {
        let tx = B256::left_padding_from(&self.transactions.to_be_bytes());
        self.events.push(Logged { block: block(self.now, 0), tx, log_index: self.log_index, event });
        self.log_index += 1;
    }

    fn transaction(&mut self, events: Vec<Event>) {
        self.begin();
        events.into_iter().for_each(|event| self.log(event));
    }

    fn moved(&mut self, reason: Reason, from: Address, to: Address, amount: u128, reference: B256) {
        if amount == 0 {
            return;
        }
        let (from_bucket, to_bucket) = buckets(reason);
        if from_bucket != Bucket::Outside {
            *self.balances.get_mut(&(from, from_bucket)).expect("had money") -= amount;
        }
        if to_bucket != Bucket::Outside {
            *self.balances.entry((to, to_bucket)).or_default() += amount;
        }
        let entry =
            Move { seq: self.head.seq + 1, from, from_bucket, to, to_bucket, amount: Amount::from_units(amount), reason, reference };
        self.head = self.head.after(&entry);
        self.log(Event::Moved { entry, head: self.head.hash });
    }

    fn has(&self, account: Address, bucket: Bucket) -> u128 {
        self.balances.get(&(account, bucket)).copied().unwrap_or(0)
    }

    pub(super) fn act(&mut self, act: Act) {
        self.now += u64::from(act.secs % 40);
        self.begin();
        match act.kind % 12 {
            0 | 1 => self.post(act),
            2 | 3 => self.with_job(act, Self::claim),
            4 | 5 => self.with_job(act, Self::submit),
            6 => self.with_job(act, Self::complete),
            7 => self.with_job(act, Self::give_back),
            8 => self.with_job(act, Self::challenge),
            9 => self.with_job(act, Self::judge),
            10 => self.unstake(act),
            _ => self.withdraw(act),
        }
    }

    fn with_job(&mut self, act: Act, f: fn(&mut Self, Act, usize, JobId)) {
        let live: Vec<usize> = (0..self.jobs.len()).filter(|&index| !self.jobs[index].over).collect();
        if let Some(&index) = live.get(usize::from(act.job) % live.len().max(1)) {
            let id = self.jobs[index].spec.id(&DOMAIN);
            f(self, act, index, id);
        }
    }

    fn post(&mut self, act: Act) {
        let salt = u8::try_from(self.jobs.len() % 256).expect("small");
        let client = client(act.who % 2);
        let base = Amount::from_units(u128::from(act.amount));
        let spec = JobSpec { client, model_id: model(), base_price: base, claim_by: self.now + 100, ..fixture::spec(salt) };
        let max_fee = spec.max_fee().expect("fits").units();
        if self.has(client, Bucket::Free) < max_fee || self.jobs.iter().any(|job| job.spec.salt == spec.salt) {
            return;
        }
        let (event, id) = fixture::posted(&spec, self.now);
        self.log(event);
        self.moved(Reason::Escrowed, client, client, max_fee, id.0);
        self.jobs.push(Live { spec, posted_at: self.now, claim: None, receipt: None, challenged: 0, over: false });
    }

    fn claim(&mut self, act: Act, index: usize, id: JobId) {
        let job = &self.jobs[index];
        let n = act.who % 2;
        let lock = job.spec.lock(&TERMS.parameters.job).expect("fits");
        if job.claim.is_some() || self.now > job.spec.claim_by || self.has(provider(n), Bucket::Stake) < lock.units() {
            return;
        }
        let price_bps = job.spec.price_bps(job.posted_at, self.now);
        let deadline = self.now + u64::from(job.spec.deliver_within);
        self.jobs[index].claim = Some((n, price_bps, deadline, lock));
        self.log(Event::JobClaimed { job_id: id, provider: provider(n), operator: operator(n), price_bps, deadline, lock });
        self.moved(Reason::Locked, provider(n), provider(n), lock.units(), id.0);
    }

    fn submit(&mut self, act: Act, index: usize, id: JobId) {
        let job = &self.jobs[index];
        let Some((n, _, deadline, _)) = job.claim else { return };
        if job.receipt.is_some() || self.now > deadline {
            return;
        }
        let receipt = Receipt {
            job_id: id,
            provider: provider(n),
            output_root: B256::repeat_byte(7),
            output_len: 0,
            output: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(8) },
            work_digest: B256::repeat_byte(9),
            energy_millijoules: u64::from(act.amount),
            energy_method: EnergyMethod::Estimated,
        };
        let window_end = self.now + 30;
        self.jobs[index].receipt = Some((receipt, window_end));
        let receipt_digest = receipt.digest(&DOMAIN);
        self.log(Event::ReceiptSubmitted { job_id: id, provider: provider(n), receipt_digest, window_end, receipt: Box::new(receipt) });
    }

    fn complete(&mut self, _: Act, index: usize, id: JobId) {
        let job = self.jobs[index].clone();
        let (Some((n, bps, _, lock)), Some((_, window_end))) = (job.claim, job.receipt) else { return };
        if job.challenged > 0 || self.now <= window_end {
            return;
        }
        self.jobs[index].over = true;
        let max_fee = job.spec.max_fee().expect("fits").units();
        let fee = max_fee * u128::from(bps) / 10_000;
        let royalty = fee * u128::from(ROYALTY_BPS) / 10_000;
        let (client, provider) = (job.spec.client, provider(n));
        self.log(Event::JobCompleted {
            job_id: id,
            provider,
            publisher: PUBLISHER,
            fee: Amount::from_units(fee),
            royalty: Amount::from_units(royalty),
            change: Amount::from_units(max_fee - fee),
        });
        self.moved(Reason::Fee, client, provider, fee - royalty, id.0);
        self.moved(Reason::Royalty, client, PUBLISHER, royalty, id.0);
        self.moved(Reason::Change, client, client, max_fee - fee, id.0);
        self.moved(Reason::Unlocked, provider, provider, lock.units(), id.0);
    }

    fn give_back(&mut self, act: Act, index: usize, id: JobId) {
        let job = self.jobs[index].clone();
        let max_fee = job.spec.max_fee().expect("fits");
        let client = job.spec.client;
        match job.claim {
            None if self.now > job.spec.claim_by => {
                self.log(Event::JobExpired { job_id: id, client, refund: max_fee });
                self.moved(Reason::Expired, client, client, max_fee.units(), id.0);
            }
            None if act.amount.is_multiple_of(3) => {
                self.log(Event::JobCancelled { job_id: id, client, refund: max_fee });
                self.moved(Reason::Cancelled, client, client, max_fee.units(), id.0);
            }
            Some((n, _, deadline, lock)) if job.receipt.is_none() && self.now > deadline => {
                let penalty = lock.units() / 10;
                let provider = provider(n);
                let unlocked = Amount::from_units(lock.units() - penalty);
                self.log(Event::JobUndelivered {
                    job_id: id,
                    client,
                    provider,
                    refund: max_fee,
                    penalty: Amount::from_units(penalty),
                    unlocked,
                });
                self.moved(Reason::Undelivered, client, client, max_fee.units(), id.0);
                self.moved(Reason::Penalty, provider, client, penalty, id.0);
                self.moved(Reason::Unlocked, provider, provider, unlocked.units(), id.0);
            }
            _ => return,
        }
        self.jobs[index].over = true;
    }

    fn challenge(&mut self, act: Act, index: usize, id: JobId) {
        let Some((_, window_end)) = self.jobs[index].receipt else { return };
        if self.now <= window_end && act.amount.is_multiple_of(2) {
            self.jobs[index].challenged += 1;
            self.log(Event::ChallengeOpened { job_id: id, challenges_open: self.jobs[index].challenged });
        }
    }

    fn judge(&mut self, act: Act, index: usize, id: JobId) {
        let job = self.jobs[index].clone();
        let Some((n, _, _, lock)) = job.claim else { return };
        if job.challenged == 0 {
            return;
        }
        if act.amount.is_multiple_of(2) {
            self.jobs[index].challenged -= 1;
            self.log(Event::ChallengeDismissed { job_id: id, challenges_open: job.challenged - 1 });
            return;
        }
        self.jobs[index].over = true;
        let (client, provider, challenger) = (job.spec.client, provider(n), Address::repeat_byte(0xcc));
        let max_fee = job.spec.max_fee().expect("fits");
        let (to_challenger, to_client) = (lock.units() / 4, lock.units() / 5);
        let delayed = lock.units() - to_challenger - to_client;
        let [a, b, c] = [to_challenger, to_client, delayed].map(Amount::from_units);
        self.log(Event::JobSlashed { job_id: id, provider, challenger, to_challenger: a, to_client: b, delayed: c, refund: max_fee });
        self.moved(Reason::SlashedToChallenger, provider, challenger, to_challenger, id.0);
        self.moved(Reason::SlashedToClient, provider, client, to_client, id.0);
        self.moved(Reason::SlashedDelayed, provider, Address::ZERO, delayed, id.0);
        self.moved(Reason::Voided, client, client, max_fee.units(), id.0);
    }

    fn unstake(&mut self, act: Act) {
        let provider = provider(act.who % 2);
        let amount = self.has(provider, Bucket::Stake).min(u128::from(act.amount));
        if amount > 0 {
            self.log(Event::UnbondingStarted { provider, amount: Amount::from_units(amount), unbonded_at: self.now + 500 });
            self.moved(Reason::UnbondStarted, provider, provider, amount, B256::ZERO);
        }
    }

    fn withdraw(&mut self, act: Act) {
        let who = client(act.who % 2);
        let amount = self.has(who, Bucket::Free).min(u128::from(act.amount));
        self.moved(Reason::Withdrawal, who, Address::repeat_byte(0xee), amount, B256::ZERO);
    }
}

fn package() -> PackageRoot {
    PackageRoot(B256::repeat_byte(0x99))
}

pub(super) fn model() -> ModelId {
    quern_commit::model::model_id(package(), PUBLISHER, ROYALTY_BPS)
}
