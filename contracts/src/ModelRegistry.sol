// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IEntry} from "./interfaces/IEntry.sol";
import {IGuardian} from "./interfaces/IGuardian.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {Commit} from "./libraries/Commit.sol";
import {ModelHeader} from "./libraries/ModelHeader.sol";
import {ModelId} from "./types/Ids.sol";

/// @title See `IModelRegistry`
contract ModelRegistry is IModelRegistry {
    /// @notice The most of a fee that a publisher can ask, in 1/10,000.
    uint16 public constant MAX_ROYALTY_BPS = 5000;
    /// @notice The longest name, in bytes.
    uint256 public constant MAX_NAME_BYTES = 64;
    /// @notice The longest list of tags, in bytes.
    uint256 public constant MAX_TAGS_BYTES = 256;

    /// @inheritdoc IEntry
    address public immutable GUARDIAN;

    mapping(ModelId => Model) private _models;

    constructor(address guardian) {
        if (guardian.code.length == 0) revert ContractNotAllowed("guardian", guardian);
        GUARDIAN = guardian;
    }

    /// @inheritdoc IModelRegistry
    function register(Registration calldata r) external returns (ModelId modelId) {
        if (IGuardian(GUARDIAN).entriesStopped()) revert EntriesAreStopped();
        (uint8 family, uint64 macsPerToken) = ModelHeader.check(r.header);
        if (r.royaltyBps > MAX_ROYALTY_BPS) revert FieldOutOfBounds("royaltyBps", r.royaltyBps, 0, MAX_ROYALTY_BPS);
        _requireCodec(r.packageCodec);
        uint256 nameLength = bytes(r.name).length;
        if (nameLength == 0 || nameLength > MAX_NAME_BYTES) revert FieldOutOfBounds("name", nameLength, 1, MAX_NAME_BYTES);
        uint256 tagsLength = bytes(r.tags).length;
        if (tagsLength > MAX_TAGS_BYTES) revert FieldOutOfBounds("tags", tagsLength, 0, MAX_TAGS_BYTES);

        bytes32 packageRoot = Commit.packageRoot(r.header, r.weightsRoot, r.tokenizerHash);
        modelId = Commit.modelId(packageRoot, msg.sender, r.royaltyBps);
        if (_models[modelId].publisher != address(0)) revert ModelExists(modelId);

        _models[modelId] = Model(msg.sender, r.royaltyBps, family, macsPerToken);
        emit ModelRegistered(modelId, msg.sender, packageRoot, family, macsPerToken, r);
    }

    /// @inheritdoc IModelRegistry
    function announcePackage(ModelId modelId, uint8 packageCodec, bytes32 packageDigest) external {
        address publisher = _models[modelId].publisher;
        if (publisher == address(0)) revert ModelUnknown(modelId);
        if (msg.sender != publisher) revert NotPublisher(modelId, publisher, msg.sender);
        _requireCodec(packageCodec);
        emit PackageAnnounced(modelId, packageCodec, packageDigest);
    }

    /// @inheritdoc IModelRegistry
    function model(ModelId modelId) external view returns (Model memory) {
        return _models[modelId];
    }

    /// @inheritdoc IModelRegistry
    function modelIdOf(bytes calldata header, bytes32 weightsRoot, bytes32 tokenizerHash, address publisher, uint16 royaltyBps)
        external
        pure
        returns (ModelId)
    {
        return Commit.modelId(Commit.packageRoot(header, weightsRoot, tokenizerHash), publisher, royaltyBps);
    }

    function _requireCodec(uint8 codec) private pure {
        if (codec != 0x55 && codec != 0x70) revert FieldOutOfBounds("packageCodec", codec, 0x55, 0x70);
    }
}
