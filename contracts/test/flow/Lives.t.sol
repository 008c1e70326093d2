// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../src/interfaces/IJobMarket.sol";
import {IProviderRegistry} from "../../src/interfaces/IProviderRegistry.sol";
import {JobId} from "../../src/types/Ids.sol";
import {Completion, Job, JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {Flow} from "./Flow.sol";

/// @title Whole lives of jobs without a dispute: every balance after every step, and every event folded and compared with storage
contract LivesTest is Flow {
    /* PAID */

    function test_embed_isPaidAtThePriceOfTheClaimAfterTheWindow() external {
        JobSpec memory spec = embedSpec();
        JobId id = market.jobIdOf(spec);
        vm.expectEmit(address(market));
        emit IJobMarket.JobPosted(id, client, spec.modelId, uint96(EMBED_MAX), START, spec);
        _post(spec);
        _assertClient(FUNDS - EMBED_MAX, EMBED_MAX);
        assertState(spec, State.Open);

        _at(60);
        // Half, and a tenth of the other half after a tenth of the ramp.
        vm.expectEmit(address(market));
        emit IJobMarket.JobClaimed(id, provider, operator, 5500, START + 60 + 600, EMBED_LOCK);
        _claim(spec);
        _assertProvider(0, FUNDS / 2 - EMBED_LOCK, EMBED_LOCK);
        assertState(spec, State.Claimed);

        _at(100);
        Receipt memory receipt = receiptOf(spec);
        vm.expectEmit(address(market));
        emit IJobMarket.ReceiptSubmitted(id, provider, market.receiptDigestOf(receipt), uint40(START + 100 + WINDOW), receipt);
        _submit(spec);
        assertState(spec, State.Submitted);
        _assertClient(FUNDS - EMBED_MAX, EMBED_MAX);

        _at(100 + WINDOW + 1);
        uint96 fee = 0.858e18; // 1.56 tokens * 55 %
        uint128 workUnits = uint128(400) * models.model(encoder).macsPerToken;
        vm.expectEmit(address(market));
        emit IJobMarket.JobCompleted(id, provider, publisher, fee, 0, uint96(EMBED_MAX) - fee, workUnits);
        vm.prank(stranger);
        market.complete(spec, receipt);
        assertState(spec, State.Completed);
        _assertClient(FUNDS - fee, 0);
        _assertProvider(fee, FUNDS / 2, 0);
        _assertMoney(publisher, [uint256(0), 0, 0, 0, 0, 0]);
        _auditBooks();
    }

    function test_generate_isPaidByTheIdsOfAllSamplesAndThePublisherGetsTheRoyalty() external {
        JobSpec memory spec = generateSpec();
        _post(spec);
        _assertClient(FUNDS - 3.04e18, 3.04e18); // 1 + 400 * 0.001 + 4 * 2 * 100 * 0.002 + 4 * 0.01
        _at(600);
        _claim(spec);
        _assertProvider(0, FUNDS / 2 - 6.08e18, 6.08e18);
        Receipt memory receipt = _submit(spec); // 500 ids
        _at(600 + WINDOW + 1);
        uint96 fee = 2.44e18; // the whole price: 1 + 0.4 + 500 * 0.002 + 0.04
        uint128 workUnits = uint128(900) * models.model(decoder).macsPerToken;
        vm.expectEmit(address(market));
        emit IJobMarket.JobCompleted(receipt.jobId, provider, publisher, fee, 0.244e18, 0.6e18, workUnits);
        market.complete(spec, receipt);
        _assertClient(FUNDS - fee, 0);
        _assertProvider(fee - 0.244e18, FUNDS / 2, 0);
        _assertMoney(publisher, [uint256(0.244e18), 0, 0, 0, 0, 0]);
        _auditBooks();
    }

    /// @dev An output of no ids at all is a result too, and paid for what it read.
    function test_generate_withoutAnyOutputCostsInputAndItemsOnly() external {
        JobSpec memory spec = generateSpec();
        spec.rampFloorBps = 10_000;
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        receipt.outputLen = 0;
        market.submit(spec, receipt, signed(receipt));
        _at(WINDOW + 1);
        market.complete(spec, receipt);
        _assertClient(FUNDS - 1.44e18, 0);
        _auditBooks();
    }

    function test_royalty_isTakenOutOfTheFeeAndNotPutOnTop() external {
        JobSpec memory plain = embedSpec();
        JobSpec memory withRoyalty = embedSpec();
        withRoyalty.modelId = encoderWithRoyalty;
        Receipt memory a = _postClaimSubmit(plain);
        Receipt memory b = _postClaimSubmit(withRoyalty);
        _at(WINDOW + 1);
        market.complete(plain, a);
        uint128 paidPlain = FUNDS - free(client) - EMBED_MAX;
        market.complete(withRoyalty, b);
        vm.assertEq(FUNDS - free(client), 2 * uint256(paidPlain));
        vm.assertEq(free(publisher), EMBED_HALF / 10);
        vm.assertEq(free(provider), FUNDS / 2 + 2 * EMBED_HALF - EMBED_HALF / 10);
        _auditBooks();
    }

    /// @dev The client waits, the price rises; the second of the claim decides, the time of the delivery does not.
    function test_price_risesUntilTheClaimAndIsFixedByIt() external {
        uint256[6] memory secs = [uint256(0), 1, 60, 599, 600, 3600];
        uint256[6] memory bps = [uint256(5000), 5008, 5500, 9991, 10_000, 10_000];
        Receipt[6] memory receipts;
        for (uint256 i = 0; i < 6; ++i) {
            _post(_salted(i));
        }
        for (uint256 i = 0; i < 6; ++i) {
            _at(secs[i]);
            _claim(_salted(i));
            vm.assertEq(market.job(market.jobIdOf(_salted(i))).priceBps, bps[i]);
            if (i < 5) receipts[i] = _submit(_salted(i));
        }
        _at(4000);
        receipts[5] = _submit(_salted(5));
        _at(4000 + WINDOW + 1);
        for (uint256 i = 0; i < 6; ++i) {
            uint128 before = free(provider);
            market.complete(_salted(i), receipts[i]);
            vm.assertEq(free(provider) - before, EMBED_MAX * bps[i] / 10_000);
        }
        _auditBooks();
    }

    /* TAKEN BACK */

    function test_cancel_givesTheClientEverythingBackAndFreesTheProvidersToIgnoreIt() external {
        JobSpec memory spec = embedSpec();
        _post(spec);
        _at(10);
        vm.prank(client);
        market.cancel(spec);
        _assertClient(FUNDS, 0);
        assertState(spec, State.Refunded);
        _expectState(spec, State.Open, State.Refunded);
        vm.prank(operator);
        market.claim(spec, provider);
        _auditBooks();
    }

    function test_expire_isCalledByAStrangerWhereNobodyClaimed() external {
        JobSpec memory spec = embedSpec();
        _post(spec);
        _at(1 hours + 1);
        vm.expectEmit(address(market));
        emit IJobMarket.JobExpired(market.jobIdOf(spec), client, uint96(EMBED_MAX));
        vm.prank(stranger);
        market.expire(spec);
        _assertClient(FUNDS, 0);
        _auditBooks();
    }

    function test_undelivered_refundsTheClientWithATenthOfTheLock() external {
        JobSpec memory spec = embedSpec();
        JobId id = _postAndClaim(spec);
        _at(601);
        vm.expectEmit(address(market));
        emit IJobMarket.JobUndelivered(id, client, provider, uint96(EMBED_MAX), 0.312e18, 2.808e18);
        vm.prank(stranger);
        market.refundUndelivered(spec);
        _assertClient(FUNDS + 0.312e18, 0);
        _assertProvider(0, FUNDS / 2 - 0.312e18, 0);
        assertState(spec, State.Refunded);
        // Too late is too late, whatever was computed.
        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signed(receipt);
        _expectState(spec, State.Claimed, State.Refunded);
        market.submit(spec, receipt, signature);
        _auditBooks();
    }

    /* PROVIDERS */

    function test_designated_jobIsLeftToItsProvider() external {
        _addSecondProvider(100e18);
        JobSpec memory spec = embedSpec();
        spec.designated = second;
        JobId id = _post(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotDesignated.selector, id, second, provider));
        vm.prank(operator);
        market.claim(spec, provider);
        vm.prank(secondOperator);
        market.claim(spec, second);
        _assertMoney(second, [uint256(0), 0, 100e18 - EMBED_LOCK, 0, EMBED_LOCK, 0]);
        _auditBooks();
    }

    /// @dev The later of two in one block has lost gas and nothing else; the winner's receipt is the only one.
    function test_twoProviders_raceForOneJobAndTheFirstHasIt() external {
        _addSecondProvider(100e18);
        JobSpec memory spec = embedSpec();
        JobId id = _post(spec);
        vm.prank(secondOperator);
        market.claim(spec, second);
        _expectState(spec, State.Open, State.Claimed);
        vm.prank(operator);
        market.claim(spec, provider);
        _assertProvider(0, FUNDS / 2, 0);

        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signed(receipt);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotClaimant.selector, id, second, provider));
        market.submit(spec, receipt, signature);
        receipt.provider = second;
        signature = signed(receipt);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.SignerNotOperator.selector, id, secondOperator, operator));
        market.submit(spec, receipt, signature);
        market.submit(spec, receipt, signedBy(SECOND_KEY, market.receiptDigestOf(receipt)));
        _at(WINDOW + 1);
        market.complete(spec, receipt);
        _assertMoney(second, [uint256(EMBED_HALF), 0, 100e18, 0, 0, 0]);
        _assertProvider(0, FUNDS / 2, 0);
        _auditBooks();
    }

    /// @dev A worker without gas hands its signed receipt to anybody.
    function test_relayedReceipt_isAsGoodAsTheOperatorsOwn() external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signed(receipt);
        vm.prank(stranger);
        market.submit(spec, receipt, signature);
        _at(WINDOW + 1);
        vm.prank(stranger);
        market.complete(spec, receipt);
        _assertProvider(EMBED_HALF, FUNDS / 2, 0);
        _assertMoney(stranger, [uint256(0), 0, 0, 0, 0, 0]);
        _auditBooks();
    }

    /// @dev A key that was rotated away still ends what it claimed; the new one claims what comes.
    function test_rotation_leavesClaimedJobsToTheKeyThatClaimedThem() external {
        JobSpec memory spec = embedSpec();
        JobId id = _postAndClaim(spec);
        vm.prank(provider);
        providers.setOperator(secondOperator);
        Receipt memory receipt = receiptOf(spec);
        bytes memory byTheNew = signedBy(SECOND_KEY, market.receiptDigestOf(receipt));
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.SignerNotOperator.selector, id, operator, secondOperator));
        market.submit(spec, receipt, byTheNew);
        market.submit(spec, receipt, signed(receipt));

        JobSpec memory next = _salted(2);
        _post(next);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotOperator.selector, provider, secondOperator, operator));
        vm.prank(operator);
        market.claim(next, provider);
        vm.prank(secondOperator);
        market.claim(next, provider);
        _auditBooks();
    }

    /// @dev A key that is revoked altogether cannot claim, and what it claimed can still be delivered and is not lost.
    function test_revocation_stopsClaimsAndNotDeliveries() external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        _post(_salted(2));
        vm.prank(provider);
        providers.setOperator(address(0));
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotOperator.selector, provider, address(0), operator));
        vm.prank(operator);
        market.claim(_salted(2), provider);
        _submit(spec);
        assertState(spec, State.Submitted);
        _auditBooks();
    }

    function test_unstake_takesWhatIsNotLockedAndTheLockComesBackAsStake() external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        _auditBooks();
        vm.expectRevert(insufficient(provider, Bucket.Stake, FUNDS / 2, FUNDS / 2 - EMBED_LOCK));
        vm.prank(provider);
        providers.unstake(FUNDS / 2);
        _forgetReverted();
        vm.prank(provider);
        providers.unstake(FUNDS / 2 - EMBED_LOCK);
        _assertMoney(provider, [uint256(FUNDS / 2), 0, 0, FUNDS / 2 - EMBED_LOCK, EMBED_LOCK, 0]);
        // Nothing is left to lock.
        _post(_salted(2));
        _auditBooks();
        vm.expectRevert(insufficient(provider, Bucket.Stake, EMBED_LOCK, 0));
        vm.prank(operator);
        market.claim(_salted(2), provider);
        _forgetReverted();

        _at(WINDOW + 1);
        market.complete(spec, receipt);
        _assertMoney(provider, [uint256(FUNDS / 2) + EMBED_HALF, 0, EMBED_LOCK, FUNDS / 2 - EMBED_LOCK, 0, 0]);
        _at(10 days);
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.StillUnbonding.selector, provider, START + 10 days, START + 10 days));
        providers.withdrawUnbonded(provider);
        _at(10 days + 1);
        vm.prank(stranger);
        providers.withdrawUnbonded(provider);
        _assertMoney(provider, [uint256(FUNDS) - EMBED_LOCK + EMBED_HALF, 0, EMBED_LOCK, 0, 0, 0]);
        _auditBooks();
    }

    /* MANY AT ONCE */

    function test_completeMany_paysAllButTheBadOneWhichCanBePaidLater() external {
        Completion[] memory list = new Completion[](12);
        for (uint256 i = 0; i < list.length; ++i) {
            (list[i].spec, list[i].receipt) = _submitted(i);
        }
        _at(30 minutes);
        list[7].spec.salt = keccak256("submitted later");
        list[7].receipt = _postClaimSubmit(list[7].spec);
        _at(WINDOW + 1);
        bytes memory reason = abi.encodeWithSelector(
            IJobMarket.DeadlineNotPassed.selector, list[7].receipt.jobId, START + 30 minutes + WINDOW, START + WINDOW + 1
        );
        vm.expectEmit(address(market));
        emit IJobMarket.CompletionSkipped(list[7].receipt.jobId, reason);
        vm.prank(stranger);
        market.completeMany(list);
        for (uint256 i = 0; i < list.length; ++i) {
            assertState(list[i].spec, i == 7 ? State.Submitted : State.Completed);
        }
        // The seventh of the first twelve, and the one that came later.
        _assertProvider(11 * uint256(EMBED_HALF), FUNDS / 2 - 2 * EMBED_LOCK, 2 * EMBED_LOCK);
        _at(30 minutes + WINDOW + 1);
        market.completeMany(list);
        assertState(list[7].spec, State.Completed);
        _assertProvider(12 * uint256(EMBED_HALF), FUNDS / 2 - EMBED_LOCK, EMBED_LOCK);
        _auditBooks();
    }

    /* ONE ACCOUNT, EVERY ROLE */

    /// @dev Client, provider and publisher in one: money goes in a circle and nothing comes out of it.
    function test_oneAccountInEveryRole_neitherGainsNorLoses() external {
        JobSpec memory spec = embedSpec();
        spec.client = provider;
        vm.prank(provider);
        spec.modelId = models.register(registration(encoderHeader(), 5000));
        Receipt memory receipt = _postClaimSubmit(spec);
        _assertMoney(provider, [uint256(FUNDS / 2) - EMBED_MAX, EMBED_MAX, FUNDS / 2 - EMBED_LOCK, 0, EMBED_LOCK, 0]);
        _at(WINDOW + 1);
        market.complete(spec, receipt);
        _assertProvider(0, FUNDS / 2, 0);
        Job memory job = market.job(receipt.jobId);
        vm.assertEq(uint256(job.state), uint256(State.Completed));
        vm.assertEq(job.receiptDigest, bytes32(0));
        _auditBooks();
    }
}
