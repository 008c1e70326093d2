// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IEntry} from "../../src/interfaces/IEntry.sol";
import {IGuardian} from "../../src/interfaces/IGuardian.sol";
import {JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Flow} from "./Flow.sol";

/// @title The guardian stops three entries, never an exit, and nothing after its last block
contract StoppedEntriesTest is Flow {
    function test_stoppedEntries_refusePostStakeAndRegister() external {
        _stop();
        JobSpec memory spec = embedSpec();
        expect(IEntry.EntriesAreStopped.selector);
        vm.prank(client);
        market.post(spec);
        expect(IEntry.EntriesAreStopped.selector);
        vm.prank(provider);
        providers.stake(1);
        expect(IEntry.EntriesAreStopped.selector);
        models.register(registration(encoderHeader(), 1));
        _auditBooks();
    }

    /// @dev Jobs in every state are stopped over and come to each of their ends; all money goes out.
    function test_stoppedEntries_keepEveryLiveJobAndEveryExitGoing() external {
        _fund(challenger, 10e18);
        Receipt[8] memory receipts;
        for (uint256 i = 0; i < 8; ++i) {
            _post(_salted(i));
            if (i >= 3) _claim(_salted(i));
            if (i >= 5) receipts[i] = _submit(_salted(i));
        }
        _challenge(_salted(7), receipts[7]);
        _stop();

        vm.prank(client);
        market.cancel(_salted(0)); // Open -> Refunded
        _claim(_salted(1)); // Open -> Claimed
        receipts[1] = _submit(_salted(1)); // Claimed -> Submitted
        receipts[3] = _submit(_salted(3));
        _challenge(_salted(6), receipts[6]); // Submitted -> Challenged
        game.extend(receipts[6].jobId);
        game.dismiss(receipts[6].jobId, provider);
        game.convict(_salted(7), receipts[7]); // Challenged -> Slashed
        vm.prank(provider);
        providers.setOperator(stranger);
        vm.prank(provider);
        providers.unstake(10e18);
        vm.prank(provider);
        providers.cancelUnbonding(10e18);
        _fund(stranger, 1); // money may come in: it can always go out again

        _at(WINDOW + 1);
        market.expire(_salted(2)); // Open -> Refunded
        market.refundUndelivered(_salted(4)); // Claimed -> Refunded
        uint8[4] memory paid = [1, 3, 5, 6];
        for (uint256 i = 0; i < 4; ++i) {
            market.complete(_salted(paid[i]), receipts[paid[i]]); // Submitted -> Completed
            assertState(_salted(paid[i]), State.Completed);
        }
        _takeEverything();
        vm.assertTrue(guardian.entriesStopped());
        _auditBooks();
    }

    function test_resumedEntries_acceptAgain() external {
        _stop();
        vm.prank(guardianKey);
        guardian.resumeEntries();
        _post(embedSpec());
        vm.prank(provider);
        providers.stake(1);
        _auditBooks();
    }

    /// @dev A guardian that stops and is silent, lost or hostile: in the block after its last one everything is open for ever.
    function test_guardian_losesItsPowerAfterItsLastBlock() external {
        uint256 last = guardian.EXPIRES_AT_BLOCK();
        vm.roll(last);
        _stop();
        JobSpec memory spec = embedSpec();
        expect(IEntry.EntriesAreStopped.selector);
        vm.prank(client);
        market.post(spec);

        vm.roll(last + 1);
        vm.assertFalse(guardian.entriesStopped());
        _post(spec);
        vm.prank(provider);
        providers.stake(1);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.GuardianExpired.selector, last, last + 1));
        vm.prank(guardianKey);
        guardian.resumeEntries();
        _auditBooks();
    }

    function test_guardian_canStopAndResumeInItsLastBlockOnly() external {
        uint256 last = guardian.EXPIRES_AT_BLOCK();
        vm.roll(last);
        _stop();
        vm.prank(guardianKey);
        guardian.resumeEntries();
        vm.roll(last + 1);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.GuardianExpired.selector, last, last + 1));
        vm.prank(guardianKey);
        guardian.stopEntries();
        _auditBooks();
    }

    function _stop() private {
        vm.prank(guardianKey);
        guardian.stopEntries();
    }

    function _takeEverything() private {
        (,, uint128 stake,,,) = ledger.balancesOf(provider);
        vm.prank(provider);
        providers.unstake(stake);
        _at(WINDOW + 2 + 10 days);
        providers.withdrawUnbonded(provider);
        address[5] memory all = [client, provider, challenger, publisher, stranger];
        for (uint256 i = 0; i < all.length; ++i) {
            uint128 has = free(all[i]);
            if (has > 0) {
                vm.prank(all[i]);
                ledger.withdraw(all[i], has);
            }
            _assertMoney(all[i], [uint256(0), 0, 0, 0, 0, 0]);
        }
        _assertDelayed(EMBED_LOCK / 2);
        vm.assertEq(ledger.total(), EMBED_LOCK / 2);
    }
}
