// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

/// @notice Where an amount of the token stands. The numbers are hashed into the ledger head: they never change
/// (docs/PROTOCOL.md, section 5).
enum Bucket {
    None,
    /// The token outside the Ledger.
    Outside,
    /// The account may withdraw it, escrow it, stake it or bond it.
    Free,
    /// Promised for jobs that the account posted.
    Escrow,
    /// A provider's stake behind no job.
    Stake,
    /// Stake on its way out; nothing can lock it.
    Unbonding,
    /// Stake behind one live job each.
    Lock,
    /// A challenger's bonds in live games.
    Bond,
    /// Account 0 from here on. Gone for good.
    Burned,
    /// Slashed, and held until the first audited release decides.
    Delayed,
    /// Fees set aside for rewards.
    RewardPool
}

/// @notice Why an amount moved. A reason fixes both buckets and the module that may give it (`libraries/Moves.sol`).
enum Reason {
    None,
    Deposit,
    Withdrawal,
    Escrowed,
    Cancelled,
    Expired,
    Undelivered,
    Penalty,
    Locked,
    Unlocked,
    Fee,
    Royalty,
    Change,
    Staked,
    UnbondStarted,
    UnbondCancelled,
    Unbonded,
    BondPosted,
    BondReturned,
    BondLost,
    SlashedToChallenger,
    SlashedToClient,
    SlashedDelayed,
    Voided
}

/// @notice One move of money inside the Ledger. The buckets follow from the reason.
/// @param from the account that is debited
/// @param to the account that is credited; 0 for the buckets that belong to nobody
/// @param amount in the token's smallest unit; a move of 0 is not made
struct Move {
    address from;
    address to;
    uint128 amount;
    Reason reason;
}
