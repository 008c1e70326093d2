// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobId, ModelId} from "../../src/types/Ids.sol";
import {JobSpec, Receipt} from "../../src/types/Job.sol";
import {Move, Reason} from "../../src/types/Money.sol";
import {Base} from "../Base.sol";
import {Vm} from "../Vm.sol";

/// @title Writes out/vectors/protocol.json: what the deployed contracts say of jobs, receipts and ledger entries
/// @notice scripts/contracts-snapshots compares it with tests/vectors/protocol.json, which crates/types is held to.
contract ProtocolVectorsTest is Base {
    function setUp() public override {
        vm.recordLogs();
        super.setUp();
    }

    function test_vectors_protocol() external {
        vm.createDir("out/vectors", true);
        string memory jobs = _jobs();
        string memory json = string.concat(
            "{\n  \"chainId\": ",
            vm.toString(block.chainid),
            ",\n  \"market\": \"",
            vm.toString(address(market)),
            "\",\n  \"domainSeparator\": \"",
            vm.toString(market.domainSeparator()),
            "\",\n  \"parameters\": { \"minLock\": \"1000000000000000000\", \"lockFactorBps\": 20000 },\n  \"jobs\": [",
            jobs,
            "\n  ],\n  \"ledger\": {\n    \"address\": \"",
            vm.toString(address(ledger)),
            "\",\n    \"entries\": ["
        );
        json = string.concat(json, _entries(), "\n    ]\n  }\n}\n");
        vm.writeFile("out/vectors/protocol.json", json);
    }

    /* JOBS */

    function _jobs() private returns (string memory list) {
        for (uint256 i = 0; i < 6; ++i) {
            JobSpec memory spec = i == 0 ? embedSpec() : i == 1 ? generateSpec() : fuzzedSpec(i);
            if (i == 1) spec.stopIds = 0x00000002ffffffffffffffffffffffffffffffffffffffffffffffffffffffff;
            spec.claimBy = START + 2 hours;
            list = string.concat(list, i == 0 ? "" : ",", _job(spec, i * 100));
        }
    }

    /// @dev Runs the job from end to end, so that the ledger has entries of it.
    function _job(JobSpec memory spec, uint256 wait) private returns (string memory) {
        vm.warp(START);
        _post(spec);
        vm.warp(START + wait);
        _claim(spec);
        Receipt memory receipt = _submit(spec);
        bytes memory signature = signed(receipt);
        vm.warp(block.timestamp + 1 hours + 1);
        market.complete(spec, receipt);

        string memory json = string.concat("\n    {\n      \"spec\": {", _specHead(spec), _specTail(spec), "\n      }");
        json = string.concat(json, ",\n      \"receipt\": {", _receipt(receipt), "\n      },\n      \"expected\": {");
        json = string.concat(json, _text("jobId", vm.toString(JobId.unwrap(market.jobIdOf(spec))), true));
        json = string.concat(json, _priced(spec, receipt.outputLen, wait));
        json = string.concat(json, _text("receiptDigest", vm.toString(market.receiptDigestOf(receipt))));
        json = string.concat(json, _text("operator", vm.toString(operator)), _text("signature", vm.toString(signature)));
        return string.concat(json, "\n      }\n    }");
    }

    function _priced(JobSpec memory spec, uint64 outputLen, uint256 wait) private view returns (string memory json) {
        uint16 priceBps = market.priceBpsAt(spec, wait);
        json = string.concat(_text("maxFee", vm.toString(uint256(market.maxFeeOf(spec)))), _number("elapsedSecs", wait));
        json = string.concat(json, _text("lock", vm.toString(uint256(market.lockOf(spec)))), _number("priceBps", priceBps));
        json = string.concat(json, _text("fee", vm.toString(uint256(market.feeOf(spec, outputLen, priceBps)))));
    }

    function _specHead(JobSpec memory s) private pure returns (string memory json) {
        json = string.concat(_text("client", vm.toString(s.client), true), _text("modelId", vm.toString(ModelId.unwrap(s.modelId))));
        json = string.concat(json, _number("kind", s.kind), _number("itemCount", s.itemCount));
        json = string.concat(json, _number("samplesPerItem", s.samplesPerItem), _text("inputRoot", vm.toString(s.inputRoot)));
        json = string.concat(json, _number("inputLen", s.inputLen), _number("maxOutput", s.maxOutput));
        json = string.concat(json, _text("stopIds", vm.toString(s.stopIds)), _number("temperature", s.temperature));
        json = string.concat(json, _number("minP", s.minP), _text("seed", vm.toString(s.seed)));
    }

    function _specTail(JobSpec memory s) private pure returns (string memory json) {
        json = string.concat(_text("basePrice", vm.toString(uint256(s.basePrice))), _text("inputPrice", vm.toString(uint256(s.inputPrice))));
        json = string.concat(json, _text("outputPrice", vm.toString(uint256(s.outputPrice))));
        json = string.concat(json, _text("itemPrice", vm.toString(uint256(s.itemPrice))));
        json = string.concat(json, _number("rampFloorBps", s.rampFloorBps), _number("rampSecs", s.rampSecs));
        json = string.concat(json, _number("claimBy", s.claimBy), _number("deliverWithin", s.deliverWithin));
        json = string.concat(json, _text("designated", vm.toString(s.designated)), _number("inputCodec", s.inputCodec));
        json = string.concat(json, _text("inputDigest", vm.toString(s.inputDigest)), _text("salt", vm.toString(s.salt)));
    }

    function _receipt(Receipt memory r) private pure returns (string memory json) {
        json = string.concat(_text("jobId", vm.toString(JobId.unwrap(r.jobId)), true), _text("provider", vm.toString(r.provider)));
        json = string.concat(json, _text("outputRoot", vm.toString(r.outputRoot)), _number("outputLen", r.outputLen));
        json = string.concat(json, _number("outputCodec", r.outputCodec), _text("outputDigest", vm.toString(r.outputDigest)));
        json = string.concat(json, _text("workDigest", vm.toString(r.workDigest)));
        json = string.concat(json, _number("energyMillijoules", r.energyMillijoules), _number("energyMethod", r.energyMethod));
    }

    /* LEDGER */

    /// @dev Every entry since the deployment.
    function _entries() private returns (string memory list) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter != address(ledger)) continue;
            list = string.concat(list, bytes(list).length == 0 ? "" : ",", _entry(logs[i]));
        }
    }

    function _entry(Vm.Log memory log) private pure returns (string memory json) {
        (uint64 seq, uint8 fromBucket, uint8 toBucket, uint128 amount, uint8 reason, bytes32 head) =
            abi.decode(log.data, (uint64, uint8, uint8, uint128, uint8, bytes32));
        json = string.concat(_number("seq", seq, true), _text("from", vm.toString(address(uint160(uint256(log.topics[1]))))));
        json = string.concat(json, _number("fromBucket", fromBucket));
        json = string.concat(json, _text("to", vm.toString(address(uint160(uint256(log.topics[2]))))), _number("toBucket", toBucket));
        json = string.concat(json, _text("amount", vm.toString(uint256(amount))), _number("reason", reason));
        json = string.concat(json, _text("reference", vm.toString(log.topics[3])), _text("head", vm.toString(head)));
        json = string.concat("\n      {", json, "\n      }");
    }

    /* JSON */

    function _text(string memory key, string memory value) private pure returns (string memory) {
        return _text(key, value, false);
    }

    function _text(string memory key, string memory value, bool first) private pure returns (string memory) {
        return string.concat(first ? "" : ",", "\n        \"", key, "\": \"", value, "\"");
    }

    function _number(string memory key, uint256 value) private pure returns (string memory) {
        return _number(key, value, false);
    }

    function _number(string memory key, uint256 value, bool first) private pure returns (string memory) {
        return string.concat(first ? "" : ",", "\n        \"", key, "\": ", vm.toString(value));
    }
}
