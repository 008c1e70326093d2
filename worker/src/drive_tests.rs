//! The driver against a small world that can be killed at every boundary between two effects, and whose chain reorganises.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use proptest::prelude::*;
use quern_db::journal::Step;
use quern_types::{Address, B256, ContentCodec, ContentId, EnergyMethod, JobId, JobSpec, Receipt, SignedReceipt};

use crate::{
    Error, Result,
    drive::{Entry, Hands, Intention, Output, Sent, Work, drive},
    energy::Energy,
    fixture::{DOMAIN, spec},
    life::Seen,
};

/// What happens beside us, one at each pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chance {
    Nothing,
    Seconds(u64),
    Reorg(u64),
    RivalClaims,
    ClientCancels,
    AnybodyRefunds,
    Challenge,
    Dismiss,
    Convict,
}

#[derive(Debug, Default)]
struct State {
    now: u64,
    block: u64,
    /// What the chain said after each block that changed it.
    history: Vec<(u64, Seen)>,
    /// Transactions by key, with the block that has them; `None`: in the pool.
    transactions: BTreeMap<String, (Intention, Option<(u64, bool)>)>,
    step: Option<Step>,
    work: Option<Work>,
    receipt: Option<SignedReceipt>,
    stored: bool,
    forgotten: bool,
    /// Receipts that ever left the process.
    receipts_sent: HashSet<Vec<u8>>,
    /// Transactions of ours that were mined and reverted.
    wasted: usize,
    interfered: bool,
    computed: usize,
    chances: Vec<Chance>,
    /// Boundaries until the process is killed.
    fuse: Option<usize>,
    boundaries: usize,
}

#[derive(Debug)]
struct World(Mutex<State>);

fn job() -> JobId {
    spec(1).id(&DOMAIN)
}

impl State {
    fn seen(&self) -> Seen {
        self.history.last().map_or(Seen::Absent, |(_, seen)| *seen)
    }

    /// The state after a transaction of ours, or `None` where the contract refuses it.
    fn apply(&self, intention: &Intention) -> Option<Seen> {
        match (intention, self.seen()) {
            (Intention::Claim, Seen::Open) if self.now <= spec(1).claim_by => {
                Some(Seen::Claimed { ours: true, deadline: self.now + u64::from(spec(1).deliver_within) })
            }
            (Intention::Submit(_), Seen::Claimed { ours: true, deadline }) if self.now <= deadline => {
                Some(Seen::Submitted { ours: true, window_end: self.now + 30 })
            }
            _ => None,
        }
    }

    fn set(&mut self, seen: Seen) {
        self.block += 1;
        self.now += 2;
        self.history.push((self.block, seen));
    }

    /// Everything that waits in the pool is mined, the claim before the submission: that is the order of their nonces.
    fn mine(&mut self) {
        let keys: Vec<String> = self.transactions.iter().filter(|(_, (_, mined))| mined.is_none()).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let (intention, _) = self.transactions[&key].clone();
            self.block += 1;
            self.now += 2;
            let (block, after) = (self.block, self.apply(&intention));
            if let Some(seen) = after {
                self.history.push((block, seen));
            } else {
                self.wasted += 1;
            }
            self.transactions.insert(key, (intention, Some((block, after.is_some()))));
        }
    }

    fn reorg(&mut self, depth: u64) {
        let to = self.block.saturating_sub(depth).max(1);
        if self.history.iter().any(|(block, _)| *block > to) {
            self.interfered = true;
        }
        self.history.retain(|(block, _)| *block <= to);
        for (_, mined) in self.transactions.values_mut() {
            *mined = mined.filter(|(block, _)| *block <= to);
        }
        self.block = to;
    }

    fn happen(&mut self, chance: Chance) {
        match (chance, self.seen()) {
            (Chance::Seconds(secs), _) => self.now += secs,
            (Chance::Reorg(depth), _) => self.reorg(depth),
            (Chance::RivalClaims, Seen::Open) => self.interfere(Seen::Claimed { ours: false, deadline: self.now + 60 }),
            (Chance::ClientCancels, Seen::Open) => self.interfere(Seen::Refunded { ours: false }),
            (Chance::AnybodyRefunds, Seen::Claimed { ours, deadline }) if self.now > deadline => self.set(Seen::Refunded { ours }),
            (Chance::Challenge, Seen::Submitted { ours, window_end }) if self.now <= window_end => self.set(Seen::Challenged { ours }),
            (Chance::Dismiss, Seen::Challenged { ours }) => self.set(Seen::Submitted { ours, window_end: self.now + 5 }),
            (Chance::Convict, Seen::Challenged { ours }) => self.interfere(Seen::Slashed { ours }),
            _ => {}
        }
    }

    fn interfere(&mut self, seen: Seen) {
        self.interfered = true;
        self.set(seen);
    }

    /// Without anybody's interference nothing hangs for ever: silence has its consequence, called by anyone.
    fn silence(&mut self) {
        match self.seen() {
            Seen::Open if self.now > spec(1).claim_by => self.set(Seen::Refunded { ours: false }),
            Seen::Claimed { ours, deadline } if self.now > deadline + 20 => self.set(Seen::Refunded { ours }),
            Seen::Claimed { ours: false, .. } => self.set(Seen::Submitted { ours: false, window_end: self.now + 30 }),
            Seen::Submitted { ours: false, window_end } if self.now > window_end => self.set(Seen::Completed { ours: false }),
            Seen::Challenged { ours } => self.set(Seen::Submitted { ours, window_end: self.now + 5 }),
            _ => {}
        }
    }
}

