// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {Bucket, Move, Reason} from "../../src/types/Money.sol";

/// @title The Ledger's entries without assembly and without tables: what `Entries`, `Balances` and `Moves` must do
/// @notice Written from docs/PROTOCOL.md, section 5, not from the contract.
contract PlainLedger {
    bytes32 public head;
    uint64 public seq;
    mapping(address account => mapping(Bucket => uint128)) public balanceOf;

    struct Row {
        Bucket from;
        Bucket to;
        bool sameAccount;
    }

    /// @param ledger the address that stands in the head's preimage
    function append(address ledger, Move calldata m, bytes32 referenceId) external returns (Row memory row) {
        row = rowOf(m.reason);
        if (row.from != Bucket.Outside) {
            uint128 available = balanceOf[m.from][row.from];
            if (available < m.amount) revert ILedger.InsufficientBalance(m.from, row.from, m.amount, available);
            balanceOf[m.from][row.from] = available - m.amount;
        }
        if (row.to != Bucket.Outside) balanceOf[m.to][row.to] += m.amount;
        seq += 1;
        bytes memory start = abi.encodePacked(uint8(0x50), head, block.chainid, ledger, seq);
        bytes memory end = abi.encodePacked(m.from, uint8(row.from), m.to, uint8(row.to), m.amount, uint8(m.reason), referenceId);
        head = bytes32(bytes24(keccak256(bytes.concat(start, end))));
    }

    function rowOf(Reason reason) public pure returns (Row memory) {
        if (reason == Reason.Deposit) return Row(Bucket.Outside, Bucket.Free, false);
        if (reason == Reason.Withdrawal) return Row(Bucket.Free, Bucket.Outside, false);
        if (reason == Reason.Escrowed) return Row(Bucket.Free, Bucket.Escrow, true);
        if (reason == Reason.Cancelled || reason == Reason.Expired) return Row(Bucket.Escrow, Bucket.Free, true);
        if (reason == Reason.Undelivered || reason == Reason.Change) return Row(Bucket.Escrow, Bucket.Free, true);
        if (reason == Reason.Voided) return Row(Bucket.Escrow, Bucket.Free, true);
        if (reason == Reason.Penalty) return Row(Bucket.Lock, Bucket.Free, false);
        if (reason == Reason.Locked) return Row(Bucket.Stake, Bucket.Lock, true);
        if (reason == Reason.Unlocked) return Row(Bucket.Lock, Bucket.Stake, true);
        if (reason == Reason.Fee || reason == Reason.Royalty) return Row(Bucket.Escrow, Bucket.Free, false);
        if (reason == Reason.Staked) return Row(Bucket.Free, Bucket.Stake, true);
        if (reason == Reason.UnbondStarted) return Row(Bucket.Stake, Bucket.Unbonding, true);
        if (reason == Reason.UnbondCancelled) return Row(Bucket.Unbonding, Bucket.Stake, true);
        if (reason == Reason.Unbonded) return Row(Bucket.Unbonding, Bucket.Free, true);
        if (reason == Reason.BondPosted) return Row(Bucket.Free, Bucket.Bond, true);
        if (reason == Reason.BondReturned) return Row(Bucket.Bond, Bucket.Free, true);
        if (reason == Reason.BondLost) return Row(Bucket.Bond, Bucket.Free, false);
        if (reason == Reason.SlashedToChallenger || reason == Reason.SlashedToClient) return Row(Bucket.Lock, Bucket.Free, false);
        if (reason == Reason.SlashedDelayed) return Row(Bucket.Lock, Bucket.Delayed, false);
        revert("no such reason");
    }
}
