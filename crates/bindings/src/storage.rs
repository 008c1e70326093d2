//! Where the Ledger keeps what an auditor proves: pure functions from names to storage slots, as
//! `contracts/snapshots/storage/Ledger.json` has them.
//!
//! | slot | contents |
//! |---|---|
//! | 0 | `head` |
//! | 1 | `seq` (8 low bytes), `total` (the 16 bytes above) |
//! | 2 | mapping from account to six `uint128`, two to a slot, low half first |

use alloy_primitives::{Address, B256, U256, keccak256};
use quern_types::{Amount, Bucket};

/// Slot of `head`.
pub const LEDGER_HEAD: B256 = B256::ZERO;
/// Slot that `seq` and `total` share.
pub const LEDGER_SEQ_AND_TOTAL: B256 = B256::with_last_byte(1);
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
    /// The balance out of the slot's value.
    pub fn read(&self, value: B256) -> Amount {
        let half = if self.upper { &value[..16] } else { &value[16..] };
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

/// `seq` and `total` out of the value of [`LEDGER_SEQ_AND_TOTAL`].
pub fn ledger_seq_and_total(value: B256) -> (u64, Amount) {
    let (mut seq, mut total) = ([0u8; 8], [0u8; 16]);
    seq.copy_from_slice(&value[24..]);
    total.copy_from_slice(&value[8..24]);
    (u64::from_be_bytes(seq), Amount::from_units(u128::from_be_bytes(total)))
}
