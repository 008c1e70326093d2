// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Bucket, Reason} from "../types/Money.sol";

/// @title What each reason moves, from where to where, and who may give it
/// @notice The table of docs/PROTOCOL.md, section 5, one byte per reason, reason 0 in the lowest byte (the right end of the literals).
library Moves {
    /// @notice Who gives a reason.
    uint256 internal constant BY_LEDGER = 1;
    uint256 internal constant BY_MARKET = 2;
    uint256 internal constant BY_REGISTRY = 3;
    uint256 internal constant BY_GAME = 4;

    //                                reason 23 to 16      15 to 8          7 to 0
    uint256 private constant FROM = 0x030606060707020505040203030306040603030302020100;
    uint256 private constant TO = 0x020902020202070204050402020204060202020203010200;
    // ff: nobody gives reason None.
    uint256 private constant BY = 0x0202020204040403030303020202020202020202020101ff;
    // 1: the money stays with its account.
    uint256 private constant SAME = 0x010000000001010101010101000001010001010101000000;

    /// @notice The bucket that is debited.
    function fromBucket(Reason reason) internal pure returns (Bucket) {
        return Bucket(_byte(FROM, reason));
    }

    /// @notice The bucket that is credited.
    function toBucket(Reason reason) internal pure returns (Bucket) {
        return Bucket(_byte(TO, reason));
    }

    /// @notice Who gives the reason: `BY_LEDGER`, `BY_MARKET`, `BY_REGISTRY` or `BY_GAME`.
    function givenBy(Reason reason) internal pure returns (uint256) {
        return _byte(BY, reason);
    }

    /// @notice Whether the money must stay with its account.
    function staysWithAccount(Reason reason) internal pure returns (bool) {
        return _byte(SAME, reason) != 0;
    }

    /// @notice Whether the bucket belongs to nobody, so that its account is 0.
    function isOwnerless(Bucket bucket) internal pure returns (bool) {
        return bucket >= Bucket.Burned;
    }

    function _byte(uint256 table, Reason reason) private pure returns (uint8) {
        unchecked {
            return uint8(table >> 8 * uint256(reason));
        }
    }
}
