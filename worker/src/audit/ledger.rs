//! The audit of the whole ledger: events replayed, the outcome proven against the chain's state.

use quern_bindings::{
    MarketParameters,
    abi::{JobMarket, QuernToken},
    storage::{LEDGER_TIP, LEDGER_TOTAL, ledger_balance, ledger_tip, ledger_total},
};
use quern_chain::{
    At, Client,
    deployment::{Contract, Deployment},
    proof::{VerifiedStorage, output_root, prove_storage},
};
use quern_types::{Address, Amount, B256, BlockRef, U256, keccak256};

use super::{
    AuditAt, Difference, LedgerVerdict, Proven, Replay, Terms,
    history::{find_block, history},
};
use crate::{Result, event::Logged};

/// Slots proven with one request.
const SLOTS_AT_ONCE: usize = 256;
/// `L2ToL1MessagePasser`, a predeploy of every OP Stack chain; its storage root is part of an output root.
const MESSAGE_PASSER: Address = Address::new([0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16]);

/// What an audit of a ledger compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerAudit {
    /// Up to which block. Everything up to it is audited, nothing after it.
    pub at: AuditAt,
    /// Hash of that block by another source than the node; `None`: the node's own word. With it nothing of what the verdict says is taken on trust.
    pub block_hash: Option<B256>,
    /// Output root of that block, as the L1 holds it (version 0); `None`: not compared.
    pub output_root: Option<B256>,
}

/// Derives the ledger again from every event since the deployment, and proves head, number of entries, every balance and the token that covers them
/// against the block's hash.
///
/// A lie of the node is a verdict, not an error.
///
/// # Errors
/// The node does not answer, or does not have the block.
pub async fn audit_ledger(client: &Client, deployment: &Deployment, audit: &LedgerAudit) -> Result<LedgerVerdict> {
    let block = find_block(client, audit.at).await?;
    let ledger = deployment.contracts.ledger.address;
    let mut verdict = LedgerVerdict {
        ok: false,
        ledger,
        chain_id: deployment.chain_id,
        block,
        entries: 0,
        accounts: 0,
        jobs: 0,
        head: B256::ZERO,
        total: Amount::ZERO,
        token_balance: None,
        proven: Proven { slots: 0, token_balance: false, output_root: false },
        difference: None,
    };
    verdict.difference = examine(client, deployment, audit, block, &mut verdict).await?;
    verdict.ok = verdict.difference.is_none();
    Ok(verdict)
}

/// State after the last event of a block.
#[derive(Debug, Clone, Copy)]
struct Tip {
    block: BlockRef,
    /// First entry of the block.
    first: u64,
    seq: u64,
    head: B256,
}

async fn examine(
    client: &Client,
    deployment: &Deployment,
    audit: &LedgerAudit,
    block: BlockRef,
    verdict: &mut LedgerVerdict,
) -> Result<Option<Difference>> {
    if let Some(expected) = audit.block_hash.filter(|hash| *hash != block.hash) {
        return Ok(Some(of_block(block, "hash of the block", format!("{expected:?}"), format!("{:?}", block.hash))));
    }
    if let Some(difference) = parameters(client, deployment, block).await? {
        return Ok(Some(difference));
    }
    let terms = Terms { domain: deployment.domain(), ledger: verdict.ledger, parameters: deployment.parameters };
    let events = match history(client, deployment, block).await? {
        Ok(events) => events,
        Err(difference) => return Ok(Some(difference)),
    };
    let (replay, tips, found) = replay_all(terms, &events);
    verdict.entries = replay.head().seq;
    verdict.accounts = replay.accounts();
    verdict.jobs = replay.jobs();
    verdict.head = replay.head().hash;
    let total = replay.total();
    verdict.total = total.unwrap_or(Amount::from_units(u128::MAX));
    let past = || of_block(block, "sum of all buckets", "at most 128 bits".into(), "more".into());
    if let Some(difference) = found.or_else(|| total.is_none().then(past)) {
        // What the replay notices may be the consequence of an earlier lie that is consistent in itself.
        return Ok(Some(
            first_unproven(client, verdict.ledger, &tips)
                .await?
                .map_or_else(|| difference.clone(), |unproven| unproven.or(difference.clone())),
        ));
    }
    prove(client, deployment, audit, &replay, &tips, verdict).await
}

