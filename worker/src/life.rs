//! The life of one job in this worker, as a pure table: (journal step, what the chain says, clock) -> what to do next.
//!
//! The chain decides: the table is read by its rows first. A row of the chain that does not fit the journal's step moves the journal, forward (our
//! transaction was mined while we were dead) or back (a reorganisation took it away); only where both agree something is done. So a restart after a kill
//! between any two lines, and a reorganisation at any depth, are the ordinary case and need no code of their own.
//!
//! | chain says | journal says | next |
//! |---|---|---|
//! | no such job | any | wait; after `claimBy`: Lost; once that is finalized: forget |
//! | Open | Accepted | Claiming |
//! | | Claiming | send the claim; after `claimBy`: Lost |
//! | | Claimed to Challenged, Paid, Undelivered, Slashed | REORG: Claiming (the work done so far is kept) |
//! | | Lost, Refused | wait: the decision is taken again |
//! | Claimed by us | Accepted, Claiming, Lost, Refused | Claimed |
//! | | Claimed to Submitting, deadline gone | Undelivered |
//! | | Claimed | a receipt is signed already: Signed; else fetch |
//! | | Fetched, Computed, Stored, Signed, Submitting | compute, store, sign, Submitting, send the receipt |
//! | | Submitted to Challenged, Paid, Slashed | REORG: Claimed |
//! | Submitted by us | Submitted | window over: Completing; else wait |
//! | | Completing | send the completion; window extended meanwhile: Submitted |
//! | | any other | Submitted |
//! | Challenged, ours | any | Challenged |
//! | Claimed, Submitted, Challenged by another; cancelled, expired | any | Lost |
//! | Completed, Refunded, Slashed, ours | any | Paid, Undelivered, Slashed |
//! | any final state, in a finalized block | closed | forget: unpin |

use quern_db::journal::Step;

/// What the canonical chain says of a job, from this provider's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// No such job: not posted, or its posting was taken back.
    Absent,
    /// Anybody (or the designated provider) may claim it.
    Open,
    /// Claimed; `deadline` is the last second to submit.
    Claimed { ours: bool, deadline: u64 },
    /// A receipt stands; `window_end` is the last second to challenge it.
    Submitted { ours: bool, window_end: u64 },
    /// Somebody doubts the receipt.
    Challenged { ours: bool },
    /// Paid.
    Completed { ours: bool },
    /// The client has its money back; `ours` where we had claimed it.
    Refunded { ours: bool },
    /// The provider was convicted.
    Slashed { ours: bool },
}

/// Everything that the table looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Situation {
    /// How far the journal says we are.
    pub(crate) step: Step,
    /// What the chain says.
    pub(crate) seen: Seen,
    /// Whether the block that says so is finalized; of a job that is absent, whether its `claimBy` is.
    pub(crate) finalized: bool,
    /// The least timestamp that the next block can have, Unix seconds.
    pub(crate) now: u64,
    /// Last second to claim, Unix seconds.
    pub(crate) claim_by: u64,
    /// Whether a signed receipt of ours is in the journal.
    pub(crate) has_receipt: bool,
    /// Whether the output is in this process's memory.
    pub(crate) has_output: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Only the journal moves.
    Advance(Step, &'static str),
    /// Send the claim, under its key.
    Claim,
    /// Read the input from the local store and check it.
    Fetch,
    /// Compute the output.
    Compute,
    /// Store and pin the output.
    Store,
    /// Sign the receipt.
    Sign,
    /// Send the receipt, under its key.
    Submit,
    /// Send the completion, under its key.
    Complete,
    /// Nothing until the chain says something new, or, where given, until this second.
    Wait(Option<u64>),
    /// Nothing is left to do and nothing can change any more: give the content up.
    Forget,
}

