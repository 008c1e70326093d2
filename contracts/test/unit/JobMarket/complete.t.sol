// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../../src/interfaces/IJobMarket.sol";
import {JobId} from "../../../src/types/Ids.sol";
import {Completion, Job, JobSpec, Receipt, State} from "../../../src/types/Job.sol";
import {Bucket} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";
import {Vm} from "../../Vm.sol";

contract JobMarketCompleteTest is Base {
    function testFuzz_complete_paysProviderPublisherAndClient(uint256 seed, uint256 wait, address caller) external {
        JobSpec memory spec = fuzzedSpec(seed);
        if (spec.kind == 1 && seed % 3 == 0) spec.modelId = encoderWithRoyalty;
        _post(spec);
        wait = bound(wait, 0, spec.claimBy - START);
        vm.warp(START + wait);
        _claim(spec);
        Receipt memory receipt = _submit(spec);
        uint96 maxFee = market.maxFeeOf(spec);
        uint96 fee = market.feeOf(spec, receipt.outputLen, market.priceBpsAt(spec, wait));
        uint96 royalty = fee * models.model(spec.modelId).royaltyBps / 10_000;
        vm.warp(block.timestamp + 1 hours + 1);

        vm.prank(caller);
        market.complete(spec, receipt);

        Job memory job = market.job(receipt.jobId);
        vm.assertEq(uint256(job.state), uint256(State.Completed));
        vm.assertEq(job.receiptDigest, bytes32(0));
        vm.assertEq(free(provider), FUNDS / 2 + fee - royalty);
        vm.assertEq(free(publisher), royalty);
        vm.assertEq(free(client), FUNDS - fee);
        vm.assertEq(bucket(client, Bucket.Escrow), 0);
        vm.assertEq(bucket(provider, Bucket.Lock), 0);
        vm.assertEq(bucket(provider, Bucket.Stake), FUNDS / 2);
        vm.assertLe(fee, maxFee);
    }

    function test_complete_emitsWhatWasPaidAndWorked() external {
        JobSpec memory spec = generateSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        vm.warp(block.timestamp + 1 hours + 1);
        // 1 + 400 * 0.001 + 500 * 0.002 + 4 * 0.01 = 2.44 tokens at 5,000 of 10,000.
        (uint96 fee, uint96 royalty, uint96 maxFee) = (1.22e18, 0.122e18, 3.04e18);
        // Per layer 576 * 64 * (18 + 6) + 1,536 * 576 * 3, thirty layers, and the head.
        uint128 macsPerToken = (576 * 64 * 24 + 1536 * 576 * 3) * 30 + 49_152 * 576;
        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.JobCompleted(receipt.jobId, provider, publisher, fee, royalty, maxFee - fee, 900 * macsPerToken);
        market.complete(spec, receipt);
    }

    function test_complete_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = receiptOf(spec);
        vm.expectRevert(notInState(spec, State.Submitted, State.None));
        market.complete(spec, receipt);
        _post(spec);
        vm.expectRevert(notInState(spec, State.Submitted, State.Open));
        market.complete(spec, receipt);
        _claim(spec);
        vm.expectRevert(notInState(spec, State.Submitted, State.Claimed));
        market.complete(spec, receipt);
        _submit(spec);
        vm.warp(block.timestamp + 1 hours + 1);
        market.complete(spec, receipt);
        vm.expectRevert(notInState(spec, State.Submitted, State.Completed));
        market.complete(spec, receipt);
    }

    /// @dev The fee follows from the receipt: another one, even a signed one, is not the one that could be challenged.
    function testFuzz_complete_revertsIfTheReceiptIsNotTheSubmittedOne(uint64 outputLen) external {
        JobSpec memory spec = generateSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        bytes32 submitted = market.receiptDigestOf(receipt);
        vm.assume(outputLen != receipt.outputLen);
        receipt.outputLen = outputLen;
        bytes32 other = market.receiptDigestOf(receipt);
        vm.warp(block.timestamp + 1 hours + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.ReceiptNotSubmitted.selector, receipt.jobId, submitted, other));
        market.complete(spec, receipt);
    }

    function testFuzz_complete_isValidOneSecondAfterTheWindowAndNotBefore(uint256 early) external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        uint256 end = START + 1 hours;
        early = bound(early, START, end);
        bytes4 tooEarly = IJobMarket.DeadlineNotPassed.selector;
        vm.warp(early);
        vm.expectRevert(abi.encodeWithSelector(tooEarly, receipt.jobId, end, early));
        market.complete(spec, receipt);
        vm.warp(end);
        vm.expectRevert(abi.encodeWithSelector(tooEarly, receipt.jobId, end, end));
        market.complete(spec, receipt);
        vm.warp(end + 1);
        market.complete(spec, receipt);
        assertState(spec, State.Completed);
    }

    function testFuzz_feeOf_neverExceedsTheMaximumFee(uint256 seed, uint64 outputLen, uint16 priceBps) external view {
        JobSpec memory spec = fuzzedSpec(seed);
        uint256 outputs = uint256(spec.maxOutput) * spec.itemCount * spec.samplesPerItem;
        outputLen = uint64(bound(outputLen, 0, outputs));
        priceBps = uint16(bound(priceBps, 1, 10_000));
        vm.assertLe(market.feeOf(spec, outputLen, priceBps), market.maxFeeOf(spec));
        vm.assertEq(market.feeOf(spec, uint64(outputs), 10_000), market.maxFeeOf(spec));
    }

    /* MANY AT ONCE */

    function testFuzz_completeMany_skipsWhatCannotCompleteAndGoesOn(uint8 mask) external {
        Completion[] memory completions = new Completion[](8);
        uint256 expected;
        for (uint256 i = 0; i < 8; ++i) {
            JobSpec memory spec = embedSpec();
            spec.salt = bytes32(i);
            completions[i] = Completion(spec, _postClaimSubmit(spec));
            // Bad: not the submitted receipt.
            if (mask >> i & 1 == 1) completions[i].receipt.outputRoot = keccak256("another");
            else ++expected;
        }
        vm.warp(block.timestamp + 1 hours + 1);
        vm.recordLogs();
        market.completeMany(completions);

        uint256 skipped;
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] != IJobMarket.CompletionSkipped.selector) continue;
            ++skipped;
            bytes memory reason = abi.decode(logs[i].data, (bytes));
            vm.assertEq(bytes32(bytes4(reason)), bytes32(IJobMarket.ReceiptNotSubmitted.selector));
        }
        vm.assertEq(skipped, 8 - expected);
        for (uint256 i = 0; i < 8; ++i) {
            assertState(completions[i].spec, mask >> i & 1 == 1 ? State.Submitted : State.Completed);
        }
        vm.assertEq(bucket(client, Bucket.Escrow), (8 - expected) * market.maxFeeOf(embedSpec()));
    }

    function test_completeMany_skipsAJobThatIsNamedTwice() external {
        JobSpec memory spec = embedSpec();
        Completion[] memory completions = new Completion[](2);
        completions[0] = Completion(spec, _postClaimSubmit(spec));
        completions[1] = completions[0];
        vm.warp(block.timestamp + 1 hours + 1);
        bytes memory reason = notInState(spec, State.Submitted, State.Completed);
        JobId id = market.jobIdOf(spec);
        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.CompletionSkipped(id, reason);
        market.completeMany(completions);
        vm.assertEq(free(provider), FUNDS / 2 + market.feeOf(spec, 0, 5000));
    }
}
