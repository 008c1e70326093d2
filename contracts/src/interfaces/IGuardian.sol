// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

/// @title Stops entries for a limited time, and nothing else
/// @notice One address may stop and resume *new* jobs, stakes and model registrations until a block that is fixed at deployment. It
/// never reaches an exit, a live job or money. After that block it has no power and nothing is stopped.
interface IGuardian {
    /// @notice New jobs, stakes and registrations are refused from now on.
    event EntriesStopped(address indexed guardian);
    /// @notice New jobs, stakes and registrations are accepted again.
    event EntriesResumed(address indexed guardian);

    /// @notice Only the guardian may do this.
    error NotGuardian(address expected, address actual);
    /// @notice The guardian's power ended.
    error GuardianExpired(uint256 expiredAtBlock, uint256 blockNumber);
    /// @notice Entries are stopped already, or not stopped.
    error EntriesAlready(bool stopped);
    /// @notice At deployment: the expiry must lie ahead, by at most `maxBlocks`.
    error ExpiryOutOfBounds(uint256 expiresAtBlock, uint256 blockNumber, uint256 maxBlocks);
    /// @notice At deployment: the guardian was the zero address.
    error GuardianNotAllowed(address guardian);

    /// @notice Stops entries. The guardian, up to and including `EXPIRES_AT_BLOCK`. Emits `EntriesStopped`.
    function stopEntries() external;

    /// @notice Lets entries in again. The guardian, up to and including `EXPIRES_AT_BLOCK`. Emits `EntriesResumed`.
    function resumeEntries() external;

    /// @notice Whether entries are stopped now; false for ever after `EXPIRES_AT_BLOCK`.
    function entriesStopped() external view returns (bool);

    /// @notice Who may stop entries.
    function GUARDIAN() external view returns (address);

    /// @notice The last block in which the guardian has power.
    function EXPIRES_AT_BLOCK() external view returns (uint256);
}
