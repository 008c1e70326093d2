// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Deployment} from "../../../script/Deployment.sol";
import {Ledger} from "../../../src/Ledger.sol";
import {ILedger} from "../../../src/interfaces/ILedger.sol";
import {Bucket, Move, Reason} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";
import {CallbackToken, FalseToken, FeeToken, PlainToken, SenderFeeToken} from "../../mocks/Tokens.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title Money in and out: deposit, depositWithPermit, withdraw, and tokens that misbehave
contract LedgerMoneyTest is Base {
    /* DEPOSIT */

    function testFuzz_deposit_creditsTheAccount(address account, uint128 amount) external {
        vm.assume(account != address(0));
        amount = uint128(bound(amount, 1, FUNDS));
        uint128 before = free(account);
        token.approve(address(ledger), amount);
        ledger.deposit(account, amount);
        vm.assertEq(free(account), before + amount);
        vm.assertEq(ledger.total(), 2 * FUNDS + amount);
        vm.assertEq(token.balanceOf(address(ledger)), ledger.total());
    }

    function test_deposit_revertsIfTheAmountIsZero() external {
        expect(ILedger.AmountZero.selector);
        ledger.deposit(client, 0);
    }

    function testFuzz_deposit_revertsIfTheAccountIsZero(uint128 amount) external {
        amount = uint128(bound(amount, 1, FUNDS));
        token.approve(address(ledger), amount);
        vm.expectRevert(abi.encodeWithSelector(ILedger.AccountNotAllowed.selector, Bucket.Free, address(0)));
        ledger.deposit(address(0), amount);
    }

    function test_deposit_revertsIfTheTotalWouldNotFit() external {
        PlainToken other = PlainToken(_deployWith(address(new PlainToken())));
        other.mint(address(this), type(uint256).max);
        other.approve(address(ledger), type(uint256).max);
        ledger.deposit(client, type(uint128).max);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        ledger.deposit(client, 1);
    }

    /* PERMIT */

    function testFuzz_depositWithPermit_needsNoApproval(uint128 amount) external {
        amount = uint128(bound(amount, 1, FUNDS));
        token.transfer(stranger, amount);
        (uint8 v, bytes32 r, bytes32 s) = _permit(amount, block.timestamp);
        vm.prank(stranger);
        ledger.depositWithPermit(client, amount, block.timestamp, v, r, s);
        vm.assertEq(free(client), FUNDS + amount);
    }

    /// @dev Somebody who sees the permit sends it first: the deposit goes through all the same.
    function test_depositWithPermit_survivesAPermitThatWasSentBefore() external {
        token.transfer(stranger, 5);
        (uint8 v, bytes32 r, bytes32 s) = _permit(5, block.timestamp);
        token.permit(stranger, address(ledger), 5, block.timestamp, v, r, s);
        vm.prank(stranger);
        ledger.depositWithPermit(client, 5, block.timestamp, v, r, s);
        vm.assertEq(free(client), FUNDS + 5);
    }

    function testFuzz_depositWithPermit_revertsIfThePermitIsOfAnother(uint256 key) external {
        key = bound(key, 1, type(uint128).max);
        vm.assume(key != STRANGER_KEY);
        token.transfer(stranger, 5);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, _permitDigest(5, block.timestamp));
        vm.expectRevert();
        vm.prank(stranger);
        ledger.depositWithPermit(client, 5, block.timestamp, v, r, s);
    }

    /* WITHDRAW */

    function testFuzz_withdraw_paysOut(address to, uint128 amount) external {
        vm.assume(to != address(0) && to != address(ledger));
        amount = uint128(bound(amount, 1, FUNDS));
        uint256 before = token.balanceOf(to);
        vm.prank(client);
        ledger.withdraw(to, amount);
        vm.assertEq(token.balanceOf(to), before + amount);
        vm.assertEq(free(client), FUNDS - amount);
        vm.assertEq(ledger.total(), 2 * FUNDS - amount);
    }

    function testFuzz_withdraw_revertsBeyondFreeMoney(uint128 amount) external {
        amount = uint128(bound(amount, uint256(FUNDS) + 1, type(uint128).max));
        vm.expectRevert(insufficient(client, Bucket.Free, amount, FUNDS));
        vm.prank(client);
        ledger.withdraw(client, amount);
    }

    /// @dev Escrow, stake, lock and unbonding are out of reach.
    function test_withdraw_reachesFreeMoneyOnly() external {
        _postAndClaim(embedSpec());
        vm.prank(provider);
        providers.unstake(1e18);
        vm.prank(provider);
        ledger.withdraw(provider, FUNDS / 2);
        vm.expectRevert(insufficient(provider, Bucket.Free, 1, 0));
        vm.prank(provider);
        ledger.withdraw(provider, 1);
    }

    function test_withdraw_revertsIfTheAmountIsZero() external {
        expect(ILedger.AmountZero.selector);
        vm.prank(client);
        ledger.withdraw(client, 0);
    }

    function test_withdraw_revertsIfTheRecipientIsZeroOrTheLedger() external {
        vm.expectRevert(abi.encodeWithSelector(ILedger.RecipientNotAllowed.selector, address(0)));
        vm.prank(client);
        ledger.withdraw(address(0), 1);
        vm.expectRevert(abi.encodeWithSelector(ILedger.RecipientNotAllowed.selector, address(ledger)));
        vm.prank(client);
        ledger.withdraw(address(ledger), 1);
    }

    /* DONATIONS */

    function testFuzz_donation_isSurplusAndCreditedToNobody(uint128 amount) external {
        amount = uint128(bound(amount, 0, FUNDS));
        token.transfer(address(ledger), amount);
        vm.assertEq(ledger.surplus(), amount);
        vm.assertEq(ledger.total(), 2 * FUNDS);
        vm.prank(client);
        ledger.withdraw(client, FUNDS);
        vm.assertEq(ledger.surplus(), amount);
        // A deposit after it is measured right.
        _fund(client, 7);
        vm.assertEq(free(client), 7);
        vm.assertEq(ledger.surplus(), amount);
    }

    /* TOKENS THAT MISBEHAVE */

    function testFuzz_deposit_refusesATokenThatChargesAFee(uint128 amount) external {
        FeeToken other = FeeToken(_deployWith(address(new FeeToken())));
        amount = uint128(bound(amount, 100, type(uint96).max));
        other.mint(address(this), amount);
        other.approve(address(ledger), amount);
        vm.expectRevert(abi.encodeWithSelector(ILedger.AmountNotReceived.selector, amount, amount - amount / 100));
        ledger.deposit(client, amount);
    }

    /// @dev A fee that is switched on later costs the recipient of a withdrawal, never the others.
    function test_withdraw_staysSolventWhereTheTokenStartsToChargeTheRecipient() external {
        FeeToken other = FeeToken(_deployWith(address(new FeeToken())));
        other.setFeeBps(0);
        other.mint(address(this), 200);
        other.approve(address(ledger), 200);
        ledger.deposit(client, 100);
        ledger.deposit(provider, 100);
        other.setFeeBps(1000);
        vm.prank(client);
        ledger.withdraw(client, 100);
        vm.assertEq(other.balanceOf(client), 90);
        vm.assertEq(other.balanceOf(address(ledger)), ledger.total());
    }

    function test_withdraw_revertsWhereTheTokenTakesMoreThanWasPaid() external {
        SenderFeeToken other = SenderFeeToken(_deployWith(address(new SenderFeeToken())));
        other.mint(address(this), 200);
        other.approve(address(ledger), 200);
        ledger.deposit(client, 100);
        ledger.deposit(provider, 100);
        other.setFee(1);
        vm.expectRevert(abi.encodeWithSelector(ILedger.Insolvent.selector, 100, 99));
        vm.prank(client);
        ledger.withdraw(client, 100);
    }

    function test_deposit_revertsWhereTheTokenSaysNo() external {
        FalseToken other = FalseToken(_deployWith(address(new FalseToken())));
        other.mint(address(this), 100);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(other)));
        ledger.deposit(client, 100);
    }

    /* REENTRANCY */

    function test_deposit_cannotBeReenteredByTheToken() external {
        CallbackToken other = _callback();
        other.arm(address(ledger), abi.encodeCall(ledger.deposit, (client, 1)));
        ledger.deposit(client, 10);
        _refusedReentry(other);
        vm.assertEq(free(client), 1010);
    }

    function test_withdraw_cannotBeReenteredByTheToken() external {
        CallbackToken other = _callback();
        other.arm(address(ledger), abi.encodeCall(ledger.withdraw, (stranger, 1)));
        vm.prank(client);
        ledger.withdraw(client, 10);
        _refusedReentry(other);
        vm.assertEq(ledger.total(), 990);
        vm.assertEq(other.balanceOf(address(ledger)), 990);
    }

    /// @dev In the middle of a deposit the token makes itself a provider with a stake and, later, a client of a job: whatever it does
    /// between our measurements, the books balance.
    function test_deposit_staysSolventWhenTheTokenActsInTheMarketMeanwhile() external {
        CallbackToken other = _callback();
        ledger.deposit(address(other), 500);
        other.arm(address(providers), abi.encodeCall(providers.stake, (400)));
        ledger.deposit(client, 10);
        vm.assertTrue(other.called() && other.succeeded());
        vm.assertEq(bucket(address(other), Bucket.Stake), 400);
        vm.assertEq(free(address(other)), 100);
        vm.assertEq(free(client), 1010);
        vm.assertEq(ledger.total(), 1510);
        vm.assertEq(other.balanceOf(address(ledger)), ledger.total());
    }

    /// @dev A token that sends itself to the Ledger in the callback cannot be credited for it: more arrived than was sent.
    function test_deposit_revertsIfMoreArrivesThanWasSent() external {
        CallbackToken other = _callback();
        other.mint(address(other), 5);
        other.arm(address(other), abi.encodeCall(other.transfer, (address(ledger), 5)));
        vm.expectRevert(abi.encodeWithSelector(ILedger.AmountNotReceived.selector, 10, 15));
        ledger.deposit(client, 10);
    }

    /* HELPERS */

    function _deployWith(address newToken) private returns (address) {
        Deployment.Config memory config = _config();
        config.token = newToken;
        _deploy(config);
        return newToken;
    }

    /// @dev 1,000 deposited for the client.
    function _callback() private returns (CallbackToken other) {
        other = CallbackToken(_deployWith(address(new CallbackToken())));
        other.mint(address(this), 10_000);
        other.approve(address(ledger), type(uint256).max);
        ledger.deposit(client, 1000);
    }

    function _refusedReentry(CallbackToken other) private view {
        vm.assertTrue(other.called());
        vm.assertFalse(other.succeeded());
        vm.assertEq(bytes32(other.answer()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector));
    }

    function _permit(uint256 amount, uint256 deadline) private view returns (uint8, bytes32, bytes32) {
        return vm.sign(STRANGER_KEY, _permitDigest(amount, deadline));
    }

    function _permitDigest(uint256 amount, uint256 deadline) private view returns (bytes32) {
        bytes32 typeHash = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash = keccak256(abi.encode(typeHash, stranger, address(ledger), amount, token.nonces(stranger), deadline));
        return keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
    }
}
