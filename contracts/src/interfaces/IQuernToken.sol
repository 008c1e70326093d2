// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IOptimismMintableERC20} from "./IOptimismMintableERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

/// @title QUERN: ERC-20 with permit (ERC-2612), bridgeable by the OP Stack's standard bridge
/// @notice 18 decimals. Apart from an initial supply that is fixed at construction, only the bridge mints and burns.
interface IQuernToken is IERC20Metadata, IERC20Permit, IOptimismMintableERC20 {
    /// @notice The bridge created `amount` for `account`.
    event Mint(address indexed account, uint256 amount);
    /// @notice The bridge destroyed `amount` of `account`.
    event Burn(address indexed account, uint256 amount);

    /// @notice Only the bridge may mint and burn.
    error NotBridge(address expected, address actual);
}