/// Whether the node reads the market's parameters as the deployment file has them. TRUST: the file; a read without a proof decides nothing else.
async fn parameters(client: &Client, deployment: &Deployment, block: BlockRef) -> Result<Option<Difference>> {
    let answer = client.call(deployment.contracts.job_market.address, &JobMarket::parametersCall {}, At::Block(block.hash)).await?;
    let (expected, found) = (deployment.parameters, MarketParameters::from(&answer));
    let what = "parameters of the market, by the deployment file";
    Ok((found != expected).then(|| of_block(block, what, format!("{expected:?}"), format!("{found:?}"))))
}

fn replay_all(terms: Terms, events: &[Logged]) -> (Replay, Vec<Tip>, Option<Difference>) {
    let mut replay = Replay::new(terms);
    let mut tips: Vec<Tip> = Vec::new();
    for logged in events {
        let before = replay.head().seq;
        if let Err(difference) = replay.apply(logged) {
            // Of the block at fault only a part was taken: nothing is known of its end.
            tips.pop_if(|tip| tip.block == logged.block);
            return (replay, tips, Some(difference));
        }
        let head = replay.head();
        match tips.last_mut() {
            Some(tip) if tip.block == logged.block => (tip.seq, tip.head) = (head.seq, head.hash),
            _ => tips.push(Tip { block: logged.block, first: before + 1, seq: head.seq, head: head.hash }),
        }
    }
    let difference = replay.finish().err();
    (replay, tips, difference)
}

/// A block whose end is not what its state proves.
struct Unproven {
    difference: Difference,
    /// Entries that may be at fault: those of the block, and the one after them.
    entries: std::ops::RangeInclusive<u64>,
}

impl Unproven {
    /// The earlier of the two; where what the replay noticed lies in this very block, it knows the entry.
    fn or(self, noticed: Difference) -> Difference {
        if noticed.seq.is_some_and(|seq| self.entries.contains(&seq)) { noticed } else { self.difference }
    }
}

/// The first block whose proven tip is not the replayed one.
///
/// The head is a chain of hashes: where it differs after one block, it differs after every later one, so halving finds the first.
async fn first_unproven(client: &Client, ledger: Address, tips: &[Tip]) -> Result<Option<Unproven>> {
    let (mut low, mut high) = (0, tips.len());
    let mut unproven = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let tip = tips[middle];
        let (proven_seq, proven_head) = match prove_storage(client, ledger, &[LEDGER_TIP], tip.block.hash).await {
            Ok(proven) => ledger_tip(proven.get(LEDGER_TIP).unwrap_or_default()),
            Err(quern_chain::Error::Proof(error)) => {
                return Ok(Some(Unproven { difference: broken_proof(tip.block, &error), entries: tip.first..=tip.seq + 1 }));
            }
            // A node that keeps no old state: the last block decides alone.
            Err(quern_chain::Error::Rpc { .. } | quern_chain::Error::MissingBlock { .. }) => return Ok(unproven),
            Err(error) => return Err(error.into()),
        };
        if (proven_seq, proven_head) == (tip.seq, tip.head) {
            low = middle + 1;
        } else {
            high = middle;
            let difference = Difference {
                seq: Some(tip.first),
                block: Some(tip.block.number),
                job: None,
                what: "head after the entries of this block, proven by its state".into(),
                expected: format!("{proven_head:?} after entry {proven_seq}"),
                found: format!("{:?} after entry {}", tip.head, tip.seq),
            };
            unproven = Some(Unproven { difference, entries: tip.first..=tip.seq + 1 });
        }
    }
    Ok(unproven)
}

