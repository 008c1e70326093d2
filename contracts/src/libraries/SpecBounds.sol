// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IEntry} from "../interfaces/IEntry.sol";
import {JobSpec} from "../types/Job.sol";

/// @title The bounds of a job spec that need neither the chain nor the clock (docs/PROTOCOL.md, section 3)
library SpecBounds {
    uint8 internal constant EMBED = 1;
    uint8 internal constant GENERATE = 2;
    uint256 internal constant MAX_ITEMS = 65_536;
    uint256 internal constant MAX_SAMPLES = 256;
    uint256 internal constant MAX_OUTPUT = 32_768;
    uint256 internal constant MAX_DELIVER_SECS = 30 days;
    /// @notice CIDv1 codecs: raw and dag-pb.
    uint256 internal constant CODEC_RAW = 0x55;
    uint256 internal constant CODEC_DAG_PB = 0x70;

    /// @notice Reverts `FieldOutOfBounds` with the first field that is not allowed.
    function check(JobSpec calldata spec) internal pure {
        uint256 kind = spec.kind;
        within("kind", kind, EMBED, GENERATE);
        within("itemCount", spec.itemCount, 1, MAX_ITEMS);
        within("rampFloorBps", spec.rampFloorBps, 1, 10_000);
        within("deliverWithin", spec.deliverWithin, 1, MAX_DELIVER_SECS);
        checkCodec("inputCodec", spec.inputCodec);
        if (kind == EMBED) {
            within("samplesPerItem", spec.samplesPerItem, 1, 1);
            within("maxOutput", spec.maxOutput, 0, 0);
            within("stopIds", uint256(spec.stopIds), 0, 0);
            within("temperature", spec.temperature, 0, 0);
            within("minP", spec.minP, 0, 0);
            within("seed", uint256(spec.seed), 0, 0);
            within("outputPrice", spec.outputPrice, 0, 0);
        } else {
            within("samplesPerItem", spec.samplesPerItem, 1, MAX_SAMPLES);
            within("maxOutput", spec.maxOutput, 1, MAX_OUTPUT);
            within("minP", spec.minP, 0, 65_536);
        }
    }

    /// @notice Reverts `FieldOutOfBounds` where a CID's codec is neither raw nor dag-pb.
    function checkCodec(bytes32 field, uint256 codec) internal pure {
        if (codec != CODEC_RAW && codec != CODEC_DAG_PB) revert IEntry.FieldOutOfBounds(field, codec, CODEC_RAW, CODEC_DAG_PB);
    }

    /// @notice Reverts `FieldOutOfBounds` where the value is outside min to max.
    function within(bytes32 field, uint256 value, uint256 min, uint256 max) internal pure {
        if (value < min || value > max) revert IEntry.FieldOutOfBounds(field, value, min, max);
    }
}
