// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Deployment} from "../../script/Deployment.sol";
import {IProviderRegistry} from "../../src/interfaces/IProviderRegistry.sol";
import {Completion, JobSpec, Receipt} from "../../src/types/Job.sol";
import {Move, Reason} from "../../src/types/Money.sol";
import {HostileToken} from "../mocks/HostileToken.sol";
import {Flow} from "./Flow.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title A token that is client, provider, operator, publisher and challenger, and calls every function of every contract from within
/// every call of the Ledger that reaches it
/// @notice The Ledger's own three entries refuse; everything else may go on, and the books are what the events say all the same: nothing
/// is read before the token is called and written after it.
contract ReentrancyTest is Flow {
    struct Call {
        string name;
        address target;
        bytes data;
        /// @dev What must happen to the call in the middle of another.
        Outcome outcome;
    }

    enum Outcome {
        /// It is refused because the Ledger is in the middle of a call.
        Guarded,
        /// It is refused, there or anywhere.
        Refused,
        /// It does what it always does.
        Done
    }

    HostileToken private _hostile;
    JobSpec[5] private _specs;
    Receipt[5] private _receipts;
    Call[] private _calls;

    function setUp() public override {
        _hostile = new HostileToken();
        _hostile.mint(address(this), type(uint128).max);
        super.setUp();
        _fund(address(_hostile), FUNDS);
        _hostile.mint(address(_hostile), FUNDS);
        _do(address(_hostile), abi.encodeCall(_hostile.approve, (address(ledger), type(uint256).max)));
        _do(address(providers), abi.encodeCall(providers.stake, (100e18)));
        _do(address(providers), abi.encodeCall(providers.unstake, (10e18)));
        _do(address(providers), abi.encodeCall(providers.setOperator, (address(_hostile))));
        // 0 open, 1 claimed, 2 submitted and in doubt, 3 undelivered, 4 submitted and done with.
        uint8[5] memory order = [3, 4, 0, 1, 2];
        for (uint256 k = 0; k < 5; ++k) {
            if (k == 2) _at(WINDOW + 1);
            uint256 i = order[k];
            JobSpec memory spec = _salted(i);
            spec.client = address(_hostile);
            spec.claimBy = START + 1 days;
            _specs[i] = spec;
            _do(address(market), abi.encodeCall(market.post, (spec)));
            if (i != 0) _claim(spec);
            if (i == 2 || i == 4) _receipts[i] = _submit(spec);
        }
        _listLedger();
        _listMarket();
        _listOthers();
        _auditBooks();
    }

    function _config() internal view override returns (Deployment.Config memory config) {
        config = super._config();
        config.token = address(_hostile);
    }

    function test_reentry_intoEveryFunctionFromADeposit() external {
        _fromEvery(abi.encodeCall(ledger.deposit, (stranger, 7)), HostileToken.Hook.BeforeTransfer);
        _fromEvery(abi.encodeCall(ledger.deposit, (stranger, 7)), HostileToken.Hook.AfterTransfer);
    }

    function test_reentry_intoEveryFunctionFromADepositWithPermit() external {
        bytes memory call = abi.encodeCall(ledger.depositWithPermit, (stranger, 7, START + 1 days, 27, 0, 0));
        _fromEvery(call, HostileToken.Hook.Permit);
        _fromEvery(call, HostileToken.Hook.BeforeTransfer);
        _fromEvery(call, HostileToken.Hook.AfterTransfer);
    }

    function test_reentry_intoEveryFunctionFromAWithdrawal() external {
        _fromEvery(abi.encodeCall(ledger.withdraw, (stranger, 7)), HostileToken.Hook.BeforeTransfer);
        _fromEvery(abi.encodeCall(ledger.withdraw, (stranger, 7)), HostileToken.Hook.AfterTransfer);
    }

    /* EACH CALL FROM ONE PLACE */

    function _fromEvery(bytes memory entry, HostileToken.Hook hook) private {
        uint256 start = vm.snapshotState();
        for (uint256 i = 0; i < _calls.length; ++i) {
            Call memory c = _calls[i];
            vm.prank(provider);
            _hostile.approve(address(ledger), type(uint256).max);
            _hostile.mint(provider, 7);
            _hostile.arm(hook, c.target, c.data);
            vm.prank(provider);
            (bool succeeded,) = address(ledger).call(entry);
            vm.assertTrue(succeeded, c.name);
            vm.assertTrue(_hostile.called(), c.name);
            vm.assertTrue(_hostile.succeeded() == (c.outcome == Outcome.Done), c.name);
            if (c.outcome == Outcome.Guarded) {
                bytes32 refusal = bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
                vm.assertEq(bytes32(_hostile.answer()), refusal, c.name);
            }
            _auditBooks();
            vm.revertToState(start);
        }
    }

    /* THE CALLS */

    function _listLedger() private {
        address l = address(ledger);
        _add("deposit", l, abi.encodeCall(ledger.deposit, (stranger, 1)), Outcome.Guarded);
        _add("depositWithPermit", l, abi.encodeCall(ledger.depositWithPermit, (stranger, 1, START, 27, 0, 0)), Outcome.Guarded);
        _add("withdraw", l, abi.encodeCall(ledger.withdraw, (stranger, 1)), Outcome.Guarded);
        Move[] memory moves = new Move[](1);
        moves[0] = Move(client, address(_hostile), 1, Reason.Fee);
        _add("move", l, abi.encodeCall(ledger.move, (0, moves)), Outcome.Refused);
    }

    function _listMarket() private {
        address m = address(market);
        JobSpec memory fresh = _specs[0];
        fresh.salt = keccak256("posted from within");
        Completion[] memory list = new Completion[](2);
        list[0] = Completion(_specs[4], _receipts[4]);
        list[1] = list[0];
        _add("post", m, abi.encodeCall(market.post, (fresh)), Outcome.Done);
        _add("claim", m, abi.encodeCall(market.claim, (_specs[0], address(_hostile))), Outcome.Done);
        _add("cancel", m, abi.encodeCall(market.cancel, (_specs[0])), Outcome.Done);
        _add("expire", m, abi.encodeCall(market.expire, (_specs[0])), Outcome.Refused); // too early
        Receipt memory receipt = receiptOf(_specs[1]);
        _add("submit", m, abi.encodeCall(market.submit, (_specs[1], receipt, signed(receipt))), Outcome.Done);
        _add("refundUndelivered", m, abi.encodeCall(market.refundUndelivered, (_specs[3])), Outcome.Done);
        _add("complete", m, abi.encodeCall(market.complete, (_specs[4], _receipts[4])), Outcome.Done);
        _add("complete too early", m, abi.encodeCall(market.complete, (_specs[2], _receipts[2])), Outcome.Refused);
        _add("completeMany", m, abi.encodeCall(market.completeMany, (list)), Outcome.Done);
        _add("challengeOpened", m, abi.encodeCall(market.challengeOpened, (_specs[2], _receipts[2])), Outcome.Refused);
        _add("challengeDismissed", m, abi.encodeCall(market.challengeDismissed, (_receipts[2].jobId)), Outcome.Refused);
        _add("convicted", m, abi.encodeCall(market.convicted, (_specs[2], _receipts[2], address(_hostile))), Outcome.Refused);
        _add("extend", m, abi.encodeCall(market.extend, (_receipts[2].jobId)), Outcome.Refused);
    }

    function _listOthers() private {
        address p = address(providers);
        address h = address(_hostile);
        IProviderRegistry.Prices memory prices = IProviderRegistry.Prices(1, 2, 3, 4);
        _add("setOperator", p, abi.encodeCall(providers.setOperator, (stranger)), Outcome.Done);
        _add("announce", p, abi.encodeCall(providers.announce, (h, "https://gateway.example")), Outcome.Done);
        _add("listPrice", p, abi.encodeCall(providers.listPrice, (h, encoder, prices)), Outcome.Done);
        _add("unlistPrice", p, abi.encodeCall(providers.unlistPrice, (h, encoder)), Outcome.Done);
        _add("stake", p, abi.encodeCall(providers.stake, (1e18)), Outcome.Done);
        _add("unstake", p, abi.encodeCall(providers.unstake, (1e18)), Outcome.Done);
        _add("cancelUnbonding", p, abi.encodeCall(providers.cancelUnbonding, (1e18)), Outcome.Done);
        _add("withdrawUnbonded", p, abi.encodeCall(providers.withdrawUnbonded, (h)), Outcome.Refused); // too early
        _add("register", address(models), abi.encodeCall(models.register, (registration(encoderHeader(), 7))), Outcome.Done);
        _add("announcePackage", address(models), abi.encodeCall(models.announcePackage, (encoder, 0x55, 0)), Outcome.Refused);
        _add("stopEntries", address(guardian), abi.encodeCall(guardian.stopEntries, ()), Outcome.Refused);
        _add("resumeEntries", address(guardian), abi.encodeCall(guardian.resumeEntries, ()), Outcome.Refused);
        _add("challenge", address(game), abi.encodeCall(game.challenge, (_specs[2], _receipts[2])), Outcome.Done);
    }

    function _add(string memory name, address target, bytes memory data, Outcome outcome) private {
        _calls.push(Call(name, target, data, outcome));
    }

    function _do(address target, bytes memory data) private {
        _hostile.execute(target, data);
    }
}
