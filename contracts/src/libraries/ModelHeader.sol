// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IModelRegistry} from "../interfaces/IModelRegistry.sol";

/// @title Reads and checks a model's header: 40 u32, big-endian (docs/PROTOCOL.md, section 2)
library ModelHeader {
    uint256 internal constant BYTES = 160;
    uint8 internal constant ENCODER = 1;
    uint8 internal constant DECODER = 2;

    uint256 private constant FLAG_GATED_FFN = 1 << 0;
    uint256 private constant FLAGS_KNOWN = 0xff;
    /// @dev norm on q and k, tied head, causal.
    uint256 private constant FLAGS_NOT_OF_ENCODERS = 1 << 3 | 1 << 4 | 1 << 6;

    /// @notice Checks every bound that the arithmetic's proofs of width rest on (docs/EXACT.md, section 2); the twin of the header's
    /// validation in crates/exact. Reverts `HeaderLength` or `HeaderField`.
    /// @return family 1 encoder, 2 decoder
    /// @return macsPerToken linear multiply-adds per token; less than 2^44 below these bounds
    function check(bytes calldata header) internal pure returns (uint8 family, uint64 macsPerToken) {
        if (header.length != BYTES) revert IModelRegistry.HeaderLength(BYTES, header.length);
        _within(header, 0, 1, 1); // profile
        family = uint8(_within(header, 1, ENCODER, DECODER));
        uint256 vocabulary = _within(header, 2, 1, 1 << 24);
        uint256 dim = _within(header, 3, 1, 16_384);
        uint256 layers = _within(header, 4, 1, 1024);
        uint256 heads = _within(header, 5, 1, 32_768);
        uint256 kvHeads = _within(header, 6, 1, heads);
        if (heads % kvHeads != 0) revert IModelRegistry.HeaderField(6, kvHeads, 1, heads);
        uint256 headDim = _within(header, 7, 1, 256);
        // The attention's output is an operand of a product: at most 32,768 long.
        _within(header, 5, 1, 32_768 / headDim);
        uint256 ffn = _within(header, 8, 1, 32_768);
        uint256 flags = _within(header, 16, 0, FLAGS_KNOWN);
        _checkParameters(header, headDim);
        if (family == ENCODER) _checkEncoder(header, heads, kvHeads, flags);
        else _checkDecoder(header);

        uint256 perLayer = dim * headDim * (2 * heads + 2 * kvHeads) + ffn * dim * ((flags & FLAG_GATED_FFN) != 0 ? 3 : 2);
        macsPerToken = uint64(perLayer * layers + (family == DECODER ? vocabulary * dim : 0));
    }

    /// @dev Fields of every family that the multiply-adds do not depend on.
    function _checkParameters(bytes calldata header, uint256 headDim) private pure {
        uint256 context = _within(header, 9, 1, 32_768);
        _within(header, 10, 0, context); // sliding window
        _within(header, 11, 0, (1 << 30) - 1); // high word of E < 2^62
        _within(header, 13, 1, 1 << 25); // c
        _within(header, 14, 1, 2); // norm
        _within(header, 15, 1, 3); // activation
        _within(header, 17, 0, 2); // pooling
        _within(header, 18, 0, 256); // token types
        _within(header, 29, 0, 1 << 24); // embedding scale
        _within(header, 30, 0, 0); // reserved: soft caps
        _within(header, 31, 0, 0);
        uint256 rotary = _within(header, 32, 0, headDim);
        if (rotary % 2 != 0) revert IModelRegistry.HeaderField(32, rotary, 0, headDim);
        for (uint256 i = 33; i < 40; ++i) {
            _within(header, i, 0, 0); // reserved
        }
    }

    function _checkEncoder(bytes calldata header, uint256 heads, uint256 kvHeads, uint256 flags) private pure {
        if (kvHeads != heads) revert IModelRegistry.HeaderField(6, kvHeads, heads, heads);
        _within(header, 10, 0, 0);
        _within(header, 29, 0, 0);
        _within(header, 32, 0, 0);
        if (flags & FLAGS_NOT_OF_ENCODERS != 0) revert IModelRegistry.HeaderField(16, flags, 0, FLAGS_KNOWN & ~FLAGS_NOT_OF_ENCODERS);
        _within(header, 17, 1, 2);
    }

    function _checkDecoder(bytes calldata header) private pure {
        _within(header, 17, 0, 0);
        _within(header, 18, 0, 0);
    }

    function _within(bytes calldata header, uint256 index, uint256 min, uint256 max) private pure returns (uint256 value) {
        value = uint32(bytes4(header[4 * index:4 * index + 4]));
        if (value < min || value > max) revert IModelRegistry.HeaderField(index, value, min, max);
    }
}