/// The table.
pub(crate) fn next(situation: &Situation) -> Next {
    let Situation { step, seen, now, claim_by, .. } = *situation;
    match seen {
        Seen::Absent if step.is_closed() && situation.finalized => Next::Forget,
        Seen::Absent | Seen::Open if step.is_closed() && !reopens(step, seen) => Next::Wait(None),
        Seen::Absent if now > claim_by => Next::Advance(Step::Lost, "it is not on the chain any more, and the time to claim it is over"),
        Seen::Absent => Next::Wait(Some(claim_by + 1)),
        Seen::Open => open(step, now, claim_by),
        Seen::Claimed { ours: true, deadline } => claimed(situation, deadline),
        Seen::Submitted { ours: true, window_end } => submitted(step, now, window_end),
        Seen::Challenged { ours: true } => to(situation, Step::Challenged, "somebody challenges the receipt"),
        Seen::Completed { ours: true } => to(situation, Step::Paid, ""),
        Seen::Refunded { ours: true } => to(situation, Step::Undelivered, "the client was refunded, with a penalty out of the lock"),
        Seen::Slashed { ours: true } => to(situation, Step::Slashed, "convicted: the lock is lost"),
        Seen::Claimed { .. } | Seen::Submitted { .. } | Seen::Challenged { .. } => to(situation, Step::Lost, "another provider has it"),
        Seen::Completed { .. } | Seen::Slashed { .. } => to(situation, Step::Lost, "another provider had it"),
        Seen::Refunded { .. } => to(situation, Step::Lost, "the client has its money back"),
    }
}

/// Whether an open job takes a closed one of ours up again without a new decision: a reorganisation took our own claim away.
fn reopens(step: Step, seen: Seen) -> bool {
    seen == Seen::Open && matches!(step, Step::Paid | Step::Undelivered | Step::Slashed)
}

/// Towards a step that the chain alone decides; once there and final, there is nothing left.
fn to(situation: &Situation, step: Step, note: &'static str) -> Next {
    if situation.step != step {
        Next::Advance(step, note)
    } else if situation.finalized && step.is_closed() && is_terminal(situation.seen) {
        Next::Forget
    } else {
        Next::Wait(None)
    }
}

fn is_terminal(seen: Seen) -> bool {
    matches!(seen, Seen::Completed { .. } | Seen::Refunded { .. } | Seen::Slashed { .. })
}

fn open(step: Step, now: u64, claim_by: u64) -> Next {
    match step {
        _ if now > claim_by => Next::Advance(Step::Lost, "nobody claimed it in time"),
        Step::Accepted => Next::Advance(Step::Claiming, ""),
        Step::Claiming => Next::Claim,
        // REORG: our claim is gone, and may come back by itself or must be sent again; the claim's key tells which.
        _ => Next::Advance(Step::Claiming, "a reorganisation took the claim back"),
    }
}

fn claimed(situation: &Situation, deadline: u64) -> Next {
    let in_time = situation.now <= deadline;
    match situation.step {
        Step::Undelivered => Next::Wait(None),
        Step::Accepted | Step::Claiming | Step::Lost | Step::Refused => Next::Advance(Step::Claimed, ""),
        Step::Submitted | Step::Completing | Step::Challenged | Step::Paid | Step::Slashed => {
            Next::Advance(Step::Claimed, "a reorganisation took the submission back")
        }
        // A submission that cannot be in time is not sent: it would cost gas and pay nothing.
        _ if !in_time => Next::Advance(Step::Undelivered, "the delivery deadline is over: the client may take its refund and the penalty"),
        Step::Claimed if situation.has_receipt => Next::Advance(Step::Signed, "signed before"),
        Step::Claimed => Next::Fetch,
        Step::Fetched => Next::Compute,
        Step::Computed if situation.has_output => Next::Store,
        // Killed between computing and storing: the same bits, once more.
        Step::Computed => Next::Compute,
        Step::Stored => Next::Sign,
        Step::Signed => Next::Advance(Step::Submitting, ""),
        Step::Submitting => Next::Submit,
    }
}

