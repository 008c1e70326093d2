// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IEntry} from "../../src/interfaces/IEntry.sol";
import {IJobMarket} from "../../src/interfaces/IJobMarket.sol";
import {JobId, ModelId} from "../../src/types/Ids.sol";
import {Completion, Job, JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {World} from "./World.sol";

/// @title Everybody who acts on the contracts, each action with random but valid arguments
/// @notice No action reverts: one that nothing can be done with at this moment returns. `done` counts those that had an effect.
contract Handlers is World {
    /* CLIENT */

    function deposit(uint256 seed) external folded {
        (address from, address to) = (_pick(seed), _pickOther(seed));
        uint256 has = token.balanceOf(from);
        if (has == 0) return;
        vm.prank(from);
        ledger.deposit(to, _part(seed, uint128(has)));
        _done();
    }

    /// @dev Every second time somebody who saw the permit sends it first.
    function depositWithPermit(uint256 seed, bool sentBefore) external folded {
        (address from, address to) = (_pick(seed), _pickOther(seed));
        uint256 has = token.balanceOf(from);
        if (has == 0) return;
        uint128 amount = _part(seed, uint128(has));
        bytes32 typeHash = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 hash = keccak256(abi.encode(typeHash, from, address(ledger), amount, token.nonces(from), block.timestamp));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_keyOf[from], keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash)));
        if (sentBefore) token.permit(from, address(ledger), amount, block.timestamp, v, r, s);
        vm.prank(from);
        ledger.depositWithPermit(to, amount, block.timestamp, v, r, s);
        vm.prank(from);
        token.approve(address(ledger), type(uint256).max);
        _done();
    }

    function withdraw(uint256 seed) external folded {
        (address account, uint128 has) = _pickRich(seed, Bucket.Free);
        if (has == 0) return;
        vm.prank(account);
        ledger.withdraw(_pickOther(seed), _part(seed, has));
        _done();
    }

    function post(uint256 seed) external folded {
        for (uint256 i = 0; i < 1 + seed % 3; ++i) {
            _postOne(_draw(seed, 200 + i));
        }
    }

    function _postOne(uint256 seed) private {
        JobSpec memory spec = fuzzedSpec(seed);
        spec.client = _pick(seed);
        spec.modelId = spec.kind == 1 ? _encoders[_draw(seed, 110) % _encoders.length] : _decoders[_draw(seed, 110) % _decoders.length];
        if (_draw(seed, 111) % 4 == 0) spec.designated = _pickOther(seed);
        if (_draw(seed, 112) % 8 == 0) (spec.basePrice, spec.inputPrice, spec.outputPrice, spec.itemPrice) = (0, 0, 0, 0);
        if (market.maxFeeOf(spec) > free(spec.client)) return;
        if (market.job(market.jobIdOf(spec)).state != State.None) return;
        bool stopped = guardian.entriesStopped();
        if (stopped) expect(IEntry.EntriesAreStopped.selector);
        vm.prank(spec.client);
        JobId jobId = market.post(spec);
        if (stopped) return;
        _ids.push(jobId);
        _specs.push(spec);
        _done();
    }

    function cancel(uint256 seed) external folded {
        (bool found, uint256 index) = _find(seed, State.Open);
        if (!found) return;
        vm.prank(_specs[index].client);
        market.cancel(_specs[index]);
        _done();
    }

    /* PROVIDER */

    function stake(uint256 seed) external folded {
        (address account, uint128 has) = _pickRich(seed, Bucket.Free);
        if (has == 0) return;
        bool stopped = guardian.entriesStopped();
        if (stopped) expect(IEntry.EntriesAreStopped.selector);
        vm.prank(account);
        providers.stake(_part(seed, has));
        if (!stopped) _done();
    }

    function unstake(uint256 seed) external folded {
        (address account, uint128 has) = _pickRich(seed, Bucket.Stake);
        if (has == 0) return;
        vm.prank(account);
        providers.unstake(_part(seed, has));
        _done();
    }

    function cancelUnbonding(uint256 seed) external folded {
        (address account, uint128 has) = _pickRich(seed, Bucket.Unbonding);
        if (has == 0) return;
        vm.prank(account);
        providers.cancelUnbonding(_part(seed, has));
        _done();
    }

    function withdrawUnbonded(uint256 seed) external folded {
        (address account, uint128 has) = _pickRich(seed, Bucket.Unbonding);
        if (has == 0 || block.timestamp <= providers.unbondedAt(account)) return;
        vm.prank(_pickOther(seed));
        providers.withdrawUnbonded(account);
        _done();
    }

    /// @dev Keys are shared and, rarely, revoked; jobs that were claimed stay with their key.
    function setOperator(uint256 seed) external folded {
        vm.prank(_pick(seed));
        providers.setOperator(_draw(seed, 120) % 8 == 0 ? address(0) : _operators[_draw(seed, 121) % OPERATORS]);
        _done();
    }

    /* OPERATOR */

    function claim(uint256 seed) external folded {
        (bool found, uint256 index) = _findByClock(seed, State.Open, false);
        if (!found) return;
        JobSpec memory spec = _specs[index];
        uint128 lock = market.lockOf(spec);
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            address claimant = _people[(_draw(seed, 130) % ACCOUNTS + i) % ACCOUNTS];
            if (spec.designated != address(0) && spec.designated != claimant) continue;
            if (providers.operatorOf(claimant) == address(0) || bucket(claimant, Bucket.Stake) < lock) continue;
            vm.prank(providers.operatorOf(claimant));
            market.claim(spec, claimant);
            _done();
            return;
        }
    }

    /// @dev Sent by anybody.
    function submit(uint256 seed) external folded {
        (bool found, uint256 index) = _findByClock(seed, State.Claimed, false);
        if (!found) return;
        Job memory j = market.job(_ids[index]);
        Receipt memory receipt = _receiptFor(seed, index, j.provider);
        bytes memory signature = signedBy(_keyOf[j.operator], market.receiptDigestOf(receipt));
        vm.prank(_pick(seed));
        market.submit(_specs[index], receipt, signature);
        _receipts[_ids[index]] = receipt;
        _done();
    }

    /* KEEPER */

    function expire(uint256 seed) external folded {
        (bool found, uint256 index) = _findByClock(seed, State.Open, true);
        if (!found) return;
        vm.prank(_pick(seed));
        market.expire(_specs[index]);
        _done();
    }

    function refundUndelivered(uint256 seed) external folded {
        (bool found, uint256 index) = _findByClock(seed, State.Claimed, true);
        if (!found) return;
        vm.prank(_pick(seed));
        market.refundUndelivered(_specs[index]);
        _done();
    }

    function complete(uint256 seed) external folded {
        (bool found, uint256 index) = _findByClock(seed, State.Submitted, true);
        if (!found) return;
        vm.prank(_pick(seed));
        market.complete(_specs[index], _receipts[_ids[index]]);
        _done();
    }

    /// @dev Any jobs in any state, some of them twice: the call itself never reverts.
    function completeMany(uint256 seed) external folded {
        if (_ids.length == 0) return;
        Completion[] memory list = new Completion[](1 + _draw(seed, 140) % 4);
        for (uint256 i = 0; i < list.length; ++i) {
            uint256 index = _draw(seed, 141 + i) % _ids.length;
            list[i] = Completion(_specs[index], _receipts[_ids[index]]);
        }
        vm.prank(_pick(seed));
        market.completeMany(list);
        _done();
    }

    /* CHALLENGER AND GAME */

    function challenge(uint256 seed) external folded {
        (bool found, uint256 index) = _findByClock(seed, State.Submitted, false);
        if (!found || _draw(seed, 150) % 2 == 0) {
            (bool again, uint256 other) = _findByClock(seed, State.Challenged, false);
            if (again) (found, index) = (true, other);
        }
        if (!found) return;
        (address account, uint128 has) = _pickRich(seed, Bucket.Free);
        if (has < game.BOND()) return;
        vm.prank(account);
        game.challenge(_specs[index], _receipts[_ids[index]]);
        _done();
    }

    function dismiss(uint256 seed) external folded {
        (bool found, uint256 index) = _find(seed, State.Challenged);
        if (!found) return;
        game.dismiss(_ids[index], _receipts[_ids[index]].provider);
        _done();
    }

    function convict(uint256 seed) external folded {
        (bool found, uint256 index) = _find(seed, State.Challenged);
        if (!found) return;
        game.convict(_specs[index], _receipts[_ids[index]]);
        _done();
    }

    function extend(uint256 seed) external folded {
        (bool found, uint256 index) = _findByClock(seed, State.Submitted, false);
        if (!found || _draw(seed, 151) % 2 == 0) {
            (bool doubted, uint256 other) = _find(seed, State.Challenged);
            if (doubted) (found, index) = (true, other);
        }
        if (!found || market.job(_ids[index]).extended) return;
        game.extend(_ids[index]);
        _done();
    }

    /* GUARDIAN, PUBLISHER, DONOR */

    /// @dev Stops rarely and resumes always, so that most runs have jobs.
    function guard(uint256 seed) external folded {
        if (block.number > guardian.EXPIRES_AT_BLOCK()) {
            vm.assertFalse(guardian.entriesStopped());
            return;
        }
        bool stopped = vm.load(address(guardian), 0) != 0;
        if (!stopped && seed % 4 != 0) return;
        vm.prank(guardianKey);
        if (stopped) guardian.resumeEntries();
        else guardian.stopEntries();
        _done();
    }

    function register(uint256 seed) external folded {
        bool encodes = _draw(seed, 160) % 2 == 0;
        bytes memory header = encodes ? encoderHeader() : decoderHeader();
        uint16 royaltyBps = uint16(_draw(seed, 161) % 5001);
        address account = _pick(seed);
        ModelId id = models.modelIdOf(header, keccak256("weights"), keccak256("tokenizer"), account, royaltyBps);
        if (models.model(id).publisher != address(0)) return;
        bool stopped = guardian.entriesStopped();
        if (stopped) expect(IEntry.EntriesAreStopped.selector);
        vm.prank(account);
        models.register(registration(header, royaltyBps));
        if (stopped) return;
        if (encodes) _encoders.push(id);
        else _decoders.push(id);
        _done();
    }

    function donate(uint256 seed) external folded {
        address account = _pick(seed);
        uint256 has = token.balanceOf(account);
        if (has == 0) return;
        uint256 amount = bound(_draw(seed, 170), 1, has / 1000 + 1);
        vm.prank(account);
        token.transfer(address(ledger), amount);
        donated += amount;
        _done();
    }

    /* THIEF */

    /// @dev Any call by anybody but the game on any job. Most revert; what does not must have been allowed to this caller, and the model
    /// refuses every transition that the protocol does not have.
    function intrude(uint256 seed) external folded {
        if (_ids.length == 0) return;
        Attempt memory a;
        a.which = _draw(seed, 181) % 12;
        a.index = _target(seed, a.which);
        a.who = _intruder(seed);
        a.claimant = _pickOther(seed);
        a.forged = _receiptFor(seed, a.index, _draw(seed, 182) % 2 == 0 ? a.claimant : market.job(_ids[a.index]).provider);
        a.signer = _keyOf[_operators[_draw(seed, 183) % OPERATORS]];
        bytes memory call = _intrusion(a);
        address operatorOfTheClaim = market.job(_ids[a.index]).operator;
        address operatorNow = providers.operatorOf(a.claimant);

        vm.prank(a.who);
        (bool succeeded,) = address(market).call(call);
        if (!succeeded) {
            _forgetReverted();
            return;
        }
        _done();
        vm.assertTrue(a.which > 0 && a.which < 7, "nobody but the game may do this");
        vm.assertTrue(a.which != 1 || a.who == _specs[a.index].client, "only the client may cancel");
        vm.assertTrue(a.which != 3 || a.who == operatorNow, "only the operator may claim");
        if (a.which == 4) {
            vm.assertEq(_keyOf[operatorOfTheClaim], a.signer, "only the key of the claim may sign");
            _receipts[_ids[a.index]] = a.forged;
        }
    }

    struct Attempt {
        uint256 which;
        uint256 index;
        uint256 signer;
        address who;
        address claimant;
        Receipt forged;
    }

    function _intrusion(Attempt memory a) private view returns (bytes memory) {
        JobSpec memory spec = _specs[a.index];
        Receipt memory receipt = _receipts[_ids[a.index]];
        if (a.which == 0) return abi.encodeCall(market.post, (spec));
        if (a.which == 1) return abi.encodeCall(market.cancel, (spec));
        if (a.which == 2) return abi.encodeCall(market.expire, (spec));
        if (a.which == 3) return abi.encodeCall(market.claim, (spec, a.claimant));
        if (a.which == 4) return abi.encodeCall(market.submit, (spec, a.forged, signedBy(a.signer, market.receiptDigestOf(a.forged))));
        if (a.which == 5) return abi.encodeCall(market.refundUndelivered, (spec));
        if (a.which == 6) return abi.encodeCall(market.complete, (spec, receipt));
        if (a.which == 7) return abi.encodeCall(market.complete, (spec, a.forged));
        if (a.which == 8) return abi.encodeCall(market.challengeOpened, (spec, receipt));
        if (a.which == 9) return abi.encodeCall(market.challengeDismissed, (_ids[a.index]));
        if (a.which == 10) return abi.encodeCall(market.convicted, (spec, receipt, a.who));
        return abi.encodeCall(market.extend, (_ids[a.index]));
    }

    /// @dev Rather a job in the state that the call needs.
    function _target(uint256 seed, uint256 which) private view returns (uint256) {
        State needed = which < 4 ? State.Open : which < 6 ? State.Claimed : which < 9 ? State.Submitted : State.Challenged;
        (bool found, uint256 index) = _find(seed, needed);
        return found && _draw(seed, 185) % 4 != 0 ? index : _draw(seed, 180) % _ids.length;
    }

    function _intruder(uint256 seed) private view returns (address) {
        uint256 x = _draw(seed, 184) % (ACCOUNTS + OPERATORS + 2);
        if (x < ACCOUNTS) return _people[x];
        if (x < ACCOUNTS + OPERATORS) return _operators[x - ACCOUNTS];
        return x == ACCOUNTS + OPERATORS ? guardianKey : bridge;
    }

    /* TIME */

    function wait(uint256 seed) external {
        _pass(bound(_draw(seed, 190), 1, 30 minutes));
        _done();
    }

    /// @dev To the last second of a job's deadline or of somebody's unbonding, or to the second after it.
    function waitForADeadline(uint256 seed) external {
        uint256 deadline;
        if (_ids.length == 0 || _draw(seed, 191) % 16 == 0) deadline = providers.unbondedAt(_pick(seed));
        else deadline = _deadline(_draw(seed, 192) % _ids.length);
        deadline += _draw(seed, 193) % 2;
        if (deadline <= block.timestamp) return;
        _pass(deadline - block.timestamp);
        _done();
    }

    /// @dev Blocks of two seconds.
    function _pass(uint256 secs) private {
        vm.roll(block.number + secs / 2 + 1);
        vm.warp(block.timestamp + secs);
    }

    /* THE END */

    /// @notice What silence means, called by a stranger (this contract) for every job, after every deadline; then everybody takes
    /// everything out.
    /// @dev Nobody's help is needed: the game ends its challenges, each at random; entries may be stopped.
    function windDown(uint256 seed) external folded {
        uint256 last = vm.getBlockTimestamp();
        for (uint256 i = 0; i < _ids.length; ++i) {
            if (market.job(_ids[i]).state == State.Challenged) _endChallenges(_draw(seed, i), i);
            if (_deadline(i) > last) last = _deadline(i);
        }
        // The events of this day are checked against this day's clock.
        model.fold(vm.getRecordedLogs());
        vm.warp(last + 1);
        for (uint256 i = 0; i < _ids.length; ++i) {
            State state = market.job(_ids[i]).state;
            if (state == State.Open) market.expire(_specs[i]);
            else if (state == State.Claimed) market.refundUndelivered(_specs[i]);
            else if (state == State.Submitted) market.complete(_specs[i], _receipts[_ids[i]]);
        }
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            uint128 atStake = bucket(_people[i], Bucket.Stake);
            if (atStake == 0) continue;
            vm.prank(_people[i]);
            providers.unstake(atStake);
        }
        model.fold(vm.getRecordedLogs());
        vm.warp(last + 2 + providers.UNBONDING_SECS());
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            if (bucket(_people[i], Bucket.Unbonding) > 0) providers.withdrawUnbonded(_people[i]);
            uint128 has = free(_people[i]);
            if (has == 0) continue;
            vm.prank(_people[i]);
            ledger.withdraw(_people[i], has);
        }
    }

    function _endChallenges(uint256 seed, uint256 index) private {
        while (game.live(_ids[index]) > 0) {
            if (seed % 3 == 0) game.convict(_specs[index], _receipts[_ids[index]]);
            else game.dismiss(_ids[index], _receipts[_ids[index]].provider);
        }
    }
}
