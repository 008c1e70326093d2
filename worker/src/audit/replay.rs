//! The ledger, derived again from events alone, to one unit.
//!
//! Three things are checked of every entry: that it follows the one before (number and hash), that the money was there, and that an event of the module
//! that made it says the same amount, which is itself derived again from the job's specification, the deployment's parameters and the blocks' clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use quern_bindings::MarketParameters;
use quern_types::{Address, Amount, B256, Bucket, Domain, LedgerHead, ModelId, Move, Reason};

use super::{
    Difference,
    jobs::{Due, JobAccount},
};
use crate::event::{Event, Logged};

/// What a replay must know beside the events: where the contracts are and the immutable parameters of `JobMarket`.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Chain and market.
    pub domain: Domain,
    /// The Ledger.
    pub ledger: Address,
    /// As the deployment file has them.
    pub parameters: MarketParameters,
}

/// A registered model, as far as money depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ModelTerms {
    pub(super) publisher: Address,
    pub(super) royalty_bps: u16,
    pub(super) family: u8,
}

/// The state that events lead to.
#[derive(Debug)]
pub struct Replay {
    pub(super) terms: Terms,
    head: LedgerHead,
    balances: BTreeMap<(Address, Bucket), Amount>,
    /// The last entry that touched a balance.
    touched: HashMap<(Address, Bucket), u64>,
    pub(super) jobs: HashMap<quern_types::JobId, JobAccount>,
    pub(super) models: HashMap<ModelId, ModelTerms>,
    pub(super) operators: HashMap<Address, Address>,
    unbonded_at: HashMap<Address, u64>,
    transaction: Transaction,
}

/// Entries and module events of one transaction, until its end: a module may log before or after it moves.
#[derive(Debug, Default)]
struct Transaction {
    hash: B256,
    block: u64,
    entries: Vec<Move>,
    due: Vec<Due>,
}

impl Replay {
    /// Before the first entry.
    pub fn new(terms: Terms) -> Self {
        Self {
            head: LedgerHead::genesis(terms.domain.chain_id, terms.ledger),
            terms,
            balances: BTreeMap::new(),
            touched: HashMap::new(),
            jobs: HashMap::new(),
            models: HashMap::new(),
            operators: HashMap::new(),
            unbonded_at: HashMap::new(),
            transaction: Transaction::default(),
        }
    }

    /// The head after the last entry.
    pub const fn head(&self) -> LedgerHead {
        self.head
    }

    /// What an account has in a bucket.
    pub fn balance(&self, account: Address, bucket: Bucket) -> Amount {
        self.balances.get(&(account, bucket)).copied().unwrap_or_default()
    }

    /// Every balance that was ever touched, by account and bucket.
    pub fn balances(&self) -> impl Iterator<Item = (Address, Bucket, Amount)> {
        self.balances.iter().map(|(&(account, bucket), &amount)| (account, bucket, amount))
    }

    /// The last entry that changed a balance.
    pub fn last_touched(&self, account: Address, bucket: Bucket) -> Option<u64> {
        self.touched.get(&(account, bucket)).copied()
    }

    /// Accounts that ever had a balance.
    pub fn accounts(&self) -> usize {
        self.balances.keys().map(|(account, _)| account).collect::<BTreeSet<_>>().len()
    }

    /// Jobs posted.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Sum of all buckets; `None` past 128 bits, which no honest ledger reaches.
    pub fn total(&self) -> Option<Amount> {
        self.balances.values().try_fold(Amount::ZERO, |sum, amount| sum.checked_add(*amount))
    }

    /// Takes the next event, in the order of the chain.
    ///
    /// # Errors
    /// The first difference. Nothing after it means anything.
    pub fn apply(&mut self, logged: &Logged) -> Result<(), Difference> {
        if self.transaction.hash != logged.tx {
            self.settle()?;
            self.transaction.hash = logged.tx;
            self.transaction.block = logged.block.number;
        }
        match &logged.event {
            Event::Moved { entry, head } => self.entry(entry, *head, logged),
            Event::Unreadable { signature, reason } => {
                Err(self.differs(logged, &format!("the event {signature}"), "one that can be read", reason))
            }
            event => {
                let due = self.module_event(event, logged)?;
                self.transaction.due.extend(due.into_iter().filter(|due| !due.amount.is_zero()));
                Ok(())
            }
        }
    }

    /// After the last event: closes the last transaction.
    ///
    /// # Errors
    /// As [`Replay::apply`].
    pub fn finish(&mut self) -> Result<(), Difference> {
        self.settle()
    }

