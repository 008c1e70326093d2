// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ModelId} from "../types/Ids.sol";
import {IEntry} from "./IEntry.sol";

/// @title The models that jobs may name
/// @notice A model id is the hash of the arithmetic (header, weights, tokenizer) with its publisher and royalty, so nobody can register
/// somebody else's id, and a registered model never changes.
///
/// Storage: slot 0: mapping model id => one word: bits 0 to 159 publisher, 160 to 175 royaltyBps, 176 to 183 family,
/// 184 to 247 macsPerToken.
interface IModelRegistry is IEntry {
    /// @notice What is registered (docs/PROTOCOL.md, section 2).
    /// @param header 40 u32, big-endian: 160 bytes
    /// @param weightsRoot root over all tensors
    /// @param tokenizerHash keccak of tokenizer.json; informative
    /// @param royaltyBps the publisher's part of each fee, in 1/10,000; at most 5,000
    /// @param packageCodec CIDv1 of the package: 0x55 raw or 0x70 dag-pb, sha2-256
    /// @param packageDigest the sha2-256 of that CID
    /// @param name for people, 1 to 64 bytes; not part of the id
    /// @param tags domains, comma-separated, up to 256 bytes; not part of the id
    struct Registration {
        bytes header;
        bytes32 weightsRoot;
        bytes32 tokenizerHash;
        uint16 royaltyBps;
        uint8 packageCodec;
        bytes32 packageDigest;
        string name;
        string tags;
    }

    /// @notice What jobs need of a model.
    /// @param publisher who registered it and gets the royalty
    /// @param royaltyBps in 1/10,000 of the fee
    /// @param family 1 encoder: jobs of kind 1 embed; 2 decoder: jobs of kind 2 generate
    /// @param macsPerToken linear multiply-adds per token
    struct Model {
        address publisher;
        uint16 royaltyBps;
        uint8 family;
        uint64 macsPerToken;
    }

    /// @notice A model was registered, for ever.
    event ModelRegistered(
        ModelId indexed modelId,
        address indexed publisher,
        bytes32 indexed packageRoot,
        uint8 family,
        uint64 macsPerToken,
        Registration registration
    );
    /// @notice The publisher says where the same package can (also) be fetched.
    event PackageAnnounced(ModelId indexed modelId, uint8 packageCodec, bytes32 packageDigest);

    /// @notice This publisher has registered this package with this royalty before.
    error ModelExists(ModelId modelId);
    /// @notice Nobody registered this model id.
    error ModelUnknown(ModelId modelId);
    /// @notice Only the publisher of a model may do this.
    error NotPublisher(ModelId modelId, address expected, address actual);
    /// @notice The header is not 160 bytes.
    error HeaderLength(uint256 expected, uint256 actual);
    /// @notice A header field is outside its bounds.
    /// @param index the number of the u32, 0 to 39
    error HeaderField(uint256 index, uint256 value, uint256 min, uint256 max);

    /// @notice Registers a model with the caller as its publisher.
    /// @dev Anyone, while entries are not stopped. Emits `ModelRegistered`.
    /// Reverts: `EntriesAreStopped`, `HeaderLength`, `HeaderField`, `FieldOutOfBounds`, `ModelExists`.
    function register(Registration calldata registration) external returns (ModelId);

    /// @notice Announces another CID of the package, for instance of another chunking. The publisher only. Emits `PackageAnnounced`.
    /// @dev TRUST: nobody checks it here; whoever fetches it checks it against the package root.
    function announcePackage(ModelId modelId, uint8 packageCodec, bytes32 packageDigest) external;

    /// @notice The model, or zeros where nobody registered it.
    function model(ModelId modelId) external view returns (Model memory);

    /// @notice The id that `register` would give to this package, publisher and royalty.
    function modelIdOf(bytes calldata header, bytes32 weightsRoot, bytes32 tokenizerHash, address publisher, uint16 royaltyBps)
        external
        pure
        returns (ModelId);
}
