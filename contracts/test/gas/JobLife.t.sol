// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Completion, JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Base} from "../Base.sol";

/// @title Gas of whole transactions: 21,000, calldata and refunds included, cold storage, all balances funded and not zero
/// @notice Run with `--isolate`, so that each call is a transaction of its own. Every test writes its figures to out/gas/NAME.json;
/// scripts/contracts-snapshots compares them with the committed ones. The bounds are those of the project's plan.
contract JobLifeGasTest is Base {
    string private _json;

    function setUp() public override {
        super.setUp();
        vm.createDir("out/gas", true);
        // One job and one deposit before, so that nobody's balance and no counter starts at zero.
        JobSpec memory spec = embedSpec();
        spec.salt = keccak256("the job before");
        _postClaimSubmit(spec);
        vm.warp(block.timestamp + 1 hours + 1);
        market.complete(spec, receiptOf(spec));
        vm.warp(START);
        spec.salt = keccak256("in escrow and locked meanwhile");
        _postAndClaim(spec);
    }

    function test_gas_embedJob() external {
        uint256 total = _life(embedSpec(), "embed_job");
        vm.assertLe(total, 330_000, "life of one job");
    }

    function test_gas_embedJobWithRoyalty() external {
        JobSpec memory spec = embedSpec();
        spec.modelId = encoderWithRoyalty;
        _fund(publisher, 1);
        _life(spec, "embed_job_with_royalty");
    }

    function test_gas_generateJob() external {
        _fund(publisher, 1);
        _life(generateSpec(), "generate_job");
    }

    function test_gas_cancel() external {
        JobSpec memory spec = embedSpec();
        _post(spec);
        vm.prank(client);
        market.cancel(spec);
        vm.assertLe(_note("cancel"), 65_000, "cancel");
        _write("cancel");
    }

    function test_gas_expire() external {
        JobSpec memory spec = embedSpec();
        _post(spec);
        vm.warp(spec.claimBy + 1);
        vm.prank(stranger);
        market.expire(spec);
        vm.assertLe(_note("expire"), 65_000, "expire");
        _write("expire");
    }

    function test_gas_refundUndelivered() external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        vm.warp(block.timestamp + spec.deliverWithin + 1);
        vm.prank(stranger);
        market.refundUndelivered(spec);
        vm.assertLe(_note("refundUndelivered"), 90_000, "refund with penalty");
        _write("refund_undelivered");
    }

    function test_gas_completeMany() external {
        Completion[] memory completions = new Completion[](20);
        for (uint256 i = 0; i < completions.length; ++i) {
            JobSpec memory spec = embedSpec();
            spec.salt = bytes32(i);
            completions[i] = Completion(spec, _postClaimSubmit(spec));
        }
        vm.warp(block.timestamp + 1 hours + 1);
        vm.prank(operator);
        market.completeMany(completions);
        _append("jobs", completions.length);
        _append("perJob", _note("completeMany") / completions.length);
        _write("complete_many");
        vm.assertEq(uint256(stateOf(completions[19].spec)), uint256(State.Completed));
    }

    function test_gas_moneyAndStake() external {
        token.transfer(client, 10e18);
        vm.prank(client);
        token.approve(address(ledger), type(uint256).max);
        vm.prank(client);
        ledger.deposit(client, 1e18);
        _note("deposit");
        vm.prank(client);
        ledger.withdraw(client, 1e18);
        _note("withdraw");
        vm.prank(provider);
        providers.stake(1e18);
        _note("stake");
        vm.prank(provider);
        providers.unstake(1e18);
        _note("unstake");
        vm.warp(block.timestamp + 10 days + 1);
        vm.prank(provider);
        providers.withdrawUnbonded(provider);
        _note("withdrawUnbonded");
        _write("money_and_stake");
    }

    function test_gas_disputed() external {
        _fund(challenger, 10e18);
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = _postClaimSubmit(spec);
        vm.prank(address(game));
        market.challengeOpened(spec, receipt);
        _note("challengeOpened");
        vm.prank(address(game));
        market.extend(receipt.jobId);
        _note("extend");
        vm.prank(address(game));
        market.challengeDismissed(receipt.jobId);
        _note("challengeDismissed");
        vm.prank(address(game));
        market.challengeOpened(spec, receipt);
        vm.prank(address(game));
        market.convicted(spec, receipt, challenger);
        _note("convicted");
        _write("disputed");
    }

    function _life(JobSpec memory spec, string memory name) private returns (uint256 total) {
        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signed(receipt);
        vm.prank(client);
        market.post(spec);
        total = _note("post");
        vm.prank(operator);
        market.claim(spec, provider);
        total += _note("claim");
        vm.prank(operator);
        market.submit(spec, receipt, signature);
        total += _note("submit");
        vm.warp(block.timestamp + 1 hours + 1);
        vm.prank(operator);
        market.complete(spec, receipt);
        total += _note("complete");
        _append("total", total);
        _write(name);
    }

    /// @dev The gas of the transaction that was just made.
    function _note(string memory name) private returns (uint256 gas) {
        gas = vm.lastCallGas().gasTotalUsed;
        vm.assertGt(gas, 21_000); // else the run was not isolated
        _append(name, gas);
    }

    function _append(string memory name, uint256 value) private {
        string memory comma = bytes(_json).length == 0 ? "" : ",";
        _json = string.concat(_json, comma, "\n  \"", name, "\": ", vm.toString(value));
    }

    function _write(string memory name) private {
        vm.writeFile(string.concat("out/gas/", name, ".json"), string.concat("{", _json, "\n}\n"));
    }
}
