// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ILedger} from "../interfaces/ILedger.sol";
import {Bucket} from "../types/Money.sol";
import {Moves} from "./Moves.sol";

/// @title Balances by account and bucket, two to a storage word
/// @notice Buckets that move together share a word: free | escrow, stake | lock, unbonding | bond; of account 0: burned | delayed,
/// rewardPool. The low half of each word comes first.
/// @dev Assembly for the word of an array element; test/reference/PlainLedger.sol is the plain twin.
library Balances {
    /// @dev Byte n from the right: the position of bucket n. Free 0, Escrow 1, Stake 2, Unbonding 4, Lock 3, Bond 5; Burned 0, Delayed 1,
    /// RewardPool 2.
    uint256 private constant POSITION = 0x0201000503040201000000;

    /// @notice Six balances of an account.
    struct Accounts {
        mapping(address account => uint128[6]) balances;
    }

    /// @notice The balance of a bucket that exists for this account; 0 for any other.
    function get(Accounts storage self, address account, Bucket bucket) internal view returns (uint128) {
        if (bucket <= Bucket.Outside || Moves.isOwnerless(bucket) != (account == address(0))) return 0;
        return self.balances[account][position(bucket)];
    }

    /// @notice Takes `amount`; reverts `InsufficientBalance`.
    function debit(Accounts storage self, address account, Bucket bucket, uint128 amount) internal {
        (uint256 slot, uint256 shift) = _word(self, account, bucket);
        uint256 word;
        assembly ("memory-safe") {
            word := sload(slot)
        }
        uint128 available = uint128(word >> shift);
        if (available < amount) revert ILedger.InsufficientBalance(account, bucket, amount, available);
        unchecked {
            // The half holds the amount, so nothing is borrowed from the other.
            word -= uint256(amount) << shift;
        }
        assembly ("memory-safe") {
            sstore(slot, word)
        }
    }

    /// @notice Adds `amount`; reverts `AccountNotAllowed` where the bucket does not exist for this account.
    /// @dev INVARIANT: the sum of all balances fits 128 bits, so nothing is carried into the other half.
    function credit(Accounts storage self, address account, Bucket bucket, uint128 amount) internal {
        if (Moves.isOwnerless(bucket) != (account == address(0))) revert ILedger.AccountNotAllowed(bucket, account);
        (uint256 slot, uint256 shift) = _word(self, account, bucket);
        assembly ("memory-safe") {
            sstore(slot, add(sload(slot), shl(shift, amount)))
        }
    }

    /// @notice The index of a bucket in an account's six balances.
    function position(Bucket bucket) internal pure returns (uint256) {
        unchecked {
            return uint8(POSITION >> 8 * uint256(bucket));
        }
    }

    /// @dev The storage word of a balance, and how far left it stands in it.
    function _word(Accounts storage self, address account, Bucket bucket) private view returns (uint256 slot, uint256 shift) {
        uint128[6] storage six = self.balances[account];
        uint256 index = position(bucket);
        assembly ("memory-safe") {
            slot := add(six.slot, shr(1, index))
            shift := shl(7, and(index, 1))
        }
    }
}
