// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../src/interfaces/IJobMarket.sol";
import {JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {Flow} from "./Flow.sol";

/// @title Whole lives of disputed jobs, with the game double
contract DisputesTest is Flow {
    uint128 private constant BOND = 1e18;

    address private immutable _other = vm.addr(0x0abc);
    JobSpec private _spec;
    Receipt private _receipt;

    function setUp() public override {
        super.setUp();
        _fund(challenger, 10e18);
        _fund(_other, 10e18);
        (_spec, _receipt) = _submitted(1);
        _auditBooks();
    }

    function test_dismissedChallenge_costsItsBondAndTheProviderIsPaidLater() external {
        _challenge(_spec, _receipt);
        _assertMoney(challenger, [uint256(9e18), 0, 0, 0, 0, BOND]);
        _at(WINDOW + 1);
        _expectState(_spec, State.Submitted, State.Challenged);
        market.complete(_spec, _receipt);

        game.dismiss(_receipt.jobId, provider);
        _assertMoney(challenger, [uint256(9e18), 0, 0, 0, 0, 0]);
        assertState(_spec, State.Submitted);
        // The window is over: nobody can challenge again.
        _expectTooLate(_receipt.jobId, START + WINDOW);
        vm.prank(_other);
        game.challenge(_spec, _receipt);
        market.complete(_spec, _receipt);
        _assertProvider(uint256(EMBED_HALF) + BOND, FUNDS / 2, 0);
        _assertClient(FUNDS - EMBED_HALF, 0);
        _assertDelayed(0);
        _auditBooks();
    }

    function test_conviction_dividesTheLockAndGivesTheClientEverythingBack() external {
        _challenge(_spec, _receipt);
        _at(3 days);
        vm.expectEmit(address(market));
        emit IJobMarket.JobSlashed(_receipt.jobId, provider, challenger, 0.936e18, 0.624e18, 1.56e18, uint96(EMBED_MAX));
        game.convict(_spec, _receipt);
        assertState(_spec, State.Slashed);
        _assertMoney(challenger, [uint256(10e18) + 0.936e18, 0, 0, 0, 0, 0]); // 30 % of the lock, and the bond
        _assertClient(FUNDS + 0.624e18, 0); // 20 %, and the escrow
        _assertProvider(0, FUNDS / 2 - EMBED_LOCK, 0);
        _assertDelayed(1.56e18); // half
        _expectState(_spec, State.Submitted, State.Slashed);
        market.complete(_spec, _receipt);
        _auditBooks();
    }

    function test_challenges_areCountedAndTheLastDismissalReopensTheJob() external {
        _challenge(_spec, _receipt);
        vm.prank(_other);
        game.challenge(_spec, _receipt);
        _challenge(_spec, _receipt);
        vm.assertEq(market.job(_receipt.jobId).challengesOpen, 3);
        _at(WINDOW + 1);
        game.dismiss(_receipt.jobId, provider);
        game.dismiss(_receipt.jobId, provider);
        assertState(_spec, State.Challenged);
        _expectState(_spec, State.Submitted, State.Challenged);
        market.complete(_spec, _receipt);
        vm.expectEmit(address(market));
        emit IJobMarket.ChallengeDismissed(_receipt.jobId, 0);
        game.dismiss(_receipt.jobId, provider);
        market.complete(_spec, _receipt);
        _assertProvider(uint256(EMBED_HALF) + 3 * BOND, FUNDS / 2, 0);
        _assertMoney(challenger, [uint256(8e18), 0, 0, 0, 0, 0]);
        _assertMoney(_other, [uint256(9e18), 0, 0, 0, 0, 0]);
        _auditBooks();
    }

    /// @dev The first challenger is right; the others get their bonds back, and the lock is paid once.
    function test_conviction_whileOthersAreOpenEndsThemAll() external {
        _challenge(_spec, _receipt);
        vm.prank(_other);
        game.challenge(_spec, _receipt);
        game.convict(_spec, _receipt);
        assertState(_spec, State.Slashed);
        vm.assertEq(market.job(_receipt.jobId).challengesOpen, 0);
        _assertMoney(_other, [uint256(10e18), 0, 0, 0, 0, 0]);
        _assertMoney(challenger, [uint256(10e18) + 0.936e18, 0, 0, 0, 0, 0]);
        _expectState(_spec, State.Challenged, State.Slashed);
        game.convict(_spec, _receipt);
        _expectState(_spec, State.Challenged, State.Slashed);
        game.dismiss(_receipt.jobId, provider);
        _auditBooks();
    }

    /// @dev An answer in the last second leaves auditors half an hour, once.
    function test_extension_letsAuditorsChallengeWhatCameLate() external {
        _at(WINDOW);
        vm.expectEmit(address(market));
        emit IJobMarket.WindowExtended(_receipt.jobId, uint40(START + WINDOW + 30 minutes));
        game.extend(_receipt.jobId);
        _at(WINDOW + 30 minutes);
        _expectTooEarly(_receipt.jobId, START + WINDOW + 30 minutes);
        market.complete(_spec, _receipt);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.AlreadyExtended.selector, _receipt.jobId));
        game.extend(_receipt.jobId);
        _challenge(_spec, _receipt);
        _at(WINDOW + 30 minutes + 1);
        game.convict(_spec, _receipt);
        assertState(_spec, State.Slashed);
        _auditBooks();
    }

    /// @dev While a challenge is open the window may be extended after its end, and then others may challenge again.
    function test_extension_duringAChallengeReopensTheWindow() external {
        _challenge(_spec, _receipt);
        _at(1 days);
        game.extend(_receipt.jobId);
        game.dismiss(_receipt.jobId, provider);
        assertState(_spec, State.Submitted);
        _at(1 days + 30 minutes);
        vm.prank(_other);
        game.challenge(_spec, _receipt);
        game.dismiss(_receipt.jobId, provider);
        _at(1 days + 30 minutes + 1);
        market.complete(_spec, _receipt);
        _assertProvider(uint256(EMBED_HALF) + 2 * BOND, FUNDS / 2, 0);
        _auditBooks();
    }

    /// @dev An early extension never shortens the window.
    function test_extension_inTheFirstSecondLeavesTheWindowAsItIs() external {
        game.extend(_receipt.jobId);
        vm.assertEq(market.job(_receipt.jobId).clock, START + WINDOW);
        vm.assertTrue(market.job(_receipt.jobId).extended);
        _auditBooks();
    }

    /// @dev A provider that unstaked everything else still has the lock behind the receipt, however long the game takes.
    function test_conviction_reachesTheLockOfAProviderThatLeft() external {
        vm.prank(provider);
        providers.unstake(FUNDS / 2 - EMBED_LOCK);
        _challenge(_spec, _receipt);
        _at(10 days + 1);
        providers.withdrawUnbonded(provider);
        vm.prank(provider);
        ledger.withdraw(provider, FUNDS - EMBED_LOCK);
        _assertMoney(provider, [uint256(0), 0, 0, 0, EMBED_LOCK, 0]);
        game.convict(_spec, _receipt);
        _assertMoney(provider, [uint256(0), 0, 0, 0, 0, 0]);
        _assertDelayed(EMBED_LOCK / 2);
        _auditBooks();
    }

    /// @dev One bad receipt takes the lock of its job, and no other job's.
    function test_conviction_leavesTheProvidersOtherJobsAlone() external {
        (JobSpec memory other, Receipt memory receipt) = _submitted(2);
        _challenge(_spec, _receipt);
        game.convict(_spec, _receipt);
        _assertProvider(0, FUNDS / 2 - 2 * EMBED_LOCK, EMBED_LOCK);
        _at(WINDOW + 1);
        market.complete(other, receipt);
        _assertProvider(EMBED_HALF, FUNDS / 2 - EMBED_LOCK, 0);
        vm.assertEq(bucket(client, Bucket.Escrow), 0);
        _auditBooks();
    }
}
