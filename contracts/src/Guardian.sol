// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IGuardian} from "./interfaces/IGuardian.sol";

/// @title See `IGuardian`
contract Guardian is IGuardian {
    /// @dev Two years of 2-second blocks.
    uint256 public constant MAX_BLOCKS = 31_536_000;

    /// @inheritdoc IGuardian
    address public immutable GUARDIAN;
    /// @inheritdoc IGuardian
    uint256 public immutable EXPIRES_AT_BLOCK;

    bool private _stopped;

    constructor(address guardian, uint256 expiresAtBlock) {
        if (guardian == address(0)) revert GuardianNotAllowed(guardian);
        if (expiresAtBlock < block.number || expiresAtBlock > block.number + MAX_BLOCKS) {
            revert ExpiryOutOfBounds(expiresAtBlock, block.number, MAX_BLOCKS);
        }
        GUARDIAN = guardian;
        EXPIRES_AT_BLOCK = expiresAtBlock;
    }

    /// @inheritdoc IGuardian
    function stopEntries() external {
        _set(true);
        emit EntriesStopped(msg.sender);
    }

    /// @inheritdoc IGuardian
    function resumeEntries() external {
        _set(false);
        emit EntriesResumed(msg.sender);
    }

    /// @inheritdoc IGuardian
    function entriesStopped() external view returns (bool) {
        return block.number <= EXPIRES_AT_BLOCK && _stopped;
    }

    function _set(bool stopped) private {
        if (_stopped == stopped) revert EntriesAlready(stopped);
        if (msg.sender != GUARDIAN) revert NotGuardian(GUARDIAN, msg.sender);
        if (block.number > EXPIRES_AT_BLOCK) revert GuardianExpired(EXPIRES_AT_BLOCK, block.number);
        _stopped = stopped;
    }
}
