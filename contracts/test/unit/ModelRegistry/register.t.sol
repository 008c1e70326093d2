// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ModelRegistry} from "../../../src/ModelRegistry.sol";
import {IEntry} from "../../../src/interfaces/IEntry.sol";
import {IModelRegistry} from "../../../src/interfaces/IModelRegistry.sol";
import {ModelId} from "../../../src/types/Ids.sol";
import {Base} from "../../Base.sol";

contract ModelRegistryTest is Base {
    uint256 private _registered;

    function testFuzz_register_storesWhatJobsNeed(address by, bytes32 weights, uint16 royaltyBps) external {
        royaltyBps = uint16(bound(royaltyBps, 0, 5000));
        IModelRegistry.Registration memory r = registration(encoderHeader(), royaltyBps);
        r.weightsRoot = weights;
        vm.assume(by != address(0) && by != publisher);
        vm.prank(by);
        ModelId id = models.register(r);
        vm.assertTrue(id == models.modelIdOf(r.header, weights, r.tokenizerHash, by, royaltyBps));
        IModelRegistry.Model memory model = models.model(id);
        vm.assertEq(model.publisher, by);
        vm.assertEq(model.royaltyBps, royaltyBps);
        vm.assertEq(model.family, 1);
        vm.assertEq(model.macsPerToken, (384 * 32 * 48 + 1536 * 384 * 2) * 6);
    }

    function test_register_emitsAllThatWasRegistered() external {
        IModelRegistry.Registration memory r = registration(decoderHeader(), 7);
        ModelId id = models.modelIdOf(r.header, r.weightsRoot, r.tokenizerHash, stranger, 7);
        bytes32 package = keccak256(abi.encodePacked(uint8(0x30), r.header, r.weightsRoot, r.tokenizerHash));
        vm.expectEmit(true, true, true, true, address(models));
        emit IModelRegistry.ModelRegistered(id, stranger, package, 2, (576 * 64 * 24 + 1536 * 576 * 3) * 30 + 49_152 * 576, r);
        vm.prank(stranger);
        models.register(r);
    }

    /// @dev A thief gets another id: the publisher and the royalty are in it.
    function testFuzz_register_neverTakesAnothersId(address thief, uint16 royaltyBps) external {
        vm.assume(thief != publisher && thief != address(0));
        royaltyBps = uint16(bound(royaltyBps, 0, 5000));
        IModelRegistry.Registration memory r = registration(encoderHeader(), royaltyBps);
        vm.prank(thief);
        ModelId id = models.register(r);
        vm.assertTrue(id != encoder);
        vm.assertTrue(id != encoderWithRoyalty);
        vm.assertEq(models.model(encoder).publisher, publisher);
    }

    function test_register_revertsIfRegisteredBefore() external {
        IModelRegistry.Registration memory r = registration(encoderHeader(), 0);
        // Name, tags and CID are not part of the id: a registered model never changes.
        r.name = "another name";
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelExists.selector, encoder));
        vm.prank(publisher);
        models.register(r);
    }

    function test_register_revertsWhileEntriesAreStopped() external {
        vm.prank(guardianKey);
        guardian.stopEntries();
        vm.expectRevert(IEntry.EntriesAreStopped.selector);
        models.register(registration(encoderHeader(), 1));
    }

    function testFuzz_register_revertsIfTheHeaderIsNot160Bytes(uint16 length) external {
        vm.assume(length != 160 && length < 1000);
        IModelRegistry.Registration memory r = registration(new bytes(length), 0);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.HeaderLength.selector, 160, length));
        models.register(r);
    }

    function testFuzz_register_revertsIfRoyaltyCodecNameOrTagsAreOutOfBounds(uint16 royalty, uint8 codec, uint16 length) external {
        royalty = uint16(bound(royalty, 5001, type(uint16).max));
        _refused(registration(encoderHeader(), royalty), outOfBounds("royaltyBps", royalty, 0, 5000));
        IModelRegistry.Registration memory r = registration(encoderHeader(), 1);
        vm.assume(codec != 0x55 && codec != 0x70);
        r.packageCodec = codec;
        _refused(r, outOfBounds("packageCodec", codec, 0x55, 0x70));
        r = registration(encoderHeader(), 1);
        length = uint16(bound(length, 65, 1000));
        r.name = string(new bytes(length));
        _refused(r, outOfBounds("name", length, 1, 64));
        r.name = "";
        _refused(r, outOfBounds("name", 0, 1, 64));
        r = registration(encoderHeader(), 1);
        r.tags = string(new bytes(uint256(length) + 192));
        _refused(r, outOfBounds("tags", uint256(length) + 192, 0, 256));
    }

    /* HEADER */

    /// @dev Each field one beyond each of its bounds; the bounds themselves are legal.
    function test_register_checksEveryBoundOfTheHeader() external {
        // Fields of an encoder: index, least, greatest.
        uint32[3][19] memory bounds = [
            [uint32(0), 1, 1],
            [uint32(2), 1, 1 << 24],
            [uint32(3), 1, 16_384],
            [uint32(4), 1, 1024],
            [uint32(7), 1, 256],
            [uint32(8), 1, 32_768],
            [uint32(9), 1, 32_768],
            [uint32(11), 0, (1 << 30) - 1],
            [uint32(13), 1, 1 << 25],
            [uint32(14), 1, 2],
            [uint32(15), 1, 3],
            [uint32(17), 1, 2],
            [uint32(18), 0, 256],
            [uint32(10), 0, 0],
            [uint32(29), 0, 0],
            [uint32(30), 0, 0],
            [uint32(31), 0, 0],
            [uint32(32), 0, 0],
            [uint32(33), 0, 0]
        ];
        for (uint256 i = 0; i < 19; ++i) {
            (uint256 index, uint32 min, uint32 max) = (bounds[i][0], bounds[i][1], bounds[i][2]);
            _header(encoderHeader(), index, max, true);
            _header(encoderHeader(), index, min, true);
            _header(encoderHeader(), index, max + 1, false);
            if (min > 0) _header(encoderHeader(), index, min - 1, false);
        }
        for (uint256 index = 34; index < 40; ++index) {
            _header(encoderHeader(), index, 1, false);
        }
    }

    function test_register_checksHowFieldsFitTogether() external {
        _header(encoderHeader(), 1, 0, false); // family
        _header(encoderHeader(), 1, 3, false);
        _header(encoderHeader(), 5, 24, false); // an encoder has as many kv heads as heads
        _header(encoderHeader(), 5, 1025, false); // heads * head dim over 32,768
        _header(encoderHeader(), 16, 0x100, false); // unknown flag
        _header(encoderHeader(), 16, 1 << 3, false); // flags of decoders
        _header(encoderHeader(), 16, 1 << 4, false);
        _header(encoderHeader(), 16, 1 << 6, false);
        _header(decoderHeader(), 6, 9, true);
        _header(decoderHeader(), 6, 4, false); // does not divide the heads
        _header(decoderHeader(), 6, 0, false);
        _header(decoderHeader(), 6, 18, false); // more than heads
        _header(decoderHeader(), 10, 8192, true); // window within the context
        _header(decoderHeader(), 10, 8193, false);
        _header(decoderHeader(), 17, 1, false); // a decoder does not pool
        _header(decoderHeader(), 18, 1, false);
        _header(decoderHeader(), 29, 1 << 24, true);
        _header(decoderHeader(), 29, (1 << 24) + 1, false);
        _header(decoderHeader(), 32, 63, false); // rotary dims come in pairs
        _header(decoderHeader(), 32, 66, false);
    }

    /// @dev The greatest model of all: its multiply-adds fit, with the work of the greatest job.
    function test_register_macsOfTheGreatestHeaderFit() external {
        bytes memory header = decoderHeader();
        uint32[2][9] memory greatest = [
            [uint32(2), 1 << 24],
            [uint32(3), 16_384],
            [uint32(4), 1024],
            [uint32(5), 128],
            [uint32(6), 128],
            [uint32(7), 256],
            [uint32(8), 32_768],
            [uint32(9), 32_768],
            [uint32(16), 0xff]
        ];
        for (uint256 i = 0; i < 9; ++i) {
            _set(header, greatest[i][0], greatest[i][1]);
        }
        ModelId id = models.register(registration(header, 0));
        uint256 macs = (uint256(16_384) * 256 * 512 + uint256(32_768) * 16_384 * 3) * 1024 + uint256(16_384) * (1 << 24);
        vm.assertEq(models.model(id).macsPerToken, macs);
        vm.assertLt(macs, 1 << 44);
        vm.assertLt((uint256(type(uint64).max) + 32_768 * 65_536 * 256) * macs, 1 << 128);
    }

    /* ANNOUNCE */

    function testFuzz_announcePackage_isThePublishersAlone(address caller) external {
        vm.assume(caller != publisher);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NotPublisher.selector, encoder, publisher, caller));
        vm.prank(caller);
        models.announcePackage(encoder, 0x70, "digest");
        vm.expectEmit(true, true, true, true, address(models));
        emit IModelRegistry.PackageAnnounced(encoder, 0x70, "digest");
        vm.prank(publisher);
        models.announcePackage(encoder, 0x70, "digest");
    }

    function testFuzz_announcePackage_revertsIfModelOrCodecAreUnknown(ModelId unknown, uint8 codec) external {
        vm.assume(models.model(unknown).publisher == address(0) && codec != 0x55 && codec != 0x70);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelUnknown.selector, unknown));
        models.announcePackage(unknown, 0x70, "digest");
        vm.expectRevert(outOfBounds("packageCodec", codec, 0x55, 0x70));
        vm.prank(publisher);
        models.announcePackage(encoder, codec, "digest");
    }

    function test_constructor_refusesAMissingGuardian() external {
        vm.expectRevert(abi.encodeWithSelector(IEntry.ContractNotAllowed.selector, bytes32("guardian"), stranger));
        new ModelRegistry(stranger);
    }

    /* HELPERS */

    function _header(bytes memory header, uint256 index, uint32 value, bool legal) private {
        _set(header, index, value);
        IModelRegistry.Registration memory r = registration(header, 0);
        r.weightsRoot = keccak256(header);
        r.tokenizerHash = bytes32(++_registered); // a new id each time
        (bool ok, bytes memory answer) = address(models).call(abi.encodeCall(models.register, (r)));
        vm.assertTrue(ok == legal, string.concat("field ", vm.toString(index), " value ", vm.toString(uint256(value))));
        if (!ok) {
            bytes4 selector = bytes4(answer);
            vm.assertEq(bytes32(selector), bytes32(IModelRegistry.HeaderField.selector));
        }
    }

    function _set(bytes memory header, uint256 index, uint32 value) private pure {
        for (uint256 i = 0; i < 4; ++i) {
            header[4 * index + i] = bytes4(value)[i];
        }
    }

    function _refused(IModelRegistry.Registration memory r, bytes memory reason) private {
        vm.expectRevert(reason);
        models.register(r);
    }
}