    /// One entry: number, hash, buckets, money.
    fn entry(&mut self, entry: &Move, stated: B256, logged: &Logged) -> Result<(), Difference> {
        let at = |what: &str, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| Difference {
            seq: Some(entry.seq.min(self.head.seq + 1)),
            block: Some(logged.block.number),
            job: None,
            what: what.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        };
        let seq = self.head.seq + 1;
        if entry.seq != seq {
            return Err(at("number of the entry", &seq, &entry.seq));
        }
        let after = self.head.after(entry);
        if after.hash != stated {
            return Err(at("head after the entry, hashed from its fields and the head before", &after.hash_text(), &format!("{stated:?}")));
        }
        let (from, to) = buckets(entry.reason);
        if (entry.from_bucket, entry.to_bucket) != (from, to) {
            let text = |from: Bucket, to: Bucket| format!("{} to {}", from.name(), to.name());
            return Err(at(
                &format!("buckets of a move for {}", entry.reason.name()),
                &text(from, to),
                &text(entry.from_bucket, entry.to_bucket),
            ));
        }
        if entry.amount.is_zero() {
            return Err(at("amount", &"more than 0", &0));
        }
        if stays(entry.reason) && entry.from != entry.to {
            return Err(at(&format!("account credited by {}", entry.reason.name()), &entry.from, &entry.to));
        }
        if ownerless(to) != (entry.to == Address::ZERO) {
            return Err(at(&format!("account of the bucket {}", to.name()), &if ownerless(to) { "0" } else { "an owner" }, &entry.to));
        }
        if from != Bucket::Outside {
            let balance = self.balances.entry((entry.from, from)).or_default();
            let had = *balance;
            let Some(left) = had.checked_sub(entry.amount) else {
                return Err(at(&format!("{} of {} debited", from.name(), entry.from), &format!("at most {had}"), &entry.amount));
            };
            *balance = left;
            self.touched.insert((entry.from, from), seq);
        }
        if to != Bucket::Outside {
            let balance = self.balances.entry((entry.to, to)).or_default();
            let had = *balance;
            let Some(sum) = had.checked_add(entry.amount) else {
                return Err(at(&format!("{} of {} credited", to.name(), entry.to), &"a sum of at most 128 bits", &entry.amount));
            };
            *balance = sum;
            self.touched.insert((entry.to, to), seq);
        }
        self.head = after;
        self.transaction.entries.push(*entry);
        Ok(())
    }

    /// What an event of a module says about money.
    fn module_event(&mut self, event: &Event, logged: &Logged) -> Result<Vec<Due>, Difference> {
        let now = logged.block.timestamp;
        let own = |account: Address, reason: Reason, amount: Amount| {
            vec![Due { reference: B256::ZERO, reason, from: account, to: account, amount }]
        };
        Ok(match event {
            Event::StakeAdded { provider, amount } => own(*provider, Reason::Staked, *amount),
            Event::UnbondingStarted { provider, amount, unbonded_at } => {
                self.unbonded_at.insert(*provider, *unbonded_at);
                own(*provider, Reason::UnbondStarted, *amount)
            }
            Event::UnbondingCancelled { provider, amount } => own(*provider, Reason::UnbondCancelled, *amount),
            Event::StakeWithdrawn { provider, amount } => {
                let unbonded_at = self.unbonded_at.get(provider).copied().unwrap_or(u64::MAX);
                if now <= unbonded_at {
                    return Err(self.differs(logged, "time of a withdrawal of stake", &format!("after {unbonded_at}"), &now));
                }
                own(*provider, Reason::Unbonded, *amount)
            }
            Event::OperatorChanged { provider, operator } => {
                self.operators.insert(*provider, *operator);
                Vec::new()
            }
            Event::ModelRegistered { model_id, publisher, package_root, family, registration, .. } => {
                let id = quern_commit::model::model_id(*package_root, *publisher, registration.royalty_bps);
                if id != *model_id {
                    return Err(self.differs(logged, "id of a registered model", &id, model_id));
                }
                let terms = ModelTerms { publisher: *publisher, royalty_bps: registration.royalty_bps, family: *family };
                if self.models.insert(*model_id, terms).is_some() {
                    return Err(self.differs(logged, "registrations of one model", &1, &2));
                }
                Vec::new()
            }
            event if event.job_id().is_some() => self.job_event(event, logged)?,
            _ => Vec::new(),
        })
    }

