// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";

/// @title What the OP Stack's standard bridge asks of a token on L2
interface IOptimismMintableERC20 is IERC165 {
    /// @notice The token on L1 that this one stands for.
    function remoteToken() external view returns (address);

    /// @notice The bridge on L2; the only one that may mint and burn.
    function bridge() external view returns (address);

    /// @notice Creates `amount` for `to`. The bridge only.
    function mint(address to, uint256 amount) external;

    /// @notice Destroys `amount` of `from`. The bridge only.
    function burn(address from, uint256 amount) external;
}
