// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

/// @title What `JobMarket` and its deployment know of a dispute game
/// @notice The game comes later; until then the deployment names none (address 0). It reaches the market by four calls only:
/// `challengeOpened`, `challengeDismissed`, `convicted`, `extend`.
interface IDisputeGame {
    /// @notice The market whose receipts the game judges.
    function JOB_MARKET() external view returns (address);

    /// @notice Seconds after which every challenge has ended, counted from its opening; at most the market's `maxGameSecs`.
    function longestGameSecs() external view returns (uint256);
}
