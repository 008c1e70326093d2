//! Contract storage proven instead of believed: block hash <- header <- state root <- account <- storage root <- slot.
//!
//! What a proof establishes: *the block with this hash* has these values in these slots. That the block is the chain's is another question; the caller
//! takes the hash from a node that it trusts for that, from the canonical stream, or from the L1 through [`output_root`].

use alloy::{
    consensus::Header,
    eips::BlockId,
    primitives::{Address, B256, Bytes, U64, U256, keccak256},
    rpc::types::EIP1186AccountProofResponse,
};
use alloy_trie::{Nibbles, TrieAccount, proof::verify_proof};
use quern_types::BlockRef;

use crate::{Client, Error, Result, Severity};

/// How often a proof is asked for where it does not hold: a node that takes up a new block meanwhile may answer out of the one after (anvil does). Only
/// what holds is believed, whichever answer it is.
const PROOF_TRIES: u32 = 3;
/// Headers asked for in one round trip.
const HEADER_BATCH: u64 = 100;

/// The link of the chain of proofs that broke. Each means that the node lied or is broken, and names what it got wrong.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The header does not hash to the block's hash.
    #[error(
        "block {block}: its header hashes to {actual}: the node's header is not that block's (or its format is newer than this program)"
    )]
    HeaderHash {
        /// The block asked for.
        block: B256,
        /// What the header hashes to.
        actual: B256,
    },
    /// The account's nodes do not lead from the state root to the account that the node claims.
    #[error("block {block}: the account proof of {account} does not lead from state root {state_root} to what the node claims: {what}")]
    Account {
        /// The block.
        block: B256,
        /// The contract.
        account: Address,
        /// The root, out of the verified header.
        state_root: B256,
        /// What the verifier said.
        what: String,
    },
    /// The account holds no code there: it is not the contract.
    #[error("block {block}: {account} is proven to hold no contract there: is the deployment newer than the block?")]
    NoContract {
        /// The block.
        block: B256,
        /// The account.
        account: Address,
    },
    /// A slot's nodes do not lead from the storage root to the value that the node claims.
    #[error(
        "block {block}: the proof of slot {slot} of {account} does not lead from storage root {storage_root} to the value {value} that the node claims: {what}"
    )]
    Slot {
        /// The block.
        block: B256,
        /// The contract.
        account: Address,
        /// The slot.
        slot: B256,
        /// The root, out of the verified account.
        storage_root: B256,
        /// The value that the node claims.
        value: B256,
        /// What the verifier said.
        what: String,
    },
    /// The node left out a slot, or answered about another account.
    #[error("block {block}: the answer about {account} is not what was asked for: {what}")]
    Shape {
        /// The block.
        block: B256,
        /// The contract.
        account: Address,
        /// The difference.
        what: String,
    },
}

impl ProofError {
    /// Who must act: a node that fails here must not be believed.
    pub fn severity(&self) -> Severity {
        Severity::Fatal
    }
}

/// Storage of one contract at one block, proven against the block's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedStorage {
    /// The block that the values belong to.
    pub block: BlockRef,
    /// State root out of its header.
    pub state_root: B256,
    /// The contract.
    pub account: Address,
    /// keccak of its code.
    pub code_hash: B256,
    /// Root of its storage.
    pub storage_root: B256,
    /// Slots in the order asked for, with their values; an absent slot is zero, and proven to be absent.
    pub slots: Vec<(B256, B256)>,
}

impl VerifiedStorage {
    /// Value of a slot that was asked for.
    pub fn get(&self, slot: B256) -> Option<B256> {
        self.slots.iter().find(|(key, _)| *key == slot).map(|(_, value)| *value)
    }
}

/// Checks an account and slots of it against a state root. Pure.
///
/// # Errors
/// The link that breaks.
pub fn verify(
    block: BlockRef,
    state_root: B256,
    account: Address,
    slots: &[B256],
    answer: &EIP1186AccountProofResponse,
) -> Result<VerifiedStorage, ProofError> {
    let hash = block.hash;
    let shape = |what: String| ProofError::Shape { block: hash, account, what };
    if answer.address != account {
        return Err(shape(format!("it is about {}", answer.address)));
    }
    let leaf = TrieAccount { nonce: answer.nonce, balance: answer.balance, storage_root: answer.storage_hash, code_hash: answer.code_hash };
    let no_code = keccak256([]);
    let expected = if leaf == TrieAccount::default() { None } else { Some(alloy_rlp::encode(leaf)) };
    verify_proof(state_root, Nibbles::unpack(keccak256(account)), expected, &answer.account_proof)
        .map_err(|error| ProofError::Account { block: hash, account, state_root, what: error.to_string() })?;
    if leaf.code_hash == no_code {
        return Err(ProofError::NoContract { block: hash, account });
    }
    if answer.storage_proof.len() != slots.len() {
        return Err(shape(format!("{} slots instead of {}", answer.storage_proof.len(), slots.len())));
    }
    let mut verified = Vec::with_capacity(slots.len());
    for (&slot, proof) in slots.iter().zip(&answer.storage_proof) {
        if proof.key.as_b256() != slot {
            return Err(shape(format!("slot {} instead of {slot}", proof.key.as_b256())));
        }
        let value = B256::from(proof.value);
        let path = Nibbles::unpack(keccak256(slot));
        let holds = |expected| verify_proof(leaf.storage_root, path, expected, &proof.proof);
        let encoded = alloy_rlp::encode(proof.value);
        // A zero is proven by the slot's absence. A slot that became zero stays as a leaf in the tries of some development nodes (anvil):
        // a leaf that holds zero, under the same root, proves the same.
        let proven = if proof.value == U256::ZERO {
            holds(None).or_else(|error| holds(Some(encoded)).map_err(|_| error))
        } else {
            holds(Some(encoded))
        };
        proven.map_err(|error| ProofError::Slot {
            block: hash,
            account,
            slot,
            storage_root: leaf.storage_root,
            value,
            what: error.to_string(),
        })?;
        verified.push((slot, value));
    }
    Ok(VerifiedStorage { block, state_root, account, code_hash: leaf.code_hash, storage_root: leaf.storage_root, slots: verified })
}

