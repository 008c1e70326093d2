// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IGuardian} from "../../src/interfaces/IGuardian.sol";
import {IJobMarket} from "../../src/interfaces/IJobMarket.sol";
import {ILedger} from "../../src/interfaces/ILedger.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IProviderRegistry} from "../../src/interfaces/IProviderRegistry.sol";
import {JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket, Move, Reason} from "../../src/types/Money.sol";
import {Vm} from "../Vm.sol";
import {PlainLedger} from "../reference/PlainLedger.sol";

/// @title The whole state of the contracts, rebuilt from their events alone
/// @notice `fold` takes the logs of one action, in order, and refuses a transition that docs/PROTOCOL.md, section 6, does not have, one at
/// the wrong time, and one whose announced amounts are not those that moved. `requireStorage` compares the model with storage, word by
/// word, at the slots that the interfaces document.
contract EventModel is PlainLedger {
    /// @dev `client` to `claimBy` are facts of the events that storage does not hold.
    struct JobModel {
        State state;
        uint40 clock;
        uint16 priceBps;
        address operator;
        uint16 challengesOpen;
        bool extended;
        bytes32 subject;
        address client;
        address provider;
        uint96 maxFee;
        uint128 lock;
        uint64 claimBy;
        uint40 deliverBy;
    }

    struct Contracts {
        address ledger;
        address market;
        address providers;
        address models;
        address guardian;
        address game;
    }

    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 public total;
    mapping(bytes32 jobId => JobModel) private _jobs;
    bytes32[] private _jobIds;
    address[] private _accounts;
    mapping(address => bool) private _known;
    bytes32[] private _modelIds;
    mapping(bytes32 modelId => uint256 word) private _models;
    /// @dev bits 0 to 159 operator, 160 to 199 unbondedAt.
    mapping(address provider => uint256 word) private _providers;
    bool private _stopped;

    /// @dev What events say was moved, and what was moved, by job id or provider; equal after every action.
    mapping(bytes32 key => mapping(Reason => uint256)) private _announced;
    mapping(bytes32 key => mapping(Reason => uint256)) private _moved;
    bytes32[] private _touched;
    Contracts private _c;

    constructor(Contracts memory c) {
        _c = c;
        _know(address(0));
    }

    /* VIEWS */

    function job(bytes32 jobId) external view returns (JobModel memory) {
        return _jobs[jobId];
    }

    function jobIds() external view returns (bytes32[] memory) {
        return _jobIds;
    }

    /// @notice Every account that an entry of the ledger named.
    function accounts() external view returns (address[] memory) {
        return _accounts;
    }

    /// @notice How much was moved so far with this reason under this job id (or, for stake, this provider).
    function moved(bytes32 key, Reason reason) external view returns (uint256) {
        return _moved[key][reason];
    }

    /* FOLD */

    function fold(Vm.Log[] calldata logs) external {
        for (uint256 i = 0; i < logs.length; ++i) {
            address emitter = logs[i].emitter;
            if (emitter == _c.ledger) _foldLedger(logs[i]);
            else if (emitter == _c.market) _foldMarket(logs[i]);
            else if (emitter == _c.providers) _foldProviders(logs[i]);
            else if (emitter == _c.models) _foldModels(logs[i]);
            else if (emitter == _c.guardian) _foldGuardian(logs[i]);
        }
        while (_touched.length > 0) {
            bytes32 key = _touched[_touched.length - 1];
            _touched.pop();
            for (uint256 r = uint256(Reason.Escrowed); r <= uint256(Reason.Voided); ++r) {
                // Bonds are announced by the game, which is a double here.
                if (r >= uint256(Reason.BondPosted) && r <= uint256(Reason.BondLost)) continue;
                vm.assertEq(_moved[key][Reason(r)], _announced[key][Reason(r)], "an event announces another amount than was moved");
            }
        }
    }

    function _foldLedger(Vm.Log calldata log) private {
        vm.assertEq(log.topics[0], ILedger.Moved.selector, "unknown event of the Ledger");
        (address from, address to) = (_address(log.topics[1]), _address(log.topics[2]));
        (uint64 entry, Bucket fromBucket, Bucket toBucket, uint128 amount, Reason reason, bytes32 newHead) =
            abi.decode(log.data, (uint64, Bucket, Bucket, uint128, Reason, bytes32));
        vm.assertGt(amount, 0);
        Row memory row = this.append(_c.ledger, Move(from, to, amount, reason), log.topics[3]);
        vm.assertEq(entry, seq, "seq");
        vm.assertEq(newHead, head, "head");
        vm.assertEq(uint256(fromBucket), uint256(row.from), "bucket that is debited");
        vm.assertEq(uint256(toBucket), uint256(row.to), "bucket that is credited");
        vm.assertTrue(!row.sameAccount || from == to, "the money must stay with its account");
        if (fromBucket == Bucket.Outside) total += amount;
        if (toBucket == Bucket.Outside) total -= amount;
        _know(from);
        _know(to);

        bool ofProvider = reason >= Reason.Staked && reason <= Reason.Unbonded;
        bool ofNobody = reason == Reason.Deposit || reason == Reason.Withdrawal;
        vm.assertEq(log.topics[3] == 0, ofProvider || ofNobody); // the reference is the job id of every move of a job
        if (ofNobody) return;
        bytes32 key = ofProvider ? _key(from) : log.topics[3];
        _moved[key][reason] += amount;
        _touched.push(key);
    }

    function _foldMarket(Vm.Log calldata log) private {
        bytes32 kind = log.topics[0];
        bytes32 jobId = log.topics[1];
        JobModel storage j = _jobs[jobId];
        uint256 t = vm.getBlockTimestamp();
        if (kind == IJobMarket.JobPosted.selector) {
            (uint96 maxFee, uint40 postedAt, JobSpec memory spec) = abi.decode(log.data, (uint96, uint40, JobSpec));
            _step(j, State.None, State.Open, t <= spec.claimBy && postedAt == t);
            (j.clock, j.client, j.maxFee, j.claimBy) = (postedAt, spec.client, maxFee, spec.claimBy);
            j.deliverBy = uint40(spec.deliverWithin);
            _jobIds.push(jobId);
            _announce(jobId, Reason.Escrowed, maxFee);
        } else if (kind == IJobMarket.JobClaimed.selector) {
            (uint16 priceBps, uint40 deadline, uint128 lock) = abi.decode(log.data, (uint16, uint40, uint128));
            _step(j, State.Open, State.Claimed, t <= j.claimBy && deadline == t + j.deliverBy);
            (j.provider, j.operator) = (_address(log.topics[2]), _address(log.topics[3]));
            (j.clock, j.priceBps, j.lock, j.subject) = (deadline, priceBps, lock, log.topics[2]);
            _announce(jobId, Reason.Locked, lock);
        } else if (kind == IJobMarket.ReceiptSubmitted.selector) {
            (bytes32 digest, uint40 windowEnd,) = abi.decode(log.data, (bytes32, uint40, Receipt));
            _step(j, State.Claimed, State.Submitted, t <= j.clock && windowEnd > t);
            (j.clock, j.subject) = (windowEnd, digest);
        } else if (kind == IJobMarket.JobCompleted.selector) {
            (uint96 fee, uint96 royalty, uint96 change,) = abi.decode(log.data, (uint96, uint96, uint96, uint128));
            _step(j, State.Submitted, State.Completed, t > j.clock);
            j.subject = 0;
            vm.assertEq(uint256(fee) + change, j.maxFee, "fee and change");
            _announce(jobId, Reason.Fee, fee - royalty);
            _announce(jobId, Reason.Royalty, royalty);
            _announce(jobId, Reason.Change, change);
            _announce(jobId, Reason.Unlocked, j.lock);
        } else if (kind == IJobMarket.JobCancelled.selector) {
            _step(j, State.Open, State.Refunded, true);
            _announce(jobId, Reason.Cancelled, _refund(j, abi.decode(log.data, (uint96))));
        } else if (kind == IJobMarket.JobExpired.selector) {
            _step(j, State.Open, State.Refunded, t > j.claimBy);
            _announce(jobId, Reason.Expired, _refund(j, abi.decode(log.data, (uint96))));
        } else if (kind == IJobMarket.JobUndelivered.selector) {
            (uint96 refund, uint128 penalty, uint128 unlocked) = abi.decode(log.data, (uint96, uint128, uint128));
            _step(j, State.Claimed, State.Refunded, t > j.clock);
            j.subject = 0;
            vm.assertEq(uint256(penalty) + unlocked, j.lock, "penalty and unlocked");
            _announce(jobId, Reason.Undelivered, _refund(j, refund));
            _announce(jobId, Reason.Penalty, penalty);
            _announce(jobId, Reason.Unlocked, unlocked);
        } else if (kind == IJobMarket.CompletionSkipped.selector) {
            return; // changes nothing
        } else {
            _foldDispute(kind, jobId, j, log.data, t);
        }
    }

    function _foldDispute(bytes32 kind, bytes32 jobId, JobModel storage j, bytes calldata data, uint256 t) private {
        if (kind == IJobMarket.ChallengeOpened.selector) {
            _step(j, j.state == State.Challenged ? State.Challenged : State.Submitted, State.Challenged, t <= j.clock);
            j.challengesOpen += 1;
            vm.assertEq(abi.decode(data, (uint16)), j.challengesOpen);
        } else if (kind == IJobMarket.ChallengeDismissed.selector) {
            j.challengesOpen -= 1;
            _step(j, State.Challenged, j.challengesOpen == 0 ? State.Submitted : State.Challenged, true);
            vm.assertEq(abi.decode(data, (uint16)), j.challengesOpen);
        } else if (kind == IJobMarket.WindowExtended.selector) {
            uint40 windowEnd = abi.decode(data, (uint40));
            _step(j, j.state == State.Challenged ? State.Challenged : State.Submitted, j.state, true);
            vm.assertTrue(!j.extended && windowEnd >= j.clock && windowEnd > t, "extended twice, or to an earlier end");
            vm.assertTrue(j.state == State.Challenged || t <= j.clock, "extended after the window");
            (j.clock, j.extended) = (windowEnd, true);
        } else {
            vm.assertEq(kind, IJobMarket.JobSlashed.selector, "unknown event of the JobMarket");
            (uint128 toChallenger, uint128 toClient, uint128 delayed, uint96 refund) = abi.decode(data, (uint128, uint128, uint128, uint96));
            _step(j, State.Challenged, State.Slashed, true);
            (j.challengesOpen, j.subject) = (0, 0);
            vm.assertEq(uint256(toChallenger) + toClient + delayed, j.lock, "shares of the lock");
            vm.assertGe(uint256(delayed) * 2, j.lock); // a provider that convicts itself loses half
            _announce(jobId, Reason.SlashedToChallenger, toChallenger);
            _announce(jobId, Reason.SlashedToClient, toClient);
            _announce(jobId, Reason.SlashedDelayed, delayed);
            _announce(jobId, Reason.Voided, _refund(j, refund));
        }
    }

    function _foldProviders(Vm.Log calldata log) private {
        bytes32 kind = log.topics[0];
        address provider = _address(log.topics[1]);
        if (kind == IProviderRegistry.OperatorChanged.selector) {
            _providers[provider] = _providers[provider] >> 160 << 160 | uint256(log.topics[2]);
        } else if (kind == IProviderRegistry.StakeAdded.selector) {
            _announce(_key(provider), Reason.Staked, abi.decode(log.data, (uint128)));
        } else if (kind == IProviderRegistry.UnbondingStarted.selector) {
            (uint128 amount, uint40 unbondedAt) = abi.decode(log.data, (uint128, uint40));
            _providers[provider] = uint256(uint160(_providers[provider])) | uint256(unbondedAt) << 160;
            _announce(_key(provider), Reason.UnbondStarted, amount);
        } else if (kind == IProviderRegistry.UnbondingCancelled.selector) {
            _announce(_key(provider), Reason.UnbondCancelled, abi.decode(log.data, (uint128)));
        } else if (
            kind != IProviderRegistry.ProviderAnnounced.selector && kind != IProviderRegistry.PriceListed.selector
                && kind != IProviderRegistry.PriceUnlisted.selector // for people
        ) {
            vm.assertEq(kind, IProviderRegistry.StakeWithdrawn.selector, "unknown event of the ProviderRegistry");
            vm.assertGt(vm.getBlockTimestamp(), _providers[provider] >> 160);
            _announce(_key(provider), Reason.Unbonded, abi.decode(log.data, (uint128)));
        }
    }

    function _foldModels(Vm.Log calldata log) private {
        if (log.topics[0] == IModelRegistry.PackageAnnounced.selector) return; // for people
        vm.assertEq(log.topics[0], IModelRegistry.ModelRegistered.selector, "unknown event of the ModelRegistry");
        (uint8 family, uint64 macsPerToken, IModelRegistry.Registration memory r) =
            abi.decode(log.data, (uint8, uint64, IModelRegistry.Registration));
        vm.assertEq(_models[log.topics[1]], 0); // a registered model never changes
        _models[log.topics[1]] =
            uint256(log.topics[2]) | uint256(r.royaltyBps) << 160 | uint256(family) << 176 | uint256(macsPerToken) << 184;
        _modelIds.push(log.topics[1]);
    }

    function _foldGuardian(Vm.Log calldata log) private {
        bool stops = log.topics[0] == IGuardian.EntriesStopped.selector;
        vm.assertTrue(stops || log.topics[0] == IGuardian.EntriesResumed.selector, "unknown event of the Guardian");
        vm.assertTrue(stops != _stopped, "stopped twice, or resumed twice");
        _stopped = stops;
    }

    /* STORAGE */

    /// @notice Storage is what the events say, to the bit.
    function requireStorage() external view {
        _requireWord(_c.ledger, 0, uint256(head) | seq, "head and seq");
        _requireWord(_c.ledger, bytes32(uint256(1)), total, "total");
        for (uint256 i = 0; i < _accounts.length; ++i) {
            _requireAccount(_accounts[i]);
        }
        for (uint256 i = 0; i < _jobIds.length; ++i) {
            bytes32 jobId = _jobIds[i];
            JobModel storage j = _jobs[jobId];
            uint256 word = uint256(j.state) | uint256(j.clock) << 8 | uint256(j.priceBps) << 48 | uint256(uint160(j.operator)) << 64
                | uint256(j.challengesOpen) << 224 | (j.extended ? 1 << 240 : 0);
            bytes32 slot = keccak256(abi.encode(jobId, 0));
            _requireWord(_c.market, slot, word, "job");
            _requireWord(_c.market, bytes32(uint256(slot) + 1), uint256(j.subject), "subject of the job");
        }
        for (uint256 i = 0; i < _modelIds.length; ++i) {
            _requireWord(_c.models, keccak256(abi.encode(_modelIds[i], 0)), _models[_modelIds[i]], "model");
        }
        _requireWord(_c.guardian, 0, _stopped ? 1 : 0, "entries stopped");
    }

    function _requireAccount(address account) private view {
        bytes32 slot = keccak256(abi.encode(account, 2));
        uint256[3] memory words;
        if (account == address(0)) {
            words[0] = _pair(account, Bucket.Burned, Bucket.Delayed);
            words[1] = balanceOf[account][Bucket.RewardPool];
        } else {
            words[0] = _pair(account, Bucket.Free, Bucket.Escrow);
            words[1] = _pair(account, Bucket.Stake, Bucket.Lock);
            words[2] = _pair(account, Bucket.Unbonding, Bucket.Bond);
        }
        for (uint256 k = 0; k < 3; ++k) {
            _requireWord(_c.ledger, bytes32(uint256(slot) + k), words[k], "balances");
        }
        _requireWord(_c.providers, keccak256(abi.encode(account, 0)), _providers[account], "provider");
    }

    function _requireWord(address target, bytes32 slot, uint256 expected, string memory what) private view {
        vm.assertEq(uint256(vm.load(target, slot)), expected, what);
    }

    function _pair(address account, Bucket low, Bucket high) private view returns (uint256) {
        return uint256(balanceOf[account][low]) | uint256(balanceOf[account][high]) << 128;
    }

    /* INTERNAL */

    function _step(JobModel storage j, State from, State to, bool inTime) private {
        vm.assertEq(uint256(j.state), uint256(from), "no such transition");
        vm.assertTrue(inTime, "not at this time");
        j.state = to;
    }

    function _refund(JobModel storage j, uint96 refund) private view returns (uint96) {
        vm.assertEq(refund, j.maxFee, "a refund is the whole escrow");
        return refund;
    }

    function _announce(bytes32 key, Reason reason, uint256 amount) private {
        _announced[key][reason] += amount;
        _touched.push(key);
    }

    function _know(address account) private {
        if (_known[account]) return;
        _known[account] = true;
        _accounts.push(account);
    }

    function _key(address account) private pure returns (bytes32) {
        return bytes32(uint256(uint160(account)));
    }

    function _address(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }
}
