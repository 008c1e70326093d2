// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../../src/interfaces/IJobMarket.sol";
import {JobId} from "../../../src/types/Ids.sol";
import {Job, JobSpec, Receipt, State} from "../../../src/types/Job.sol";
import {Bucket} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";

/// @title The four calls of the dispute game
contract JobMarketDisputeTest is Base {
    function setUp() public override {
        super.setUp();
        _fund(challenger, FUNDS);
    }

    /* ONLY THE GAME */

    function testFuzz_disputeCalls_revertIfNotTheGame(address caller) external {
        vm.assume(caller != address(game));
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        bytes memory notGame = abi.encodeWithSelector(IJobMarket.NotDisputeGame.selector, address(game), caller);
        vm.expectRevert(notGame);
        vm.prank(caller);
        market.challengeOpened(spec, receipt);
        vm.expectRevert(notGame);
        vm.prank(caller);
        market.extend(receipt.jobId);
        _challenge(spec, receipt);
        vm.expectRevert(notGame);
        vm.prank(caller);
        market.challengeDismissed(receipt.jobId);
        vm.expectRevert(notGame);
        vm.prank(caller);
        market.convicted(spec, receipt, caller);
    }

    /* OPENED */

    function test_challengeOpened_stopsCompletionUntilDismissed() external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.ChallengeOpened(receipt.jobId, 1);
        _challenge(spec, receipt);
        assertState(spec, State.Challenged);
        vm.warp(block.timestamp + 2 hours);
        vm.expectRevert(notInState(spec, State.Submitted, State.Challenged));
        market.complete(spec, receipt);
        game.dismiss(receipt.jobId, provider);
        assertState(spec, State.Submitted);
        market.complete(spec, receipt);
        assertState(spec, State.Completed);
    }

    function testFuzz_challengeOpened_isValidUpToTheEndOfTheWindowAndNotOneSecondLater(bool again) external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        if (again) _challenge(spec, receipt);
        uint256 end = START + 1 hours;
        vm.warp(end + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.DeadlinePassed.selector, receipt.jobId, end, end + 1));
        _challenge(spec, receipt);
        vm.warp(end);
        _challenge(spec, receipt);
        vm.assertEq(market.job(receipt.jobId).challengesOpen, again ? 2 : 1);
    }

    function test_challengeOpened_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = receiptOf(spec);
        vm.expectRevert(notInState(spec, State.Submitted, State.None));
        _challenge(spec, receipt);
        _post(spec);
        vm.expectRevert(notInState(spec, State.Submitted, State.Open));
        _challenge(spec, receipt);
        _claim(spec);
        vm.expectRevert(notInState(spec, State.Submitted, State.Claimed));
        _challenge(spec, receipt);
        _submit(spec);
        vm.warp(block.timestamp + 1 hours + 1);
        market.complete(spec, receipt);
        vm.expectRevert(notInState(spec, State.Submitted, State.Completed));
        _challenge(spec, receipt);
    }

    function testFuzz_challengeOpened_revertsIfTheReceiptIsNotTheSubmittedOne(bytes32 root) external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        bytes32 submitted = market.receiptDigestOf(receipt);
        vm.assume(root != receipt.outputRoot);
        receipt.outputRoot = root;
        bytes32 other = market.receiptDigestOf(receipt);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.ReceiptNotSubmitted.selector, receipt.jobId, submitted, other));
        _challenge(spec, receipt);
    }

    /* DISMISSED */

    function testFuzz_challengeDismissed_countsDownToSubmitted(uint8 count) external {
        count = uint8(bound(count, 1, 20));
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        for (uint256 i = 0; i < count; ++i) {
            _challenge(spec, receipt);
        }
        for (uint256 i = count; i > 0; --i) {
            assertState(spec, State.Challenged);
            vm.expectEmit(true, true, true, true, address(market));
            emit IJobMarket.ChallengeDismissed(receipt.jobId, uint16(i - 1));
            game.dismiss(receipt.jobId, provider);
        }
        assertState(spec, State.Submitted);
        vm.assertEq(bucket(challenger, Bucket.Bond), 0);
        vm.assertEq(free(provider), FUNDS / 2 + uint256(count) * game.BOND());
    }

    function test_challengeDismissed_revertsIfNoneIsOpen() external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        vm.expectRevert(notInState(spec, State.Challenged, State.Submitted));
        vm.prank(address(game));
        market.challengeDismissed(receipt.jobId);
    }

    /* CONVICTED */

    function testFuzz_convicted_dividesTheLockAndVoidsTheEscrow(uint256 seed, uint32 wait) external {
        JobSpec memory spec = fuzzedSpec(seed);
        Receipt memory receipt = _postClaimSubmit(spec);
        _challenge(spec, receipt);
        uint96 maxFee = market.maxFeeOf(spec);
        uint128 lock = market.lockOf(spec);
        (uint128 toChallenger, uint128 toClient) = (lock * 3 / 10, lock * 2 / 10);
        vm.warp(block.timestamp + wait);
        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.JobSlashed(receipt.jobId, provider, challenger, toChallenger, toClient, lock - toChallenger - toClient, maxFee);
        game.convict(spec, receipt);
        assertState(spec, State.Slashed);
        vm.assertEq(market.job(receipt.jobId).challengesOpen, 0);
        vm.assertEq(free(client), FUNDS + toClient);
        vm.assertEq(free(challenger), FUNDS + toChallenger);
        vm.assertEq(bucket(address(0), Bucket.Delayed), lock - toChallenger - toClient);
        vm.assertGe(uint256(bucket(address(0), Bucket.Delayed)) * 2, lock);
        vm.assertEq(bucket(provider, Bucket.Lock), 0);
        vm.assertEq(bucket(provider, Bucket.Stake), FUNDS / 2 - lock);
    }

    function test_convicted_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        vm.expectRevert(notInState(spec, State.Challenged, State.Submitted));
        game.convict(spec, receipt);
        _challenge(spec, receipt);
        game.convict(spec, receipt);
        vm.expectRevert(notInState(spec, State.Challenged, State.Slashed));
        game.convict(spec, receipt);
    }

    /// @dev The receipt names the provider whose lock is taken: only the submitted one counts.
    function testFuzz_convicted_revertsIfTheReceiptIsNotTheSubmittedOne(address victim) external {
        vm.assume(victim != provider);
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        _challenge(spec, receipt);
        bytes32 submitted = market.receiptDigestOf(receipt);
        receipt.provider = victim;
        bytes32 other = market.receiptDigestOf(receipt);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.ReceiptNotSubmitted.selector, receipt.jobId, submitted, other));
        game.convict(spec, receipt);
    }

    /* EXTENDED */

    function testFuzz_extend_leavesAtLeastTheAuditTimeOnce(uint256 second) external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        second = bound(second, START, START + 1 hours);
        vm.warp(second);
        uint256 end = second + 30 minutes > START + 1 hours ? second + 30 minutes : START + 1 hours;
        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.WindowExtended(receipt.jobId, uint40(end));
        game.extend(receipt.jobId);
        Job memory job = market.job(receipt.jobId);
        vm.assertEq(job.clock, end);
        vm.assertTrue(job.extended);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.AlreadyExtended.selector, receipt.jobId));
        game.extend(receipt.jobId);
    }

    function test_extend_revertsAfterTheWindowUnlessChallenged() external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        JobId id = receipt.jobId;
        uint256 end = START + 1 hours;
        vm.warp(end + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.DeadlinePassed.selector, id, end, end + 1));
        game.extend(id);
        vm.warp(end);
        _challenge(spec, receipt);
        vm.warp(end + 1 days);
        game.extend(id);
        vm.assertEq(market.job(id).clock, end + 1 days + 30 minutes);
        // The window is open again for other auditors.
        _challenge(spec, receipt);
    }

    function test_extend_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        JobId id = _post(spec);
        vm.expectRevert(notInState(spec, State.Submitted, State.Open));
        game.extend(id);
        _claim(spec);
        vm.expectRevert(notInState(spec, State.Submitted, State.Claimed));
        game.extend(id);
    }
}
