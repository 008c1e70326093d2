// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Guardian} from "../../../src/Guardian.sol";
import {IGuardian} from "../../../src/interfaces/IGuardian.sol";
import {IModelRegistry} from "../../../src/interfaces/IModelRegistry.sol";
import {JobSpec, Receipt, State} from "../../../src/types/Job.sol";
import {Bucket} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";

contract GuardianTest is Base {
    uint256 private constant EXPIRY = 1_000_000;

    function test_guardian_stopsAndResumesEntries() external {
        vm.expectEmit(true, true, true, true, address(guardian));
        emit IGuardian.EntriesStopped(guardianKey);
        vm.prank(guardianKey);
        guardian.stopEntries();
        vm.assertTrue(guardian.entriesStopped());
        vm.expectEmit(true, true, true, true, address(guardian));
        emit IGuardian.EntriesResumed(guardianKey);
        vm.prank(guardianKey);
        guardian.resumeEntries();
        vm.assertFalse(guardian.entriesStopped());
        _post(embedSpec());
    }

    function testFuzz_guardian_isOneAddress(address caller) external {
        vm.assume(caller != guardianKey);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.NotGuardian.selector, guardianKey, caller));
        vm.prank(caller);
        guardian.stopEntries();
        vm.prank(guardianKey);
        guardian.stopEntries();
        vm.expectRevert(abi.encodeWithSelector(IGuardian.NotGuardian.selector, guardianKey, caller));
        vm.prank(caller);
        guardian.resumeEntries();
    }

    function test_guardian_revertsWhereNothingChanges() external {
        vm.startPrank(guardianKey);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.EntriesAlready.selector, false));
        guardian.resumeEntries();
        guardian.stopEntries();
        vm.expectRevert(abi.encodeWithSelector(IGuardian.EntriesAlready.selector, true));
        guardian.stopEntries();
        vm.stopPrank();
    }

    /// @dev Entries that were stopped open by themselves, and the guardian can never stop them again.
    function testFuzz_guardian_expiresAfterItsLastBlock(uint256 later) external {
        later = bound(later, EXPIRY + 1, type(uint64).max);
        vm.roll(EXPIRY);
        vm.prank(guardianKey);
        guardian.stopEntries();
        vm.assertTrue(guardian.entriesStopped());
        vm.roll(later);
        vm.assertFalse(guardian.entriesStopped());
        vm.expectRevert(abi.encodeWithSelector(IGuardian.GuardianExpired.selector, EXPIRY, later));
        vm.prank(guardianKey);
        guardian.resumeEntries();
        _post(embedSpec());
    }

    /// @dev With entries stopped for ever, everything that was live ends and everybody gets their money.
    function test_guardian_neverReachesAnExitOrALiveJob() external {
        _fund(challenger, 10e18);
        JobSpec[5] memory specs;
        for (uint256 i = 0; i < 5; ++i) {
            specs[i] = embedSpec();
            specs[i].salt = bytes32(i);
            _post(specs[i]);
        }
        vm.prank(guardianKey);
        guardian.stopEntries();

        vm.prank(client);
        market.cancel(specs[0]);
        for (uint256 i = 2; i < 5; ++i) {
            _claim(specs[i]);
        }
        Receipt memory paid = _submit(specs[3]);
        Receipt memory doubted = _submit(specs[4]);
        _challenge(specs[4], doubted);
        game.extend(doubted.jobId);
        game.dismiss(doubted.jobId, provider);
        _challenge(specs[4], doubted);
        game.convict(specs[4], doubted);
        vm.warp(START + 1 days);
        market.expire(specs[1]);
        market.refundUndelivered(specs[2]);
        market.complete(specs[3], paid);
        assertState(specs[3], State.Completed);
        vm.startPrank(provider);
        providers.unstake(bucket(provider, Bucket.Stake));
        providers.cancelUnbonding(1);
        providers.unstake(1);
        vm.warp(START + 30 days);
        providers.withdrawUnbonded(provider);
        ledger.withdraw(provider, free(provider));
        vm.stopPrank();
        vm.prank(provider);
        providers.setOperator(stranger);
        address[2] memory owners = [client, challenger];
        for (uint256 i = 0; i < 2; ++i) {
            uint128 all = free(owners[i]);
            vm.prank(owners[i]);
            ledger.withdraw(owners[i], all);
        }
        vm.assertEq(ledger.total(), bucket(address(0), Bucket.Delayed));
    }

    function testFuzz_constructor_refusesAnExpiryOutOfBounds(uint256 block_) external {
        vm.assume(block_ < 1000 || block_ > 1000 + 31_536_000);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.ExpiryOutOfBounds.selector, block_, 1000, 31_536_000));
        new Guardian(guardianKey, block_);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.GuardianNotAllowed.selector, address(0)));
        new Guardian(address(0), 2000);
    }
}
