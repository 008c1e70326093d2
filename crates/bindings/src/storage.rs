//! Where Ledger (PROTOCOL, section 5) and market keep what an auditor proves: pure functions from names to storage slots and from words to values.

use alloy_primitives::{Address, B256, U256, keccak256};
use quern_types::{Amount, Bucket, JobId, JobState};

/// Slot of the tip: 24 bytes of the head, then the sequence number. Read it with [`ledger_tip`].
pub const LEDGER_TIP: B256 = B256::ZERO;
/// Slot of the sum of all buckets. Read it with [`ledger_total`].
pub const LEDGER_TOTAL: B256 = B256::with_last_byte(1);
/// Slot of the mapping of balances.
const LEDGER_BALANCES: u8 = 2;

/// Half of a slot: where one balance of an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BalancePlace {
    /// The slot.
    pub slot: B256,
    /// Whether it is the upper 16 bytes of the slot.
    pub upper: bool,
}

impl BalancePlace {
    /// The balance out of the slot's word.
    pub fn read(&self, word: B256) -> Amount {
        let half = if self.upper { &word[..16] } else { &word[16..] };
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(half);
        Amount::from_units(u128::from_be_bytes(bytes))
    }
}

/// Where a balance stands; `None` for [`Bucket::Outside`], which the Ledger does not keep.
pub fn ledger_balance(account: Address, bucket: Bucket) -> Option<BalancePlace> {
    let position: u64 = match bucket {
        Bucket::Outside => return None,
        Bucket::Free | Bucket::Burned => 0,
        Bucket::Escrow | Bucket::Delayed => 1,
        Bucket::Stake | Bucket::RewardPool => 2,
        Bucket::Lock => 3,
        Bucket::Unbonding => 4,
        Bucket::Bond => 5,
    };
    let mut preimage = [0u8; 64];
    preimage[12..32].copy_from_slice(account.as_slice());
    preimage[63] = LEDGER_BALANCES;
    let base = U256::from_be_bytes(keccak256(preimage).0);
    Some(BalancePlace { slot: base.wrapping_add(U256::from(position / 2)).into(), upper: position % 2 == 1 })
}

/// Sequence number of the last entry and head after it (32 bytes, the last 8 zero), out of the word at [`LEDGER_TIP`].
pub fn ledger_tip(word: B256) -> (u64, B256) {
    let (mut seq, mut head) = ([0u8; 8], word);
    seq.copy_from_slice(&word[24..]);
    head[24..].fill(0);
    (u64::from_be_bytes(seq), head)
}

/// Sum of all buckets, out of the word at [`LEDGER_TOTAL`].
pub fn ledger_total(word: B256) -> Amount {
    BalancePlace { slot: LEDGER_TOTAL, upper: false }.read(word)
}

/// Slot of the market's mapping of jobs.
const MARKET_JOBS: u8 = 0;

/// The two slots of a job: its word, read by [`JobWord::read`], and its subject, which is the receipt's digest while the job is Submitted or
/// Challenged.
pub fn job_slots(job: JobId) -> [B256; 2] {
    let mut preimage = [0u8; 64];
    preimage[..32].copy_from_slice(job.0.as_slice());
    preimage[63] = MARKET_JOBS;
    let base = U256::from_be_bytes(keccak256(preimage).0);
    [base.into(), base.wrapping_add(U256::ONE).into()]
}

/// What an auditor needs of a job's word (`contracts/src/types/JobWord.sol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobWord {
    /// Where the job is in its life; `None` where it was never posted.
    pub state: Option<JobState>,
    /// The key that made the claim; zero before it.
    pub operator: Address,
}

