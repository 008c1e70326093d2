// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../../src/interfaces/IJobMarket.sol";
import {JobId} from "../../../src/types/Ids.sol";
import {JobSpec, State} from "../../../src/types/Job.sol";
import {Bucket} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";

/// @title cancel, expire and refundUndelivered
contract JobMarketRefundTest is Base {
    /* CANCEL */

    function testFuzz_cancel_refundsTheClientAtAnyTimeWhileOpen(uint256 seed, uint32 wait) external {
        JobSpec memory spec = fuzzedSpec(seed);
        JobId id = _post(spec);
        uint96 maxFee = market.maxFeeOf(spec);
        vm.warp(uint256(START) + wait);
        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.JobCancelled(id, client, maxFee);
        vm.prank(client);
        market.cancel(spec);
        assertState(spec, State.Refunded);
        vm.assertEq(free(client), FUNDS);
        vm.assertEq(bucket(client, Bucket.Escrow), 0);
    }

    function test_cancel_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        vm.expectRevert(notInState(spec, State.Open, State.None));
        vm.prank(client);
        market.cancel(spec);
        _postAndClaim(spec);
        vm.expectRevert(notInState(spec, State.Open, State.Claimed));
        vm.prank(client);
        market.cancel(spec);
        _submit(spec);
        vm.expectRevert(notInState(spec, State.Open, State.Submitted));
        vm.prank(client);
        market.cancel(spec);
    }

    function testFuzz_cancel_revertsIfNotTheClient(address caller) external {
        vm.assume(caller != client);
        JobSpec memory spec = embedSpec();
        _post(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotClient.selector, client, caller));
        vm.prank(caller);
        market.cancel(spec);
    }

    /* EXPIRE */

    function testFuzz_expire_refundsTheClientForAnyoneAfterClaimBy(uint256 seed, address caller, uint32 late) external {
        JobSpec memory spec = fuzzedSpec(seed);
        JobId id = _post(spec);
        uint96 maxFee = market.maxFeeOf(spec);
        vm.warp(spec.claimBy + bound(late, 1, type(uint32).max));
        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.JobExpired(id, client, maxFee);
        vm.prank(caller);
        market.expire(spec);
        assertState(spec, State.Refunded);
        vm.assertEq(free(client), FUNDS);
    }

    function test_expire_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        vm.expectRevert(notInState(spec, State.Open, State.None));
        market.expire(spec);
        _postAndClaim(spec);
        vm.expectRevert(notInState(spec, State.Open, State.Claimed));
        market.expire(spec);
    }

    function testFuzz_expire_isValidOneSecondAfterClaimByAndNotBefore(uint256 early) external {
        JobSpec memory spec = embedSpec();
        JobId id = _post(spec);
        early = bound(early, START, spec.claimBy);
        vm.warp(early);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.DeadlineNotPassed.selector, id, spec.claimBy, early));
        market.expire(spec);
        vm.warp(spec.claimBy);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.DeadlineNotPassed.selector, id, spec.claimBy, spec.claimBy));
        market.expire(spec);
        vm.warp(spec.claimBy + 1);
        market.expire(spec);
        assertState(spec, State.Refunded);
    }

    /* REFUND UNDELIVERED */

    function testFuzz_refundUndelivered_refundsTheClientWithAPenalty(uint256 seed, address caller, uint32 late) external {
        JobSpec memory spec = fuzzedSpec(seed);
        JobId id = _postAndClaim(spec);
        uint96 maxFee = market.maxFeeOf(spec);
        uint128 lock = market.lockOf(spec);
        uint128 penalty = lock / 10;
        vm.warp(uint256(START) + spec.deliverWithin + bound(late, 1, type(uint32).max));
        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.JobUndelivered(id, client, provider, maxFee, penalty, lock - penalty);
        vm.prank(caller);
        market.refundUndelivered(spec);
        assertState(spec, State.Refunded);
        vm.assertEq(free(client), FUNDS + penalty);
        vm.assertEq(bucket(client, Bucket.Escrow), 0);
        vm.assertEq(bucket(provider, Bucket.Lock), 0);
        vm.assertEq(bucket(provider, Bucket.Stake), FUNDS / 2 - penalty);
    }

    function test_refundUndelivered_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        vm.expectRevert(notInState(spec, State.Claimed, State.None));
        market.refundUndelivered(spec);
        _post(spec);
        vm.expectRevert(notInState(spec, State.Claimed, State.Open));
        market.refundUndelivered(spec);
        _claim(spec);
        _submit(spec);
        vm.warp(block.timestamp + 30 days);
        vm.expectRevert(notInState(spec, State.Claimed, State.Submitted));
        market.refundUndelivered(spec);
    }

    function testFuzz_refundUndelivered_isValidOneSecondAfterTheDeadlineAndNotBefore(uint256 early) external {
        JobSpec memory spec = embedSpec();
        JobId id = _postAndClaim(spec);
        uint256 deadline = START + spec.deliverWithin;
        early = bound(early, START, deadline);
        bytes4 tooEarly = IJobMarket.DeadlineNotPassed.selector;
        vm.warp(early);
        vm.expectRevert(abi.encodeWithSelector(tooEarly, id, deadline, early));
        market.refundUndelivered(spec);
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(tooEarly, id, deadline, deadline));
        market.refundUndelivered(spec);
        vm.warp(deadline + 1);
        market.refundUndelivered(spec);
        assertState(spec, State.Refunded);
    }
}
