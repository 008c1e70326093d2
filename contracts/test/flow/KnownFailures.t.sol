// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../src/interfaces/IJobMarket.sol";
import {JobId} from "../../src/types/Ids.sol";
import {Completion, JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {Base} from "../Base.sol";
import {Vm} from "../Vm.sol";

/// @title How earlier systems that sell compute lost or trapped money, each as a test that it cannot happen here
/// @notice Named after the failure; the system that had it is in the comment.
contract KnownFailuresTest is Base {
    function setUp() public override {
        super.setUp();
        _fund(challenger, 100e18);
    }

    /// @dev Gonka: a cost above the escrow drained the pool that all jobs share. Here: the fee is bounded by what this job escrowed, and the
    /// totals that it is computed from are checked when the receipt comes in.
    function testFuzz_payoutAboveEscrow_isImpossible(uint256 seed, uint64 outputLen) external {
        JobSpec memory other = embedSpec();
        other.salt = "somebody else's job";
        other.basePrice = 500e18;
        _post(other);
        uint128 othersEscrow = market.maxFeeOf(other);
        JobSpec memory spec = fuzzedSpec(seed);
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        receipt.outputLen = outputLen;
        bytes memory signature = signed(receipt);
        (bool accepted,) = address(market).call(abi.encodeCall(market.submit, (spec, receipt, signature)));
        vm.assertEq(accepted, outputLen <= uint256(spec.maxOutput) * spec.itemCount * spec.samplesPerItem);
        vm.warp(block.timestamp + 31 days);
        if (accepted) market.complete(spec, receipt);
        else market.refundUndelivered(spec);
        vm.assertEq(bucket(client, Bucket.Escrow), othersEscrow);
    }

    /// @dev Gonka: shares that were paid before an invalidation could not be taken back. Here: nothing is paid before the window is over,
    /// and a conviction gives the whole escrow back.
    function test_uncollectedSharesAfterInvalidation_areNeverPaidOut() external {
        JobSpec memory spec = embedSpec();
        spec.modelId = encoderWithRoyalty;
        Receipt memory receipt = _postClaimSubmit(spec);
        vm.assertEq(free(provider), FUNDS / 2);
        vm.assertEq(free(publisher), 0);
        _challenge(spec, receipt);
        game.convict(spec, receipt);
        vm.assertEq(free(publisher), 0);
        vm.assertEq(free(provider), FUNDS / 2);
        vm.assertEq(free(client), FUNDS + market.lockOf(spec) / 5);
    }

    /// @dev Gonka, Morpheus: refunds that nobody could trigger. Here: every state has an exit that anyone may call.
    function testFuzz_stuckRefund_everyStateHasAnExitForAnyone(address anyone) external {
        JobSpec[3] memory specs;
        for (uint256 i = 0; i < 3; ++i) {
            specs[i] = embedSpec();
            specs[i].salt = bytes32(i);
            _post(specs[i]);
        }
        _claim(specs[1]);
        _claim(specs[2]);
        Receipt memory receipt = _submit(specs[2]);
        vm.warp(START + 2 hours);
        vm.startPrank(anyone);
        market.expire(specs[0]);
        market.refundUndelivered(specs[1]);
        market.complete(specs[2], receipt);
        vm.stopPrank();
        vm.assertEq(bucket(client, Bucket.Escrow), 0);
        vm.assertEq(bucket(provider, Bucket.Lock), 0);
    }

    /// @dev Gonka: one participant that was gone blocked the payout of all. Here: a job in a batch that cannot complete is skipped.
    function test_oneBadJobInABatch_doesNotBlockTheOthers() external {
        Completion[] memory completions = new Completion[](3);
        for (uint256 i = 0; i < 3; ++i) {
            JobSpec memory spec = embedSpec();
            spec.salt = bytes32(i);
            completions[i] = Completion(spec, _postClaimSubmit(spec));
        }
        _challenge(completions[1].spec, completions[1].receipt);
        vm.warp(START + 2 hours);
        market.completeMany(completions);
        assertState(completions[0].spec, State.Completed);
        assertState(completions[1].spec, State.Challenged);
        assertState(completions[2].spec, State.Completed);
    }

    /// @dev Gonka: parameters read live made an escrow that was opened under others unsettleable. Here: no function changes a parameter,
    /// so the lock, the window and the fee of a live job are what they were when it was posted.
    function test_liveParameters_doNotExist() external view {
        vm.assertEq(abi.encode(market.parameters()), abi.encode(_config().parameters));
        // Every function of the market that is not a view is named here; none sets anything.
        bytes4[12] memory known = [
            market.post.selector,
            market.claim.selector,
            market.submit.selector,
            market.complete.selector,
            market.completeMany.selector,
            market.cancel.selector,
            market.expire.selector,
            market.refundUndelivered.selector,
            market.challengeOpened.selector,
            market.challengeDismissed.selector,
            market.convicted.selector,
            market.extend.selector
        ];
        string memory abiJson = vm.readFile("snapshots/abi/JobMarket.json");
        uint256 writing;
        for (uint256 i = 0; vm.keyExistsJson(abiJson, string.concat("[", vm.toString(i), "]")); ++i) {
            string memory item = string.concat("[", vm.toString(i), "]");
            if (keccak256(bytes(vm.parseJsonString(abiJson, string.concat(item, ".type")))) != keccak256("function")) continue;
            string memory mutability = vm.parseJsonString(abiJson, string.concat(item, ".stateMutability"));
            if (keccak256(bytes(mutability)) == keccak256("nonpayable")) ++writing;
            vm.assertFalse(keccak256(bytes(mutability)) == keccak256("payable"));
        }
        vm.assertEq(writing, known.length);
    }

    /// @dev Gonka: a vote with somebody else's slot. Here: an operator claims for its own provider only, and signs the provider's name.
    function testFuzz_actingForAnother_isRefused(uint256 otherKey) external {
        otherKey = bound(otherKey, 1, type(uint128).max);
        address other = vm.addr(otherKey);
        vm.assume(other != operator && other != provider);
        vm.prank(other);
        providers.setOperator(other);
        JobSpec memory spec = embedSpec();
        JobId id = _post(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotOperator.selector, provider, operator, other));
        vm.prank(other);
        market.claim(spec, provider);
        _claim(spec);
        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signedBy(otherKey, market.receiptDigestOf(receipt));
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.SignerNotOperator.selector, id, operator, other));
        market.submit(spec, receipt, signature);
    }

    /// @dev Gonka, Bittensor: paid for having served nothing. Here: the fee follows from what the output tree counts.
    function test_freeRiding_emptyOutputIsNotPaidByTheId() external {
        JobSpec memory spec = generateSpec();
        (spec.basePrice, spec.inputPrice, spec.itemPrice) = (0, 0, 0);
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        receipt.outputLen = 0;
        bytes memory signature = signed(receipt);
        market.submit(spec, receipt, signature);
        vm.warp(START + 2 hours);
        market.complete(spec, receipt);
        vm.assertEq(free(provider), FUNDS / 2);
        vm.assertEq(free(client), FUNDS);
    }

    /// @dev Livepeer: a payment of one unit, sent first, burned a ticket. Here: nobody can pay a part, and money that others send in changes
    /// nothing for a job.
    function testFuzz_dustBeforeSettlement_changesNothing(uint96 dust) external {
        dust = uint96(bound(dust, 1, 1e18));
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        token.transfer(address(ledger), dust);
        _fund(client, dust);
        vm.warp(START + 2 hours);
        market.complete(spec, receipt);
        vm.assertEq(free(provider), FUNDS / 2 + market.feeOf(spec, 0, 5000));
        vm.assertEq(free(client), FUNDS + dust - market.feeOf(spec, 0, 5000));
    }

    /// @dev Livepeer (C4 2023): percentages of two bases mixed up, an underflow, and tickets were lost. Here: one base, and the parts of any
    /// amount add up to it, to the unit.
    function testFuzz_sharesOfAnyAmount_addUpToTheUnit(uint256 seed, uint96 price) external {
        JobSpec memory spec = fuzzedSpec(seed);
        spec.basePrice = uint96(bound(price, 0, 100_000e18));
        if (spec.kind == 1) spec.modelId = encoderWithRoyalty;
        Receipt memory receipt = _postClaimSubmit(spec);
        uint256 before = ledger.total();
        bool slash = seed % 2 == 0;
        if (slash) {
            _challenge(spec, receipt);
            game.convict(spec, receipt);
        } else {
            vm.warp(block.timestamp + 2 hours);
            market.complete(spec, receipt);
        }
        vm.assertEq(ledger.total(), before);
        uint256 sum = bucket(address(0), Bucket.Delayed) + free(client) + free(provider) + free(publisher) + free(challenger);
        sum += bucket(provider, Bucket.Stake);
        vm.assertEq(sum, before);
    }

    /// @dev Livepeer (C4 2023): an actor that was slashed kept its power. Here: what was slashed is no stake, and a claim needs stake.
    function test_slashedActor_losesTheStakeThatItWouldClaimWith() external {
        JobSpec memory spec = embedSpec();
        uint128 lock = market.lockOf(spec);
        vm.prank(provider);
        providers.unstake(FUNDS / 2 - lock);
        Receipt memory receipt = _postClaimSubmit(spec);
        _challenge(spec, receipt);
        game.convict(spec, receipt);
        spec.salt = "the next one";
        _post(spec);
        vm.expectRevert(insufficient(provider, Bucket.Stake, lock, 0));
        _claim(spec);
    }

    /// @dev A slash of one job never touches another's lock, and unbonding never escapes it.
    function test_slash_takesExactlyItsOwnLock() external {
        JobSpec memory first = embedSpec();
        JobSpec memory second = embedSpec();
        second.salt = "second";
        second.basePrice = 50e18;
        Receipt memory receipt = _postClaimSubmit(first);
        _postAndClaim(second);
        vm.prank(provider);
        providers.unstake(FUNDS / 4);
        uint128 staked = bucket(provider, Bucket.Stake);
        _challenge(first, receipt);
        game.convict(first, receipt);
        vm.assertEq(bucket(provider, Bucket.Lock), market.lockOf(second));
        vm.assertEq(bucket(provider, Bucket.Stake), staked);
        vm.assertEq(bucket(provider, Bucket.Unbonding), FUNDS / 4);
    }

    /// @dev Lilypad: authorised by tx.origin, so a contract that a client called could act as the client.
    function test_txOrigin_isNobody() external {
        JobSpec memory spec = embedSpec();
        _post(spec);
        Phish phish = new Phish();
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotClient.selector, client, address(phish)));
        vm.prank(client, client);
        phish.relay(address(market), abi.encodeCall(market.cancel, (spec)));
        vm.expectRevert(insufficient(address(phish), Bucket.Free, 1, 0));
        vm.prank(client, client);
        phish.relay(address(ledger), abi.encodeCall(ledger.withdraw, (address(phish), 1)));
    }

    /// @dev Livepeer: ticket hashes without chain or contract. Here: a receipt that was signed for one chain, contract or job is worth nothing
    /// on another.
    function testFuzz_replayOnAnotherChain_isRefused(uint32 chain) external {
        vm.assume(chain != block.chainid);
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        bytes memory signature = signed(receiptOf(spec));
        JobId here = market.jobIdOf(spec);
        vm.chainId(chain);
        vm.assertTrue(market.jobIdOf(spec) != here);
        // On the fork the job has another id, so it does not exist; posted again there, the old signature does not fit.
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        vm.expectRevert();
        market.submit(spec, receipt, signature);
        assertState(spec, State.Claimed);
    }

    function test_replayOnAnotherContract_isRefused() external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signed(receipt);
        JobId first = receipt.jobId;
        setUp();
        vm.assertTrue(market.jobIdOf(spec) != first);
        JobId id = _postAndClaim(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.ReceiptOfOtherJob.selector, id, first));
        market.submit(spec, receipt, signature);
        receipt.jobId = id;
        vm.expectRevert();
        market.submit(spec, receipt, signature);
    }

    function test_replayOnAnotherJob_isRefused() external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        Receipt memory receipt = _submit(spec);
        bytes memory signature = signed(receipt);
        spec.salt = "the same work again";
        JobId id = _postAndClaim(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.ReceiptOfOtherJob.selector, id, receipt.jobId));
        market.submit(spec, receipt, signature);
    }

    /// @dev Neo Morpheus Oracle: only the result was signed, not what it answers. `test_submit_revertsIfAnyFieldWasChangedAfterSigning` proves
    /// it for each field; here: success cannot be turned into another provider's.
    function testFuzz_partialSignature_providerIsSigned(address thief) external {
        vm.assume(thief != provider);
        JobSpec memory spec = embedSpec();
        JobId id = _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signed(receipt);
        receipt.provider = thief;
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotClaimant.selector, id, provider, thief));
        market.submit(spec, receipt, signature);
    }

    /// @dev x402: one authorisation was sent to many servers, and all but one worked for nothing. Here: the money is escrowed before anybody
    /// works, and one provider holds the job.
    function test_serveBeforeSettle_twoProvidersNeverHoldOneJob() external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        vm.prank(stranger);
        providers.setOperator(stranger);
        _fund(stranger, 100e18);
        vm.prank(stranger);
        providers.stake(100e18);
        vm.expectRevert(notInState(spec, State.Open, State.Claimed));
        vm.prank(stranger);
        market.claim(spec, stranger);
        vm.assertEq(bucket(client, Bucket.Escrow), market.maxFeeOf(spec));
    }

    /// @dev x402: a lost answer made clients sign and pay a second time. Here: the job id is the intention; posting it again is refused, in
    /// any state, for ever.
    function test_retry_neverPaysTwice() external {
        JobSpec memory spec = embedSpec();
        _post(spec);
        vm.expectRevert(notInState(spec, State.None, State.Open));
        _post(spec);
        vm.prank(client);
        market.cancel(spec);
        vm.expectRevert(notInState(spec, State.None, State.Refunded));
        _post(spec);
        vm.assertEq(free(client), FUNDS);
    }

    /// @dev ERC-8183: after the deadline the client was refunded although the provider had submitted. Infernet: silence paid the node
    /// whatever it did. Here: a submission in time can only be completed or convicted, and a missing one only refunded.
    function test_silence_neverFavoursAFixedSide() external {
        JobSpec memory submitted = embedSpec();
        JobSpec memory silent = embedSpec();
        silent.salt = "silent";
        Receipt memory receipt = _postClaimSubmit(submitted);
        _postAndClaim(silent);
        vm.warp(START + 365 days);
        vm.expectRevert(notInState(submitted, State.Claimed, State.Submitted));
        market.refundUndelivered(submitted);
        vm.expectRevert(notInState(submitted, State.Open, State.Submitted));
        market.expire(submitted);
        vm.expectRevert(notInState(silent, State.Submitted, State.Claimed));
        market.complete(silent, receipt);
        market.complete(submitted, receipt);
        market.refundUndelivered(silent);
    }

    /// @dev 402bridge: one leaked key with the approvals of everybody. Here: nobody but its owner can spend an allowance to the Ledger or
    /// Free money; the modules cannot withdraw (`test_move_letsNoModuleDepositOrWithdraw`), and there is no owner.
    function testFuzz_hotKey_cannotSpendTheAllowancesOfOthers(address thief, uint96 amount) external {
        vm.assume(thief != client && thief != address(0) && thief != address(ledger) && thief != address(this));
        vm.assume(free(thief) == 0 && token.balanceOf(thief) == 0);
        amount = uint96(bound(amount, 1, 100e18));
        token.transfer(client, 100e18);
        vm.prank(client);
        token.approve(address(ledger), type(uint256).max);
        vm.expectRevert();
        vm.prank(thief);
        ledger.deposit(thief, amount);
        vm.expectRevert(insufficient(thief, Bucket.Free, amount, 0));
        vm.prank(thief);
        ledger.withdraw(thief, amount);
        vm.assertEq(token.balanceOf(client), 100e18);
    }

    /// @dev Gonka: a user set the start of its own job to 0, and it timed out at once. Here: every clock is the chain's.
    function testFuzz_timestampGames_clocksAreTheChains(uint64 claimBy, uint32 deliverWithin) external {
        JobSpec memory spec = embedSpec();
        spec.claimBy = uint64(bound(claimBy, START, type(uint64).max));
        spec.deliverWithin = uint32(bound(deliverWithin, 1, 30 days));
        JobId id = _post(spec);
        vm.assertEq(market.job(id).clock, START);
        _claim(spec);
        vm.assertEq(market.job(id).clock, START + spec.deliverWithin);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.DeadlineNotPassed.selector, id, START + spec.deliverWithin, block.timestamp));
        market.refundUndelivered(spec);
    }

    /// @dev Nosana: a node was paid by the time that it took. Here: the price of a job does not depend on how long it takes.
    function testFuzz_slowProvider_earnsNoMore(uint32 secs) external {
        JobSpec memory spec = embedSpec();
        spec.deliverWithin = 1 hours;
        _postAndClaim(spec);
        vm.warp(START + bound(secs, 0, 1 hours));
        Receipt memory receipt = _submit(spec);
        vm.warp(block.timestamp + 2 hours);
        market.complete(spec, receipt);
        vm.assertEq(free(provider), FUNDS / 2 + market.feeOf(spec, 0, 5000));
    }

    /// @dev Livepeer's subgraph#229: the event said the face value, not what was paid. Here: what the event says is what moved.
    function testFuzz_events_sayWhatMoved(uint256 seed) external {
        JobSpec memory spec = fuzzedSpec(seed);
        Receipt memory receipt = _postClaimSubmit(spec);
        vm.warp(block.timestamp + 2 hours);
        uint128 clientBefore = free(client);
        uint128 providerBefore = free(provider);
        uint128 publisherBefore = free(publisher);
        vm.recordLogs();
        market.complete(spec, receipt);
        Completed memory log = _completed();
        vm.assertEq(free(provider) - providerBefore, log.fee - log.royalty);
        vm.assertEq(free(publisher) - publisherBefore, log.royalty);
        vm.assertEq(free(client) - clientBefore, log.change);
        vm.assertEq(log.fee + log.change, market.maxFeeOf(spec));
    }

    /// @dev Ritual Infernet: nothing was locked when the job was requested, so a delivery could find nothing to be paid from.
    function test_unfundedRequest_isRefusedAtThePost() external {
        uint128 all = free(client);
        vm.prank(client);
        ledger.withdraw(client, all);
        JobSpec memory spec = embedSpec();
        bytes memory refused = insufficient(client, Bucket.Free, market.maxFeeOf(spec), 0);
        vm.expectRevert(refused);
        _post(spec);
    }

    struct Completed {
        uint96 fee;
        uint96 royalty;
        uint96 change;
        uint128 workUnits;
    }

    function _completed() private returns (Completed memory log) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] == IJobMarket.JobCompleted.selector) return abi.decode(logs[i].data, (Completed));
        }
        revert("no JobCompleted");
    }
}

/// @title A contract that a client is made to call
contract Phish {
    function relay(address target, bytes calldata data) external {
        (bool ok, bytes memory answer) = target.call(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(answer, 0x20), mload(answer))
            }
        }
    }
}
