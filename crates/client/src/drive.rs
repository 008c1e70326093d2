//! A run from its plan to its results: post, wait, fetch, check, and take the money back where there is no result.
//!
//! Every look at the chain asks the same question anew: given what it says of this job, what is to be done? ([`next`], a pure table.) So a crash, a
//! restart and a reorganisation are the ordinary case: a job that a reorganisation took away is posted again, as the same job.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use quern_bindings::Revert;
use quern_chain::BlockSource;
use quern_commit::blob::OutputSet;
use quern_store::{ContentStore, GatewayConfig, GatewayStore, LayeredStore, StoreError};
use quern_types::{Head, JobId, JobState};
use tokio_util::sync::CancellationToken;

use crate::{Action, Actor, ClientError, Follower, JobLife, PlannedJob, Run, advice, fetches::Fetches, keys};

/// How a run is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveOptions {
    /// Whether to claim refunds that are due, at the cost of their gas.
    pub auto_refund: bool,
    /// Whether to wait until delivered jobs are final, and not only for their results.
    pub until_final: bool,
    /// Longest time for one block from one gateway, in milliseconds.
    pub block_timeout_ms: u64,
}

/// How a job ended, for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// There is a result, and it is what the provider attested to.
    Result(OutputSet),
    /// It never got onto the chain; no money moved.
    NotPosted(Revert),
    /// Nobody claimed it in time. The escrow is back if `refunded`, else it waits for a hand.
    Expired {
        /// Whether the escrow is back.
        refunded: bool,
    },
    /// A provider claimed it and did not deliver. The escrow (and a penalty) is back if `refunded`, else it waits for a hand.
    Undelivered {
        /// Whether the escrow is back.
        refunded: bool,
    },
    /// Its client took it back.
    Cancelled,
    /// The provider was convicted; the escrow is back.
    Slashed,
    /// The provider serves something else than it attested to; the text says what does not fit.
    WrongOutput(String),
    /// The output can be longer than what is fetched into memory.
    TooLarge {
        /// Bytes that it can have.
        bytes: u64,
        /// Bytes that are fetched at most.
        limit: u64,
    },
    /// The job is over, and nobody has its output any more.
    Lost,
}

/// Something that happened meanwhile.
#[derive(Debug)]
pub enum Update<'a> {
    /// A job was handed to the network.
    Posting(JobId),
    /// The chain says something new about a job.
    State(JobId, &'a JobLife),
    /// A reorganisation took a job off the chain; it is posted again.
    TakenBack(JobId),
    /// The output cannot be had yet.
    NotYet(JobId, &'a ClientError),
    /// A refund was asked for.
    Refunding(JobId),
    /// A job has ended.
    Ended(JobId, &'a End),
}

/// What is to be done about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Post,
    Wait,
    Fetch,
    Act(Action),
    Ended(Ending),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Result,
    Expired { refunded: bool },
    Undelivered { refunded: bool },
    Cancelled,
    Slashed,
}

/// The table: what the chain says of a job, whether its result is here, the clock of the chain.
fn next(job: Option<&JobLife>, has_output: bool, now: u64, options: DriveOptions) -> Next {
    let Some(job) = job else { return Next::Post };
    let due = advice(job, now).action;
    match job.state {
        JobState::Open | JobState::Claimed => match due {
            Some(action @ (Action::Expire | Action::RefundUndelivered)) if options.auto_refund => Next::Act(action),
            Some(Action::Expire) => Next::Ended(Ending::Expired { refunded: false }),
            Some(Action::RefundUndelivered) => Next::Ended(Ending::Undelivered { refunded: false }),
            _ => Next::Wait,
        },
        JobState::Submitted | JobState::Challenged if !has_output => Next::Fetch,
        JobState::Submitted | JobState::Challenged if options.until_final => Next::Wait,
        JobState::Completed if !has_output => Next::Fetch,
        JobState::Submitted | JobState::Challenged | JobState::Completed => Next::Ended(Ending::Result),
        JobState::Refunded => Next::Ended(match job.steps.last().map(|step| step.event) {
            Some("JobCancelled") => Ending::Cancelled,
            Some("JobUndelivered") => Ending::Undelivered { refunded: true },
            _ => Ending::Expired { refunded: true },
        }),
        JobState::Slashed => Next::Ended(Ending::Slashed),
    }
}

/// Drives a run.
pub struct Drive<'a, S> {
    /// The paying account.
    pub actor: &'a Actor,
    /// Follows the jobs of the run.
    pub follower: &'a mut Follower<S>,
    /// The store of one's own: holds the inputs, gets the outputs.
    pub store: Arc<dyn ContentStore>,
    /// Gateways to fetch from, beside the one that the provider announced.
    pub gateways: Vec<String>,
    /// How.
    pub options: DriveOptions,
}

