//! The rules of a job's money (PROTOCOL, section 3), derived again for every event of `JobMarket`.

use std::fmt::{Debug, Display};

use quern_types::{Address, Amount, B256, JobId, JobSpec, JobState, Reason, Receipt};

use super::{Difference, replay::Replay};
use crate::event::{Event, Logged};

/// A move that an event says was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) reference: B256,
    pub(super) reason: Reason,
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) amount: Amount,
}

/// What the events so far say of a job.
#[derive(Debug, Clone)]
pub(super) struct JobAccount {
    spec: JobSpec,
    max_fee: Amount,
    posted_at: u64,
    state: JobState,
    claim: Option<Claim>,
    window_end: u64,
    output_len: u64,
    challenges_open: u16,
    extended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    provider: Address,
    price_bps: u16,
    deadline: u64,
    lock: Amount,
}

/// Compares facts of one event and remembers where they stand.
struct Check<'a> {
    replay: &'a Replay,
    logged: &'a Logged,
}

impl Check<'_> {
    fn equal<T: PartialEq + Debug>(&self, what: &str, expected: T, found: T) -> Result<(), Difference> {
        if expected == found {
            Ok(())
        } else {
            Err(self.replay.differs(self.logged, what, &format!("{expected:?}"), &format!("{found:?}")))
        }
    }

    fn holds(&self, holds: bool, what: &str, expected: impl Display, found: impl Display) -> Result<(), Difference> {
        if holds { Ok(()) } else { Err(self.replay.differs(self.logged, what, &expected.to_string(), &found.to_string())) }
    }

    fn state(&self, job: &JobAccount, allowed: &[JobState]) -> Result<(), Difference> {
        self.holds(allowed.contains(&job.state), "state of the job before the event", format!("{allowed:?}"), job.state.name())
    }

    fn claim(&self, job: &JobAccount) -> Result<Claim, Difference> {
        job.claim.ok_or_else(|| self.replay.differs(self.logged, "claim of the job", "one", "none"))
    }

    fn amount<E: Display>(&self, result: Result<Amount, E>) -> Result<Amount, Difference> {
        result.map_err(|error| self.replay.differs(self.logged, "money of the job", "amounts of at most 96 bits", &error.to_string()))
    }

    fn share(&self, of: Amount, bps: u16) -> Result<Amount, Difference> {
        self.amount(of.bps_floor(bps).ok_or("more than 128 bits"))
    }
}

impl Replay {
    /// Checks an event of `JobMarket`, takes the job to its next state, and says which moves must stand beside it.
    pub(super) fn job_event(&mut self, event: &Event, logged: &Logged) -> Result<Vec<Due>, Difference> {
        let Some(id) = event.job_id() else { return Ok(Vec::new()) };
        // Says that nothing happened; whoever likes names jobs in it that were never posted.
        if matches!(event, Event::CompletionSkipped { .. }) {
            return Ok(Vec::new());
        }
        let (job, due) = {
            let check = Check { replay: self, logged };
            match event {
                Event::JobPosted { spec, client, model_id, max_fee, posted_at, .. } => {
                    check.holds(!self.jobs.contains_key(&id), "postings of one job", 1, 2)?;
                    self.posted(&check, id, spec, (*client, *model_id), *max_fee, *posted_at)?
                }
                event => {
                    let Some(job) = self.jobs.get(&id) else {
                        return Err(self.differs(
                            logged,
                            &format!("{} of a job", event.name()),
                            "a job that was posted",
                            "one that was not",
                        ));
                    };
                    self.moved_on(&check, id, job.clone(), event)?
                }
            }
        };
        self.jobs.insert(id, job);
        Ok(due)
    }

    fn posted(
        &self,
        check: &Check<'_>,
        id: JobId,
        spec: &JobSpec,
        (client, model_id): (Address, quern_types::ModelId),
        max_fee: Amount,
        posted_at: u64,
    ) -> Result<(JobAccount, Vec<Due>), Difference> {
        let now = check.logged.block.timestamp;
        check.equal("id of the job, hashed from its specification", spec.id(&self.terms.domain), id)?;
        check.equal("client", spec.client, client)?;
        check.equal("model", spec.model_id, model_id)?;
        check.equal("time of posting", now, posted_at)?;
        check.holds(now <= spec.claim_by, "time of posting", format!("at most claimBy, {}", spec.claim_by), now)?;
        if let Err(fault) = spec.validate() {
            return Err(self.differs(check.logged, "specification of the job", "one within bounds", &fault));
        }
        let family = self.models.get(&model_id).map(|model| model.family);
        check.equal("family of the job's model", Some(spec.kind.code()), family)?;
        let expected = check.amount(spec.max_fee())?;
        check.equal("maximum fee of the job", expected, max_fee)?;
        let job = JobAccount {
            spec: spec.clone(),
            max_fee,
            posted_at,
            state: JobState::Open,
            claim: None,
            window_end: 0,
            output_len: 0,
            challenges_open: 0,
            extended: false,
        };
        Ok((job, vec![Due { reference: id.0, reason: Reason::Escrowed, from: client, to: client, amount: max_fee }]))
    }

