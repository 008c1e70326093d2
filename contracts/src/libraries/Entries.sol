// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ILedger} from "../interfaces/ILedger.sol";
import {Move} from "../types/Money.sol";
import {Moves} from "./Moves.sol";

/// @notice The head of the ledger and the number of its last entry in one word, so that an entry writes one and a proof opens one:
/// bits 64 to 255 the head's 24 bytes, bits 0 to 63 the sequence number. 0 before the first entry.
type Tip is uint256;

using Entries for Tip global;

/// @title Entries of the Ledger: the hash chain of the head and the event
/// @dev Assembly, because five entries are made in the life of a job; test/reference/PlainLedger.sol is the plain twin.
library Entries {
    /// @dev The tag of a head's preimage (docs/PROTOCOL.md, section 1).
    uint256 private constant TAG = 0x50;
    uint256 private constant SEQ_MASK = 0xffffffffffffffff;

    /// @notice The head: 24 bytes of a hash and 8 zero bytes.
    function head(Tip tip) internal pure returns (bytes32) {
        return bytes32(Tip.unwrap(tip) & ~SEQ_MASK);
    }

    /// @notice The number of the last entry.
    function seq(Tip tip) internal pure returns (uint64) {
        return uint64(Tip.unwrap(tip));
    }

    /// @notice The tip after one more entry; emits `Moved`.
    function append(Tip tip, Move memory m, bytes32 referenceId) internal returns (Tip newTip) {
        bytes32 topic = ILedger.Moved.selector;
        uint256 fromBucket = uint256(Moves.fromBucket(m.reason));
        uint256 toBucket = uint256(Moves.toBucket(m.reason));
        assembly ("memory-safe") {
            let p := mload(0x40) // scratch beyond the free memory pointer, which stays
            let from := mload(m)
            let to := mload(add(m, 0x20))
            let amount := mload(add(m, 0x40))
            let reason := mload(add(m, 0x60))
            let newSeq := add(and(tip, SEQ_MASK), 1) // 2^64 entries do not fit into the life of a chain

            // 184 bytes, from the last value to the first: the zeros left of each are overwritten by the one before it.
            mstore(add(p, 0x98), referenceId) // bytes 152 to 183
            mstore(add(p, 0x78), reason) // 151
            mstore(add(p, 0x77), amount) // 135 to 150
            mstore(add(p, 0x67), toBucket) // 134
            mstore(add(p, 0x66), to) // 114 to 133
            mstore(add(p, 0x52), fromBucket) // 113
            mstore(add(p, 0x51), from) // 93 to 112
            mstore(add(p, 0x3d), newSeq) // 85 to 92
            mstore(add(p, 0x35), address()) // 65 to 84
            mstore(add(p, 0x21), chainid()) // 33 to 64
            mstore(add(p, 0x01), and(tip, not(SEQ_MASK))) // 1 to 32
            mstore8(p, TAG) // 0
            let newHead := and(keccak256(p, 0xb8), not(SEQ_MASK))
            newTip := or(newHead, newSeq)

            mstore(p, newSeq)
            mstore(add(p, 0x20), fromBucket)
            mstore(add(p, 0x40), toBucket)
            mstore(add(p, 0x60), amount)
            mstore(add(p, 0x80), reason)
            mstore(add(p, 0xa0), newHead)
            log4(p, 0xc0, topic, from, to, referenceId)
        }
    }
}