async fn prove(
    client: &Client,
    deployment: &Deployment,
    audit: &LedgerAudit,
    replay: &Replay,
    tips: &[Tip],
    verdict: &mut LedgerVerdict,
) -> Result<Option<Difference>> {
    let block = verdict.block;
    let balances: Vec<_> = replay
        .balances()
        .filter_map(|(account, bucket, amount)| Some((account, bucket, amount, ledger_balance(account, bucket)?)))
        .collect();
    let mut slots = vec![LEDGER_TIP, LEDGER_TOTAL];
    slots.extend(balances.iter().map(|(.., place)| place.slot));
    slots.dedup();

    let proven = match storage(client, deployment.contracts.ledger, &slots, block).await? {
        Ok(proven) => proven,
        Err(difference) => return Ok(Some(difference)),
    };
    verdict.proven.slots = slots.len();
    let value = |slot: B256| proven.iter().find_map(|part| part.get(slot)).unwrap_or_default();

    let head = replay.head();
    let (proven_seq, proven_head) = ledger_tip(value(LEDGER_TIP));
    if proven_seq != head.seq {
        let (what, seq) = ("number of entries, proven by the state", proven_seq.min(head.seq) + 1);
        // Whatever else was altered on the way is named first.
        let earlier = if proven_seq < head.seq { first_unproven(client, verdict.ledger, tips).await? } else { None };
        let missing = Difference { seq: Some(seq), ..of_block(block, what, proven_seq.to_string(), head.seq.to_string()) };
        return Ok(Some(earlier.map_or_else(|| missing.clone(), |unproven| unproven.or(missing.clone()))));
    }
    if proven_head != head.hash {
        let difference = of_block(block, "head of the ledger, proven by the state", format!("{proven_head:?}"), format!("{:?}", head.hash));
        return Ok(Some(
            first_unproven(client, verdict.ledger, tips)
                .await?
                .map_or_else(|| difference.clone(), |unproven| unproven.or(difference.clone())),
        ));
    }
    for (account, bucket, amount, place) in &balances {
        let stored = place.read(value(place.slot));
        if stored != *amount {
            let what = format!("{} of {account}, proven by the state", bucket.name());
            let seq = replay.last_touched(*account, *bucket);
            return Ok(Some(Difference { seq, ..of_block(block, &what, stored.to_string(), amount.to_string()) }));
        }
    }
    let total = ledger_total(value(LEDGER_TOTAL));
    if total != verdict.total {
        return Ok(Some(of_block(block, "sum of all buckets, proven by the state", total.to_string(), verdict.total.to_string())));
    }
    if let Some(difference) = cover(client, deployment, verdict).await? {
        return Ok(Some(difference));
    }
    // Ledger and token are proven by now. The others are who the Ledger lets move money, and the market's parameters are in its code.
    let c = &deployment.contracts;
    for module in [c.job_market, c.provider_registry, c.model_registry, c.guardian] {
        if let Err(difference) = storage(client, module, &[], block).await? {
            return Ok(Some(difference));
        }
    }
    compare_output_root(client, audit, proven.first().map(|part| part.state_root), verdict).await
}

/// Whether the token that the Ledger holds covers its buckets.
///
/// The balance of our own token is what is proven, whatever the node reads. Another token may keep its balances elsewhere: there zero proves nothing.
async fn cover(client: &Client, deployment: &Deployment, verdict: &mut LedgerVerdict) -> Result<Option<Difference>> {
    let (block, token) = (verdict.block, deployment.contracts.quern_token);
    let said: U256 = client.call(token.address, &QuernToken::balanceOfCall { account: verdict.ledger }, At::Block(block.hash)).await?;
    // OpenZeppelin's ERC-20, which QuernToken is, keeps balances in a mapping at slot 0.
    let mut preimage = [0; 64];
    preimage[12..32].copy_from_slice(verdict.ledger.as_slice());
    let slot = keccak256(preimage);
    let proven = match storage(client, token, &[slot], block).await? {
        Ok(proven) => proven.iter().find_map(|part| part.get(slot)).map_or(U256::ZERO, Into::into),
        Err(difference) => return Ok(Some(difference)),
    };
    verdict.proven.token_balance = deployment.token_deployed || !proven.is_zero();
    if verdict.proven.token_balance && proven != said {
        return Ok(Some(of_block(block, "token balance of the Ledger, proven by the state", proven.to_string(), said.to_string())));
    }
    let balance = Amount::try_from(said).unwrap_or(Amount::from_units(u128::MAX));
    verdict.token_balance = Some(balance);
    if balance < verdict.total {
        let expected = format!("at least {}", verdict.total);
        return Ok(Some(of_block(block, "token balance of the Ledger, which must cover all buckets", expected, balance.to_string())));
    }
    Ok(None)
}

