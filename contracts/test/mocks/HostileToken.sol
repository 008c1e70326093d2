// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {PlainToken} from "./Tokens.sol";

/// @title A token that calls back, from within any of its functions that the Ledger uses
/// @notice Its amounts are honest: what is tested with it is when it is asked, not what it answers.
contract HostileToken is PlainToken {
    enum Hook {
        None,
        Permit,
        BeforeTransfer,
        AfterTransfer
    }

    Hook private _hook;
    address private _target;
    bytes private _call;
    bool public called;
    bool public succeeded;
    bytes public answer;

    /// @notice Makes this call, once, the next time that the hook is reached.
    function arm(Hook hook, address target, bytes calldata data) external {
        (_hook, _target, _call) = (hook, target, data);
        (called, succeeded) = (false, false);
        delete answer;
    }

    /// @notice Makes a call at once: to become client, provider, publisher and operator.
    function execute(address target, bytes calldata data) external returns (bytes memory) {
        return _execute(target, data);
    }

    function permit(address owner, address spender, uint256 value, uint256, uint8, bytes32, bytes32) external {
        _approve(owner, spender, value);
        _reach(Hook.Permit);
    }

    function _update(address from, address to, uint256 amount) internal override {
        _reach(Hook.BeforeTransfer);
        super._update(from, to, amount);
        _reach(Hook.AfterTransfer);
    }

    function _reach(Hook hook) private {
        if (_hook != hook) return;
        _hook = Hook.None;
        called = true;
        (succeeded, answer) = _target.call(_call);
    }

    function _execute(address target, bytes calldata data) private returns (bytes memory result) {
        bool ok;
        (ok, result) = target.call(data);
        if (ok) return result;
        assembly ("memory-safe") {
            revert(add(result, 0x20), mload(result))
        }
    }
}
