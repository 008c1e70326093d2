// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Commit} from "../../src/libraries/Commit.sol";
import {ModelHeader} from "../../src/libraries/ModelHeader.sol";
import {ModelId} from "../../src/types/Ids.sol";
import {Vm} from "../Vm.sol";

/// @title The Solidity twin of crates/commit gives the golden values of tests/vectors/commit.json
contract CommitVectorsTest {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    string private _json;

    function setUp() external {
        _json = vm.readFile("../tests/vectors/commit.json");
    }

    function test_commit_vectors() external view {
        uint256 i = 0;
        for (; _exists(".vectors", i); ++i) {
            string memory path = _at(".vectors", i);
            uint8 elementType = uint8(_uint(path, ".type"));
            vm.assertEq(Commit.vector(elementType, _bytes(path, ".elements")), _bytes32(path, ".hash"), path);
            bytes32[] memory chunks = vm.parseJsonBytes32Array(_json, string.concat(path, ".chunk_hashes"));
            vm.assertEq(Commit.vectorOfChunks(elementType, uint32(_uint(path, ".length")), chunks), _bytes32(path, ".hash"), path);
        }
        vm.assertEq(i, 36);
    }

    function test_commit_laneOrder() external view {
        uint256 i = 0;
        for (; _exists(".lanes", i); ++i) {
            string memory path = _at(".lanes", i);
            vm.assertEq(Commit.laneOrder(_bytes(path, ".elements")), _bytes(path, ".lanes"));
        }
        vm.assertGt(i, 0);
    }

    function test_commit_tensors() external view {
        uint256 i = 0;
        for (; _exists(".tensors", i); ++i) {
            string memory path = _at(".tensors", i);
            uint256 width = _uint(path, ".width");
            bytes32[] memory rows = new bytes32[](_uint(path, ".rows"));
            bytes memory elements = _bytes(path, ".elements");
            for (uint256 r = 0; r < rows.length; ++r) {
                rows[r] = Commit.vector(Commit.I32, _slice(elements, r * width * 4, (r + 1) * width * 4));
            }
            vm.assertEq(Commit.tensor(Commit.I32, uint32(width), rows), _bytes32(path, ".hash"), path);
            for (uint256 o = 0; _exists(string.concat(path, ".openings"), o); ++o) {
                _checkTensorOpening(path, _at(string.concat(path, ".openings"), o), rows);
            }
        }
        vm.assertGt(i, 0);
    }

    function test_commit_leaves() external view {
        bytes32 ids = _bytes32(".leaves.input", ".ids_hash");
        _same(Commit.inputLeaf(7, 5, ids), ".leaves.input.leaf");
        _same(Commit.outputLeafGenerate(7, 3, 2, 5, ids), ".leaves.generate.leaf");
        _same(Commit.outputLeafEmbed(7, 1, 384, _bytes32(".leaves.embed", ".vector_hash")), ".leaves.embed.leaf");
        vm.assertEq(Commit.sumEmpty().hash, _bytes32(".leaves", ".empty_sum_leaf"));
        vm.assertEq(Commit.treeEmpty(), _bytes32(".leaves", ".empty_tree_leaf"));
    }

    function test_commit_sumTrees() external view {
        uint256 i = 0;
        for (; _exists(".sum_trees", i); ++i) {
            string memory path = _at(".sum_trees", i);
            Commit.SumNode[] memory leaves = _nodes(string.concat(path, ".leaves"));
            _same(Commit.sumRoot(leaves), string.concat(path, ".root"));
            for (uint256 o = 0; o < leaves.length; ++o) {
                Commit.SumNode[] memory siblings = _nodes(string.concat(_at(string.concat(path, ".openings"), o), ".siblings"));
                _same(Commit.sumRootFromOpening(leaves[o], o, leaves.length, siblings), string.concat(path, ".root"));
            }
        }
        vm.assertEq(i, 5);
    }

    function test_commit_trees() external view {
        uint256 i = 0;
        for (; _exists(".trees", i); ++i) {
            string memory path = _at(".trees", i);
            bytes32[] memory leaves = vm.parseJsonBytes32Array(_json, string.concat(path, ".leaves"));
            vm.assertEq(Commit.treeRoot(leaves), _bytes32(path, ".root"), path);
            for (uint256 o = 0; o < leaves.length; ++o) {
                bytes32[] memory siblings =
                    vm.parseJsonBytes32Array(_json, string.concat(_at(string.concat(path, ".openings"), o), ".siblings"));
                vm.assertEq(Commit.treeRootFromOpening(leaves[o], o, leaves.length, siblings), _bytes32(path, ".root"), path);
            }
        }
        vm.assertEq(i, 5);
    }

    function test_commit_model() external view {
        for (uint256 i = 0; _exists(".model.matrices", i); ++i) {
            string memory path = _at(".model.matrices", i);
            bytes32[] memory rows = new bytes32[](_uint(path, ".rows"));
            for (uint256 r = 0; r < rows.length; ++r) {
                rows[r] = _weightRow(_at(string.concat(path, ".row_list"), r));
            }
            bytes32 top = Commit.treeRoot(rows);
            vm.assertEq(top, _bytes32(path, ".top"), path);
            vm.assertEq(Commit.matrix(uint32(rows.length), uint32(_uint(path, ".columns")), top), _bytes32(path, ".root"), path);
        }
        bytes32[] memory tensors = vm.parseJsonBytes32Array(_json, ".model.tensor_roots");
        bytes32 weights = Commit.weightsRoot(uint32(tensors.length), Commit.treeRoot(tensors));
        vm.assertEq(weights, _bytes32(".model", ".weights_root"));
        bytes memory header = _bytes(".model", ".header");
        (uint8 family, uint64 macsPerToken) = this.check(header);
        vm.assertEq(family, ModelHeader.ENCODER);
        vm.assertEq(macsPerToken, _uint(".model", ".macs_per_token"));
        bytes32 package = Commit.packageRoot(header, weights, _bytes32(".model", ".tokenizer_hash"));
        vm.assertEq(package, _bytes32(".model", ".package_root"));
        ModelId id = Commit.modelId(package, vm.parseJsonAddress(_json, ".model.publisher"), uint16(_uint(".model", ".royalty_bps")));
        vm.assertEq(ModelId.unwrap(id), _bytes32(".model", ".model_id"));
    }

    function test_commit_job() external view {
        uint256 items = 0;
        Commit.SumNode[] memory inputs = new Commit.SumNode[](5);
        Commit.SumNode[] memory outputs = new Commit.SumNode[](5);
        for (; _exists(".job.items", items); ++items) {
            uint256[] memory ids = vm.parseJsonUintArray(_json, _at(".job.items", items));
            bytes memory elements;
            for (uint256 i = 0; i < ids.length; ++i) {
                elements = bytes.concat(elements, bytes4(uint32(ids[i])));
            }
            inputs[items] = Commit.inputLeaf(uint32(items), uint32(ids.length), Commit.vector(Commit.U32, elements));
            bytes memory elements16 = vm.parseJsonBytes(_json, _at(".job.vectors", items));
            uint8 reason = uint8(vm.parseJsonUint(_json, _at(".job.reasons", items)));
            bytes32 hash = Commit.vector(Commit.I16, elements16);
            outputs[items] = Commit.outputLeafEmbed(uint32(items), reason, uint32(elements16.length / 2), hash);
        }
        vm.assertEq(items, 5);
        _same(Commit.sumRoot(inputs), ".job.input_root");
        _same(Commit.sumRoot(outputs), ".job.output_root");
        bytes32 top = Commit.treeRoot(vm.parseJsonBytes32Array(_json, ".job.work_leaves"));
        vm.assertEq(top, _bytes32(".job", ".work_top"));
        bytes32 root = Commit.workRoot(5, top);
        vm.assertEq(root, _bytes32(".job", ".work_root"));
        bytes32 digest = Commit.workDigest(root, vm.parseJsonAddress(_json, ".job.provider"), _bytes32(".job", ".job_id"));
        vm.assertEq(digest, _bytes32(".job", ".work_digest"));
    }

    /* OPENINGS THAT LIE */

    function testFuzz_commit_openingWithAnotherCountGivesAnotherRoot(uint64 count, uint256 index) external pure {
        Commit.SumNode[] memory leaves = new Commit.SumNode[](4);
        for (uint256 i = 0; i < 4; ++i) {
            leaves[i] = Commit.inputLeaf(uint32(i), uint32(10 * i), keccak256(abi.encode(i)));
        }
        index %= 4;
        vm.assume(count != leaves[index].count && count < 1 << 60);
        bytes32 root = Commit.sumRoot(leaves).hash;
        Commit.SumNode[] memory siblings = new Commit.SumNode[](2);
        siblings[0] = leaves[index ^ 1];
        uint256 other = 2 * (1 - index / 2);
        siblings[1] = Commit.sumNode(leaves[other], leaves[other + 1]);
        vm.assertEq(Commit.sumRootFromOpening(leaves[index], index, 4, siblings).hash, root);
        leaves[index].count = count;
        vm.assertNotEq(Commit.sumRootFromOpening(leaves[index], index, 4, siblings).hash, root);
    }

    /// @dev A path of another length would open an inner node as if it were a leaf.
    function testFuzz_commit_openingRefusesAPathOfAnotherLength(uint256 leafCount, uint256 index, uint8 length) external {
        leafCount = 1 + leafCount % 1000;
        index %= leafCount;
        uint256 depth = 0;
        while (1 << depth < leafCount) ++depth;
        vm.assume(length != depth && length < 40);
        vm.expectRevert(abi.encodeWithSelector(Commit.CountOutOfBounds.selector, length, 0, 32));
        this.open(index, leafCount, new bytes32[](length));
    }

    function testFuzz_commit_openingRefusesAnIndexBeyondTheLeaves(uint256 leafCount, uint256 index) external {
        leafCount = 1 + leafCount % 1000;
        vm.assume(index >= leafCount);
        vm.expectRevert(abi.encodeWithSelector(Commit.CountOutOfBounds.selector, index, 0, leafCount));
        this.open(index, leafCount, new bytes32[](0));
    }

    function testFuzz_commit_vectorRefusesBrokenElements(uint8 elementType, uint8 length) external {
        bool known = elementType >= 1 && elementType <= 4;
        uint256 width = elementType <= 2 ? 4 : 2;
        vm.assume(!known || length % width != 0);
        vm.expectRevert(abi.encodeWithSelector(Commit.ElementsMalformed.selector, elementType, known ? length : 0));
        this.vector(elementType, new bytes(length));
    }

    function check(bytes calldata header) external pure returns (uint8, uint64) {
        return ModelHeader.check(header);
    }

    function open(uint256 index, uint256 leafCount, bytes32[] calldata siblings) external pure returns (bytes32) {
        return Commit.treeRootFromOpening(0, index, leafCount, siblings);
    }

    function vector(uint8 elementType, bytes calldata elements) external pure returns (bytes32) {
        return Commit.vector(elementType, elements);
    }

    /* READING THE FILE */

    function _checkTensorOpening(string memory tensor, string memory opening, bytes32[] memory rows) private view {
        bytes32 node = _bytes32(opening, ".row_hash");
        vm.assertEq(node, rows[_uint(opening, ".row")]);
        uint256 index = _uint(opening, ".row");
        for (uint256 l = 0; _exists(string.concat(opening, ".levels"), l); ++l) {
            bytes32[] memory children = vm.parseJsonBytes32Array(_json, _at(string.concat(opening, ".levels"), l));
            vm.assertEq(children[index % 32], node);
            node = Commit.tensorNode(children);
            index /= 32;
        }
        bytes32 whole = Commit.tensorOfTop(Commit.I32, uint32(rows.length), uint32(_uint(tensor, ".width")), node);
        vm.assertEq(whole, _bytes32(tensor, ".hash"));
    }

    function _weightRow(string memory path) private view returns (bytes32 hash) {
        uint256[] memory mantissas = vm.parseJsonUintArray(_json, string.concat(path, ".mantissas"));
        bytes memory packed;
        for (uint256 i = 0; i < mantissas.length; ++i) {
            packed = bytes.concat(packed, bytes2(uint16(mantissas[i])));
        }
        int32 bias = int32(vm.parseJsonInt(_json, string.concat(path, ".bias")));
        hash = Commit.weightRow(uint8(_uint(path, ".shift")), bias, packed, _bytes(path, ".weights"));
        vm.assertEq(hash, _bytes32(path, ".hash"), path);
    }

    function _nodes(string memory path) private view returns (Commit.SumNode[] memory nodes) {
        uint256 count = 0;
        while (_exists(path, count)) ++count;
        nodes = new Commit.SumNode[](count);
        for (uint256 i = 0; i < count; ++i) {
            nodes[i] = Commit.SumNode(_bytes32(_at(path, i), ".hash"), uint64(_uint(_at(path, i), ".count")));
        }
    }

    function _same(Commit.SumNode memory node, string memory path) private view {
        vm.assertEq(node.hash, _bytes32(path, ".hash"), path);
        vm.assertEq(node.count, _uint(path, ".count"), path);
    }

    function _at(string memory list, uint256 index) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(index), "]");
    }

    function _exists(string memory list, uint256 index) private view returns (bool) {
        return vm.keyExistsJson(_json, _at(list, index));
    }

    function _uint(string memory path, string memory key) private view returns (uint256) {
        return vm.parseJsonUint(_json, string.concat(path, key));
    }

    function _bytes32(string memory path, string memory key) private view returns (bytes32) {
        return vm.parseJsonBytes32(_json, string.concat(path, key));
    }

    function _bytes(string memory path, string memory key) private view returns (bytes memory) {
        return vm.parseJsonBytes(_json, string.concat(path, key));
    }

    function _slice(bytes memory data, uint256 start, uint256 end) private pure returns (bytes memory part) {
        part = new bytes(end - start);
        for (uint256 i = 0; i < part.length; ++i) {
            part[i] = data[start + i];
        }
    }
}
