//! What a person should know about a job: what happens next, until when, who acts, and which money waits for a hand.

use quern_types::{Amount, JobState};
use serde::Serialize;

use crate::JobLife;

/// Who can move a job on now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// A provider, by claiming or delivering.
    Provider,
    /// Anyone, the client included: a deadline has passed.
    Anyone,
    /// Nobody before a deadline; auditors may challenge.
    Auditors,
    /// The dispute game.
    Game,
    /// Nobody: it is over.
    Nobody,
}

/// A call that the client can make now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Take the job back; only while nobody has claimed it.
    Cancel,
    /// Get the escrow back: nobody claimed in time.
    Expire,
    /// Get the escrow back, and a part of the provider's stake: it did not deliver.
    RefundUndelivered,
    /// Pay the provider and get the change.
    Complete,
}

/// Where a job stands, seen from its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Advice {
    /// Who can move it on.
    pub who: Who,
    /// What the client can do about it now, if anything.
    pub action: Option<Action>,
    /// When that changes by itself, Unix seconds.
    pub deadline: Option<u64>,
    /// Seconds until then; 0 where it has passed.
    pub seconds_left: Option<u64>,
    /// Money of the client that the action frees, in the smallest unit; zero where it frees none.
    pub reclaimable: Amount,
}

/// What to do about a job in second `now` of the chain.
pub fn advice(job: &JobLife, now: u64) -> Advice {
    let waits = |who, action, deadline: u64, reclaimable| Advice {
        who,
        action,
        deadline: Some(deadline),
        seconds_left: Some(deadline.saturating_sub(now)),
        reclaimable,
    };
    let over = Advice { who: Who::Nobody, action: None, deadline: None, seconds_left: None, reclaimable: Amount::ZERO };
    match job.state {
        JobState::Open if now > job.spec.claim_by => waits(Who::Anyone, Some(Action::Expire), job.spec.claim_by, job.max_fee),
        JobState::Open => waits(Who::Provider, Some(Action::Cancel), job.spec.claim_by, job.max_fee),
        JobState::Claimed => match job.claim {
            Some(claim) if now > claim.deadline => waits(Who::Anyone, Some(Action::RefundUndelivered), claim.deadline, job.max_fee),
            Some(claim) => waits(Who::Provider, None, claim.deadline, Amount::ZERO),
            None => over,
        },
        JobState::Submitted => match job.window_end {
            Some(end) if now > end => {
                let fee =
                    job.claim.and_then(|claim| job.spec.fee(job.receipt.map_or(0, |receipt| receipt.output_len), claim.price_bps).ok());
                let change = fee.map_or(Amount::ZERO, |fee| job.max_fee.saturating_sub(fee));
                waits(Who::Anyone, Some(Action::Complete), end, change)
            }
            Some(end) => waits(Who::Auditors, None, end, Amount::ZERO),
            None => over,
        },
        JobState::Challenged => Advice { who: Who::Game, ..over },
        JobState::Completed | JobState::Refunded | JobState::Slashed => over,
    }
}

#[cfg(test)]
mod tests {
    use quern_types::{Address, B256, ContentCodec, ContentId, EnergyMethod, JobId, JobSpec, Receipt};

    use super::*;
    use crate::{Claim, fixture};

    fn job(state: JobState) -> JobLife {
        let content = ContentId { codec: ContentCodec::Raw, digest: B256::ZERO };
        let spec = JobSpec {
            item_count: 2,
            input_len: 10,
            base_price: Amount::from_units(100),
            ramp_floor_bps: 5_000,
            ramp_secs: 10,
            claim_by: 1_000,
            input: content,
            ..fixture::spec()
        };
        let claim = Claim { provider: Address::ZERO, operator: Address::ZERO, price_bps: 6_000, deadline: 1_100, lock: Amount::ZERO };
        let receipt = Receipt {
            job_id: JobId::default(),
            provider: Address::ZERO,
            output_root: B256::ZERO,
            output_len: 0,
            output: content,
            work_digest: B256::ZERO,
            energy_millijoules: 0,
            energy_method: EnergyMethod::Estimated,
        };
        JobLife {
            spec,
            state,
            steps: Vec::new(),
            posted_at: 900,
            max_fee: Amount::from_units(100),
            claim: Some(claim),
            receipt: Some(receipt),
            window_end: Some(1_200),
            settled: None,
        }
    }

    #[test]
    fn advice_changes_in_the_second_after_each_deadline() {
        let hundred = Amount::from_units(100);
        let table = [
            (JobState::Open, 1_000, Who::Provider, Some(Action::Cancel), hundred),
            (JobState::Open, 1_001, Who::Anyone, Some(Action::Expire), hundred),
            (JobState::Claimed, 1_100, Who::Provider, None, Amount::ZERO),
            (JobState::Claimed, 1_101, Who::Anyone, Some(Action::RefundUndelivered), hundred),
            (JobState::Submitted, 1_200, Who::Auditors, None, Amount::ZERO),
            (JobState::Submitted, 1_201, Who::Anyone, Some(Action::Complete), Amount::from_units(40)),
            (JobState::Challenged, 5_000, Who::Game, None, Amount::ZERO),
            (JobState::Completed, 5_000, Who::Nobody, None, Amount::ZERO),
            (JobState::Refunded, 5_000, Who::Nobody, None, Amount::ZERO),
            (JobState::Slashed, 5_000, Who::Nobody, None, Amount::ZERO),
        ];
        for (state, now, who, action, reclaimable) in table {
            let found = advice(&job(state), now);
            assert_eq!((found.who, found.action, found.reclaimable), (who, action, reclaimable), "{state:?} at {now}");
        }
    }

    #[test]
    fn seconds_left_never_go_below_zero() {
        assert_eq!(advice(&job(JobState::Open), 990).seconds_left, Some(10));
        assert_eq!(advice(&job(JobState::Open), 9_999).seconds_left, Some(0));
    }
}
