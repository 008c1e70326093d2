// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IOptimismMintableERC20} from "./interfaces/IOptimismMintableERC20.sol";
import {IQuernToken} from "./interfaces/IQuernToken.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";

/// @title See `IQuernToken`
contract QuernToken is ERC20, ERC20Permit, IQuernToken {
    address private immutable _BRIDGE;
    address private immutable _REMOTE_TOKEN;

    /// @param bridge_ the L2 standard bridge; 0: nobody ever mints or burns
    /// @param remoteToken_ the token on L1; 0 where there is none
    /// @param holder gets the initial supply
    /// @param initialSupply in the smallest unit; 0 on a chain where all supply comes over the bridge
    constructor(address bridge_, address remoteToken_, address holder, uint256 initialSupply) ERC20("Quern", "QUERN") ERC20Permit("Quern") {
        // 0 is a choice: a token without a bridge, or without a token on L1.
        // slither-disable-next-line missing-zero-check
        _BRIDGE = bridge_;
        // slither-disable-next-line missing-zero-check
        _REMOTE_TOKEN = remoteToken_;
        if (initialSupply != 0) _mint(holder, initialSupply);
    }

    /// @inheritdoc IOptimismMintableERC20
    function mint(address to, uint256 amount) external {
        if (msg.sender != _BRIDGE) revert NotBridge(_BRIDGE, msg.sender);
        _mint(to, amount);
        emit Mint(to, amount);
    }

    /// @inheritdoc IOptimismMintableERC20
    function burn(address from, uint256 amount) external {
        if (msg.sender != _BRIDGE) revert NotBridge(_BRIDGE, msg.sender);
        _burn(from, amount);
        emit Burn(from, amount);
    }

    /// @inheritdoc IOptimismMintableERC20
    function bridge() external view returns (address) {
        return _BRIDGE;
    }

    /// @inheritdoc IOptimismMintableERC20
    function remoteToken() external view returns (address) {
        return _REMOTE_TOKEN;
    }

    /// @inheritdoc IERC165
    function supportsInterface(bytes4 interfaceId) external pure returns (bool) {
        return interfaceId == type(IERC165).interfaceId || interfaceId == type(IOptimismMintableERC20).interfaceId;
    }

    /// @inheritdoc IERC20Permit
    function nonces(address owner) public view override(ERC20Permit, IERC20Permit) returns (uint256) {
        return super.nonces(owner);
    }
}
