// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Deployment} from "../../script/Deployment.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {JobId, ModelId} from "../../src/types/Ids.sol";
import {Job, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {Base} from "../Base.sol";
import {GameDouble} from "../mocks/GameDouble.sol";
import {Handler} from "./Handler.sol";
import {LogModel} from "./LogModel.sol";

/// @title What holds after any sequence of actions of all actors
contract MarketInvariantTest is Base {
    Handler private _handler;
    LogModel private _log;

    function setUp() public override {
        vm.warp(START);
        vm.roll(1000);
        game = new GameDouble();
        _deploy(_config());
        game.setMarket(market, ledger);
        vm.prank(bridge);
        token.mint(address(this), 1e30);
        ModelId[3] memory ids = [_registerFor(encoderHeader(), 0), _registerFor(encoderHeader(), 1234), _registerFor(decoderHeader(), 500)];
        _log = new LogModel();
        _log.watch(address(ledger), address(market), address(providers));
        _handler = new Handler(token, ledger, market, providers, guardian, game, _log, ids);
        token.transfer(address(_handler), 1e30);
        // Money and keys for everybody, so that actions find something to do.
        for (uint256 i = 0; i < 3; ++i) {
            _handler.deposit(i, 999e18);
            _handler.deposit(3 + i, 999e18);
            _handler.deposit(6 + i, 99e18);
            _handler.stake(i, 500e18);
            _handler.rotateOperator(i, 0);
        }
    }

    /// @dev Unbonding short enough that a run outlasts it.
    function _config() internal view override returns (Deployment.Config memory config) {
        config = super._config();
        config.parameters.maxGameSecs = 1 hours;
        config.unbondingSecs = 3 hours;
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_handler);
    }

    /// @dev One campaign for all properties: they are checked after every action.
    function invariant_marketAndLedger() external view {
        check_solvency();
        check_storageEqualsTheFoldedLog();
        check_statesMoveOnlyByActions();
        check_escrowAndLocksAreThoseOfLiveJobs();
        check_bondsAreThoseOfLiveChallenges();
    }

    /// @dev One long run with fixed dice: every action of every actor really happens, several times, so that the campaign above can find something.
    function test_handler_reachesEveryAction() external {
        bytes4[23] memory actions = [
            Handler.post.selector,
            Handler.claim.selector,
            Handler.submit.selector,
            Handler.complete.selector,
            Handler.completeMany.selector,
            Handler.cancel.selector,
            Handler.expire.selector,
            Handler.refundUndelivered.selector,
            Handler.challenge.selector,
            Handler.dismiss.selector,
            Handler.convict.selector,
            Handler.extend.selector,
            Handler.deposit.selector,
            Handler.withdraw.selector,
            Handler.stake.selector,
            Handler.unstake.selector,
            Handler.cancelUnbonding.selector,
            Handler.withdrawUnbonded.selector,
            Handler.rotateOperator.selector,
            Handler.toggleEntries.selector,
            Handler.passTime.selector,
            Handler.donate.selector,
            Handler.post.selector
        ];
        for (uint256 i = 0; i < 2500; ++i) {
            uint256 x = _draw(1, i);
            // Jobs are posted and brought forward more often than they are ended.
            bytes4 action = actions[i % 3 == 0 ? x % 4 : i % 16 == 1 ? 20 : x % 23];
            (bool ok,) = address(_handler).call(abi.encodeWithSelector(action, x >> 8, uint64(x >> 160), x >> 32));
            vm.assertTrue(ok, vm.toString(i));
            if (i % 100 == 0) this.invariant_marketAndLedger();
        }
        bytes32[22] memory names = [
            bytes32("post"),
            "claim",
            "submit",
            "complete",
            "completeMany",
            "cancel",
            "expire",
            "refundUndelivered",
            "challenge",
            "dismiss",
            "convict",
            "extend",
            "deposit",
            "withdraw",
            "stake",
            "unstake",
            "cancelUnbonding",
            "withdrawUnbonded",
            "rotateOperator",
            "toggleEntries",
            "passTime",
            "donate"
        ];
        for (uint256 i = 0; i < names.length; ++i) {
            vm.assertGe(_handler.done(names[i]), 3, string(abi.encodePacked(names[i])));
        }
        this.invariant_marketAndLedger();
        this.afterInvariant();
    }

    /// @dev The sum of all buckets is `total`, and with the donations it is the token balance.
    function check_solvency() public view {
        uint256 sum = bucket(address(0), Bucket.Burned) + bucket(address(0), Bucket.Delayed) + bucket(address(0), Bucket.RewardPool);
        address[] memory accounts = _handler.accounts();
        for (uint256 i = 0; i < accounts.length; ++i) {
            sum += _sumOf(accounts[i]);
        }
        vm.assertEq(sum, ledger.total());
        vm.assertEq(token.balanceOf(address(ledger)), sum + _handler.donated());
        vm.assertEq(ledger.surplus(), _handler.donated());
    }

    /// @dev Balances, head, jobs and providers follow from events alone.
    function check_storageEqualsTheFoldedLog() public view {
        vm.assertEq(ledger.head(), _log.head());
        vm.assertEq(ledger.seq(), _log.seq());
        vm.assertEq(ledger.total(), _log.total());
        address[] memory accounts = _handler.accounts();
        for (uint256 i = 0; i < accounts.length; ++i) {
            for (uint256 b = uint256(Bucket.Free); b <= uint256(Bucket.Bond); ++b) {
                vm.assertEq(bucket(accounts[i], Bucket(b)), _log.balanceOf(accounts[i], Bucket(b)));
            }
            vm.assertEq(providers.operatorOf(accounts[i]), _log.operatorOf(accounts[i]));
            vm.assertEq(providers.unbondedAt(accounts[i]), _log.unbondedAt(accounts[i]));
        }
        vm.assertEq(bucket(address(0), Bucket.Delayed), _log.balanceOf(address(0), Bucket.Delayed));
        for (uint256 i = 0; i < _handler.jobCount(); ++i) {
            JobId id = _idOf(i);
            vm.assertEq(abi.encode(market.job(id)), abi.encode(_log.job(JobId.unwrap(id))));
        }
    }

    /// @dev Terminal states are terminal: the state that the handler saw last is the state that stands. (The log model refuses any event
    /// after a final state.)
    function check_statesMoveOnlyByActions() public view {
        for (uint256 i = 0; i < _handler.jobCount(); ++i) {
            vm.assertEq(uint256(market.job(_idOf(i)).state), uint256(_handler.jobAt(i).last));
        }
    }

    /// @dev Escrow is what live jobs may cost, locks are what live claims stand for: to the unit, job by job.
    function check_escrowAndLocksAreThoseOfLiveJobs() public view {
        uint256[3] memory escrow;
        uint256[3] memory locked;
        for (uint256 i = 0; i < _handler.jobCount(); ++i) {
            Handler.Known memory known = _handler.jobAt(i);
            State state = known.last;
            if (state > State.Challenged) continue;
            address by = state == State.Claimed ? market.job(_idOf(i)).provider : known.receipt.provider;
            for (uint256 a = 0; a < 3; ++a) {
                if (known.spec.client == _handler.clientOf(a)) escrow[a] += market.maxFeeOf(known.spec);
                if (state != State.Open && by == _handler.providerOf(a)) locked[a] += market.lockOf(known.spec);
            }
        }
        for (uint256 a = 0; a < 3; ++a) {
            vm.assertEq(bucket(_handler.clientOf(a), Bucket.Escrow), escrow[a]);
            vm.assertEq(bucket(_handler.providerOf(a), Bucket.Lock), locked[a]);
        }
    }

    /// @dev A bond stands for each live challenge, and a job is Challenged if and only if one is live.
    function check_bondsAreThoseOfLiveChallenges() public view {
        uint256 live;
        for (uint256 i = 0; i < _handler.jobCount(); ++i) {
            uint256 count = game.live(_idOf(i));
            Job memory job = market.job(_idOf(i));
            vm.assertEq(job.challengesOpen, count);
            vm.assertEq(job.state == State.Challenged, count > 0);
            live += count;
        }
        uint256 bonds;
        for (uint256 a = 0; a < 3; ++a) {
            bonds += bucket(_handler.challengerOf(a), Bucket.Bond);
        }
        vm.assertEq(bonds, live * game.BOND());
    }

    /// @dev From wherever the run ended: past all deadlines anyone calls what silence means, everybody withdraws everything, and nothing
    /// is left but what was slashed and what was given.
    function afterInvariant() external {
        vm.warp(block.timestamp + 40 days);
        for (uint256 i = 0; i < _handler.jobCount(); ++i) {
            Handler.Known memory known = _handler.jobAt(i);
            State state = known.last;
            if (state == State.Open) market.expire(known.spec);
            if (state == State.Claimed) market.refundUndelivered(known.spec);
            if (state == State.Challenged) {
                // The game's own silence rule, one way or the other.
                if (i % 2 == 0) game.convict(known.spec, known.receipt);
                while (game.live(known.receipt.jobId) > 0) game.dismiss(known.receipt.jobId, known.receipt.provider);
                if (i % 2 == 1) market.complete(known.spec, known.receipt);
            }
            if (state == State.Submitted) market.complete(known.spec, known.receipt);
            vm.assertGe(uint256(market.job(_idOf(i)).state), uint256(State.Completed));
        }
        address[] memory accounts = _handler.accounts();
        for (uint256 i = 0; i < accounts.length; ++i) {
            uint128 staked = bucket(accounts[i], Bucket.Stake);
            if (staked == 0) continue;
            vm.prank(accounts[i]);
            providers.unstake(staked);
        }
        vm.warp(block.timestamp + 11 days);
        for (uint256 i = 0; i < accounts.length; ++i) {
            if (bucket(accounts[i], Bucket.Unbonding) > 0) providers.withdrawUnbonded(accounts[i]);
            uint128 all = free(accounts[i]);
            if (all == 0) continue;
            vm.prank(accounts[i]);
            ledger.withdraw(accounts[i], all);
            vm.assertEq(_sumOf(accounts[i]), 0);
        }
        uint128 ownerless = bucket(address(0), Bucket.Burned) + bucket(address(0), Bucket.Delayed) + bucket(address(0), Bucket.RewardPool);
        vm.assertEq(ledger.total(), ownerless);
        vm.assertEq(token.balanceOf(address(ledger)), ownerless + _handler.donated());
    }

    function _idOf(uint256 i) private view returns (JobId) {
        return market.jobIdOf(_handler.jobAt(i).spec);
    }

    function _registerFor(bytes memory header, uint16 royaltyBps) private returns (ModelId) {
        IModelRegistry.Registration memory r = registration(header, royaltyBps);
        vm.prank(vm.addr(0xD0));
        return models.register(r);
    }

    function _sumOf(address account) private view returns (uint256) {
        (uint128 a, uint128 b, uint128 c, uint128 d, uint128 e, uint128 f) = ledger.balancesOf(account);
        return uint256(a) + b + c + d + e + f;
    }
}