async fn compare_output_root(
    client: &Client,
    audit: &LedgerAudit,
    state_root: Option<B256>,
    verdict: &mut LedgerVerdict,
) -> Result<Option<Difference>> {
    let (Some(expected), Some(state_root)) = (audit.output_root, state_root) else { return Ok(None) };
    let block = verdict.block;
    let passer = match prove_storage(client, MESSAGE_PASSER, &[], block.hash).await {
        Ok(passer) => passer.storage_root,
        Err(quern_chain::Error::Proof(error)) => return Ok(Some(broken_proof(block, &error))),
        Err(error) => return Err(error.into()),
    };
    let found = output_root(state_root, passer, block.hash);
    if found != expected {
        return Ok(Some(of_block(block, "output root that the L1 holds", format!("{expected:?}"), format!("{found:?}"))));
    }
    verdict.proven.output_root = true;
    Ok(None)
}

/// Slots of a contract, proven, and the contract's code with them; its code alone where there are none.
async fn storage(client: &Client, contract: Contract, slots: &[B256], block: BlockRef) -> Result<Result<Vec<VerifiedStorage>, Difference>> {
    let mut parts = Vec::new();
    let (some, rest) = slots.split_at(slots.len().min(SLOTS_AT_ONCE));
    for some in std::iter::once(some).chain(rest.chunks(SLOTS_AT_ONCE)) {
        let part = match prove_storage(client, contract.address, some, block.hash).await {
            Ok(part) => part,
            Err(quern_chain::Error::Proof(error)) => return Ok(Err(broken_proof(block, &error))),
            Err(error) => return Err(error.into()),
        };
        if part.code_hash != contract.code_hash {
            let what = format!("code of {}, proven by the state", contract.address);
            return Ok(Err(of_block(block, &what, format!("{:?}", contract.code_hash), format!("{:?}", part.code_hash))));
        }
        parts.push(part);
    }
    Ok(Ok(parts))
}

fn of_block(block: BlockRef, what: &str, expected: String, found: String) -> Difference {
    Difference { seq: None, block: Some(block.number), job: None, what: what.to_owned(), expected, found }
}

fn broken_proof(block: BlockRef, error: &quern_chain::proof::ProofError) -> Difference {
    of_block(block, "proof of the state", "one that leads from the block's hash to the value".into(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::simulation::{Act, Simulation, TERMS},
        event::Event,
    };

    fn history() -> Vec<Logged> {
        let mut simulation = Simulation::new();
        for (kind, secs) in [(0, 1), (2, 3), (4, 2), (6, 31)] {
            simulation.act(Act { kind, who: 0, job: 0, secs, amount: 1_500 });
        }
        simulation.events
    }

    fn seqs(events: &[Logged]) -> Vec<u64> {
        events.iter().filter_map(|logged| if let Event::Moved { entry, .. } = &logged.event { Some(entry.seq) } else { None }).collect()
    }

    #[test]
    fn tip_of_every_block_is_the_head_after_its_last_entry() {
        let events = history();
        let (replay, tips, found) = replay_all(TERMS, &events);
        assert_eq!(found, None);
        let last = tips.last().expect("blocks");
        assert_eq!((last.seq, last.head), (replay.head().seq, replay.head().hash));
        assert!(tips.windows(2).all(|pair| pair[0].block.number < pair[1].block.number && pair[0].seq < pair[1].first));
        assert_eq!(last.seq, seqs(&events).into_iter().max().expect("entries"));
    }

    #[test]
    fn block_that_is_taken_in_part_has_no_tip() {
        let mut events = history();
        let fee = events
            .iter()
            .rposition(|logged| matches!(&logged.event, Event::Moved { entry, .. } if entry.reason.name() == "Change"))
            .expect("change");
        let block = events[fee].block;
        events.remove(fee);
        let (_, tips, found) = replay_all(TERMS, &events);
        assert!(found.is_some() && tips.iter().all(|tip| tip.block != block));
    }

    #[test]
    fn entry_that_the_replay_names_goes_before_the_first_of_its_block() {
        let at = |seq| Difference { seq, block: None, job: None, what: String::new(), expected: String::new(), found: String::new() };
        let unproven = || Unproven { difference: at(Some(3)), entries: 3..=5 };
        assert_eq!(unproven().or(at(Some(5))).seq, Some(5));
        assert_eq!(unproven().or(at(Some(6))).seq, Some(3), "a consequence of an earlier lie");
        assert_eq!(unproven().or(at(None)).seq, Some(3));
    }
}
