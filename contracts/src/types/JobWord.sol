// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {State} from "./Job.sol";

/// @notice The first storage word of a job. The value 0 is a job that does not exist.
/// | field          | bits | offset |
/// |----------------|------|--------|
/// | state          | 8    | 0      |
/// | clock          | 40   | 8      |
/// | priceBps       | 16   | 48     |
/// | operator       | 160  | 64     |
/// | challengesOpen | 16   | 224    |
/// | extended       | 1    | 240    |
type JobWord is uint256;

using JobWords for JobWord global;

/// @title Reads and replaces fields of a `JobWord`
/// @dev One word read and one written per call of the market, whatever it changes.
library JobWords {
    /// @notice The word of a job that was just posted.
    function open(uint40 postedAt) internal pure returns (JobWord) {
        return JobWord.wrap(uint256(State.Open) | uint256(postedAt) << 8);
    }

    /// @notice The word of a job that was just claimed.
    function claimed(uint40 deadline, uint16 priceBps_, address operator_) internal pure returns (JobWord) {
        return JobWord.wrap(uint256(State.Claimed) | uint256(deadline) << 8 | uint256(priceBps_) << 48 | uint256(uint160(operator_)) << 64);
    }

    function state(JobWord word) internal pure returns (State) {
        return State(uint8(JobWord.unwrap(word)));
    }

    function clock(JobWord word) internal pure returns (uint40) {
        return uint40(JobWord.unwrap(word) >> 8);
    }

    function priceBps(JobWord word) internal pure returns (uint16) {
        return uint16(JobWord.unwrap(word) >> 48);
    }

    function operator(JobWord word) internal pure returns (address) {
        return address(uint160(JobWord.unwrap(word) >> 64));
    }

    function challengesOpen(JobWord word) internal pure returns (uint16) {
        return uint16(JobWord.unwrap(word) >> 224);
    }

    function extended(JobWord word) internal pure returns (bool) {
        return JobWord.unwrap(word) >> 240 & 1 != 0;
    }

    function withState(JobWord word, State state_) internal pure returns (JobWord) {
        return JobWord.wrap(JobWord.unwrap(word) & ~uint256(0xff) | uint256(state_));
    }

    function withClock(JobWord word, uint40 clock_) internal pure returns (JobWord) {
        return JobWord.wrap(JobWord.unwrap(word) & ~(uint256(type(uint40).max) << 8) | uint256(clock_) << 8);
    }

    function withChallengesOpen(JobWord word, uint16 challengesOpen_) internal pure returns (JobWord) {
        return JobWord.wrap(JobWord.unwrap(word) & ~(uint256(type(uint16).max) << 224) | uint256(challengesOpen_) << 224);
    }

    function withExtended(JobWord word) internal pure returns (JobWord) {
        return JobWord.wrap(JobWord.unwrap(word) | uint256(1) << 240);
    }
}
