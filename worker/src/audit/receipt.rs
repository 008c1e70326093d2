//! Whether the receipt that a node shows is the one that the market holds: proven by its state, or by the signature of the key that claimed.

use quern_bindings::{
    calls::submitted,
    storage::{JobWord, job_slots},
};
use quern_chain::{
    Client,
    deployment::Contract,
    keys::signer_of,
    proof::{linked, prove_storage},
};
use quern_types::{Address, B256, BlockRef, JobState, Receipt};
use serde::Serialize;

use super::JobDifference;
use crate::{Error, Result};

/// Blocks between a submission and the audited block up to which the submission's state is proven too: each of their headers is fetched.
const MOST_LINKS: u64 = 4_096;

/// What stands behind the receipt that was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiptProof {
    /// The market's storage: this very receipt was submitted.
    State,
    /// The job's claim, by the market's storage, and the signature of the key that made it. TRUST: that key may have signed another receipt too, and
    /// submitted that one; only a state of the time of the submission tells them apart.
    Signature,
}

/// Where a receipt is said to have been submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Submission {
    pub(super) block: BlockRef,
    pub(super) tx: B256,
    /// Hash of the receipt.
    pub(super) digest: B256,
}

/// What the proven state of a job says of its receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// It is this one.
    This,
    /// There was one, and the job is over: the market forgot which. The key that claimed is still there.
    Forgotten(Address),
}

/// Proves the receipt against a block's hash. A node that shows another one than the market holds is a difference.
///
/// # Errors
/// The node does not answer; [`Error::ReceiptUnproven`] where it has neither the state of the submission's block nor the transaction.
pub(super) async fn prove(
    client: &Client,
    market: Contract,
    receipt: &Receipt,
    submission: Submission,
    block: BlockRef,
) -> Result<Result<ReceiptProof, JobDifference>> {
    let slots = job_slots(receipt.job_id);
    let now = match job_storage(client, market, &slots, block.hash).await {
        Ok(Ok(words)) => words,
        Ok(Err(difference)) => return Ok(Err(difference)),
        Err(error) => return Err(error.into()),
    };
    let operator = match held(JobWord::read(now[0]), now[1], submission.digest) {
        Ok(Held::This) => return Ok(Ok(ReceiptProof::State)),
        Ok(Held::Forgotten(operator)) => operator,
        Err(difference) => return Ok(Err(difference)),
    };
    if block.number.saturating_sub(submission.block.number) <= MOST_LINKS {
        match at_submission(client, market, &slots, submission, block).await? {
            Ok(true) => return Ok(Ok(ReceiptProof::State)),
            Ok(false) => {}
            Err(difference) => return Ok(Err(difference)),
        }
    }
    let transaction = client.calldata(submission.tx).await?;
    let signature = transaction.and_then(|input| submitted(&input)).filter(|(signed, _)| signed == receipt).map(|(_, signature)| signature);
    match signature.map(|signature| signer_of(submission.digest, &signature)) {
        None => Err(Error::ReceiptUnproven { job: receipt.job_id }),
        Some(Some(signer)) if signer == operator => Ok(Ok(ReceiptProof::Signature)),
        Some(signer) => Ok(Err(node("signer of the receipt", operator, signer.map_or("nobody".to_owned(), |signer| signer.to_string())))),
    }
}

/// Whether the state of the submission's block holds the receipt; false where the node does not have that state any more.
async fn at_submission(
    client: &Client,
    market: Contract,
    slots: &[B256; 2],
    submission: Submission,
    block: BlockRef,
) -> Result<Result<bool, JobDifference>> {
    match linked(client, submission.block, block).await {
        Ok(true) => {}
        Ok(false) => {
            return Ok(Err(node("block of the submission", "an ancestor of the audited block", format!("{:?}", submission.block.hash))));
        }
        Err(quern_chain::Error::Rpc { .. } | quern_chain::Error::MissingBlock { .. }) => return Ok(Ok(false)),
        Err(error) => return Err(error.into()),
    }
    let then = match job_storage(client, market, slots, submission.block.hash).await {
        Ok(Ok(words)) => words,
        Ok(Err(difference)) => return Ok(Err(difference)),
        Err(quern_chain::Error::Rpc { .. } | quern_chain::Error::MissingBlock { .. }) => return Ok(Ok(false)),
        Err(error) => return Err(error.into()),
    };
    Ok(held(JobWord::read(then[0]), then[1], submission.digest).map(|held| held == Held::This))
}

/// The two words of a job, proven, and the contract's code with them.
async fn job_storage(
    client: &Client,
    market: Contract,
    slots: &[B256; 2],
    block: B256,
) -> Result<Result<[B256; 2], JobDifference>, quern_chain::Error> {
    let proven = match prove_storage(client, market.address, slots, block).await {
        Ok(proven) => proven,
        Err(quern_chain::Error::Proof(error)) => {
            return Ok(Err(node("proof of the state", "one that leads from the block's hash to the job", error)));
        }
        Err(error) => return Err(error),
    };
    if proven.code_hash != market.code_hash {
        let code = |hash: B256| format!("{hash:?}");
        return Ok(Err(node("code of the market, proven by the state", code(market.code_hash), code(proven.code_hash))));
    }
    Ok(Ok(slots.map(|slot| proven.get(slot).unwrap_or_default())))
}

fn held(word: JobWord, subject: B256, digest: B256) -> Result<Held, JobDifference> {
    match word.state {
        Some(JobState::Submitted | JobState::Challenged) if subject == digest => Ok(Held::This),
        Some(JobState::Submitted | JobState::Challenged) => {
            Err(node("receipt of the job, proven by the state", format!("{subject:?}"), format!("{digest:?}")))
        }
        Some(JobState::Completed | JobState::Slashed) => Ok(Held::Forgotten(word.operator)),
        other => Err(node("state of a job with a receipt, proven by the state", other.map_or("none", JobState::name), "a submitted one")),
    }
}

fn node(what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> JobDifference {
    JobDifference::Node { what: what.to_owned(), expected: expected.to_string(), found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATOR: Address = Address::repeat_byte(9);

    fn word(state: JobState) -> JobWord {
        JobWord { state: Some(state), operator: OPERATOR }
    }

    #[test]
    fn receipt_that_an_enemy_makes_up_is_not_the_one_that_the_market_holds() {
        let (real, made_up) = (B256::repeat_byte(1), B256::repeat_byte(2));
        for state in [JobState::Submitted, JobState::Challenged] {
            assert_eq!(held(word(state), real, real), Ok(Held::This));
            assert!(matches!(held(word(state), real, made_up), Err(JobDifference::Node { .. })), "{state:?}");
        }
    }

    #[test]
    fn job_without_a_receipt_that_an_enemy_shows_one_of_is_named() {
        for state in [JobState::Open, JobState::Claimed, JobState::Refunded] {
            assert!(matches!(held(word(state), B256::ZERO, B256::ZERO), Err(JobDifference::Node { .. })), "{state:?}");
        }
        let never = JobWord { state: None, operator: Address::ZERO };
        assert!(held(never, B256::ZERO, B256::ZERO).is_err(), "a job that was never posted");
    }

    #[test]
    fn market_forgets_the_receipt_of_a_job_that_is_over_and_knows_who_must_have_signed_it() {
        for state in [JobState::Completed, JobState::Slashed] {
            assert_eq!(held(word(state), B256::ZERO, B256::repeat_byte(1)), Ok(Held::Forgotten(OPERATOR)));
        }
    }
}
