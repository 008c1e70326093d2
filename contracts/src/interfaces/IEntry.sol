// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

/// @title What the contracts with entries (post, stake, register) have in common
interface IEntry {
    /// @notice The guardian has stopped entries. Exits and live jobs go on.
    error EntriesAreStopped();
    /// @notice An argument is outside its bounds.
    /// @param field its name, as ASCII
    error FieldOutOfBounds(bytes32 field, uint256 value, uint256 min, uint256 max);
    /// @notice A contract that was named at deployment is missing.
    error ContractNotAllowed(bytes32 role, address actual);

    /// @notice The contract that says whether entries are stopped.
    function GUARDIAN() external view returns (address);
}
