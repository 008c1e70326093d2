// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobMarket} from "../../src/JobMarket.sol";
import {Ledger} from "../../src/Ledger.sol";
import {QuernToken} from "../../src/QuernToken.sol";
import {JobId} from "../../src/types/Ids.sol";
import {JobSpec, Parameters, State} from "../../src/types/Job.sol";
import {Bucket, Reason} from "../../src/types/Money.sol";
import {Vm} from "../Vm.sol";
import {EventModel} from "./EventModel.sol";
import {Handlers} from "./Handlers.sol";

/// @title What is true after every action of anybody, and at the end of every run: nobody's money is stuck
contract Invariants {
    /// @dev What forge asks an invariant test for.
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint128 private constant BOND = 1e18;

    Handlers private _handlers;
    EventModel private _model;
    JobMarket private _market;
    Ledger private _ledger;
    QuernToken private _token;

    function setUp() external {
        _handlers = new Handlers();
        _handlers.setUp();
        _model = _handlers.model();
        (address market, address ledger, address token) = _handlers.contracts();
        (_market, _ledger, _token) = (JobMarket(market), Ledger(ledger), QuernToken(token));
    }

    function targetSelectors() external view returns (FuzzSelector[] memory list) {
        list = new FuzzSelector[](1);
        list[0] = FuzzSelector(address(_handlers), actions());
    }

    function targetContracts() external view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(_handlers);
    }

    /* INVARIANTS */

    /// @dev After every action: every unit in the Ledger belongs to a bucket or was given away; storage is what the events alone say, to
    /// the bit (and the fold of the events has refused every transition that does not exist, so final states are final); escrow, lock and
    /// bond are those of live jobs. One function, because each is a campaign of its own.
    function invariant_solvent_rebuiltFromEvents_moneyBelongsToLiveJobs() external view {
        requireSolvency();
        _model.requireStorage();
        requireLiveMoney();
    }

    /// @dev No stuck money, from whatever state the run ended in.
    function afterInvariant() external {
        requireNothingStuck(uint256(_ledger.head()));
    }

    /* THE HANDLERS THEMSELVES */

    /// @dev Every action of the handlers has an effect and every state of a job is seen: else the invariants would say nothing.
    function test_handlers_reachEveryActionAndEveryState() external {
        bytes4[] memory list = actions();
        bool[8] memory seen;
        for (uint256 i = 0; i < 1500; ++i) {
            bytes4 action = list[uint256(keccak256(abi.encode("action", i))) % list.length];
            (bool succeeded,) = address(_handlers).call(abi.encodePacked(action, keccak256(abi.encode("seed", i)), i % 2));
            vm.assertTrue(succeeded, "an action reverted");
            if (i % 8 != 0) continue;
            for (uint256 k = 0; k < _handlers.jobCount(); ++k) {
                seen[uint256(_market.job(_handlers.idAt(k)).state)] = true;
            }
        }
        for (uint256 i = 0; i < list.length; ++i) {
            vm.assertTrue(_handlers.done(list[i]) > 0, vm.toString(abi.encodePacked(list[i])));
        }
        for (uint256 i = 1; i < seen.length; ++i) {
            vm.assertTrue(seen[i], "a state that no job was in");
        }
        requireSolvency();
        requireLiveMoney();
        _model.requireStorage();
        requireNothingStuck(7);
    }

    function actions() public pure returns (bytes4[] memory list) {
        bytes4[25] memory all = [
            Handlers.deposit.selector,
            Handlers.depositWithPermit.selector,
            Handlers.withdraw.selector,
            Handlers.post.selector,
            Handlers.cancel.selector,
            Handlers.stake.selector,
            Handlers.unstake.selector,
            Handlers.cancelUnbonding.selector,
            Handlers.withdrawUnbonded.selector,
            Handlers.setOperator.selector,
            Handlers.claim.selector,
            Handlers.submit.selector,
            Handlers.expire.selector,
            Handlers.refundUndelivered.selector,
            Handlers.complete.selector,
            Handlers.completeMany.selector,
            Handlers.challenge.selector,
            Handlers.dismiss.selector,
            Handlers.convict.selector,
            Handlers.extend.selector,
            Handlers.guard.selector,
            Handlers.register.selector,
            Handlers.donate.selector,
            Handlers.intrude.selector,
            Handlers.wait.selector
        ];
        list = new bytes4[](all.length + 1);
        for (uint256 i = 0; i < all.length; ++i) {
            list[i] = all[i];
        }
        list[all.length] = Handlers.waitForADeadline.selector;
    }

    /* CHECKS */

    function requireSolvency() private view {
        address[] memory accounts = _model.accounts();
        uint256 sum;
        for (uint256 i = 0; i < accounts.length; ++i) {
            for (uint256 b = uint256(Bucket.Outside); b <= uint256(Bucket.RewardPool); ++b) {
                sum += _ledger.balanceOf(accounts[i], Bucket(b));
            }
        }
        vm.assertEq(sum, _ledger.total(), "sum of all buckets");
        vm.assertEq(_token.balanceOf(address(_ledger)), sum + _handlers.donated(), "token balance");
        vm.assertEq(_ledger.surplus(), _handlers.donated(), "surplus");
    }

    function requireLiveMoney() private view {
        Parameters memory p = _market.parameters();
        address[] memory accounts = _model.accounts();
        uint256[] memory escrow = new uint256[](accounts.length);
        uint256[] memory lock = new uint256[](accounts.length);
        uint256 bonds;
        for (uint256 i = 0; i < _handlers.jobCount(); ++i) {
            JobId jobId = _handlers.idAt(i);
            EventModel.JobModel memory j = _model.job(JobId.unwrap(jobId));
            uint256 open = _handlers.liveChallenges(jobId);
            vm.assertEq(j.challengesOpen, open, "challenges of the game");
            vm.assertTrue(j.state == State.Challenged == open > 0, "Challenged if and only if a challenge is open");
            bonds += open * BOND;
            if (j.state == State.Completed || j.state == State.Refunded || j.state == State.Slashed) continue;
            uint256 maxFee = maxFeePlain(_handlers.specAt(i));
            escrow[_index(accounts, j.client)] += maxFee;
            if (j.state == State.Open) continue;
            uint256 scaled = maxFee * p.lockFactorBps / 10_000;
            lock[_index(accounts, j.provider)] += scaled > p.minLock ? scaled : p.minLock;
        }
        for (uint256 i = 0; i < accounts.length; ++i) {
            vm.assertEq(_ledger.balanceOf(accounts[i], Bucket.Escrow), escrow[i], "escrow of a client");
            vm.assertEq(_ledger.balanceOf(accounts[i], Bucket.Lock), lock[i], "lock of a provider");
            bonds -= _ledger.balanceOf(accounts[i], Bucket.Bond);
        }
        vm.assertEq(bonds, 0, "bonds");
    }

    /// @dev The fee of a job as docs/PROTOCOL.md, section 3, has it.
    function maxFeePlain(JobSpec memory s) private pure returns (uint256) {
        uint256 outputs = uint256(s.maxOutput) * s.itemCount * s.samplesPerItem;
        return s.basePrice + uint256(s.inputPrice) * s.inputLen + s.outputPrice * outputs + uint256(s.itemPrice) * s.itemCount;
    }

    function requireNothingStuck(uint256 seed) private {
        _handlers.windDown(seed);
        _model.requireStorage();
        requireSolvency();
        address[] memory accounts = _model.accounts();
        for (uint256 i = 0; i < accounts.length; ++i) {
            (uint128 free, uint128 escrow, uint128 stake, uint128 unbonding, uint128 lock, uint128 bond) = _ledger.balancesOf(accounts[i]);
            vm.assertEq(uint256(free) + escrow + stake + unbonding + lock + bond, 0, "money is stuck");
        }
        uint256 delayed;
        for (uint256 i = 0; i < _handlers.jobCount(); ++i) {
            bytes32 jobId = JobId.unwrap(_handlers.idAt(i));
            State state = _model.job(jobId).state;
            vm.assertTrue(state == State.Completed || state == State.Refunded || state == State.Slashed, "a job that did not end");
            delayed += _model.moved(jobId, Reason.SlashedDelayed);
        }
        vm.assertEq(_ledger.total(), delayed, "what is left is what was slashed and held back");
        vm.assertEq(_ledger.balanceOf(address(0), Bucket.Delayed), delayed, "delayed");
        vm.assertEq(_token.balanceOf(address(_ledger)), delayed + _handlers.donated(), "token balance at the end");
    }

    function _index(address[] memory accounts, address account) private pure returns (uint256 index) {
        while (index < accounts.length && accounts[index] != account) ++index;
        // A job without money and without an entry: its amounts are 0, and so is the first account's (nobody).
        if (index == accounts.length) index = 0;
    }
}
