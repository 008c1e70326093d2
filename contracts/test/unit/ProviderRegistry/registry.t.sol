// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ProviderRegistry} from "../../../src/ProviderRegistry.sol";
import {IEntry} from "../../../src/interfaces/IEntry.sol";
import {IProviderRegistry} from "../../../src/interfaces/IProviderRegistry.sol";
import {ModelId} from "../../../src/types/Ids.sol";
import {JobSpec, State} from "../../../src/types/Job.sol";
import {Bucket} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";

contract ProviderRegistryTest is Base {
    uint128 private constant STAKED = FUNDS / 2;

    /* KEYS AND OFFERS */

    function testFuzz_setOperator_isTheOwnersAlone(address owner, address key) external {
        vm.assume(owner != provider);
        vm.expectEmit(true, true, true, true, address(providers));
        emit IProviderRegistry.OperatorChanged(owner, key);
        vm.prank(owner);
        providers.setOperator(key);
        vm.assertEq(providers.operatorOf(owner), key);
        vm.assertEq(providers.operatorOf(provider), operator);
    }

    /// @dev A revoked key claims nothing more; what it claimed before it still delivers.
    function test_setOperator_revokesForNewClaimsOnly() external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        vm.prank(provider);
        providers.setOperator(address(0));
        _submit(spec);
        assertState(spec, State.Submitted);
        spec.salt = "next";
        _post(spec);
        vm.expectRevert();
        _claim(spec);
    }

    function testFuzz_offers_revertIfNeitherOwnerNorOperator(address caller) external {
        vm.assume(caller != provider && caller != operator);
        bytes memory refused = abi.encodeWithSelector(IProviderRegistry.NotProvider.selector, provider, operator, caller);
        vm.expectRevert(refused);
        vm.prank(caller);
        providers.announce(provider, "http://127.0.0.1:1");
        vm.expectRevert(refused);
        vm.prank(caller);
        providers.listPrice(provider, encoder, IProviderRegistry.Prices(1, 2, 3, 4));
        vm.expectRevert(refused);
        vm.prank(caller);
        providers.unlistPrice(provider, encoder);
    }

    /// @dev A provider without an operator is not everybody's: 0 never sends.
    function testFuzz_offers_revertForAProviderWithoutOperator(address nobody, address caller) external {
        vm.assume(nobody != provider && nobody != caller && caller != address(0));
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.NotProvider.selector, nobody, address(0), caller));
        vm.prank(caller);
        providers.announce(nobody, "");
    }

    function testFuzz_offers_areOpenToOwnerAndOperator(bool hot, ModelId modelId) external {
        address caller = hot ? operator : provider;
        IProviderRegistry.Prices memory prices = IProviderRegistry.Prices(1, 2, 3, 4);
        vm.expectEmit(true, true, true, true, address(providers));
        emit IProviderRegistry.ProviderAnnounced(provider, "http://127.0.0.1:1");
        vm.prank(caller);
        providers.announce(provider, "http://127.0.0.1:1");
        vm.expectEmit(true, true, true, true, address(providers));
        emit IProviderRegistry.PriceListed(provider, modelId, prices);
        vm.prank(caller);
        providers.listPrice(provider, modelId, prices);
        vm.expectEmit(true, true, true, true, address(providers));
        emit IProviderRegistry.PriceUnlisted(provider, modelId);
        vm.prank(caller);
        providers.unlistPrice(provider, modelId);
    }

    function testFuzz_announce_revertsIfTheUrlIsTooLong(uint16 length) external {
        length = uint16(bound(length, 257, 2000));
        vm.expectRevert(outOfBounds("gateway", length, 0, 256));
        vm.prank(provider);
        providers.announce(provider, string(new bytes(length)));
        vm.prank(provider);
        providers.announce(provider, string(new bytes(256)));
    }

    /// @dev The hot key can work, and nothing else: no call of its own moves the provider's money out.
    function test_operator_cannotReachTheMoneyOfItsProvider() external {
        vm.expectRevert(insufficient(operator, Bucket.Free, 1, 0));
        vm.prank(operator);
        ledger.withdraw(operator, 1);
        vm.expectRevert(insufficient(operator, Bucket.Stake, 1, 0));
        vm.prank(operator);
        providers.unstake(1);
        vm.prank(operator);
        providers.setOperator(stranger);
        vm.assertEq(providers.operatorOf(provider), operator);
    }

    /* STAKE */

    function testFuzz_stake_putsFreeMoneyAtStake(uint128 amount) external {
        amount = uint128(bound(amount, 1, STAKED));
        vm.expectEmit(true, true, true, true, address(providers));
        emit IProviderRegistry.StakeAdded(provider, amount);
        vm.prank(provider);
        providers.stake(amount);
        vm.assertEq(bucket(provider, Bucket.Stake), STAKED + amount);
        vm.assertEq(free(provider), STAKED - amount);
    }

    function testFuzz_stake_revertsBeyondFreeMoney(uint128 amount) external {
        amount = uint128(bound(amount, STAKED + 1, type(uint128).max));
        vm.expectRevert(insufficient(provider, Bucket.Free, amount, STAKED));
        vm.prank(provider);
        providers.stake(amount);
    }

    function test_stake_revertsWhileEntriesAreStopped() external {
        vm.prank(guardianKey);
        guardian.stopEntries();
        vm.expectRevert(IEntry.EntriesAreStopped.selector);
        vm.prank(provider);
        providers.stake(1);
    }

    function test_stakeCalls_revertIfTheAmountIsZero() external {
        bytes memory zero = outOfBounds("amount", 0, 1, type(uint128).max);
        vm.startPrank(provider);
        vm.expectRevert(zero);
        providers.stake(0);
        vm.expectRevert(zero);
        providers.unstake(0);
        vm.expectRevert(zero);
        providers.cancelUnbonding(0);
        vm.warp(START + 11 days);
        vm.expectRevert(zero);
        providers.withdrawUnbonded(provider);
        vm.stopPrank();
    }

    function testFuzz_unstake_revertsBeyondTheStake(uint128 amount) external {
        amount = uint128(bound(amount, STAKED + 1, type(uint128).max));
        vm.expectRevert(insufficient(provider, Bucket.Stake, amount, STAKED));
        vm.prank(provider);
        providers.unstake(amount);
    }

    function test_unstake_cannotReachLockedStake() external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        uint128 lock = market.lockOf(spec);
        vm.expectRevert(insufficient(provider, Bucket.Stake, STAKED, STAKED - lock));
        vm.prank(provider);
        providers.unstake(STAKED);
    }

    function test_unstake_startsTheClockOfAllAnew() external {
        vm.prank(provider);
        providers.unstake(1e18);
        vm.warp(START + 9 days);
        vm.expectEmit(true, true, true, true, address(providers));
        emit IProviderRegistry.UnbondingStarted(provider, 2e18, START + 19 days);
        vm.prank(provider);
        providers.unstake(2e18);
        vm.warp(START + 10 days + 1);
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.StillUnbonding.selector, provider, START + 19 days, START + 10 days + 1));
        providers.withdrawUnbonded(provider);
    }

    function testFuzz_cancelUnbonding_putsItBackAtStake(uint128 amount, uint128 back) external {
        amount = uint128(bound(amount, 1, STAKED));
        back = uint128(bound(back, 1, amount));
        vm.startPrank(provider);
        providers.unstake(amount);
        vm.expectEmit(true, true, true, true, address(providers));
        emit IProviderRegistry.UnbondingCancelled(provider, back);
        providers.cancelUnbonding(back);
        vm.assertEq(bucket(provider, Bucket.Stake), STAKED - amount + back);
        vm.assertEq(bucket(provider, Bucket.Unbonding), amount - back);
        vm.expectRevert(insufficient(provider, Bucket.Unbonding, amount - back + 1, amount - back));
        providers.cancelUnbonding(amount - back + 1);
        vm.stopPrank();
    }

    function testFuzz_withdrawUnbonded_isAnyonesOneSecondAfterTheClockAndNotBefore(address caller, uint128 amount) external {
        amount = uint128(bound(amount, 1, STAKED));
        vm.prank(provider);
        providers.unstake(amount);
        uint256 end = START + 10 days;
        vm.assertEq(providers.unbondedAt(provider), end);
        vm.warp(end);
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.StillUnbonding.selector, provider, end, end));
        vm.prank(caller);
        providers.withdrawUnbonded(provider);
        vm.warp(end + 1);
        vm.expectEmit(true, true, true, true, address(providers));
        emit IProviderRegistry.StakeWithdrawn(provider, amount);
        vm.prank(caller);
        providers.withdrawUnbonded(provider);
        vm.assertEq(free(provider), STAKED + amount);
        vm.assertEq(bucket(provider, Bucket.Unbonding), 0);
    }

    /* CONSTRUCTION */

    function testFuzz_constructor_refusesAnUnbondingShorterThanAReceiptCanBeInDoubt(uint40 secs) external {
        uint40 inDoubt = 1 hours + 30 minutes + 7 days;
        secs = uint40(bound(secs, 0, inDoubt));
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.UnbondingTooShort.selector, secs, inDoubt));
        new ProviderRegistry(address(ledger), address(guardian), address(market), secs);
        new ProviderRegistry(address(ledger), address(guardian), address(market), inDoubt + 1);
    }

    function test_constructor_refusesMissingContractsAndAnEndlessUnbonding() external {
        vm.expectRevert(abi.encodeWithSelector(IEntry.ContractNotAllowed.selector, bytes32("ledger"), address(0)));
        new ProviderRegistry(address(0), address(guardian), address(market), 10 days);
        vm.expectRevert(abi.encodeWithSelector(IEntry.ContractNotAllowed.selector, bytes32("guardian"), stranger));
        new ProviderRegistry(address(ledger), stranger, address(market), 10 days);
        vm.expectRevert(abi.encodeWithSelector(IEntry.ContractNotAllowed.selector, bytes32("jobMarket"), stranger));
        new ProviderRegistry(address(ledger), address(guardian), stranger, 10 days);
        uint256 inDoubt = 1 hours + 30 minutes + 7 days;
        vm.expectRevert(outOfBounds("unbondingSecs", 180 days + 1, inDoubt + 1, 180 days));
        new ProviderRegistry(address(ledger), address(guardian), address(market), 180 days + 1);
    }
}
