//! Whether to take an open job, as a pure function: no clock, no chain, no disk.

use std::fmt;

use quern_types::{Address, Amount, JobKind, JobParameters, JobSpec, SpecError};
use serde::Serialize;

use quern_bindings::Prices;

/// What is known of a job's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputState {
    /// Nobody has looked yet.
    Unknown {
        /// Milliseconds that so many ids take here at least, if the model computes all of them.
        millis: u64,
    },
    /// It is here and matches root, length and number of items.
    Checked {
        /// Milliseconds that the job takes here, at most.
        millis: u64,
        /// Bytes of the keys and values of its longest sequence.
        kv_bytes: u64,
    },
}

/// What the worker can do for the job's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelState {
    /// The model id is registered by nobody that the canonical chain knows.
    Unregistered,
    /// We do not have the package.
    NotHeld,
    /// We have it, and its hashes, or those of another package of ours, are being checked.
    Unverified,
    /// We have it, every hash of it was checked, and it is loaded. The family's kind of job.
    Ready { kind: JobKind },
}

/// What the jobs in hand still need, computed side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Backlog {
    /// Milliseconds until all of them are computed, at most.
    pub(crate) millis: u64,
    /// Seconds until the first of them must be delivered; `None`: none must.
    pub(crate) first_secs: Option<u64>,
}

/// Everything that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    /// The job.
    pub(crate) spec: &'a JobSpec,
    /// When it was posted, Unix seconds.
    pub(crate) posted_at: u64,
    /// The least timestamp that the next block can have, Unix seconds.
    pub(crate) now: u64,
    /// The provider that we work for.
    pub(crate) provider: Address,
    /// Whether it has named our key as its operator.
    pub(crate) is_operator: bool,
    /// The model.
    pub(crate) model: ModelState,
    /// Share of the fee that goes to the model's publisher, in 1/10,000.
    pub(crate) royalty_bps: u16,
    /// What we ask for it, after the royalty; `None`: the provider takes no jobs of this model.
    pub(crate) prices: Option<Prices>,
    /// Terms of the deployment.
    pub(crate) parameters: &'a JobParameters,
    /// Stake behind no job, less what our claims under way will lock.
    pub(crate) free_stake: Amount,
    /// Native balance of the operator is above the reserve.
    pub(crate) has_gas: bool,
    /// Jobs claimed or being claimed and not yet submitted.
    pub(crate) jobs_in_hand: usize,
    /// Most of them at a time.
    pub(crate) max_jobs: usize,
    /// Longest input that is fetched, in ids.
    pub(crate) max_input_len: u64,
    /// The input.
    pub(crate) input: InputState,
    /// The jobs in hand; `None`: it is not known yet what they need.
    pub(crate) backlog: Option<Backlog>,
    /// Most ids that all outputs of a job may have together.
    pub(crate) max_output_len: u64,
    /// Bytes that the keys and values of a sequence may take.
    pub(crate) kv_limit: u64,
    /// Bytes of memory that are free now.
    pub(crate) free_bytes: u64,
    /// Seconds that storing, submitting and being included may take, kept free before the deadline.
    pub(crate) margin_secs: u64,
}

/// What to do about an open job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Not ours to take.
    Refuse(Refusal),
    /// Nothing before this second: then the price has risen to ours.
    WaitUntil(u64),
    /// Nothing until something of ours changes (stake, gas, jobs in hand).
    Hold(Refusal),
    /// Fetch and check the input, then ask again.
    FetchInput,
    /// Claim it now.
    Claim,
}

