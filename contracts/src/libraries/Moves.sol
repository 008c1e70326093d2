// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Bucket, Reason} from "../types/Money.sol";

/// @title What each reason moves, from where to where, and who may give it
/// @notice The table of docs/PROTOCOL.md, section 5, one byte per reason: byte n of each word belongs to reason n.
library Moves {
    /// @notice Who gives a reason.
    uint8 internal constant BY_LEDGER = 1;
    uint8 internal constant BY_MARKET = 2;
    uint8 internal constant BY_REGISTRY = 3;
    uint8 internal constant BY_GAME = 4;

    // Reasons 0 to 7, 8 to 15, 16 to 23; the last eight bytes belong to none.
    bytes32 private constant FROM = hex"0001020203030306" hex"0406030303020405" hex"0502070706060603" hex"0000000000000000";
    bytes32 private constant TO = hex"0002010302020202" hex"0604020202040504" hex"0207020202020902" hex"0000000000000000";
    bytes32 private constant BY = hex"0001010202020202" hex"0202020202030303" hex"0304040402020202" hex"0000000000000000";
    // 1: the money stays with its account.
    bytes32 private constant SAME = hex"0000000101010100" hex"0101000001010101" hex"0101010000000001" hex"0000000000000000";

    /// @notice The bucket that is debited.
    function fromBucket(Reason reason) internal pure returns (Bucket) {
        return Bucket(uint8(FROM[uint8(reason)]));
    }

    /// @notice The bucket that is credited.
    function toBucket(Reason reason) internal pure returns (Bucket) {
        return Bucket(uint8(TO[uint8(reason)]));
    }

    /// @notice Who gives the reason: `BY_LEDGER`, `BY_MARKET`, `BY_REGISTRY` or `BY_GAME`.
    function givenBy(Reason reason) internal pure returns (uint8) {
        return uint8(BY[uint8(reason)]);
    }

    /// @notice Whether the money must stay with its account.
    function staysWithAccount(Reason reason) internal pure returns (bool) {
        return SAME[uint8(reason)] != 0;
    }

    /// @notice Whether the bucket belongs to nobody, so that its account is 0.
    function isOwnerless(Bucket bucket) internal pure returns (bool) {
        return bucket >= Bucket.Burned;
    }
}
