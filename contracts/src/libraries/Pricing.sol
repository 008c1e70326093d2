// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobSpec} from "../types/Job.sol";

/// @title What a job costs (docs/PROTOCOL.md, section 3)
/// @notice ROUNDING: every division is down; the remainder stays with the client.
library Pricing {
    /// @notice The whole in basis points.
    uint256 internal constant ONE_BPS = 10_000;

    /// @notice The most that a job can cost, not bounded yet: below 2^193.
    function maxFee(JobSpec calldata spec) internal pure returns (uint256) {
        return _fullPrice(spec, maxOutputLen(spec));
    }

    /// @notice The most ids that a job can output.
    function maxOutputLen(JobSpec calldata spec) internal pure returns (uint256) {
        unchecked {
            return uint256(spec.maxOutput) * spec.itemCount * spec.samplesPerItem;
        }
    }

    /// @notice What `outputLen` ids of output cost at `bps`.
    function fee(JobSpec calldata spec, uint256 outputLen, uint256 bps) internal pure returns (uint256) {
        unchecked {
            return _fullPrice(spec, outputLen) * bps / ONE_BPS;
        }
    }

    /// @notice The price `elapsedSecs` after the posting, in 1/10,000 of the maximum.
    function priceBps(JobSpec calldata spec, uint256 elapsedSecs) internal pure returns (uint16) {
        uint256 rampSecs = spec.rampSecs;
        if (elapsedSecs >= rampSecs) return uint16(ONE_BPS);
        unchecked {
            return uint16(spec.rampFloorBps + (ONE_BPS - spec.rampFloorBps) * elapsedSecs / rampSecs);
        }
    }

    /// @dev Prices are below 2^96, lengths below 2^64 (outputLen: below 2^96), so the sum is below 2^193 and nothing can overflow.
    function _fullPrice(JobSpec calldata spec, uint256 outputLen) private pure returns (uint256) {
        unchecked {
            return uint256(spec.basePrice) + uint256(spec.inputPrice) * spec.inputLen + uint256(spec.outputPrice) * outputLen
                + uint256(spec.itemPrice) * spec.itemCount;
        }
    }
}