/// Why a job is not taken. Its text goes to the log, once, and to `quern worker status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Refusal {
    /// It is for another provider.
    Designated {
        /// That provider.
        provider: Address,
    },
    /// The specification is outside the protocol's bounds: the contract would not have taken it.
    Malformed {
        /// The first fault.
        fault: String,
    },
    /// Nobody registered the model.
    ModelUnregistered,
    /// The package is not among `--package`, or was not the registered one.
    ModelNotHeld,
    /// The package, or another one of this worker, is being verified.
    Unverified,
    /// The model's family does not do this kind of job.
    KindNotOfModel,
    /// No price is configured for the model.
    NoPrice,
    /// Even the client's maximum is below our price, once the publisher has had its royalty.
    PriceTooLow {
        /// The client's maximum for this job, less the royalty.
        offered: Amount,
        /// What we ask.
        asked: Amount,
    },
    /// The price reaches ours only after the last second to claim.
    RisesTooLate {
        /// Unix second in which it would pay.
        pays_at: u64,
        /// Last second to claim.
        claim_by: u64,
    },
    /// The time to claim it is over.
    ClaimTimeOver {
        /// Last second to claim.
        claim_by: u64,
    },
    /// The input is longer than the worker takes.
    InputTooLong {
        /// Its ids.
        ids: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// The outputs may be longer than the worker takes.
    OutputTooLong {
        /// Ids that all outputs can have together.
        ids: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// A sequence of the job needs more memory for its keys and values than there is.
    CacheTooLarge {
        /// Bytes of the longest sequence.
        bytes: u64,
        /// Bytes that one may take.
        limit: u64,
    },
    /// A sequence of the job needs more memory for its keys and values than is free now.
    MemoryTooLow {
        /// Bytes of the longest sequence.
        bytes: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The input cannot be fetched, or what was fetched is not what the job commits to.
    InputUnavailable {
        /// What happened.
        fault: String,
    },
    /// It cannot be done in time, even alone.
    TooSlow {
        /// Seconds that it needs, margin and jobs in hand included.
        needed_secs: u64,
        /// Seconds that the job gives.
        given_secs: u64,
    },
    /// With it, a job in hand could not be done in time.
    WouldDelay {
        /// Seconds that it and the jobs in hand need together, margin included.
        needed_secs: u64,
        /// Seconds until the first of them must be delivered.
        left_secs: u64,
    },
    /// What the jobs in hand need is not known: after a start their inputs are read first.
    BacklogUnknown,
    /// Not enough free stake for the lock.
    StakeTooLow {
        /// Free stake, less claims under way.
        free: Amount,
        /// What the claim locks.
        lock: Amount,
    },
    /// The operator cannot pay for the transactions to come.
    GasTooLow,
    /// As many jobs are in hand as may be.
    Busy {
        /// That many.
        jobs: usize,
    },
    /// The operator key is not the one that the provider has named.
    NotOperator,
    /// The claim was refused by the contract.
    ClaimReverted {
        /// Its error.
        fault: String,
    },
}

impl Refusal {
    /// One word for metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Designated { .. } => "designated",
            Self::Malformed { .. } => "malformed",
            Self::ModelUnregistered => "model-unregistered",
            Self::ModelNotHeld => "model-not-held",
            Self::Unverified => "unverified",
            Self::KindNotOfModel => "kind-not-of-model",
            Self::NoPrice => "no-price",
            Self::PriceTooLow { .. } => "price-too-low",
            Self::RisesTooLate { .. } => "rises-too-late",
            Self::ClaimTimeOver { .. } => "claim-time-over",
            Self::InputTooLong { .. } => "input-too-long",
            Self::OutputTooLong { .. } => "output-too-long",
            Self::CacheTooLarge { .. } => "cache-too-large",
            Self::MemoryTooLow { .. } => "memory-too-low",
            Self::InputUnavailable { .. } => "input-unavailable",
            Self::TooSlow { .. } => "too-slow",
            Self::WouldDelay { .. } => "would-delay",
            Self::BacklogUnknown => "backlog-unknown",
            Self::StakeTooLow { .. } => "stake-too-low",
            Self::GasTooLow => "gas-too-low",
            Self::Busy { .. } => "busy",
            Self::NotOperator => "not-operator",
            Self::ClaimReverted { .. } => "claim-reverted",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Designated { provider } => write!(f, "it is for provider {provider} only"),
            Self::Malformed { fault } => write!(f, "its specification is out of bounds: {fault}"),
            Self::ModelUnregistered => f.write_str("nobody registered its model"),
            Self::ModelNotHeld => f.write_str("its model is not held here: import the package and name it with --package"),
            Self::Unverified => f.write_str("its package is being verified, or another one that this worker was given"),
            Self::KindNotOfModel => f.write_str("its kind is not what the model's family does"),
            Self::NoPrice => f.write_str("no price is set for its model: set one in the worker's configuration"),
            Self::PriceTooLow { offered, asked } => write!(f, "it pays at most {offered} units after the royalty, we ask {asked}"),
            Self::RisesTooLate { pays_at, claim_by } => {
                write!(f, "its price reaches ours at {pays_at}, after the last second to claim, {claim_by}")
            }
            Self::ClaimTimeOver { claim_by } => write!(f, "the time to claim it ended at {claim_by}"),
            Self::InputTooLong { ids, limit } => write!(f, "its input has {ids} ids, more than the {limit} that are taken here"),
            Self::OutputTooLong { ids, limit } => {
                write!(f, "its outputs may have {ids} ids, more than the {limit} that are taken here (--max-output-len)")
            }
            Self::CacheTooLarge { bytes, limit } => {
                write!(
                    f,
                    "the keys and values of its longest sequence take {bytes} bytes, more than the {limit} that there are (--kv-limit-bytes)"
                )
            }
            Self::MemoryTooLow { bytes, free } => {
                write!(f, "the keys and values of its longest sequence take {bytes} bytes, and {free} are free now: end other programs")
            }
            Self::InputUnavailable { fault } => write!(f, "its input cannot be had: {fault}"),
            Self::TooSlow { needed_secs, given_secs } => {
                write!(f, "it needs {needed_secs} s here, with margin and jobs in hand, and gives {given_secs} s")
            }
            Self::WouldDelay { needed_secs, left_secs } => {
                write!(
                    f,
                    "with it, the jobs in hand need {needed_secs} s here, with margin, and the first of them must be delivered in {left_secs} s"
                )
            }
            Self::BacklogUnknown => f.write_str("it is not known yet how long the jobs in hand take: their inputs are being read"),
            Self::StakeTooLow { free, lock } => write!(f, "free stake {free} is less than the lock {lock}: stake more"),
            Self::GasTooLow => f.write_str("the operator's gas balance is below the reserve: fund it"),
            Self::Busy { jobs } => write!(f, "{jobs} jobs are in hand, as many as may be"),
            Self::NotOperator => f.write_str("the operator key is not the one that the provider has registered"),
            Self::ClaimReverted { fault } => write!(f, "the contract refused the claim: {fault}"),
        }
    }
}

