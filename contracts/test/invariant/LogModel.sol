// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../src/interfaces/IJobMarket.sol";
import {ILedger} from "../../src/interfaces/ILedger.sol";
import {IProviderRegistry} from "../../src/interfaces/IProviderRegistry.sol";
import {Job, JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {Vm} from "../Vm.sol";

/// @title Storage rebuilt from events alone
/// @notice Folds the logs of the contracts, as an indexer or an auditor would, and calls none of them. What it holds must equal what they
/// hold. It also refuses what no history may contain: a gap in the sequence, a head that does not follow, a balance below zero, a job
/// that leaves a final state.
contract LogModel {
    /// @dev The data of `Moved`.
    struct Entry {
        uint64 seq;
        Bucket fromBucket;
        Bucket toBucket;
        uint128 amount;
        uint8 reason;
        bytes32 head;
    }

    address private _ledger;
    address private _market;
    address private _registry;

    bytes32 public head;
    uint64 public seq;
    uint256 public total;
    mapping(address account => mapping(Bucket => uint256)) public balanceOf;
    mapping(bytes32 id => Job) private _jobs;
    mapping(address provider => address) public operatorOf;
    mapping(address provider => uint40) public unbondedAt;

    function watch(address ledger, address market, address registry) external {
        (_ledger, _market, _registry) = (ledger, market, registry);
    }

    function job(bytes32 id) external view returns (Job memory) {
        return _jobs[id];
    }

    function fold(Vm.Log[] calldata logs) external {
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == _ledger) _moved(logs[i]);
            else if (logs[i].emitter == _market) _job(logs[i]);
            else if (logs[i].emitter == _registry) _provider(logs[i]);
        }
    }

    function _moved(Vm.Log calldata l) private {
        require(l.topics[0] == ILedger.Moved.selector, "an event of the ledger that is no move");
        Entry memory e = abi.decode(l.data, (Entry));
        (address from, address to) = (_address(l.topics[1]), _address(l.topics[2]));
        require(e.seq == seq + 1, "a gap in the sequence");
        require(e.amount > 0, "an entry of nothing");
        bytes memory start = abi.encodePacked(uint8(0x50), head, block.chainid, _ledger, e.seq);
        bytes memory end = abi.encodePacked(from, uint8(e.fromBucket), to, uint8(e.toBucket), e.amount, e.reason, l.topics[3]);
        require(bytes32(bytes24(keccak256(bytes.concat(start, end)))) == e.head, "a head that does not follow");
        if (e.fromBucket == Bucket.Outside) total += e.amount;
        else balanceOf[from][e.fromBucket] -= e.amount;
        if (e.toBucket == Bucket.Outside) total -= e.amount;
        else balanceOf[to][e.toBucket] += e.amount;
        (head, seq) = (e.head, e.seq);
    }

    function _job(Vm.Log calldata l) private {
        bytes32 topic = l.topics[0];
        Job storage j = _jobs[l.topics[1]];
        if (topic == IJobMarket.CompletionSkipped.selector) return;
        require(uint256(j.state) < uint256(State.Completed), "an event after a final state");
        if (topic == IJobMarket.JobPosted.selector) {
            (, uint40 postedAt,) = abi.decode(l.data, (uint96, uint40, JobSpec));
            (j.state, j.clock) = (State.Open, postedAt);
        } else if (topic == IJobMarket.JobClaimed.selector) {
            (uint16 priceBps, uint40 deadline,) = abi.decode(l.data, (uint16, uint40, uint128));
            (j.state, j.clock, j.priceBps) = (State.Claimed, deadline, priceBps);
            (j.provider, j.operator) = (_address(l.topics[2]), _address(l.topics[3]));
        } else if (topic == IJobMarket.ReceiptSubmitted.selector) {
            (bytes32 digest, uint40 windowEnd,) = abi.decode(l.data, (bytes32, uint40, Receipt));
            (j.state, j.clock, j.receiptDigest, j.provider) = (State.Submitted, windowEnd, digest, address(0));
        } else if (topic == IJobMarket.ChallengeOpened.selector || topic == IJobMarket.ChallengeDismissed.selector) {
            j.challengesOpen = abi.decode(l.data, (uint16));
            j.state = j.challengesOpen == 0 ? State.Submitted : State.Challenged;
        } else if (topic == IJobMarket.WindowExtended.selector) {
            (j.clock, j.extended) = (abi.decode(l.data, (uint40)), true);
        } else {
            j.state = topic == IJobMarket.JobCompleted.selector
                ? State.Completed
                : topic == IJobMarket.JobSlashed.selector ? State.Slashed : State.Refunded;
            (j.provider, j.receiptDigest) = (address(0), 0);
            if (j.state == State.Slashed) j.challengesOpen = 0;
        }
    }

    function _provider(Vm.Log calldata l) private {
        address provider = _address(l.topics[1]);
        if (l.topics[0] == IProviderRegistry.OperatorChanged.selector) operatorOf[provider] = _address(l.topics[2]);
        if (l.topics[0] == IProviderRegistry.UnbondingStarted.selector) {
            (, unbondedAt[provider]) = abi.decode(l.data, (uint128, uint40));
        }
    }

    function _address(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }
}
