// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../../../src/interfaces/IJobMarket.sol";
import {JobHash} from "../../../src/libraries/JobHash.sol";
import {JobId} from "../../../src/types/Ids.sol";
import {Job, JobSpec, Receipt, State} from "../../../src/types/Job.sol";
import {Base} from "../../Base.sol";

contract JobMarketSubmitTest is Base {
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function testFuzz_submit_storesTheReceiptsDigestAndOpensTheWindow(uint256 seed, address relay, uint256 wait) external {
        JobSpec memory spec = fuzzedSpec(seed);
        JobId id = _postAndClaim(spec);
        vm.warp(START + bound(wait, 0, spec.deliverWithin));
        Receipt memory receipt = receiptOf(spec);
        bytes32 digest = market.receiptDigestOf(receipt);
        bytes memory signature = signed(receipt);
        uint40 windowEnd = uint40(block.timestamp + 1 hours);

        vm.expectEmit(true, true, true, true, address(market));
        emit IJobMarket.ReceiptSubmitted(id, provider, digest, windowEnd, receipt);
        vm.prank(relay);
        market.submit(spec, receipt, signature);

        Job memory job = market.job(id);
        vm.assertEq(uint256(job.state), uint256(State.Submitted));
        vm.assertEq(job.clock, windowEnd);
        vm.assertEq(job.receiptDigest, digest);
        vm.assertEq(job.provider, address(0));
    }

    function test_submit_revertsInEveryOtherState() external {
        JobSpec memory spec = embedSpec();
        Receipt memory receipt = receiptOf(spec);
        vm.expectRevert(notInState(spec, State.Claimed, State.None));
        market.submit(spec, receipt, "");
        _post(spec);
        vm.expectRevert(notInState(spec, State.Claimed, State.Open));
        market.submit(spec, receipt, "");
        _claim(spec);
        _submit(spec);
        vm.expectRevert(notInState(spec, State.Claimed, State.Submitted));
        market.submit(spec, receipt, "");
    }

    function testFuzz_submit_revertsIfTheReceiptIsForAnotherJob(bytes32 other) external {
        JobSpec memory spec = embedSpec();
        JobId id = _postAndClaim(spec);
        vm.assume(other != JobId.unwrap(id));
        Receipt memory receipt = receiptOf(spec);
        receipt.jobId = JobId.wrap(other);
        _refused(spec, receipt, abi.encodeWithSelector(IJobMarket.ReceiptOfOtherJob.selector, id, other));
    }

    function testFuzz_submit_revertsIfTheReceiptNamesAnotherProvider(address other) external {
        vm.assume(other != provider);
        JobSpec memory spec = embedSpec();
        JobId id = _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        receipt.provider = other;
        _refused(spec, receipt, abi.encodeWithSelector(IJobMarket.NotClaimant.selector, id, provider, other));
    }

    function testFuzz_submit_revertsIfSignedByAnotherKey(uint256 key) external {
        key = bound(key, 1, ORDER - 1);
        vm.assume(vm.addr(key) != operator);
        JobSpec memory spec = embedSpec();
        JobId id = _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signedBy(key, market.receiptDigestOf(receipt));
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.SignerNotOperator.selector, id, operator, vm.addr(key)));
        market.submit(spec, receipt, signature);
    }

    /// @dev Every byte of the receipt is signed: a changed field recovers to another key.
    function testFuzz_submit_revertsIfAnyFieldWasChangedAfterSigning(uint256 which, bytes32 change) external {
        vm.assume(change != 0);
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        bytes memory signature = signed(receipt);
        which %= 5;
        if (which == 0) receipt.outputRoot ^= change;
        else if (which == 1) receipt.outputDigest ^= change;
        else if (which == 2) receipt.workDigest ^= change;
        else if (which == 3) receipt.energyMillijoules += uint64(bound(uint256(change), 1, 1e9));
        else receipt.energyMethod = 1;
        vm.expectRevert();
        market.submit(spec, receipt, signature);
        assertState(spec, State.Claimed);
    }

    function testFuzz_submit_revertsIfTheSignatureIsMalformed(bytes calldata signature) external {
        vm.assume(signature.length != 65);
        JobSpec memory spec = embedSpec();
        JobId id = _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.SignerNotOperator.selector, id, operator, address(0)));
        market.submit(spec, receipt, signature);
    }

    /// @dev (r, order - s) verifies too: only the lower half is taken, so one receipt has one signature.
    function testFuzz_submit_revertsIfSIsInTheUpperHalf(uint256 seed) external {
        JobSpec memory spec = fuzzedSpec(seed);
        JobId id = _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(OPERATOR_KEY, market.receiptDigestOf(receipt));
        vm.assertLe(uint256(s), HALF_ORDER);
        bytes memory flipped = abi.encodePacked(r, bytes32(ORDER - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        vm.expectRevert(abi.encodeWithSelector(IJobMarket.SignerNotOperator.selector, id, operator, address(0)));
        market.submit(spec, receipt, flipped);
    }

    function testFuzz_submit_revertsIfTheOutputIsLongerThanTheJobAllows(uint64 excess) external {
        JobSpec memory spec = generateSpec();
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        receipt.outputLen = uint64(bound(excess, 801, type(uint64).max));
        _refused(spec, receipt, outOfBounds("outputLen", receipt.outputLen, 0, 800));
    }

    function testFuzz_submit_revertsIfAnEmbeddingHasOutputIds(uint64 outputLen) external {
        vm.assume(outputLen != 0);
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        receipt.outputLen = outputLen;
        _refused(spec, receipt, outOfBounds("outputLen", outputLen, 0, 0));
    }

    function testFuzz_submit_revertsIfTheOutputCodecIsUnknown(uint8 codec) external {
        vm.assume(codec != 0x55 && codec != 0x70);
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        receipt.outputCodec = codec;
        _refused(spec, receipt, outOfBounds("outputCodec", codec, 0x55, 0x70));
    }

    function testFuzz_submit_revertsIfTheEnergyMethodIsUnknown(uint8 method) external {
        vm.assume(method != 1 && method != 2);
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        Receipt memory receipt = receiptOf(spec);
        receipt.energyMethod = method;
        _refused(spec, receipt, outOfBounds("energyMethod", method, 1, 2));
    }

    function testFuzz_submit_isValidUpToTheDeadlineAndNotOneSecondLater(uint32 deliverWithin) external {
        JobSpec memory spec = embedSpec();
        spec.deliverWithin = uint32(bound(deliverWithin, 1, 30 days));
        JobId id = _postAndClaim(spec);
        uint256 deadline = START + spec.deliverWithin;
        vm.warp(deadline + 1);
        _refused(spec, receiptOf(spec), abi.encodeWithSelector(IJobMarket.DeadlinePassed.selector, id, deadline, deadline + 1));
        vm.warp(deadline);
        _submit(spec);
        assertState(spec, State.Submitted);
    }

    /// @dev A receipt's field outside its type would be another digest under the same event: the event's encoding refuses it.
    function testFuzz_submit_revertsIfAFieldHasBitsOutsideItsType(uint256 word, uint8 bit) external {
        JobSpec memory spec = embedSpec();
        _postAndClaim(spec);
        uint16[9] memory bits = [256, 160, 256, 64, 8, 256, 256, 64, uint16(8)];
        word %= 9;
        vm.assume(bits[word] < 256);
        uint256 position = bound(bit, bits[word], 255);
        Receipt memory receipt = receiptOf(spec);
        bytes memory encoded = abi.encode(receipt);
        bytes memory clean = _handmade(spec, encoded);
        assembly ("memory-safe") {
            let p := add(add(encoded, 0x20), mul(word, 0x20))
            mstore(p, or(mload(p), shl(position, 1)))
        }
        (bool ok,) = address(market).call(_handmade(spec, encoded));
        vm.assertFalse(ok);
        // The same bytes without that bit are a submission.
        (ok,) = address(market).call(clean);
        vm.assertTrue(ok);
    }

    /// @dev A call of `submit` with these nine words as its receipt, properly signed.
    function _handmade(JobSpec memory spec, bytes memory receiptWords) private view returns (bytes memory) {
        bytes32 structHash = keccak256(bytes.concat(JobHash.RECEIPT_TYPEHASH, receiptWords));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", market.domainSeparator(), structHash));
        bytes memory tail = abi.encodePacked(uint256(34 * 32), uint256(65), signedBy(OPERATOR_KEY, digest), new bytes(31));
        return bytes.concat(market.submit.selector, abi.encode(spec), receiptWords, tail);
    }

    function _refused(JobSpec memory spec, Receipt memory receipt, bytes memory reason) private {
        bytes memory signature = signed(receipt);
        vm.expectRevert(reason);
        market.submit(spec, receipt, signature);
    }
}