/// Takes the decision. Cheap questions first; the input is only fetched for a job that would be taken if it were there.
pub(crate) fn decide(q: &Question<'_>) -> Decision {
    match judge(q) {
        Ok(decision) => decision,
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn judge(q: &Question<'_>) -> Result<Decision, Refusal> {
    let spec = q.spec;
    spec.validate().map_err(|fault| Refusal::Malformed { fault: fault.to_string() })?;
    if spec.designated != Address::ZERO && spec.designated != q.provider {
        return Err(Refusal::Designated { provider: spec.designated });
    }
    match q.model {
        ModelState::Unregistered => return Err(Refusal::ModelUnregistered),
        ModelState::NotHeld => return Err(Refusal::ModelNotHeld),
        ModelState::Unverified => return Ok(Decision::Hold(Refusal::Unverified)),
        ModelState::Ready { kind } if kind != spec.kind => return Err(Refusal::KindNotOfModel),
        ModelState::Ready { .. } => {}
    }
    if spec.input_len > q.max_input_len {
        return Err(Refusal::InputTooLong { ids: spec.input_len, limit: q.max_input_len });
    }
    let most_output = u64::from(spec.max_output).saturating_mul(spec.output_count().into());
    if most_output > q.max_output_len {
        return Err(Refusal::OutputTooLong { ids: most_output, limit: q.max_output_len });
    }
    if q.now > spec.claim_by {
        return Err(Refusal::ClaimTimeOver { claim_by: spec.claim_by });
    }
    let pays_at = earliest_paying_second(spec, q.posted_at, &q.prices.ok_or(Refusal::NoPrice)?, q.royalty_bps)?;
    if pays_at > spec.claim_by {
        return Err(Refusal::RisesTooLate { pays_at, claim_by: spec.claim_by });
    }
    let given_secs = u64::from(spec.deliver_within);
    let millis = match q.input {
        // Before the input is known. What its length alone rules out is not fetched: nobody pays for the room that it takes.
        InputState::Unknown { millis } => millis,
        InputState::Checked { kv_bytes, .. } if kv_bytes > q.kv_limit => {
            return Err(Refusal::CacheTooLarge { bytes: kv_bytes, limit: q.kv_limit });
        }
        InputState::Checked { millis, .. } => millis,
    };
    let alone_secs = millis.div_ceil(1_000).saturating_add(q.margin_secs);
    if alone_secs > given_secs {
        return Err(Refusal::TooSlow { needed_secs: alone_secs, given_secs });
    }
    if q.now < pays_at {
        return Ok(Decision::WaitUntil(pays_at));
    }
    if !q.is_operator {
        return Ok(Decision::Hold(Refusal::NotOperator));
    }
    let lock = spec.lock(q.parameters).map_err(|fault| Refusal::Malformed { fault: fault.to_string() })?;
    if q.free_stake < lock {
        return Ok(Decision::Hold(Refusal::StakeTooLow { free: q.free_stake, lock }));
    }
    if !q.has_gas {
        return Ok(Decision::Hold(Refusal::GasTooLow));
    }
    if q.jobs_in_hand >= q.max_jobs {
        return Ok(Decision::Hold(Refusal::Busy { jobs: q.jobs_in_hand }));
    }
    if let InputState::Checked { kv_bytes, .. } = q.input
        && kv_bytes > q.free_bytes
    {
        return Ok(Decision::Hold(Refusal::MemoryTooLow { bytes: kv_bytes, free: q.free_bytes }));
    }
    let Some(backlog) = q.backlog else { return Ok(Decision::Hold(Refusal::BacklogUnknown)) };
    // INVARIANT: jobs in hand are computed side by side, so each may take as long as all together. Whatever the order, all are done in time if all
    // together are done before the first must be delivered.
    let needed_secs = backlog.millis.saturating_add(millis).div_ceil(1_000).saturating_add(q.margin_secs);
    if needed_secs > given_secs {
        return Ok(Decision::Hold(Refusal::TooSlow { needed_secs, given_secs }));
    }
    if let Some(left_secs) = backlog.first_secs.filter(|left| needed_secs > *left) {
        return Ok(Decision::Hold(Refusal::WouldDelay { needed_secs, left_secs }));
    }
    Ok(match q.input {
        InputState::Unknown { .. } => Decision::FetchInput,
        InputState::Checked { .. } => Decision::Claim,
    })
}

/// The first second in which a claim fixes a price that leaves us at least what we ask, whatever length the output will have.
///
/// What is compared is what the contract pays the provider: the fee less the publisher's royalty. Anybody can register a package that we hold under any
/// royalty, so what the client pays says nothing. Fee and ask are linear in the output's length, so a price that suffices for none and for the most
/// suffices for every length between. ROUNDING: where there is a royalty, fee and royalty are each rounded, and between the two ends one unit may be missing.
///
/// # Errors
/// [`Refusal::PriceTooLow`] where even the maximum is below our price.
pub(crate) fn earliest_paying_second(spec: &JobSpec, posted_at: u64, prices: &Prices, royalty_bps: u16) -> Result<u64, Refusal> {
    let malformed = |fault: SpecError| Refusal::Malformed { fault: fault.to_string() };
    // Our own price in the words of a job, so that one formula serves both sides.
    let ours = JobSpec {
        base_price: prices.base,
        input_price: prices.input,
        output_price: prices.output,
        item_price: prices.item,
        ..spec.clone()
    };
    let most_output = u64::from(spec.max_output) * u64::from(spec.output_count());
    let mut pays_at = posted_at;
    for output_len in [0, most_output] {
        // A price of ours past 96 bits is more than any job can pay.
        let asked = ours.fee(output_len, 10_000).unwrap_or(Amount::from_units(u128::MAX));
        let paid = |price_bps: u16| spec.fee(output_len, price_bps).map(|fee| less_royalty(fee, royalty_bps)).map_err(malformed);
        let offered = paid(10_000)?;
        if offered < asked {
            return Err(Refusal::PriceTooLow { offered, asked });
        }
        // INVARIANT: neither the price nor what a royalty leaves of it ever falls, so the seconds that pay are an interval that ends at infinity.
        let pays = |second: u64| paid(spec.price_bps(posted_at, second)).map(|paid| paid >= asked);
        let (mut low, mut high) = (posted_at, posted_at.saturating_add(spec.ramp_secs.into()));
        while low < high {
            let middle = low + (high - low) / 2;
            if pays(middle)? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        pays_at = pays_at.max(low);
    }
    Ok(pays_at)
}

/// What a fee leaves to the provider. ROUNDING: the royalty goes down, as in the contract (PROTOCOL, section 3).
fn less_royalty(fee: Amount, royalty_bps: u16) -> Amount {
    fee.saturating_sub(fee.bps_floor(royalty_bps).unwrap_or(fee))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec() -> JobSpec {
        crate::fixture::spec(5)
    }

    const PARAMETERS: JobParameters =
        JobParameters { challenge_window_secs: 10, min_lock: Amount::from_units(500), lock_factor_bps: 20_000, penalty_bps: 1_000 };

    fn question(spec: &JobSpec) -> Question<'_> {
        Question {
            spec,
            posted_at: 1_000,
            now: 1_200,
            provider: Address::repeat_byte(7),
            is_operator: true,
            model: ModelState::Ready { kind: JobKind::Embed },
            royalty_bps: 0,
            prices: Some(Prices { base: Amount::from_units(1_000), ..Prices::default() }),
            parameters: &PARAMETERS,
            free_stake: Amount::from_units(4_200),
            has_gas: true,
            jobs_in_hand: 0,
            max_jobs: 4,
            max_input_len: 1_000_000,
            input: InputState::Checked { millis: 10_000, kv_bytes: 0 },
            backlog: Some(Backlog::default()),
            max_output_len: 1_000,
            kv_limit: 1 << 20,
            free_bytes: u64::MAX,
            margin_secs: 20,
        }
    }

    fn behind(millis: u64, first_secs: Option<u64>) -> Option<Backlog> {
        Some(Backlog { millis, first_secs })
    }

    const UNSEEN: InputState = InputState::Unknown { millis: 0 };

    fn taking(millis: u64) -> InputState {
        InputState::Checked { millis, kv_bytes: 0 }
    }

    #[test]
    fn input_that_an_enemy_makes_too_long_for_its_time_is_not_fetched() {
        let base = spec();
        let unseen = |millis| decide(&Question { input: InputState::Unknown { millis }, ..question(&base) });
        assert_eq!(unseen(40_000), Decision::FetchInput);
        assert_eq!(unseen(40_001), Decision::Refuse(Refusal::TooSlow { needed_secs: 61, given_secs: 60 }));
    }

    #[test]
    fn each_rule_refuses_by_its_own_reason() {
        let base = spec();
        assert_eq!(decide(&question(&base)), Decision::Claim);
        assert_eq!(decide(&Question { input: UNSEEN, ..question(&base) }), Decision::FetchInput);

        let other = Address::repeat_byte(9);
        let designated = JobSpec { designated: other, ..spec() };
        let for_us = JobSpec { designated: Address::repeat_byte(7), ..spec() };
        let malformed = JobSpec { item_count: 0, ..spec() };
        let late = JobSpec { claim_by: 1_010, ramp_secs: 1_000, ramp_floor_bps: 1, ..spec() };
        assert_eq!(decide(&question(&for_us)), Decision::Claim);
        let refusals: [(Question<'_>, Refusal); 10] = [
            (question(&designated), Refusal::Designated { provider: other }),
            (question(&malformed), Refusal::Malformed { fault: "job field itemCount is 0, must be 1 to 65,536".into() }),
            (Question { model: ModelState::Unregistered, ..question(&base) }, Refusal::ModelUnregistered),
            (Question { model: ModelState::NotHeld, ..question(&base) }, Refusal::ModelNotHeld),
            (Question { model: ModelState::Ready { kind: JobKind::Generate }, ..question(&base) }, Refusal::KindNotOfModel),
            (Question { prices: None, ..question(&base) }, Refusal::NoPrice),
            (Question { max_input_len: 39, ..question(&base) }, Refusal::InputTooLong { ids: 40, limit: 39 }),
            (Question { now: 2_001, ..question(&base) }, Refusal::ClaimTimeOver { claim_by: 2_000 }),
            (Question { now: 1_005, ..question(&late) }, Refusal::RisesTooLate { pays_at: 1_477, claim_by: 1_010 }),
            (Question { input: taking(41_001), ..question(&base) }, Refusal::TooSlow { needed_secs: 62, given_secs: 60 }),
        ];
        for (question, refusal) in refusals {
            assert_eq!(decide(&question), Decision::Refuse(refusal));
        }
        let dear = Prices { item: Amount::from_units(701), ..Prices::default() };
        assert_eq!(
            decide(&Question { prices: Some(dear), ..question(&base) }),
            Decision::Refuse(Refusal::PriceTooLow { offered: Amount::from_units(2_100), asked: Amount::from_units(2_103) })
        );

        let holds: [(Question<'_>, Refusal); 7] = [
            (Question { is_operator: false, ..question(&base) }, Refusal::NotOperator),
            (
                Question { free_stake: Amount::from_units(4_199), ..question(&base) },
                Refusal::StakeTooLow { free: Amount::from_units(4_199), lock: Amount::from_units(4_200) },
            ),
            (Question { has_gas: false, ..question(&base) }, Refusal::GasTooLow),
            (Question { jobs_in_hand: 4, ..question(&base) }, Refusal::Busy { jobs: 4 }),
            (Question { backlog: behind(30_001, None), ..question(&base) }, Refusal::TooSlow { needed_secs: 61, given_secs: 60 }),
            (Question { backlog: None, ..question(&base) }, Refusal::BacklogUnknown),
            (Question { model: ModelState::Unverified, ..question(&base) }, Refusal::Unverified),
        ];
        for (question, refusal) in holds {
            assert_eq!(decide(&question), Decision::Hold(refusal));
        }
    }

    #[test]
    fn waits_for_the_second_that_pays_and_not_longer() {
        let base = spec();
        // 2,100 units at most, half at first: 1,575 is 75 %, reached after 50 of 100 seconds.
        let prices = Some(Prices { base: Amount::from_units(1_575), ..Prices::default() });
        assert_eq!(decide(&Question { now: 1_049, prices, ..question(&base) }), Decision::WaitUntil(1_050));
        assert_eq!(decide(&Question { now: 1_050, prices, ..question(&base) }), Decision::Claim);
        let exact = Some(Prices { base: Amount::from_units(2_100), ..Prices::default() });
        assert_eq!(decide(&Question { now: 1_099, prices: exact, ..question(&base) }), Decision::WaitUntil(1_100));
    }

    #[test]
    fn royalty_that_a_stranger_registered_does_not_come_out_of_what_we_ask() {
        let base = spec();
        let asks = |units| Some(Prices { base: Amount::from_units(units), ..Prices::default() });
        // The client pays 2,100 at most, and a royalty of 50 % leaves 1,050.
        let thief = |prices| Question { royalty_bps: 5_000, prices, ..question(&base) };
        assert_eq!(decide(&thief(asks(1_050))), Decision::Claim);
        let [offered, asked] = [1_050, 1_051].map(Amount::from_units);
        assert_eq!(decide(&thief(asks(1_051))), Decision::Refuse(Refusal::PriceTooLow { offered, asked }));
        assert_eq!(decide(&Question { royalty_bps: 0, ..thief(asks(1_051)) }), Decision::Claim);
        // After 98 seconds the fee is 2,079: 2.5 % of it are 51.975, of which 51 are taken, and 2,028 are left.
        let fair = |now| Question { royalty_bps: 250, now, prices: asks(2_028), ..question(&base) };
        assert_eq!(decide(&fair(1_097)), Decision::WaitUntil(1_098));
        assert_eq!(decide(&fair(1_098)), Decision::Claim);
    }

    #[test]
    fn time_that_just_suffices_is_enough() {
        let base = spec();
        assert_eq!(decide(&Question { input: taking(40_000), ..question(&base) }), Decision::Claim);
    }

    #[test]
    fn job_that_would_make_one_in_hand_late_is_held_until_there_is_time_for_both() {
        let base = spec();
        // 10 s of its own, 20 s of margin.
        let decided = |millis, first_secs| decide(&Question { backlog: behind(millis, Some(first_secs)), ..question(&base) });
        assert_eq!(decided(15_000, 45), Decision::Claim);
        assert_eq!(decided(15_000, 44), Decision::Hold(Refusal::WouldDelay { needed_secs: 45, left_secs: 44 }));
        assert_eq!(decided(30_001, 44), Decision::Hold(Refusal::TooSlow { needed_secs: 61, given_secs: 60 }));
        // Nothing to compute takes time too: the margin.
        let unseen = Question { input: UNSEEN, backlog: behind(0, Some(19)), ..question(&base) };
        assert_eq!(decide(&unseen), Decision::Hold(Refusal::WouldDelay { needed_secs: 20, left_secs: 19 }));
    }

    #[test]
    fn generate_job_is_refused_for_memory_and_length_before_it_is_claimed() {
        let base = JobSpec { kind: JobKind::Generate, samples_per_item: 4, max_output: 50, ..spec() };
        let model = ModelState::Ready { kind: JobKind::Generate };
        let question = |kv_bytes| Question { model, input: InputState::Checked { millis: 1, kv_bytes }, ..question(&base) };
        assert_eq!(decide(&question(1 << 20)), Decision::Claim);
        let refused = Decision::Refuse(Refusal::CacheTooLarge { bytes: (1 << 20) + 1, limit: 1 << 20 });
        assert_eq!(decide(&question((1 << 20) + 1)), refused);
        let short = Question { free_bytes: 999, ..question(1_000) };
        assert_eq!(decide(&short), Decision::Hold(Refusal::MemoryTooLow { bytes: 1_000, free: 999 }));
        let shorter = Question { max_output_len: 599, ..question(0) };
        assert_eq!(decide(&shorter), Decision::Refuse(Refusal::OutputTooLong { ids: 600, limit: 599 }));
        let unseen = Question { max_output_len: 599, input: UNSEEN, ..question(0) };
        assert_eq!(decide(&unseen), decide(&shorter), "what the specification alone rules out is not fetched");
    }

    proptest! {
        #[test]
        fn earliest_second_pays_and_the_one_before_does_not(
            floor in 1u16..=10_000, ramp in 0u32..5_000, ask in 0u128..3_000, per_output in 0u128..50, most in 0u32..100,
            royalty_bps in prop_oneof![Just(0u16), 0u16..=5_000],
        ) {
            let spec = JobSpec {
                kind: if most == 0 { JobKind::Embed } else { JobKind::Generate },
                max_output: most,
                output_price: Amount::from_units(25),
                ramp_floor_bps: floor,
                ramp_secs: ramp,
                ..spec()
            };
            let prices = Prices { base: Amount::from_units(ask), output: Amount::from_units(per_output), ..Prices::default() };
            let asked = |out: u64| ask + per_output * u128::from(out);
            let longest = u64::from(most) * 3;
            // What the contract pays: the fee, rounded down, less the royalty, rounded down.
            let paid = |out: u64, second| {
                let fee = spec.fee(out, spec.price_bps(1_000, second)).expect("fits").units();
                fee - fee * u128::from(royalty_bps) / 10_000
            };
            let pays = |second| [0, longest].iter().all(|&out| paid(out, second) >= asked(out));
            match earliest_paying_second(&spec, 1_000, &prices, royalty_bps) {
                Ok(second) => {
                    prop_assert!(pays(second));
                    let rounded = u128::from(royalty_bps > 0);
                    prop_assert!((0..=longest).all(|out| paid(out, second) + rounded >= asked(out)));
                    prop_assert!(second == 1_000 || !pays(second - 1));
                }
                Err(Refusal::PriceTooLow { .. }) => prop_assert!(!pays(u64::MAX)),
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
