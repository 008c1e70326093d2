// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {QuernToken} from "../../../src/QuernToken.sol";
import {IOptimismMintableERC20} from "../../../src/interfaces/IOptimismMintableERC20.sol";
import {IQuernToken} from "../../../src/interfaces/IQuernToken.sol";
import {Base} from "../../Base.sol";

contract QuernTokenTest is Base {
    function testFuzz_mintAndBurn_areTheBridgesAlone(address caller, uint96 amount) external {
        vm.assume(caller != bridge);
        bytes memory refused = abi.encodeWithSelector(IQuernToken.NotBridge.selector, bridge, caller);
        vm.expectRevert(refused);
        vm.prank(caller);
        token.mint(caller, amount);
        vm.expectRevert(refused);
        vm.prank(caller);
        token.burn(address(this), amount);

        uint256 supply = token.totalSupply();
        vm.expectEmit(true, true, true, true, address(token));
        emit IQuernToken.Mint(stranger, amount);
        vm.prank(bridge);
        token.mint(stranger, amount);
        vm.assertEq(token.totalSupply(), supply + amount);
        vm.expectEmit(true, true, true, true, address(token));
        emit IQuernToken.Burn(stranger, amount);
        vm.prank(bridge);
        token.burn(stranger, amount);
        vm.assertEq(token.balanceOf(stranger), 0);
    }

    /// @dev The bridge finds the interface by ERC-165: 0xec4fc8e3 is what the OP Stack's StandardBridge asks for.
    function test_supportsInterface_asTheStandardBridgeAsks() external view {
        vm.assertTrue(token.supportsInterface(0x01ffc9a7));
        vm.assertTrue(token.supportsInterface(0xec4fc8e3));
        vm.assertEq(bytes32(type(IOptimismMintableERC20).interfaceId), bytes32(bytes4(0xec4fc8e3)));
        vm.assertFalse(token.supportsInterface(0xffffffff));
        vm.assertEq(token.bridge(), bridge);
        vm.assertEq(token.remoteToken(), address(0));
    }

    function test_construction_namesSupplyAndUnits() external {
        QuernToken other = new QuernToken(bridge, stranger, client, 5);
        vm.assertEq(other.balanceOf(client), 5);
        vm.assertEq(other.remoteToken(), stranger);
        vm.assertEq(other.symbol(), "QUERN");
        vm.assertEq(other.decimals(), 18);
        vm.assertEq(new QuernToken(bridge, stranger, address(0), 0).totalSupply(), 0);
    }

    function test_permit_cannotBeUsedTwiceOrLate() external {
        bytes32 typeHash = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash = keccak256(abi.encode(typeHash, stranger, client, 5, 0, START));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(STRANGER_KEY, digest);
        vm.warp(START + 1);
        vm.expectRevert();
        token.permit(stranger, client, 5, START, v, r, s);
        vm.warp(START);
        token.permit(stranger, client, 5, START, v, r, s);
        vm.assertEq(token.allowance(stranger, client), 5);
        vm.assertEq(token.nonces(stranger), 1);
        vm.expectRevert();
        token.permit(stranger, client, 5, START, v, r, s);
    }
}
