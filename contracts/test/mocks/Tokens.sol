// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title A token that anyone mints: the base of the hostile ones
contract PlainToken is ERC20("Plain", "PLN") {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @title A token that keeps a part of every transfer
contract FeeToken is PlainToken {
    uint256 public feeBps = 100;

    function setFeeBps(uint256 bps) external {
        feeBps = bps;
    }

    function _update(address from, address to, uint256 amount) internal override {
        uint256 fee = from == address(0) ? 0 : amount * feeBps / 10_000;
        if (fee > 0) super._update(from, address(0), fee);
        super._update(from, to, amount - fee);
    }
}

/// @title A token that takes more from the sender than it gives to the recipient
contract SenderFeeToken is PlainToken {
    uint256 public fee;

    function setFee(uint256 amount) external {
        fee = amount;
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (fee > 0 && from != address(0) && to != address(0)) super._update(from, address(0), fee);
    }
}

/// @title A token that calls back into whatever it was told to, in the middle of a transfer
contract CallbackToken is PlainToken {
    address private _target;
    bytes private _call;
    bool private _armed;
    bool public called;
    bool public succeeded;
    bytes public answer;

    function arm(address target, bytes calldata data) external {
        (_target, _call, _armed) = (target, data, true);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (_armed) {
            _armed = false;
            called = true;
            (succeeded, answer) = _target.call(_call);
        }
        super._update(from, to, amount);
    }
}

/// @title A token whose transfers say no instead of reverting
contract FalseToken is PlainToken {
    function transfer(address, uint256) public pure override returns (bool) {
        return false;
    }

    function transferFrom(address, address, uint256) public pure override returns (bool) {
        return false;
    }
}
