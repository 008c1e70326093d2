// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobMarket} from "../../src/JobMarket.sol";
import {Ledger} from "../../src/Ledger.sol";
import {IDisputeGame} from "../../src/interfaces/IDisputeGame.sol";
import {JobId} from "../../src/types/Ids.sol";
import {JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket, Move, Reason} from "../../src/types/Money.sol";

/// @title A dispute game without arithmetic: whoever calls decides
/// @notice It speaks to the market and the Ledger exactly as the real one will: a bond per challenge, four calls, every challenge ends.
contract GameDouble is IDisputeGame {
    uint128 public constant BOND = 1e18;

    JobMarket private _market;
    Ledger private _ledger;
    /// @dev Live challengers per job, in the order in which they came.
    mapping(JobId => address[]) private _challengers;

    function setMarket(JobMarket market, Ledger ledger) external {
        (_market, _ledger) = (market, ledger);
    }

    function JOB_MARKET() external view returns (address) {
        return address(_market);
    }

    function longestGameSecs() external pure returns (uint256) {
        return 7 days;
    }

    function challenge(JobSpec calldata spec, Receipt calldata receipt) external {
        JobId jobId = _market.challengeOpened(spec, receipt);
        _challengers[jobId].push(msg.sender);
        _move(jobId, msg.sender, msg.sender, Reason.BondPosted);
    }

    /// @dev The last challenge fails; its bond goes to the provider.
    function dismiss(JobId jobId, address provider) external {
        _market.challengeDismissed(jobId);
        address loser = _pop(jobId);
        _move(jobId, loser, provider, Reason.BondLost);
    }

    /// @dev The first challenger wins; all bonds come back.
    function convict(JobSpec calldata spec, Receipt calldata receipt) external {
        JobId jobId = _market.jobIdOf(spec);
        address winner = _challengers[jobId].length == 0 ? msg.sender : _challengers[jobId][0];
        _market.convicted(spec, receipt, winner);
        while (_challengers[jobId].length > 0) {
            address account = _pop(jobId);
            _move(jobId, account, account, Reason.BondReturned);
        }
    }

    function extend(JobId jobId) external {
        _market.extend(jobId);
    }

    function live(JobId jobId) external view returns (uint256) {
        return _challengers[jobId].length;
    }

    function bondOf(address account) external view returns (uint128) {
        return _ledger.balanceOf(account, Bucket.Bond);
    }

    function _pop(JobId jobId) private returns (address last) {
        address[] storage list = _challengers[jobId];
        last = list[list.length - 1];
        list.pop();
    }

    function _move(JobId jobId, address from, address to, Reason reason) private {
        Move[] memory moves = new Move[](1);
        moves[0] = Move(from, to, BOND, reason);
        _ledger.move(JobId.unwrap(jobId), moves);
    }
}