fn submitted(step: Step, now: u64, window_end: u64) -> Next {
    match step {
        Step::Submitted if now > window_end => Next::Advance(Step::Completing, ""),
        Step::Submitted => Next::Wait(Some(window_end + 1)),
        Step::Completing if now > window_end => Next::Complete,
        Step::Completing => Next::Advance(Step::Submitted, "the challenge window is open (again)"),
        _ => Next::Advance(Step::Submitted, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(now: u64) -> Vec<Seen> {
        let mut all = vec![Seen::Absent, Seen::Open];
        for ours in [true, false] {
            for at in [now - 1, now, now + 1] {
                all.extend([Seen::Claimed { ours, deadline: at }, Seen::Submitted { ours, window_end: at }]);
            }
            all.extend([Seen::Challenged { ours }, Seen::Completed { ours }, Seen::Refunded { ours }, Seen::Slashed { ours }]);
        }
        all
    }

    fn situations() -> Vec<Situation> {
        let now = 1_000;
        let mut all = Vec::new();
        for step in Step::ALL {
            for seen in seen(now) {
                for claim_by in [now - 1, now] {
                    for bits in 0..8 {
                        all.push(Situation {
                            step,
                            seen,
                            finalized: bits & 1 != 0,
                            now,
                            claim_by,
                            has_receipt: bits & 2 != 0,
                            has_output: bits & 4 != 0,
                        });
                    }
                }
            }
        }
        all
    }

    /// With the chain standing still, moving the journal alone always ends at something to do or to wait for.
    #[test]
    fn advancing_from_any_situation_ends_without_a_cycle() {
        for start in situations() {
            let mut situation = start;
            let mut path = Vec::new();
            while let Next::Advance(step, _) = next(&situation) {
                assert_ne!(step, situation.step, "{situation:?} advances to itself");
                path.push(step);
                assert!(path.len() <= 3, "{start:?} goes round: {path:?}");
                situation.step = step;
            }
        }
    }

    #[test]
    fn money_moves_only_where_chain_and_clock_allow_it() {
        for s in situations() {
            match next(&s) {
                Next::Claim => assert!(s.seen == Seen::Open && s.now <= s.claim_by && s.step == Step::Claiming, "{s:?}"),
                Next::Submit => {
                    let in_time = matches!(s.seen, Seen::Claimed { ours: true, deadline } if s.now <= deadline);
                    assert!(in_time && s.step == Step::Submitting, "a doomed or foreign submission: {s:?}");
                }
                Next::Complete => {
                    assert!(matches!(s.seen, Seen::Submitted { ours: true, window_end } if s.now > window_end), "{s:?}");
                }
                Next::Fetch | Next::Compute | Next::Store | Next::Sign => {
                    assert!(matches!(s.seen, Seen::Claimed { ours: true, deadline } if s.now <= deadline), "work for nothing: {s:?}");
                }
                Next::Forget => assert!(s.finalized && s.step.is_closed() && (is_terminal(s.seen) || s.seen == Seen::Absent), "{s:?}"),
                Next::Advance(..) | Next::Wait(_) => {}
            }
        }
    }

    #[test]
    fn deadline_is_inclusive_to_the_second() {
        let s = |deadline| Situation {
            step: Step::Submitting,
            seen: Seen::Claimed { ours: true, deadline },
            finalized: false,
            now: 100,
            claim_by: 50,
            has_receipt: true,
            has_output: false,
        };
        assert_eq!(next(&s(100)), Next::Submit);
        assert!(matches!(next(&s(99)), Next::Advance(Step::Undelivered, _)));
    }

    #[test]
    fn nothing_is_signed_twice_for_one_job() {
        for s in situations().into_iter().filter(|s| s.has_receipt && s.step != Step::Stored) {
            let mut s = s;
            while let Next::Advance(step, _) = next(&s) {
                s.step = step;
            }
            // With a receipt in the journal, the only way to Sign is from Stored, which is passed before the receipt is written.
            if !matches!(s.step, Step::Fetched | Step::Computed) {
                assert_ne!(next(&s), Next::Sign, "{s:?}");
            }
        }
    }
}
