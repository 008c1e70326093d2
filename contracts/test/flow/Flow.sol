// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../src/interfaces/IJobMarket.sol";
import {JobId} from "../../src/types/Ids.sol";
import {JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {Recorded} from "../invariant/Recorded.sol";

/// @title What the flows share: all six balances of an account in one line, and a second provider
abstract contract Flow is Recorded {
    uint256 internal constant SECOND_KEY = 0x0832;
    uint256 internal constant WINDOW = 1 hours;

    /// @dev Of `embedSpec`: maximum fee, lock, fee at the floor price of half.
    uint128 internal constant EMBED_MAX = 1.56e18;
    uint128 internal constant EMBED_LOCK = 3.12e18;
    uint128 internal constant EMBED_HALF = 0.78e18;

    address internal immutable second = vm.addr(SECOND_KEY >> 1);
    address internal immutable secondOperator = vm.addr(SECOND_KEY);

    /// @dev A second provider with `amount` at stake and nothing free.
    function _addSecondProvider(uint128 amount) internal {
        _fund(second, amount);
        vm.prank(second);
        providers.setOperator(secondOperator);
        vm.prank(second);
        providers.stake(amount);
    }

    function _assertClient(uint256 free_, uint256 escrow) internal view {
        _assertMoney(client, [free_, escrow, 0, 0, 0, 0]);
    }

    /// @dev What the provider has free beyond the start, behind no job, and behind jobs.
    function _assertProvider(uint256 earned, uint256 stake, uint256 lock) internal view {
        _assertMoney(provider, [FUNDS / 2 + earned, 0, stake, 0, lock, 0]);
    }

    /// @param b free, escrow, stake, unbonding, lock, bond
    function _assertMoney(address account, uint256[6] memory b) internal view {
        (uint128 free_, uint128 escrow, uint128 stake, uint128 unbonding, uint128 lock, uint128 bond) = ledger.balancesOf(account);
        vm.assertEq(free_, b[0], "free");
        vm.assertEq(escrow, b[1], "escrow");
        vm.assertEq(stake, b[2], "stake");
        vm.assertEq(unbonding, b[3], "unbonding");
        vm.assertEq(lock, b[4], "lock");
        vm.assertEq(bond, b[5], "bond");
    }

    function _assertDelayed(uint256 amount) internal view {
        vm.assertEq(bucket(address(0), Bucket.Delayed), amount, "delayed");
    }

    /// @dev The next call reverts because the job is in another state.
    function _expectState(JobSpec memory spec, State expected, State actual) internal {
        vm.expectRevert(notInState(spec, expected, actual));
    }

    function _expectTooEarly(JobId jobId, uint256 deadline) internal {
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.DeadlineNotPassed.selector, jobId, deadline, vm.getBlockTimestamp()));
    }

    function _expectTooLate(JobId jobId, uint256 deadline) internal {
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.DeadlinePassed.selector, jobId, deadline, vm.getBlockTimestamp()));
    }

    function _salted(uint256 n) internal view returns (JobSpec memory spec) {
        spec = embedSpec();
        spec.salt = bytes32(n);
    }

    /// @dev A job that has a receipt of the first provider, in doubt until `WINDOW` from now.
    function _submitted(uint256 n) internal returns (JobSpec memory spec, Receipt memory receipt) {
        spec = _salted(n);
        receipt = _postClaimSubmit(spec);
    }
}