/// Slots of a contract at the block with this hash, proven against the hash.
///
/// # Errors
/// [`Error::Proof`] with the link that broke; [`Error::MissingBlock`]; why the node did not answer.
pub async fn prove_storage(client: &Client, account: Address, slots: &[B256], block: B256) -> Result<VerifiedStorage> {
    let header = verified_header(client, block).await?;
    let at = BlockRef { number: header.number, hash: block, timestamp: header.timestamp };
    let mut tries = 1;
    loop {
        let answer: EIP1186AccountProofResponse = match client.request("eth_getProof", (account, slots, BlockId::hash(block))).await {
            Ok(answer) => answer,
            // Some nodes take block numbers only; the proof is checked against the hash all the same.
            Err(Error::Rpc { .. }) => client.request("eth_getProof", (account, slots, BlockId::number(header.number))).await?,
            Err(error) => return Err(error),
        };
        match verify(at, header.state_root, account, slots, &answer) {
            Err(ProofError::Account { .. } | ProofError::Slot { .. }) if tries < PROOF_TRIES => tries += 1,
            verified => return Ok(verified?),
        }
    }
}

/// Whether one block is an ancestor of another, by the hashes of all headers between them. Asks for each of these headers.
///
/// # Errors
/// [`ProofError::HeaderHash`] for a header that does not lead to the later block; [`Error::MissingBlock`]; why the node did not answer.
pub async fn linked(client: &Client, earlier: BlockRef, later: BlockRef) -> Result<bool> {
    let mut wanted = later.hash;
    let mut number = later.number;
    while number > earlier.number {
        let low = number.saturating_sub(HEADER_BATCH).max(earlier.number);
        let params: Vec<(U64, bool)> = (low + 1..=number).map(|number| (U64::from(number), false)).collect();
        let headers: Vec<Option<alloy::rpc::types::Header>> = client.batch("eth_getBlockByNumber", &params).await?;
        for header in headers.into_iter().rev() {
            let header = header.ok_or(Error::MissingBlock { method: "eth_getBlockByNumber", block: wanted })?.inner;
            let actual = header.hash_slow();
            if actual != wanted {
                return Err(ProofError::HeaderHash { block: wanted, actual }.into());
            }
            wanted = header.parent_hash;
        }
        number = low;
    }
    Ok(wanted == earlier.hash)
}

/// The header of a block, hashed again.
///
/// # Errors
/// [`ProofError::HeaderHash`]; [`Error::MissingBlock`]; why the node did not answer.
pub async fn verified_header(client: &Client, block: B256) -> Result<Header> {
    let answer: Option<alloy::rpc::types::Header> = client.request("eth_getBlockByHash", (block, false)).await?;
    let header = answer.ok_or(Error::MissingBlock { method: "eth_getBlockByHash", block })?.inner;
    let actual = header.hash_slow();
    if actual != block {
        return Err(ProofError::HeaderHash { block, actual }.into());
    }
    Ok(header)
}

/// Version 0 output root of an OP Stack block: what a dispute game on the L1 claims (OP Stack specification, "L2 output root proposals").
///
/// To carry a proof to the L1, compare this with the root of a game that the L1's `AnchorStateRegistry` holds valid, for the block's state root, the storage
/// root of `L2ToL1MessagePasser` (proven like any account) and its hash.
pub fn output_root(state_root: B256, message_passer_root: B256, block_hash: B256) -> B256 {
    let mut preimage = [0u8; 128];
    preimage[32..64].copy_from_slice(state_root.as_slice());
    preimage[64..96].copy_from_slice(message_passer_root.as_slice());
    preimage[96..].copy_from_slice(block_hash.as_slice());
    keccak256(preimage)
}

/// Bytes of code against a hash: what a deployment check compares.
pub(crate) fn code_hash(code: &Bytes) -> B256 {
    keccak256(code)
}
