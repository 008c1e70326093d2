// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IEntry} from "../../../src/interfaces/IEntry.sol";
import {IJobMarket} from "../../../src/interfaces/IJobMarket.sol";
import {JobId, ModelId} from "../../../src/types/Ids.sol";
import {Job, JobSpec, State} from "../../../src/types/Job.sol";
import {Bucket} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";

contract JobMarketPostTest is Base {
    function testFuzz_post_opensTheJobAndEscrowsItsMaximumFee(uint256 seed) external {
        JobSpec memory spec = fuzzedSpec(seed);
        uint96 maxFee = market.maxFeeOf(spec);
        JobId id = market.jobIdOf(spec);

        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.JobPosted(id, client, spec.modelId, maxFee, START, spec);
        vm.assertTrue(_post(spec) == id);

        Job memory job = market.job(id);
        vm.assertEq(uint256(job.state), uint256(State.Open));
        vm.assertEq(job.clock, START);
        vm.assertEq(bucket(client, Bucket.Escrow), maxFee);
        vm.assertEq(free(client), FUNDS - maxFee);
    }

    function testFuzz_post_revertsIfPostedBefore(uint256 seed) external {
        JobSpec memory spec = fuzzedSpec(seed);
        _post(spec);
        vm.expectRevert(notInState(spec, State.None, State.Open));
        _post(spec);
    }

    function test_post_revertsInEveryStateOfTheSameJob() external {
        JobSpec memory spec = embedSpec();
        _postClaimSubmit(spec);
        vm.warp(block.timestamp + 1 hours + 1);
        market.complete(spec, receiptOf(spec));
        vm.warp(START);
        vm.expectRevert(notInState(spec, State.None, State.Completed));
        _post(spec);
    }

    function testFuzz_post_revertsIfNotTheClient(address caller) external {
        vm.assume(caller != client);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.NotClient.selector, client, caller));
        vm.prank(caller);
        market.post(embedSpec());
    }

    function test_post_revertsWhileEntriesAreStopped() external {
        vm.prank(guardianKey);
        guardian.stopEntries();
        vm.expectRevert(IEntry.EntriesAreStopped.selector);
        _post(embedSpec());
    }

    function testFuzz_post_revertsIfTheModelIsUnknown(bytes32 modelId) external {
        JobSpec memory spec = embedSpec();
        spec.modelId = ModelId.wrap(modelId);
        vm.assume(models.model(spec.modelId).publisher == address(0));
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.ModelUnknown.selector, modelId));
        _post(spec);
    }

    function test_post_revertsIfTheKindIsNotOfTheModelsFamily() external {
        JobSpec memory spec = embedSpec();
        spec.modelId = decoder;
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.KindNotOfFamily.selector, decoder, 1, 2));
        _post(spec);
        spec = generateSpec();
        spec.modelId = encoder;
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.KindNotOfFamily.selector, encoder, 2, 1));
        _post(spec);
    }

    function testFuzz_post_isValidUpToClaimByAndNotOneSecondLater(uint32 ahead) external {
        JobSpec memory spec = embedSpec();
        spec.claimBy = uint64(START) + ahead;
        vm.warp(uint256(spec.claimBy) + 1);
        bytes memory late =
            abi.encodeWithSelector(IJobMarket.DeadlinePassed.selector, market.jobIdOf(spec), spec.claimBy, uint256(spec.claimBy) + 1);
        vm.expectRevert(late);
        _post(spec);
        vm.warp(spec.claimBy);
        _post(spec);
        assertState(spec, State.Open);
    }

    function testFuzz_post_revertsIfTheClientHasTooLittleFreeMoney(uint128 missing) external {
        JobSpec memory spec = embedSpec();
        uint96 maxFee = market.maxFeeOf(spec);
        missing = uint128(bound(missing, 1, maxFee));
        vm.prank(client);
        ledger.withdraw(client, FUNDS - maxFee + missing);
        vm.expectRevert(insufficient(client, Bucket.Free, maxFee, maxFee - missing));
        _post(spec);
    }

    function testFuzz_post_revertsIfTheMaximumFeeExceedsUint96(uint96 price, uint64 inputLen) external {
        JobSpec memory spec = embedSpec();
        (spec.basePrice, spec.inputPrice, spec.inputLen) = (type(uint96).max, price, inputLen);
        spec.itemPrice = 0;
        uint256 maxFee = uint256(type(uint96).max) + uint256(price) * inputLen;
        vm.assume(maxFee > type(uint96).max);
        vm.expectRevert(outOfBounds("maxFee", maxFee, 0, type(uint96).max));
        _post(spec);
    }

    function test_post_takesTheGreatestFeeThatFits() external {
        JobSpec memory spec = embedSpec();
        (spec.basePrice, spec.inputPrice, spec.itemPrice) = (type(uint96).max, 0, 0);
        vm.prank(bridge);
        token.mint(address(this), type(uint96).max);
        _fund(client, type(uint96).max);
        _post(spec);
        vm.assertEq(bucket(client, Bucket.Escrow), type(uint96).max);
    }

    function test_post_takesAFreeJobWithoutAnEntryOfTheLedger() external {
        JobSpec memory spec = embedSpec();
        (spec.basePrice, spec.inputPrice, spec.itemPrice) = (0, 0, 0);
        uint64 seq = ledger.seq();
        _post(spec);
        assertState(spec, State.Open);
        vm.assertEq(ledger.seq(), seq);
    }

    /* BOUNDS OF EACH FIELD */

    function testFuzz_post_revertsIfKindIsUnknown(uint8 kind) external {
        vm.assume(kind != 1 && kind != 2);
        JobSpec memory spec = embedSpec();
        spec.kind = kind;
        _refused(spec, "kind", kind, 1, 2);
    }

    function testFuzz_post_revertsIfItemCountIsOutOfBounds(uint32 count) external {
        count = count == 0 ? 0 : uint32(bound(count, 65_537, type(uint32).max));
        JobSpec memory spec = embedSpec();
        spec.itemCount = count;
        _refused(spec, "itemCount", count, 1, 65_536);
    }

    function testFuzz_post_revertsIfRampFloorIsOutOfBounds(uint16 floor) external {
        floor = floor == 0 ? 0 : uint16(bound(floor, 10_001, type(uint16).max));
        JobSpec memory spec = embedSpec();
        spec.rampFloorBps = floor;
        _refused(spec, "rampFloorBps", floor, 1, 10_000);
    }

    function testFuzz_post_revertsIfDeliverWithinIsOutOfBounds(uint32 secs) external {
        secs = secs == 0 ? 0 : uint32(bound(secs, 30 days + 1, type(uint32).max));
        JobSpec memory spec = embedSpec();
        spec.deliverWithin = secs;
        _refused(spec, "deliverWithin", secs, 1, 30 days);
    }

    function testFuzz_post_revertsIfTheInputCodecIsUnknown(uint8 codec) external {
        vm.assume(codec != 0x55 && codec != 0x70);
        JobSpec memory spec = embedSpec();
        spec.inputCodec = codec;
        _refused(spec, "inputCodec", codec, 0x55, 0x70);
    }

    function testFuzz_post_revertsIfAnEmbedJobUsesAFieldOfGenerate(uint256 value, uint256 which) external {
        JobSpec memory spec = embedSpec();
        which = bound(which, 0, 6);
        uint256 x = bound(value, 2, type(uint32).max);
        if (which == 0) {
            spec.samplesPerItem = uint32(x);
            _refused(spec, "samplesPerItem", x, 1, 1);
        } else if (which == 1) {
            spec.maxOutput = uint32(x);
            _refused(spec, "maxOutput", x, 0, 0);
        } else if (which == 2) {
            spec.stopIds = bytes32(x);
            _refused(spec, "stopIds", x, 0, 0);
        } else if (which == 3) {
            spec.temperature = uint32(x);
            _refused(spec, "temperature", x, 0, 0);
        } else if (which == 4) {
            spec.minP = uint32(x);
            _refused(spec, "minP", x, 0, 0);
        } else if (which == 5) {
            spec.seed = bytes32(x);
            _refused(spec, "seed", x, 0, 0);
        } else {
            spec.outputPrice = uint96(x);
            _refused(spec, "outputPrice", x, 0, 0);
        }
    }

    function testFuzz_post_revertsIfSamplesAreOutOfBounds(uint32 samples) external {
        samples = samples == 0 ? 0 : uint32(bound(samples, 257, type(uint32).max));
        JobSpec memory spec = generateSpec();
        spec.samplesPerItem = samples;
        _refused(spec, "samplesPerItem", samples, 1, 256);
    }

    function testFuzz_post_revertsIfMaxOutputIsOutOfBounds(uint32 maxOutput) external {
        maxOutput = maxOutput == 0 ? 0 : uint32(bound(maxOutput, 32_769, type(uint32).max));
        JobSpec memory spec = generateSpec();
        spec.maxOutput = maxOutput;
        _refused(spec, "maxOutput", maxOutput, 1, 32_768);
    }

    function testFuzz_post_revertsIfMinPIsAboveOne(uint32 minP) external {
        minP = uint32(bound(minP, 65_537, type(uint32).max));
        JobSpec memory spec = generateSpec();
        spec.minP = minP;
        _refused(spec, "minP", minP, 0, 65_536);
    }

    /// @dev One spec has one encoding: else the same job could be posted twice under two ids, and its event would show neither.
    function testFuzz_post_revertsIfAFieldHasBitsOutsideItsType(uint256 seed, uint8 bit) external {
        JobSpec memory spec = generateSpec();
        // Bits of the 24 words; 256: any bit is allowed.
        uint16[24] memory bits =
            [160, 256, 8, 32, 32, 256, 64, 32, 256, 32, 32, 256, 96, 96, 96, 96, 16, 32, 64, 32, 160, 8, 256, uint16(256)];
        uint256 word = seed % 24;
        vm.assume(bits[word] < 256);
        uint256 position = bound(bit, bits[word], 255);
        bytes memory data = abi.encodeCall(market.post, (spec));
        bytes memory clean = bytes.concat(data);
        assembly ("memory-safe") {
            let p := add(add(data, 0x24), mul(word, 0x20))
            mstore(p, or(mload(p), shl(position, 1)))
        }
        vm.prank(client);
        (bool ok,) = address(market).call(data);
        vm.assertFalse(ok);
        // The same bytes without that bit are a job.
        vm.prank(client);
        (ok,) = address(market).call(clean);
        vm.assertTrue(ok);
    }

    function _refused(JobSpec memory spec, bytes32 field, uint256 value, uint256 min, uint256 max) private {
        vm.expectRevert(outOfBounds(field, value, min, max));
        _post(spec);
    }
}