impl<S: BlockSource> Drive<'_, S> {
    /// Goes on until every job of the run has ended, whoever began it and however often it was interrupted. `report` is told what happens.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`]; whatever makes it unsafe or pointless to go on. Jobs that were posted stay posted.
    pub async fn run(
        &mut self,
        run: &Run,
        cancel: &CancellationToken,
        report: &mut (dyn FnMut(Update<'_>) + Send),
    ) -> Result<BTreeMap<JobId, End>, ClientError> {
        self.follower.also(run.jobs.iter().map(|job| job.id));
        // What a reorganisation takes back, and what the pool forgets, is sent again.
        let sender = self.actor.sender().clone();
        let mut maintenance = tokio::spawn(async move { sender.run().await });
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ClientError::Interrupted),
            ended = &mut maintenance => Err(match ended {
                Ok(Err(error)) => error.into(),
                Ok(Ok(never)) => match never {},
                Err(_) => ClientError::Interrupted,
            }),
            ended = self.work(run, report) => ended,
        };
        maintenance.abort();
        ended
    }

    async fn work(&mut self, run: &Run, report: &mut (dyn FnMut(Update<'_>) + Send)) -> Result<BTreeMap<JobId, End>, ClientError> {
        let mut ends = BTreeMap::new();
        let mut outputs: BTreeMap<JobId, OutputSet> = BTreeMap::new();
        let mut told: BTreeMap<JobId, JobLife> = BTreeMap::new();
        let mut posting = BTreeSet::new();
        let mut fetches = Fetches::default();
        loop {
            for job in run.jobs.iter().filter(|job| !ends.contains_key(&job.id)).collect::<Vec<_>>() {
                let life = self.follower.facts().job(job.id);
                match &life {
                    Some(life) if told.get(&job.id) != Some(life) => {
                        report(Update::State(job.id, life));
                        told.insert(job.id, life.clone());
                    }
                    None if told.remove(&job.id).is_some() => report(Update::TakenBack(job.id)),
                    _ => {}
                }
                if let Some(end) = self.look(job, life.as_ref(), &mut outputs, &mut fetches, &mut posting, report).await? {
                    report(Update::Ended(job.id, &end));
                    ends.insert(job.id, end);
                }
            }
            if ends.len() == run.jobs.len() {
                return Ok(ends);
            }
            self.follower.step().await?;
        }
    }

    async fn look(
        &self,
        job: &PlannedJob,
        life: Option<&JobLife>,
        outputs: &mut BTreeMap<JobId, OutputSet>,
        fetches: &mut Fetches,
        posting: &mut BTreeSet<JobId>,
        report: &mut (dyn FnMut(Update<'_>) + Send),
    ) -> Result<Option<End>, ClientError> {
        let now = self.follower.facts().last().map_or(0, |block| block.timestamp);
        if let Some(life) = life
            && let Some(fetched) = fetches.take(job.id, life.receipt).await
        {
            match fetched {
                Ok(output) => {
                    outputs.insert(job.id, output);
                }
                // One provider's misdeed ends its own job, never the others of the run.
                Err(ClientError::WrongOutput { reason, .. }) => return Ok(Some(End::WrongOutput(reason))),
                Err(ClientError::OutputTooLarge { bytes, limit, .. }) => return Ok(Some(End::TooLarge { bytes, limit })),
                Err(ClientError::Store(error)) if is_ours(&error) => return Err(error.into()),
                Err(ClientError::Store(_)) if life.state.is_terminal() => return Ok(Some(End::Lost)),
                Err(error @ ClientError::Store(_)) => report(Update::NotYet(job.id, &error)),
                Err(error) => return Err(error),
            }
        }
        match next(life, outputs.contains_key(&job.id), now, self.options) {
            Next::Wait => Ok(None),
            Next::Post => match self.actor.post(job.id, &job.spec).await {
                Ok(sent) => {
                    if sent && posting.insert(job.id) {
                        report(Update::Posting(job.id));
                    }
                    Ok(None)
                }
                Err(ClientError::Refused { revert, .. }) => Ok(Some(End::NotPosted(revert))),
                Err(error) => Err(error),
            },
            Next::Fetch => {
                let Some(life) = life else { return Ok(None) };
                let shape = self.follower.facts().output_shape(life.spec.model_id)?;
                fetches.begin(job.id, life, shape, Arc::new(self.store_for(life)?));
                Ok(None)
            }
            Next::Act(action) => {
                self.refund(job, action, report).await?;
                Ok(None)
            }
            Next::Ended(ending) => Ok(Some(match ending {
                // The table ends so only where the output is here.
                Ending::Result => outputs.remove(&job.id).map_or(End::Lost, End::Result),
                Ending::Expired { refunded } => End::Expired { refunded },
                Ending::Undelivered { refunded } => End::Undelivered { refunded },
                Ending::Cancelled => End::Cancelled,
                Ending::Slashed => End::Slashed,
            })),
        }
    }

    async fn refund(&self, job: &PlannedJob, action: Action, report: &mut (dyn FnMut(Update<'_>) + Send)) -> Result<(), ClientError> {
        let market = self.actor.market();
        let (key, call) = match action {
            Action::Expire => (keys::expire(job.id), market.expire(&job.spec)?),
            _ => (keys::refund(job.id), market.refund_undelivered(&job.spec)?),
        };
        report(Update::Refunding(job.id));
        match self.actor.act("refunding the job", &key, &call, Head::Latest).await {
            // Somebody else was faster, or the chain went back: the next look tells.
            Ok(_) | Err(ClientError::Refused { revert: Revert::JobNotInState(_) | Revert::DeadlineNotPassed(_), .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Our own store, and behind it the gateways that may have the job's output: the provider's first.
    fn store_for(&self, job: &JobLife) -> Result<LayeredStore, ClientError> {
        let announced =
            job.claim.and_then(|claim| self.follower.facts().providers().remove(&claim.provider)).map(|provider| provider.gateway);
        // TRUST: a provider may announce anything; what is no address of a gateway is left out.
        let usable = |url: &String| GatewayStore::new(&GatewayConfig { gateways: vec![url.clone()], block_timeout_ms: 1 }).is_ok();
        let mut gateways: Vec<String> = announced.into_iter().filter(usable).collect();
        gateways.extend(self.gateways.iter().filter(|url| !gateways.contains(url)).cloned().collect::<Vec<_>>());
        layered(self.store.clone(), gateways, self.options.block_timeout_ms)
    }
}

/// Whether an error of the store is about this machine, and so stops everything; else it is about what a provider serves.
fn is_ours(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Full { .. }
            | StoreError::DiskFull { .. }
            | StoreError::ReadOnly { .. }
            | StoreError::Io { .. }
            | StoreError::Layout { .. }
            | StoreError::KuboDisagrees { .. }
    )
}

/// A store of one's own with gateways behind it.
///
/// # Errors
/// A gateway's address cannot be used.
pub fn layered(local: Arc<dyn ContentStore>, gateways: Vec<String>, block_timeout_ms: u64) -> Result<LayeredStore, ClientError> {
    let remote = GatewayStore::new(&GatewayConfig { gateways, block_timeout_ms })?;
    Ok(LayeredStore::new(local, Arc::new(remote)))
}

#[cfg(test)]
mod tests {
    use quern_types::{Address, Amount, B256, BlockRef};

    use super::*;
    use crate::{Claim, JobStep, fixture};

    fn job(state: JobState, last: &'static str) -> JobLife {
        let spec = fixture::spec();
        let block = BlockRef { number: 1, hash: B256::ZERO, timestamp: 1 };
        JobLife {
            spec,
            state,
            steps: vec![JobStep { event: last, tx: B256::ZERO, block }],
            posted_at: 50,
            max_fee: Amount::ZERO,
            claim: Some(Claim { provider: Address::ZERO, operator: Address::ZERO, price_bps: 1, deadline: 200, lock: Amount::ZERO }),
            receipt: None,
            window_end: Some(300),
            settled: None,
        }
    }

    fn options(auto_refund: bool, until_final: bool) -> DriveOptions {
        DriveOptions { auto_refund, until_final, block_timeout_ms: 1 }
    }

    #[test]
    fn every_state_of_the_chain_has_its_next_step() {
        use JobState as S;
        let plain = options(false, false);
        let table = [
            (S::Open, "JobPosted", false, 100, Next::Wait),
            (S::Open, "JobPosted", false, 101, Next::Ended(Ending::Expired { refunded: false })),
            (S::Claimed, "JobClaimed", false, 200, Next::Wait),
            (S::Claimed, "JobClaimed", false, 201, Next::Ended(Ending::Undelivered { refunded: false })),
            (S::Submitted, "ReceiptSubmitted", false, 250, Next::Fetch),
            (S::Submitted, "ReceiptSubmitted", true, 250, Next::Ended(Ending::Result)),
            (S::Challenged, "ChallengeOpened", false, 250, Next::Fetch),
            (S::Completed, "JobCompleted", false, 400, Next::Fetch),
            (S::Completed, "JobCompleted", true, 400, Next::Ended(Ending::Result)),
            (S::Refunded, "JobCancelled", false, 400, Next::Ended(Ending::Cancelled)),
            (S::Refunded, "JobExpired", false, 400, Next::Ended(Ending::Expired { refunded: true })),
            (S::Refunded, "JobUndelivered", false, 400, Next::Ended(Ending::Undelivered { refunded: true })),
            (S::Slashed, "JobSlashed", true, 400, Next::Ended(Ending::Slashed)),
        ];
        for (state, last, has_output, now, expected) in table {
            assert_eq!(next(Some(&job(state, last)), has_output, now, plain), expected, "{state:?} at {now}");
        }
    }

    #[test]
    fn job_that_is_not_on_the_chain_is_posted() {
        assert_eq!(next(None, false, 0, options(false, false)), Next::Post);
        assert_eq!(next(None, true, 9_999, options(true, true)), Next::Post, "whatever we knew: the chain decides");
    }

    #[test]
    fn refunds_are_claimed_only_where_asked_for_and_due() {
        let auto = options(true, false);
        assert_eq!(next(Some(&job(JobState::Open, "JobPosted")), false, 101, auto), Next::Act(Action::Expire));
        assert_eq!(next(Some(&job(JobState::Claimed, "JobClaimed")), false, 201, auto), Next::Act(Action::RefundUndelivered));
        assert_eq!(next(Some(&job(JobState::Claimed, "JobClaimed")), false, 200, auto), Next::Wait);
    }

    #[test]
    fn result_waits_for_the_final_state_where_asked_for() {
        let finals = options(false, true);
        assert_eq!(next(Some(&job(JobState::Submitted, "ReceiptSubmitted")), true, 250, finals), Next::Wait);
        assert_eq!(next(Some(&job(JobState::Completed, "JobCompleted")), true, 400, finals), Next::Ended(Ending::Result));
    }
}