impl JobWord {
    /// Reads the word. Its state is in the lowest byte, the operator from bit 64 on.
    pub fn read(word: B256) -> Self {
        Self { state: JobState::try_from(word[31]).ok(), operator: Address::from_slice(&word[4..24]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The compiler's own layout, committed and checked with the contracts.
    const LAYOUT: &str = include_str!("../../../contracts/snapshots/storage/Ledger.json");

    #[test]
    fn slots_are_those_of_the_compiler() {
        let layout: serde_json::Value = serde_json::from_str(LAYOUT).expect("JSON");
        let variables = layout["variables"].as_array().expect("variables");
        let found: Vec<(&str, u64, u64)> = variables
            .iter()
            .map(|v| (v["label"].as_str().expect("label"), v["slot"].as_u64().expect("slot"), v["offset"].as_u64().expect("offset")))
            .collect();
        assert_eq!(found, [("_tip", 0, 0), ("total", 1, 0), ("_accounts", u64::from(LEDGER_BALANCES), 0)]);
        let members = &layout["types"]["t_struct(Accounts)_storage"]["members"];
        assert_eq!((members.as_array().map(Vec::len), members[0]["slot"].as_u64()), (Some(1), Some(0)), "the mapping is the whole struct");
        assert_eq!(layout["types"]["t_array(t_uint128)_storage"]["label"], "uint128[6]");
    }

    #[test]
    fn slots_of_a_job_are_those_of_the_compiler() {
        let layout: serde_json::Value =
            serde_json::from_str(include_str!("../../../contracts/snapshots/storage/JobMarket.json")).expect("JSON");
        let jobs = &layout["variables"][0];
        assert_eq!((jobs["label"].as_str(), jobs["slot"].as_u64()), (Some("_jobs"), Some(u64::from(MARKET_JOBS))));
        let members = layout["types"]["t_struct(Stored)_storage"]["members"].as_array().expect("members");
        let members: Vec<_> = members.iter().map(|member| (member["label"].as_str(), member["slot"].as_u64())).collect();
        assert_eq!(members, [(Some("word"), Some(0)), (Some("subject"), Some(1))]);
        let [word, subject] = job_slots(JobId(B256::repeat_byte(1)));
        assert_eq!(U256::from_be_bytes(subject.0), U256::from_be_bytes(word.0) + U256::ONE);
    }

    #[test]
    fn state_and_operator_are_read_out_of_the_word_of_a_job() {
        let operator = Address::repeat_byte(0xab);
        // As JobWords.claimed packs it, with state Submitted and every other field full.
        let word: U256 = U256::from(3)
            | U256::from(u64::MAX) >> 24 << 8
            | U256::from(u16::MAX) << 48
            | U256::from_be_slice(operator.as_slice()) << 64
            | U256::from(u16::MAX) << 224;
        assert_eq!(JobWord::read(word.into()), JobWord { state: Some(JobState::Submitted), operator });
        assert_eq!(JobWord::read(B256::ZERO), JobWord { state: None, operator: Address::ZERO });
    }

    #[test]
    fn six_balances_of_an_account_share_three_slots_and_no_place() {
        let account = Address::repeat_byte(0xab);
        let owned = [Bucket::Free, Bucket::Escrow, Bucket::Stake, Bucket::Lock, Bucket::Unbonding, Bucket::Bond];
        let places: Vec<BalancePlace> = owned.iter().filter_map(|bucket| ledger_balance(account, *bucket)).collect();
        for pair in places.chunks(2) {
            assert_eq!((pair[0].slot, pair[0].upper, pair[1].upper), (pair[1].slot, false, true));
        }
        assert_ne!(places[0].slot, places[2].slot);
        assert_eq!(ledger_balance(account, Bucket::Outside), None);
    }

    #[test]
    fn halves_of_a_slot_are_read_apart() {
        let mut value = [0u8; 32];
        (value[15], value[31], value[16]) = (1, 2, 0x80);
        let value = B256::from(value);
        let place = |upper| BalancePlace { slot: B256::ZERO, upper };
        assert_eq!(place(true).read(value).units(), 1);
        assert_eq!(place(false).read(value).units(), (0x80 << 120) + 2);

        assert_eq!(ledger_total(value).units(), (0x80 << 120) + 2);

        let mut word = [0xaa; 32];
        word[24..].copy_from_slice(&9u64.to_be_bytes());
        let mut head = [0xaa; 32];
        head[24..].fill(0);
        assert_eq!(ledger_tip(word.into()), (9, head.into()));
    }
}
