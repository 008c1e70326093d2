// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../../src/interfaces/IJobMarket.sol";
import {JobId} from "../../../src/types/Ids.sol";
import {Job, JobSpec, State} from "../../../src/types/Job.sol";
import {Bucket} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";

contract JobMarketClaimTest is Base {
    function testFuzz_claim_fixesPriceDeadlineOperatorAndLock(uint256 seed, uint256 wait) external {
        JobSpec memory spec = fuzzedSpec(seed);
        JobId id = _post(spec);
        wait = bound(wait, 0, spec.claimBy - START);
        vm.warp(START + wait);
        uint16 priceBps = market.priceBpsAt(spec, wait);
        uint128 lock = market.lockOf(spec);
        uint40 deadline = uint40(START + wait + spec.deliverWithin);

        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.JobClaimed(id, provider, operator, priceBps, deadline, lock);
        _claim(spec);

        Job memory job = market.job(id);
        vm.assertEq(uint256(job.state), uint256(State.Claimed));
        vm.assertEq(job.clock, deadline);
        vm.assertEq(job.priceBps, priceBps);
        vm.assertEq(job.operator, operator);
        vm.assertEq(job.provider, provider);
        vm.assertEq(bucket(provider, Bucket.Lock), lock);
        vm.assertEq(bucket(provider, Bucket.Stake), FUNDS / 2 - lock);
    }

    function test_claim_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        vm.expectRevert(notInState(spec, State.Open, State.None));
        _claim(spec);
        _postAndClaim(spec);
        vm.expectRevert(notInState(spec, State.Open, State.Claimed));
        _claim(spec);
        _submit(spec);
        vm.expectRevert(notInState(spec, State.Open, State.Submitted));
        _claim(spec);
    }

    function testFuzz_claim_revertsIfNotTheOperator(address caller) external {
        vm.assume(caller != operator);
        JobSpec memory spec = embedSpec();
        _post(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotOperator.selector, provider, operator, caller));
        vm.prank(caller);
        market.claim(spec, provider);
    }

    /// @dev Nobody can be the operator of a provider that named none: 0 never sends.
    function testFuzz_claim_revertsIfTheProviderHasNoOperator(address nobody, address caller) external {
        vm.assume(nobody != provider && caller != address(0));
        JobSpec memory spec = embedSpec();
        _post(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotOperator.selector, nobody, address(0), caller));
        vm.prank(caller);
        market.claim(spec, nobody);
    }

    function testFuzz_claim_revertsIfDesignatedToAnotherProvider(address designated) external {
        vm.assume(designated != address(0) && designated != provider);
        JobSpec memory spec = embedSpec();
        spec.designated = designated;
        JobId id = _post(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotDesignated.selector, id, designated, provider));
        _claim(spec);
    }

    function test_claim_isOpenToTheDesignatedProvider() external {
        JobSpec memory spec = embedSpec();
        spec.designated = provider;
        _postAndClaim(spec);
        assertState(spec, State.Claimed);
    }

    function testFuzz_claim_isValidUpToClaimByAndNotOneSecondLater(uint16 ahead) external {
        JobSpec memory spec = embedSpec();
        spec.claimBy = uint64(START) + ahead;
        JobId id = _post(spec);
        vm.warp(uint256(spec.claimBy) + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.DeadlinePassed.selector, id, spec.claimBy, uint256(spec.claimBy) + 1));
        _claim(spec);
        vm.warp(spec.claimBy);
        _claim(spec);
        assertState(spec, State.Claimed);
    }

    function testFuzz_claim_revertsIfTheStakeIsTooSmall(uint128 missing) external {
        JobSpec memory spec = embedSpec();
        uint128 lock = market.lockOf(spec);
        missing = uint128(bound(missing, 1, lock));
        vm.prank(provider);
        providers.unstake(FUNDS / 2 - lock + missing);
        _post(spec);
        vm.expectRevert(insufficient(provider, Bucket.Stake, lock, lock - missing));
        _claim(spec);
    }

    /// @dev Two jobs never share a lock: the second one needs stake of its own.
    function test_claim_locksForEachJobApart() external {
        JobSpec memory first = embedSpec();
        JobSpec memory second = embedSpec();
        second.salt = keccak256("second");
        uint128 lock = market.lockOf(first);
        vm.prank(provider);
        providers.unstake(FUNDS / 2 - lock);
        _postAndClaim(first);
        _post(second);
        vm.expectRevert(insufficient(provider, Bucket.Stake, lock, 0));
        _claim(second);
    }

    function testFuzz_lock_isTheGreaterOfMinimumAndShareOfTheMaximumFee(uint256 seed) external view {
        JobSpec memory spec = fuzzedSpec(seed);
        uint256 scaled = uint256(market.maxFeeOf(spec)) * 20_000 / 10_000;
        vm.assertEq(market.lockOf(spec), scaled > 1e18 ? scaled : 1e18);
    }

    function testFuzz_price_risesFromFloorToMaximum(uint16 floor, uint32 ramp, uint64 elapsed, uint64 later) external view {
        JobSpec memory spec = embedSpec();
        spec.rampFloorBps = uint16(bound(floor, 1, 10_000));
        spec.rampSecs = ramp;
        later = uint64(bound(later, elapsed, type(uint64).max));
        uint16 price = market.priceBpsAt(spec, elapsed);
        vm.assertGe(price, spec.rampFloorBps);
        vm.assertLe(price, 10_000);
        vm.assertLe(price, market.priceBpsAt(spec, later));
        vm.assertEq(market.priceBpsAt(spec, ramp), 10_000);
        vm.assertEq(market.priceBpsAt(spec, 0), ramp == 0 ? 10_000 : spec.rampFloorBps);
    }
}