impl World {
    fn new(chances: Vec<Chance>) -> Self {
        let state = State { now: 1_000, block: 1, history: vec![(1, Seen::Open)], step: Some(Step::Accepted), chances, ..State::default() };
        Self(Mutex::new(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with the lock")
    }

    /// A boundary between two effects: here the process may be killed. Also where the promises that always hold are looked at.
    fn boundary(&self) -> Result<()> {
        let mut state = self.state();
        state.boundaries += 1;
        if matches!(state.seen(), Seen::Submitted { ours: true, .. } | Seen::Challenged { ours: true }) {
            assert!(state.stored, "a result that is attested can be fetched");
        }
        match &mut state.fuse {
            Some(0) => Err(Error::Stopping),
            Some(fuse) => {
                *fuse -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Hands for World {
    async fn entry(&self, _: JobId) -> Result<Entry> {
        self.boundary()?;
        let state = self.state();
        Ok(Entry { step: state.step.expect("journalled"), spec: spec(1), work: state.work.clone(), receipt: state.receipt.clone() })
    }

    async fn advance(&self, job: JobId, from: Step, to: Step, _: &str, fact: Option<(&'static str, Vec<u8>)>) -> Result<()> {
        self.boundary()?;
        {
            let mut state = self.state();
            let actual = state.step.expect("journalled");
            if actual != from {
                return Err(quern_db::Error::StepMoved { job, expected: from.name(), actual: actual.name() }.into());
            }
            state.step = Some(to);
            match fact {
                Some(("work", bytes)) => state.work = Some(serde_json::from_slice(&bytes).expect("work")),
                Some(("receipt", bytes)) => state.receipt = Some(serde_json::from_slice(&bytes).expect("receipt")),
                Some((other, _)) => panic!("fact {other}"),
                None => {}
            }
        }
        self.boundary()
    }

    fn look(&self, _: JobId, _: &JobSpec) -> (Seen, bool) {
        let state = self.state();
        let since = state.history.last().map_or(0, |(block, _)| *block);
        (state.seen(), since + 12 <= state.block)
    }

    fn receipt(&self, _: JobId) -> Option<Receipt> {
        self.state().receipt.as_ref().map(|signed| signed.receipt)
    }

    fn now(&self) -> u64 {
        self.state().now
    }

    async fn pause(&self, _: Option<u64>) -> Result<()> {
        self.boundary()?;
        let mut state = self.state();
        state.now += 2;
        state.block += 1;
        if let Some(chance) = state.chances.pop() {
            state.happen(chance);
        } else {
            state.silence();
        }
        state.mine();
        Ok(())
    }

    async fn reach(&self, _: u64) -> Result<()> {
        self.boundary()
    }

    async fn send(&self, _: JobId, _: &JobSpec, intention: &Intention, round: u32) -> Result<Sent> {
        self.boundary()?;
        let key = format!("{}/{round}", intention.name());
        {
            let mut state = self.state();
            if let Intention::Submit(signed) = intention {
                if let Seen::Claimed { deadline, .. } = state.seen() {
                    assert!(state.now <= deadline, "a doomed submission is not sent");
                }
                state.receipts_sent.insert(signed.signature.clone());
            }
            if !state.transactions.contains_key(&key) {
                if state.apply(intention).is_none() {
                    return Ok(Sent::Refused("JobNotInState".into()));
                }
                state.transactions.insert(key.clone(), (intention.clone(), None));
            }
        }
        // Journalled and on its way: killed here, it is mined all the same.
        self.boundary()?;
        let sent = {
            let mut state = self.state();
            state.mine();
            match state.transactions[&key].1 {
                Some((block, true)) => Sent::Done(block),
                Some((block, false)) => Sent::Reverted(block, "JobNotInState".into()),
                None => panic!("just mined"),
            }
        };
        self.boundary()?;
        Ok(sent)
    }

    async fn complete(&self, _: JobId, _: &JobSpec, _: &Receipt) -> Result<u64> {
        self.boundary()?;
        let block = {
            let mut state = self.state();
            match state.seen() {
                Seen::Submitted { ours: true, window_end } if state.now > window_end => state.set(Seen::Completed { ours: true }),
                _ => state.block += 1,
            }
            state.block
        };
        self.boundary()?;
        Ok(block)
    }

    async fn fetch(&self, _: JobId, _: &JobSpec) -> Result<Vec<Vec<u32>>> {
        self.boundary()?;
        Ok(vec![vec![1, 2, 3]])
    }

    async fn compute(&self, _: JobId, _: &JobSpec, items: Vec<Vec<u32>>) -> Result<Option<Output>> {
        self.boundary()?;
        assert_eq!(items, [[1, 2, 3]]);
        let millijoules = {
            let mut state = self.state();
            state.computed += 1;
            state.computed as u64
        };
        let work = Work {
            output_root: B256::repeat_byte(1),
            output_len: 0,
            work_root: B256::repeat_byte(2),
            energy: Energy { millijoules, method: EnergyMethod::Estimated },
            output: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(3) },
        };
        Ok(Some(Output { work, blob: vec![7] }))
    }

    async fn store(&self, _: JobId, _: &Output) -> Result<()> {
        self.boundary()?;
        self.state().stored = true;
        self.boundary()
    }

    async fn holds(&self, _: &Work) -> Result<bool> {
        self.boundary()?;
        Ok(self.state().stored)
    }

    fn sign(&self, job: JobId, work: &Work) -> SignedReceipt {
        let receipt = Receipt {
            job_id: job,
            provider: Address::repeat_byte(7),
            output_root: work.output_root,
            output_len: work.output_len,
            output: work.output,
            work_digest: work.work_root,
            energy_millijoules: work.energy.millijoules,
            energy_method: work.energy.method,
        };
        SignedReceipt { receipt, signature: receipt.digest(&DOMAIN).to_vec() }
    }

    async fn forget(&self, _: JobId, _: &Entry) -> Result<()> {
        self.boundary()?;
        let mut state = self.state();
        state.stored = false;
        state.forgotten = true;
        Ok(())
    }
}

/// Lives until the job is over: is killed after each of `fuses` boundaries, counted from the start of each life.
async fn live(world: &World, fuses: &[usize]) {
    let mut fuses = fuses.iter();
    for _ in 0..200 {
        world.state().fuse = fuses.next().copied();
        match drive(world, job()).await {
            Ok(()) => return,
            Err(Error::Stopping) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the job never ends: {:?}", world.state());
}

fn check(world: &World) -> Step {
    let state = world.state();
    let step = state.step.expect("journalled");
    let expected = match state.seen() {
        Seen::Completed { ours: true } => Step::Paid,
        Seen::Refunded { ours: true } => Step::Undelivered,
        Seen::Slashed { ours: true } => Step::Slashed,
        _ => Step::Lost,
    };
    assert_eq!(step, expected, "the journal says what the chain says");
    assert!(state.forgotten && !state.stored, "what is over is given up");
    assert!(state.receipts_sent.len() <= 1, "one receipt, whatever happened");
    let succeeded = |name: &str| {
        state.transactions.iter().filter(|(key, (_, mined))| key.starts_with(name) && matches!(mined, Some((_, true)))).count()
    };
    assert!(succeeded("claim") <= 1 && succeeded("submit") <= 1, "never sent twice");
    if !state.interfered {
        assert_eq!(state.wasted, 0, "no gas is burnt where nobody interferes");
    }
    step
}

#[tokio::test]
async fn job_is_paid_when_nothing_goes_wrong() {
    let world = World::new(Vec::new());
    live(&world, &[]).await;
    assert_eq!(check(&world), Step::Paid);
    assert_eq!(world.state().computed, 1);
}

#[tokio::test]
async fn job_is_paid_once_wherever_the_process_is_killed() {
    let whole = World::new(Vec::new());
    live(&whole, &[]).await;
    let boundaries = whole.state().boundaries;
    assert!(boundaries > 40, "{boundaries}");
    for fuse in 0..boundaries {
        let world = World::new(Vec::new());
        live(&world, &[fuse]).await;
        assert_eq!(check(&world), Step::Paid, "killed at boundary {fuse}");
        // Killed once, it computes at most twice: what was stored is not computed again.
        assert!(world.state().computed <= 2, "killed at boundary {fuse}");
    }
}

#[tokio::test]
async fn output_that_the_disk_lost_is_stored_again_before_the_receipt_leaves() {
    for fuse in 0..40 {
        let world = World::new(Vec::new());
        world.state().fuse = Some(fuse);
        let _ = drive(&world, job()).await;
        if matches!(world.state().seen(), Seen::Submitted { .. }) {
            break;
        }
        world.state().stored = false;
        // The world's promise that an attested result can be fetched is looked at at every boundary.
        live(&world, &[]).await;
        assert_eq!(check(&world), Step::Paid, "killed at {fuse}");
    }
}

#[tokio::test]
async fn job_is_paid_once_when_each_of_two_lives_is_killed() {
    for first in (0..60).step_by(3) {
        for second in 0..40 {
            let world = World::new(Vec::new());
            live(&world, &[first, second]).await;
            assert_eq!(check(&world), Step::Paid, "killed at {first}, then at {second}");
        }
    }
}

#[tokio::test]
async fn reorganisation_of_claim_and_submission_is_repaired_by_the_same_transactions() {
    for depth in 1..20 {
        let world = World::new(vec![Chance::Nothing, Chance::Reorg(depth), Chance::Nothing, Chance::Nothing]);
        live(&world, &[]).await;
        assert_eq!(check(&world), Step::Paid, "depth {depth}");
        assert_eq!(world.state().transactions.len(), 2);
        assert_eq!(world.state().computed, 1, "what was computed is kept");
    }
}

#[tokio::test]
async fn claim_lost_to_a_rival_in_a_reorganisation_is_lost_and_nothing_is_submitted_for_it() {
    let world = World::new(vec![Chance::RivalClaims, Chance::Reorg(30)]);
    live(&world, &[]).await;
    let step = check(&world);
    // The pool gives our claim back before the rival's or after it.
    assert!(matches!(step, Step::Lost | Step::Paid), "{step:?}");
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let chance = prop_oneof![
        2 => Just(Chance::Nothing),
        3 => (1u64..80).prop_map(Chance::Seconds),
        3 => (1u64..25).prop_map(Chance::Reorg),
        2 => Just(Chance::RivalClaims),
        1 => Just(Chance::ClientCancels),
        2 => Just(Chance::AnybodyRefunds),
        2 => Just(Chance::Challenge),
        2 => Just(Chance::Dismiss),
        1 => Just(Chance::Convict),
    ];
    prop::collection::vec(chance, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_journal_ends_where_the_chain_does(chances in chances(), fuses in prop::collection::vec(0usize..50, 0..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let world = World::new(chances);
        runtime.block_on(live(&world, &fuses));
        check(&world);
    }
}
