// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Bucket} from "../../src/types/Money.sol";
import {Base} from "../Base.sol";
import {EventModel} from "./EventModel.sol";

/// @title A start whose every event, from the first on, is folded into an `EventModel`
abstract contract Recorded is Base {
    EventModel public model;
    /// @notice What was sent to the Ledger without a deposit.
    uint256 public donated;

    function setUp() public virtual override {
        vm.recordLogs();
        super.setUp();
        model = new EventModel(
            EventModel.Contracts(address(ledger), address(market), address(providers), address(models), address(guardian), address(game))
        );
        model.fold(vm.getRecordedLogs());
    }

    /// @dev Whatever happened since the last call was allowed at this time, storage follows from the events, and the buckets sum up.
    /// Before every `warp`: events are judged by the clock.
    function _auditBooks() internal {
        model.fold(vm.getRecordedLogs());
        model.requireStorage();
        _requireSolvent();
    }

    function _requireSolvent() internal view {
        address[] memory accounts = model.accounts();
        uint256 sum;
        for (uint256 i = 0; i < accounts.length; ++i) {
            for (uint256 b = uint256(Bucket.Outside); b <= uint256(Bucket.RewardPool); ++b) {
                sum += ledger.balanceOf(accounts[i], Bucket(b));
            }
        }
        vm.assertEq(sum, ledger.total(), "sum of all buckets");
        vm.assertEq(token.balanceOf(address(ledger)), sum + donated, "token balance");
        vm.assertEq(ledger.surplus(), donated, "surplus");
    }

    /// @dev After a call that reverted behind its event, and an audit before it: forge records the events of reverted calls too.
    function _forgetReverted() internal {
        vm.getRecordedLogs();
    }

    /// @dev To START + secs, with the books audited before.
    function _at(uint256 secs) internal {
        _auditBooks();
        vm.warp(START + secs);
    }
}
