// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobId, ModelId} from "../../src/types/Ids.sol";
import {Job, JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {Recorded} from "./Recorded.sol";

/// @title The world of the handlers: five accounts that each play every role, three operator keys, all jobs so far, and the event model
/// @notice One account may be client, provider, publisher and challenger of one job: self-dealing is part of every run.
abstract contract World is Recorded {
    uint256 internal constant ACCOUNTS = 5;
    uint256 internal constant OPERATORS = 3;

    /// @notice How often each action had an effect, by its selector.
    mapping(bytes4 action => uint256) public done;

    address[] internal _people;
    mapping(address => uint256) internal _keyOf;
    address[] internal _operators;
    ModelId[] internal _encoders;
    ModelId[] internal _decoders;
    JobSpec[] internal _specs;
    JobId[] internal _ids;
    mapping(JobId => Receipt) internal _receipts;

    function setUp() public override {
        super.setUp();
        string[4] memory names = ["client", "provider", "publisher", "challenger"];
        for (uint256 i = 0; i < names.length; ++i) {
            _add(uint256(keccak256(bytes(names[i]))) >> 1);
        }
        _add(STRANGER_KEY);
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            token.transfer(_people[i], FUNDS);
            vm.prank(_people[i]);
            token.approve(address(ledger), type(uint256).max);
            _fund(_people[i], FUNDS);
        }
        for (uint256 i = 0; i < OPERATORS; ++i) {
            _operators.push(vm.addr(OPERATOR_KEY + i * 0x100));
            _keyOf[_operators[i]] = OPERATOR_KEY + i * 0x100;
        }
        vm.prank(challenger);
        providers.setOperator(_operators[1]);
        vm.prank(challenger);
        providers.stake(FUNDS);
        _encoders.push(encoder);
        _encoders.push(encoderWithRoyalty);
        _decoders.push(decoder);
        model.fold(vm.getRecordedLogs());
    }

    /* WHAT THE INVARIANTS ASK */

    function jobCount() external view returns (uint256) {
        return _specs.length;
    }

    function specAt(uint256 index) external view returns (JobSpec memory) {
        return _specs[index];
    }

    function idAt(uint256 index) external view returns (JobId) {
        return _ids[index];
    }

    function liveChallenges(JobId jobId) external view returns (uint256) {
        return game.live(jobId);
    }

    function contracts() external view returns (address market_, address ledger_, address token_) {
        return (address(market), address(ledger), address(token));
    }

    /* PICKING */

    function _pick(uint256 seed) internal view returns (address) {
        return _people[_draw(seed, 100) % ACCOUNTS];
    }

    function _pickOther(uint256 seed) internal view returns (address) {
        return _people[_draw(seed, 101) % ACCOUNTS];
    }

    /// @dev The first account from a random one on that has money in this bucket, and how much; 0 where nobody has.
    function _pickRich(uint256 seed, Bucket b) internal view returns (address account, uint128 has) {
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            account = _people[(_draw(seed, 102) % ACCOUNTS + i) % ACCOUNTS];
            has = bucket(account, b);
            if (has > 0) return (account, has);
        }
    }

    /// @dev A part of it: all, one unit, or anything between, at least 1.
    function _part(uint256 seed, uint128 has) internal pure returns (uint128) {
        uint256 x = _draw(seed, 103);
        if (x % 4 == 0) return has;
        if (x % 4 == 1) return 1;
        return uint128(bound(x >> 2, 1, has));
    }

    /// @dev The first job from a random one on that is in this state.
    function _find(uint256 seed, State state) internal view returns (bool found, uint256 index) {
        uint256 count = _ids.length;
        for (uint256 i = 0; i < count; ++i) {
            index = (_draw(seed, 104) + i) % count;
            if (market.job(_ids[index]).state == state) return (true, index);
        }
    }

    /// @dev The same among jobs whose deadline has passed, or has not.
    function _findByClock(uint256 seed, State state, bool passed) internal view returns (bool found, uint256 index) {
        uint256 count = _ids.length;
        for (uint256 i = 0; i < count; ++i) {
            index = (_draw(seed, 104) + i) % count;
            if (market.job(_ids[index]).state == state && block.timestamp > _deadline(index) == passed) return (true, index);
        }
    }

    /// @dev The last second of what the job's state waits for; 0 where it waits for nothing.
    function _deadline(uint256 index) internal view returns (uint256) {
        Job memory j = market.job(_ids[index]);
        if (j.state == State.Open) return _specs[index].claimBy;
        if (j.state == State.Claimed || j.state == State.Submitted || j.state == State.Challenged) return j.clock;
        return 0;
    }

    /// @dev A receipt of random content for a job, within what `submit` allows.
    function _receiptFor(uint256 seed, uint256 index, address claimant) internal view returns (Receipt memory r) {
        JobSpec memory spec = _specs[index];
        r = receiptOf(spec);
        r.provider = claimant;
        r.outputLen = uint64(bound(_draw(seed, 105), 0, uint256(spec.maxOutput) * spec.itemCount * spec.samplesPerItem));
        r.outputRoot = bytes32(_draw(seed, 106));
        r.energyMillijoules = uint64(_draw(seed, 107));
    }

    function _done() internal {
        done[msg.sig] += 1;
    }

    function _add(uint256 key) private {
        _people.push(vm.addr(key));
        _keyOf[vm.addr(key)] = key;
    }

    /// @dev What an action emits goes into the model, whatever else it does.
    modifier folded() {
        vm.recordLogs();
        _;
        model.fold(vm.getRecordedLogs());
    }
}