    fn moved_on(&self, check: &Check<'_>, id: JobId, mut job: JobAccount, event: &Event) -> Result<(JobAccount, Vec<Due>), Difference> {
        let now = check.logged.block.timestamp;
        let client = job.spec.client;
        let due = |reason, from, to, amount| Due { reference: id.0, reason, from, to, amount };
        let back = |reason, amount| due(reason, client, client, amount);
        let moves = match event {
            Event::JobClaimed { provider, operator, price_bps, deadline, lock, .. } => {
                check.state(&job, &[JobState::Open])?;
                check.holds(now <= job.spec.claim_by, "time of the claim", format!("at most {}", job.spec.claim_by), now)?;
                let designated = job.spec.designated;
                check.holds(designated.is_zero() || designated == *provider, "provider of a designated job", designated, provider)?;
                check.equal("operator of the provider", self.operators.get(provider).copied().unwrap_or_default(), *operator)?;
                check.equal("price share that the claim fixes", job.spec.price_bps(job.posted_at, now), *price_bps)?;
                check.equal("delivery deadline", now.saturating_add(u64::from(job.spec.deliver_within)), *deadline)?;
                let expected = check.amount(job.spec.lock(&self.terms.parameters.job))?;
                check.equal("lock of the claim", expected, *lock)?;
                job.claim = Some(Claim { provider: *provider, price_bps: *price_bps, deadline: *deadline, lock: *lock });
                job.state = JobState::Claimed;
                vec![due(Reason::Locked, *provider, *provider, *lock)]
            }
            Event::ReceiptSubmitted { provider, receipt_digest, window_end, receipt, .. } => {
                check.state(&job, &[JobState::Claimed])?;
                let claim = check.claim(&job)?;
                check.equal("provider of the receipt", claim.provider, *provider)?;
                check.holds(now <= claim.deadline, "time of the submission", format!("at most {}", claim.deadline), now)?;
                self.receipt(check, id, &job, claim, receipt, *receipt_digest)?;
                check.equal(
                    "end of the challenge window",
                    now.saturating_add(u64::from(self.terms.parameters.job.challenge_window_secs)),
                    *window_end,
                )?;
                job.window_end = *window_end;
                job.output_len = receipt.output_len;
                job.state = JobState::Submitted;
                Vec::new()
            }
            Event::JobCompleted { provider, publisher, fee, royalty, change, .. } => {
                check.state(&job, &[JobState::Submitted])?;
                check.holds(now > job.window_end, "time of the completion", format!("after {}", job.window_end), now)?;
                let claim = check.claim(&job)?;
                let model = self.models.get(&job.spec.model_id).copied();
                let Some(model) = model else { return Err(self.differs(check.logged, "model of the job", "a registered one", "none")) };
                check.equal("provider", claim.provider, *provider)?;
                check.equal("publisher", model.publisher, *publisher)?;
                let expected = check.amount(job.spec.fee(job.output_len, claim.price_bps))?;
                check.equal("fee of the job", expected, *fee)?;
                check.equal("royalty of the job", check.share(*fee, model.royalty_bps)?, *royalty)?;
                check.equal("change of the job", job.max_fee.checked_sub(*fee), Some(*change))?;
                job.state = JobState::Completed;
                vec![
                    due(Reason::Fee, client, *provider, fee.saturating_sub(*royalty)),
                    due(Reason::Royalty, client, *publisher, *royalty),
                    back(Reason::Change, *change),
                    due(Reason::Unlocked, *provider, *provider, claim.lock),
                ]
            }
            Event::JobCancelled { refund, .. } => {
                check.state(&job, &[JobState::Open])?;
                check.equal("refund", job.max_fee, *refund)?;
                job.state = JobState::Refunded;
                vec![back(Reason::Cancelled, *refund)]
            }
            Event::JobExpired { refund, .. } => {
                check.state(&job, &[JobState::Open])?;
                check.holds(now > job.spec.claim_by, "time of the expiry", format!("after {}", job.spec.claim_by), now)?;
                check.equal("refund", job.max_fee, *refund)?;
                job.state = JobState::Refunded;
                vec![back(Reason::Expired, *refund)]
            }
            Event::JobUndelivered { provider, refund, penalty, unlocked, .. } => {
                check.state(&job, &[JobState::Claimed])?;
                let claim = check.claim(&job)?;
                check.holds(now > claim.deadline, "time of the refund", format!("after {}", claim.deadline), now)?;
                check.equal("provider", claim.provider, *provider)?;
                check.equal("refund", job.max_fee, *refund)?;
                check.equal("penalty", check.share(claim.lock, self.terms.parameters.job.penalty_bps)?, *penalty)?;
                check.equal("unlocked stake", claim.lock.checked_sub(*penalty), Some(*unlocked))?;
                job.state = JobState::Refunded;
                vec![
                    back(Reason::Undelivered, *refund),
                    due(Reason::Penalty, *provider, client, *penalty),
                    due(Reason::Unlocked, *provider, *provider, *unlocked),
                ]
            }
            Event::ChallengeOpened { challenges_open, .. } => {
                check.state(&job, &[JobState::Submitted, JobState::Challenged])?;
                check.equal("open challenges", job.challenges_open.checked_add(1), Some(*challenges_open))?;
                job.challenges_open = *challenges_open;
                job.state = JobState::Challenged;
                Vec::new()
            }
            Event::ChallengeDismissed { challenges_open, .. } => {
                check.state(&job, &[JobState::Challenged])?;
                check.equal("open challenges", job.challenges_open.checked_sub(1), Some(*challenges_open))?;
                job.challenges_open = *challenges_open;
                job.state = if *challenges_open == 0 { JobState::Submitted } else { JobState::Challenged };
                Vec::new()
            }
            Event::WindowExtended { window_end, .. } => {
                check.state(&job, &[JobState::Submitted, JobState::Challenged])?;
                check.equal("extensions of one window", false, job.extended)?;
                let expected = job.window_end.max(now.saturating_add(u64::from(self.terms.parameters.extension_secs)));
                check.equal("end of the extended window", expected, *window_end)?;
                job.window_end = *window_end;
                job.extended = true;
                Vec::new()
            }
            Event::JobSlashed { provider, challenger, to_challenger, to_client, delayed, refund, .. } => {
                check.state(&job, &[JobState::Challenged])?;
                let claim = check.claim(&job)?;
                check.equal("provider", claim.provider, *provider)?;
                check.equal("challenger's share", check.share(claim.lock, self.terms.parameters.challenger_share_bps)?, *to_challenger)?;
                check.equal("client's share", check.share(claim.lock, self.terms.parameters.client_share_bps)?, *to_client)?;
                let rest = claim.lock.checked_sub(*to_challenger).and_then(|rest| rest.checked_sub(*to_client));
                check.equal("delayed share", rest, Some(*delayed))?;
                check.equal("refund", job.max_fee, *refund)?;
                job.state = JobState::Slashed;
                vec![
                    due(Reason::SlashedToChallenger, *provider, *challenger, *to_challenger),
                    due(Reason::SlashedToClient, *provider, client, *to_client),
                    due(Reason::SlashedDelayed, *provider, Address::ZERO, *delayed),
                    back(Reason::Voided, *refund),
                ]
            }
            // A posting and what is skipped were dealt with by the caller.
            _ => Vec::new(),
        };
        Ok((job, moves))
    }

    fn receipt(
        &self,
        check: &Check<'_>,
        id: JobId,
        job: &JobAccount,
        claim: Claim,
        receipt: &Receipt,
        digest: B256,
    ) -> Result<(), Difference> {
        check.equal("job of the receipt", id, receipt.job_id)?;
        check.equal("provider in the receipt", claim.provider, receipt.provider)?;
        check.equal("digest of the receipt, hashed from its fields", receipt.digest(&self.terms.domain), digest)?;
        let most = u64::from(job.spec.max_output) * u64::from(job.spec.output_count());
        check.holds(receipt.output_len <= most, "output length of the receipt", format!("at most {most}"), receipt.output_len)
    }
}
