//! The keeper's chores: what silence means for jobs of others, called for them. Earns nothing and costs gas, so it is off by default.

use std::{sync::Arc, time::Duration};

use quern_bindings::abi::JobMarket;
use quern_chain::sender::{Call, Outcome};
use quern_types::{Head, JobId, JobSpec, JobState, Receipt};

use crate::{Result, desk::Desk};

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(10);
/// Seconds that the parties themselves get before a stranger acts for them.
const GRACE_SECS: u64 = 30;

/// What silence means for a job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chore {
    /// Nobody claimed it in time.
    Expire,
    /// It was not delivered in time.
    Refund,
    /// Nobody challenged it in time.
    Complete,
}

impl Chore {
    const fn name(self) -> &'static str {
        match self {
            Self::Expire => "expire",
            Self::Refund => "refund",
            Self::Complete => "complete-for",
        }
    }

    /// The chore that a job in this state needs; `over` is the last second in which a party could act.
    const fn of(state: JobState) -> Option<Self> {
        match state {
            JobState::Open => Some(Self::Expire),
            JobState::Claimed => Some(Self::Refund),
            JobState::Submitted => Some(Self::Complete),
            JobState::Challenged | JobState::Completed | JobState::Refunded | JobState::Slashed => None,
        }
    }
}

struct Due {
    job: JobId,
    chore: Chore,
    spec: Arc<JobSpec>,
    receipt: Option<Arc<Receipt>>,
    /// Block of the last transition: a chore that a reorganisation undid is a new one.
    since: u64,
}

/// Does chores until the worker stops. What fails is tried again, if it is still due.
pub(crate) async fn run(desk: Arc<Desk>) {
    loop {
        tokio::select! {
            () = desk.stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        for due in due(&desk) {
            if let Err(error) = carry_out(&desk, &due).await {
                tracing::warn!(job = %due.job, chore = due.chore.name(), error = error.chain(), "chore.failed");
            }
            if desk.stop.is_cancelled() {
                return;
            }
        }
    }
}

fn due(desk: &Desk) -> Vec<Due> {
    let now = desk.watch.now();
    let view = desk.watch.view();
    let ours = desk.config.provider;
    view.jobs()
        .filter_map(|(job, seen)| {
            let chore = Chore::of(seen.state)?;
            let over = match chore {
                Chore::Expire => seen.spec.claim_by,
                Chore::Refund => seen.deadline,
                Chore::Complete => seen.window_end,
            };
            // Our own completions have their driver; nobody refunds a job against itself.
            let mine = seen.claimant.is_some_and(|(provider, _)| provider == ours);
            let is_due = !mine && now > over.saturating_add(GRACE_SECS);
            is_due.then(|| Due { job, chore, spec: seen.spec.clone(), receipt: seen.receipt.clone(), since: seen.since.number })
        })
        .collect()
}

async fn carry_out(desk: &Desk, due: &Due) -> Result<()> {
    let rejected = |error: quern_bindings::ConvertError| crate::Error::Rejected {
        job: due.job,
        intention: due.chore.name().into(),
        revert: error.to_string(),
    };
    let spec = JobMarket::JobSpec::try_from(&*due.spec).map_err(rejected)?;
    let call = match (due.chore, &due.receipt) {
        (Chore::Expire, _) => Call::new(desk.market(), &JobMarket::expireCall { spec }),
        (Chore::Refund, _) => Call::new(desk.market(), &JobMarket::refundUndeliveredCall { spec }),
        (Chore::Complete, Some(receipt)) => Call::new(desk.market(), &JobMarket::completeCall { spec, receipt: (&**receipt).into() }),
        (Chore::Complete, None) => return Ok(()),
    };
    let key = format!("{}/{}/{}", due.chore.name(), due.job, due.since);
    match desk.sender.send(&key, &call, Head::Latest).await? {
        Outcome::Done(receipt) => tracing::info!(job = %due.job, chore = due.chore.name(), tx = %receipt.tx_hash, "chore.done"),
        Outcome::Reverted { revert, .. } | Outcome::Refused { revert } => {
            tracing::debug!(job = %due.job, chore = due.chore.name(), %revert, "chore.not_needed");
        }
    }
    Ok(())
}