    /// Ends a transaction: what its module events say and what its entries moved must be the same, entry by entry.
    fn settle(&mut self) -> Result<(), Difference> {
        let Transaction { block, entries, mut due, .. } = std::mem::take(&mut self.transaction);
        for entry in entries {
            if given_by_nobody_we_know(entry.reason) {
                continue;
            }
            let same_place = |due: &Due| (due.reference, due.reason) == (entry.reference, entry.reason);
            let exact =
                due.iter().position(|due| same_place(due) && (due.from, due.to, due.amount) == (entry.from, entry.to, entry.amount));
            if let Some(index) = exact {
                due.swap_remove(index);
                continue;
            }
            let job = (!entry.reference.is_zero()).then_some(quern_types::JobId(entry.reference));
            let difference = |what: String, expected: String, found: String| Difference {
                seq: Some(entry.seq),
                block: Some(block),
                job,
                what,
                expected,
                found,
            };
            let name = entry.reason.name();
            return Err(match due.iter().find(|due| same_place(due)) {
                None => difference(format!("a move for {name}"), "an event in its transaction that says so".into(), "none".into()),
                Some(due) if due.amount != entry.amount => {
                    difference(format!("amount of {name}"), due.amount.to_string(), entry.amount.to_string())
                }
                Some(due) => difference(
                    format!("accounts of {name}"),
                    format!("{} to {}", due.from, due.to),
                    format!("{} to {}", entry.from, entry.to),
                ),
            });
        }
        match due.first() {
            None => Ok(()),
            Some(due) => Err(Difference {
                seq: Some(self.head.seq + 1),
                block: Some(block),
                job: (!due.reference.is_zero()).then_some(quern_types::JobId(due.reference)),
                what: format!("a move for {}, which an event of its transaction announces", due.reason.name()),
                expected: due.amount.to_string(),
                found: "none".into(),
            }),
        }
    }

    pub(super) fn differs(
        &self,
        logged: &Logged,
        what: &str,
        expected: &(impl std::fmt::Display + ?Sized),
        found: &(impl std::fmt::Display + ?Sized),
    ) -> Difference {
        Difference {
            // A module may log before or after it moves: where its entries are not here yet, the next one is at fault.
            seq: Some(self.transaction.entries.first().map_or(self.head.seq + 1, |entry| entry.seq)),
            block: Some(logged.block.number),
            job: logged.event.job_id(),
            what: what.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

/// Text of a head for a message.
trait HashText {
    fn hash_text(&self) -> String;
}

impl HashText for LedgerHead {
    fn hash_text(&self) -> String {
        format!("{:?}", self.hash)
    }
}

/// The buckets that a reason moves between (PROTOCOL, section 5).
pub(super) const fn buckets(reason: Reason) -> (Bucket, Bucket) {
    use Bucket::{Bond, Delayed, Escrow, Free, Lock, Outside, Stake, Unbonding};
    match reason {
        Reason::Deposit => (Outside, Free),
        Reason::Withdrawal => (Free, Outside),
        Reason::Escrowed => (Free, Escrow),
        Reason::Cancelled | Reason::Expired | Reason::Undelivered | Reason::Fee | Reason::Royalty | Reason::Change | Reason::Voided => {
            (Escrow, Free)
        }
        Reason::Penalty | Reason::SlashedToChallenger | Reason::SlashedToClient => (Lock, Free),
        Reason::Locked => (Stake, Lock),
        Reason::Unlocked => (Lock, Stake),
        Reason::Staked => (Free, Stake),
        Reason::UnbondStarted => (Stake, Unbonding),
        Reason::UnbondCancelled => (Unbonding, Stake),
        Reason::Unbonded => (Unbonding, Free),
        Reason::BondPosted => (Free, Bond),
        Reason::BondReturned | Reason::BondLost => (Bond, Free),
        Reason::SlashedDelayed => (Lock, Delayed),
    }
}

/// Whether the money stays with its account.
const fn stays(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Deposit
            | Reason::Withdrawal
            | Reason::Penalty
            | Reason::Fee
            | Reason::Royalty
            | Reason::BondLost
            | Reason::SlashedToChallenger
            | Reason::SlashedToClient
            | Reason::SlashedDelayed
    )
}

const fn ownerless(bucket: Bucket) -> bool {
    matches!(bucket, Bucket::Burned | Bucket::Delayed | Bucket::RewardPool)
}

/// Deposits and withdrawals are the Ledger's own; bonds are the dispute game's, whose events belong to a later release.
const fn given_by_nobody_we_know(reason: Reason) -> bool {
    matches!(reason, Reason::Deposit | Reason::Withdrawal | Reason::BondPosted | Reason::BondReturned | Reason::BondLost)
}
