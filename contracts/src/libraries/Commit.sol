// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ModelId} from "../types/Ids.sol";

/// @title Commitments: the hashes of docs/PROTOCOL.md, section 1
/// @notice Every preimage begins with a tag that no other kind has. The twin of crates/commit; both are held to
/// tests/vectors/commit.json. Integers are big-endian, nothing is padded.
library Commit {
    /// @notice Element types: the `type` byte of chunks, vectors and tensors.
    uint8 internal constant U32 = 1;
    uint8 internal constant I32 = 2;
    uint8 internal constant I16 = 3;
    uint8 internal constant I16_LANES = 4;

    /// @notice Elements of a full chunk.
    uint256 internal constant CHUNK = 256;
    /// @notice Children of a full tensor node.
    uint256 internal constant FAN_OUT = 32;

    uint8 private constant TAG_CHUNK = 0x01;
    uint8 private constant TAG_VECTOR = 0x02;
    uint8 private constant TAG_TENSOR_NODE = 0x03;
    uint8 private constant TAG_TENSOR = 0x04;
    uint8 private constant TAG_INPUT_LEAF = 0x10;
    uint8 private constant TAG_OUTPUT_GENERATE = 0x11;
    uint8 private constant TAG_OUTPUT_EMBED = 0x12;
    uint8 private constant TAG_SUM_NODE = 0x13;
    uint8 private constant TAG_SUM_EMPTY = 0x14;
    uint8 private constant TAG_WEIGHT_ROW = 0x20;
    uint8 private constant TAG_TREE_NODE = 0x21;
    uint8 private constant TAG_TREE_EMPTY = 0x22;
    uint8 private constant TAG_MATRIX = 0x23;
    uint8 private constant TAG_WEIGHTS = 0x24;
    uint8 private constant TAG_PACKAGE = 0x30;
    uint8 private constant TAG_MODEL_ID = 0x31;
    uint8 private constant TAG_WORK_ROOT = 0x40;
    uint8 private constant TAG_WORK_DIGEST = 0x41;

    /// @notice A node of a sum tree: its hash and the sum of what lies below it.
    struct SumNode {
        bytes32 hash;
        uint64 count;
    }

    /// @notice An element type that does not exist, or bytes that are no whole number of elements.
    error ElementsMalformed(uint256 elementType, uint256 byteLength);
    /// @notice More than a chunk, a node or a tree of this kind holds, or nothing where something must be.
    error CountOutOfBounds(uint256 count, uint256 min, uint256 max);

    /* VECTORS AND TENSORS */

    /// @notice Hash of one chunk: up to 256 elements, already in the order of their type.
    function chunk(uint8 elementType, bytes memory elements) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_CHUNK, elementType, elements));
    }

    /// @notice Hash of a vector of `length` elements from the hashes of its chunks.
    function vectorOfChunks(uint8 elementType, uint32 length, bytes32[] memory chunks) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_VECTOR, elementType, length, chunks));
    }

    /// @notice Hash of a vector from its elements in natural order, whatever the type's own order is.
    function vector(uint8 elementType, bytes memory elements) internal pure returns (bytes32) {
        uint256 width = _width(elementType);
        if (elements.length % width != 0) revert ElementsMalformed(elementType, elements.length);
        uint256 length = elements.length / width;
        bytes32[] memory chunks = new bytes32[]((length + CHUNK - 1) / CHUNK);
        for (uint256 i = 0; i < chunks.length; ++i) {
            uint256 start = i * CHUNK * width;
            uint256 end = start + CHUNK * width < elements.length ? start + CHUNK * width : elements.length;
            bytes memory part = _slice(elements, start, end);
            chunks[i] = chunk(elementType, elementType == I16_LANES ? laneOrder(part) : part);
        }
        return vectorOfChunks(elementType, uint32(length), chunks);
    }

    /// @notice One chunk of int16 in lane order: zero-padded to blocks of 32; of each block first the pairs a_28 a_29, a_24 a_25, ...,
    /// a_0 a_1, then a_30 a_31, a_26 a_27, ..., a_2 a_3.
    function laneOrder(bytes memory elements) internal pure returns (bytes memory lanes) {
        // Rounding up to whole blocks, and splitting an index into its parts: the divisions are meant to drop the remainder.
        // slither-disable-next-line divide-before-multiply
        lanes = new bytes((elements.length + 63) / 64 * 64);
        for (uint256 i = 0; i < lanes.length; ++i) {
            // Byte i of the result: block, half (0: pairs at 0 mod 4, 1: at 2 mod 4), quad from the last to the first, byte of the pair.
            // slither-disable-next-line divide-before-multiply
            uint256 source = 64 * (i / 64) + 8 * (7 - (i % 32) / 4) + 4 * ((i % 64) / 32) + i % 4;
            if (source < elements.length) lanes[i] = elements[source];
        }
    }

    /// @notice One inner node of a tensor: up to 32 children.
    function tensorNode(bytes32[] memory children) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_TENSOR_NODE, children));
    }

    /// @notice Hash of a tensor from its top.
    function tensorOfTop(uint8 elementType, uint32 rows, uint32 width, bytes32 top) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_TENSOR, elementType, rows, width, top));
    }

    /// @notice Hash of a tensor from the vector hashes of its rows.
    function tensor(uint8 elementType, uint32 width, bytes32[] memory rowHashes) internal pure returns (bytes32) {
        bytes32[] memory level = rowHashes;
        while (level.length > 1) {
            bytes32[] memory next = new bytes32[]((level.length + FAN_OUT - 1) / FAN_OUT);
            for (uint256 i = 0; i < next.length; ++i) {
                uint256 end = (i + 1) * FAN_OUT < level.length ? (i + 1) * FAN_OUT : level.length;
                bytes32[] memory children = new bytes32[](end - i * FAN_OUT);
                for (uint256 j = 0; j < children.length; ++j) {
                    children[j] = level[i * FAN_OUT + j];
                }
                next[i] = tensorNode(children);
            }
            level = next;
        }
        return tensorOfTop(elementType, uint32(rowHashes.length), width, level.length == 0 ? bytes32(0) : level[0]);
    }

    /* SUM TREES */

    /// @notice Leaf of an input: one item.
    function inputLeaf(uint32 item, uint32 length, bytes32 idsHash) internal pure returns (SumNode memory) {
        return SumNode(keccak256(abi.encodePacked(TAG_INPUT_LEAF, item, length, idsHash)), length);
    }

    /// @notice Leaf of a generated output.
    function outputLeafGenerate(uint32 item, uint32 sample, uint8 reason, uint32 length, bytes32 idsHash)
        internal
        pure
        returns (SumNode memory)
    {
        return SumNode(keccak256(abi.encodePacked(TAG_OUTPUT_GENERATE, item, sample, reason, length, idsHash)), length);
    }

    /// @notice Leaf of an embedding.
    function outputLeafEmbed(uint32 item, uint8 reason, uint32 width, bytes32 vectorHash) internal pure returns (SumNode memory) {
        return SumNode(keccak256(abi.encodePacked(TAG_OUTPUT_EMBED, item, reason, width, vectorHash)), 0);
    }

    /// @notice Inner node of a sum tree. Reverts where the counts do not fit 64 bits.
    function sumNode(SumNode memory left, SumNode memory right) internal pure returns (SumNode memory) {
        return SumNode(keccak256(abi.encodePacked(TAG_SUM_NODE, left.hash, left.count, right.hash, right.count)), left.count + right.count);
    }

    /// @notice What pads a sum tree to a power of two.
    function sumEmpty() internal pure returns (SumNode memory) {
        return SumNode(keccak256(abi.encodePacked(TAG_SUM_EMPTY)), 0);
    }

    /// @notice Root of a sum tree over at least one leaf.
    function sumRoot(SumNode[] memory leaves) internal pure returns (SumNode memory) {
        if (leaves.length == 0) revert CountOutOfBounds(0, 1, type(uint32).max);
        uint256 size = _powerOfTwo(leaves.length);
        SumNode[] memory level = new SumNode[](size);
        for (uint256 i = 0; i < size; ++i) {
            level[i] = i < leaves.length ? leaves[i] : sumEmpty();
        }
        for (; size > 1; size /= 2) {
            for (uint256 i = 0; i < size / 2; ++i) {
                level[i] = sumNode(level[2 * i], level[2 * i + 1]);
            }
        }
        return level[0];
    }

    /// @notice Root that follows from a leaf at `index` of a tree over `leafCount` leaves and the siblings from the leaf up.
    /// @dev The number of siblings is part of the statement: a shorter or longer path would open an inner node as a leaf.
    function sumRootFromOpening(SumNode memory leaf, uint256 index, uint256 leafCount, SumNode[] memory siblings)
        internal
        pure
        returns (SumNode memory node)
    {
        _checkPath(index, leafCount, siblings.length);
        node = leaf;
        for (uint256 i = 0; i < siblings.length; ++i) {
            node = (index >> i) & 1 == 0 ? sumNode(node, siblings[i]) : sumNode(siblings[i], node);
        }
    }

    /* TREES */

    /// @notice Inner node of a tree without counts.
    function treeNode(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_TREE_NODE, left, right));
    }

    /// @notice What pads a tree to a power of two.
    function treeEmpty() internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_TREE_EMPTY));
    }

    /// @notice Root of a tree over at least one leaf.
    function treeRoot(bytes32[] memory leaves) internal pure returns (bytes32) {
        if (leaves.length == 0) revert CountOutOfBounds(0, 1, type(uint32).max);
        uint256 size = _powerOfTwo(leaves.length);
        bytes32[] memory level = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            level[i] = i < leaves.length ? leaves[i] : treeEmpty();
        }
        for (; size > 1; size /= 2) {
            for (uint256 i = 0; i < size / 2; ++i) {
                level[i] = treeNode(level[2 * i], level[2 * i + 1]);
            }
        }
        return level[0];
    }

    /// @notice As `sumRootFromOpening`, for a tree without counts.
    function treeRootFromOpening(bytes32 leaf, uint256 index, uint256 leafCount, bytes32[] memory siblings)
        internal
        pure
        returns (bytes32 node)
    {
        _checkPath(index, leafCount, siblings.length);
        node = leaf;
        for (uint256 i = 0; i < siblings.length; ++i) {
            node = (index >> i) & 1 == 0 ? treeNode(node, siblings[i]) : treeNode(siblings[i], node);
        }
    }

    /* MODEL */

    /// @notice One row of a weight matrix; mantissas u16 each, elements int8 each.
    function weightRow(uint8 shift, int32 bias, bytes memory mantissas, bytes memory elements) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_WEIGHT_ROW, shift, bias, mantissas, elements));
    }

    /// @notice A weight matrix from the tree over its rows.
    function matrix(uint32 rows, uint32 columns, bytes32 top) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_MATRIX, rows, columns, top));
    }

    /// @notice All weights of a model from the tree over its tensors.
    function weightsRoot(uint32 tensorCount, bytes32 top) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_WEIGHTS, tensorCount, top));
    }

    /// @notice The root of a package: it names the arithmetic.
    function packageRoot(bytes memory header, bytes32 weights, bytes32 tokenizerHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_PACKAGE, header, weights, tokenizerHash));
    }

    /// @notice The id of a model: it names an offer.
    function modelId(bytes32 package, address publisher, uint16 royaltyBps) internal pure returns (ModelId) {
        return ModelId.wrap(keccak256(abi.encodePacked(TAG_MODEL_ID, package, publisher, royaltyBps)));
    }

    /* WORK */

    /// @notice The root over the final norms of all outputs, from the tree over them.
    function workRoot(uint32 outputCount, bytes32 top) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_WORK_ROOT, outputCount, top));
    }

    /// @notice The work digest: bound to provider and job, so it cannot be copied.
    function workDigest(bytes32 root, address provider, bytes32 jobId) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(TAG_WORK_DIGEST, root, provider, jobId));
    }

    /* INTERNAL */

    function _width(uint8 elementType) private pure returns (uint256) {
        if (elementType == U32 || elementType == I32) return 4;
        if (elementType == I16 || elementType == I16_LANES) return 2;
        revert ElementsMalformed(elementType, 0);
    }

    function _powerOfTwo(uint256 atLeast) private pure returns (uint256 size) {
        size = 1;
        while (size < atLeast) size *= 2;
    }

    function _checkPath(uint256 index, uint256 leafCount, uint256 siblings) private pure {
        if (index >= leafCount) revert CountOutOfBounds(index, 0, leafCount);
        uint256 size = _powerOfTwo(leafCount);
        if (size != 1 << siblings) revert CountOutOfBounds(siblings, 0, 32);
    }

    function _slice(bytes memory data, uint256 start, uint256 end) private pure returns (bytes memory part) {
        part = new bytes(end - start);
        for (uint256 i = 0; i < part.length; ++i) {
            part[i] = data[start + i];
        }
    }
}
