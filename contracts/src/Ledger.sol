// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {ILedger} from "./interfaces/ILedger.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {Balances} from "./libraries/Balances.sol";
import {Tip} from "./libraries/Entries.sol";
import {Moves} from "./libraries/Moves.sol";
import {Bucket, Move, Reason} from "./types/Money.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title See `ILedger`
contract Ledger is ILedger, ReentrancyGuardTransient {
    using Balances for Balances.Accounts;
    using SafeERC20 for IERC20;

    /// @inheritdoc ILedger
    address public immutable TOKEN;
    /// @inheritdoc ILedger
    address public immutable JOB_MARKET;
    /// @inheritdoc ILedger
    address public immutable PROVIDER_REGISTRY;
    /// @inheritdoc ILedger
    address public immutable DISPUTE_GAME;

    Tip private _tip;
    /// @inheritdoc ILedger
    uint128 public total;
    Balances.Accounts private _accounts;

    /// @notice Deployed last: the modules name this address already, which is checked here, so a miswired deployment does not exist.
    constructor(address token, address jobMarket, address providerRegistry, address disputeGame) {
        if (token.code.length == 0) revert ModuleNotAllowed(token);
        if (jobMarket == providerRegistry) revert ModuleNotAllowed(jobMarket);
        _requireOurs(jobMarket, IJobMarket(jobMarket).LEDGER());
        _requireOurs(providerRegistry, IProviderRegistry(providerRegistry).LEDGER());
        if (IJobMarket(jobMarket).DISPUTE_GAME() != disputeGame || disputeGame == jobMarket || disputeGame == providerRegistry) {
            revert ModuleNotAllowed(disputeGame);
        }
        TOKEN = token;
        JOB_MARKET = jobMarket;
        PROVIDER_REGISTRY = providerRegistry;
        DISPUTE_GAME = disputeGame;
    }

    /* MONEY IN AND OUT */

    /// @inheritdoc ILedger
    function deposit(address account, uint128 amount) external nonReentrant {
        _deposit(account, amount);
    }

    /// @inheritdoc ILedger
    // The token is called before the books are written because what arrives is measured; the guard is on every function that calls it.
    // slither-disable-next-line reentrancy-benign
    function depositWithPermit(address account, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        // A permit can be sent by anybody who sees it; where it was, the allowance is there, and where it is not, the transfer fails.
        try IERC20Permit(TOKEN).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(account, amount);
    }

    /// @inheritdoc ILedger
    function withdraw(address to, uint128 amount) external nonReentrant {
        if (to == address(0) || to == address(this)) revert RecipientNotAllowed(to);
        if (amount == 0) revert AmountZero();

        _accounts.debit(msg.sender, Bucket.Free, amount);
        unchecked {
            // INVARIANT: total is the sum of all buckets, and one of them held the amount.
            total -= amount;
        }
        _tip = _tip.append(Move(msg.sender, to, amount, Reason.Withdrawal), 0);

        IERC20(TOKEN).safeTransfer(to, amount);
        uint256 balance = IERC20(TOKEN).balanceOf(address(this));
        if (balance < total) revert Insolvent(total, balance);
    }

    /* MONEY INSIDE */

    /// @inheritdoc ILedger
    function move(bytes32 referenceId, Move[] calldata moves) external {
        uint256 caller = _callerRole();
        Tip tip = _tip;
        for (uint256 i = 0; i < moves.length; ++i) {
            Move memory m = moves[i];
            if (m.amount == 0) continue;
            // Caller 0 gives no reason, and nobody gives reason 0.
            if (Moves.givenBy(m.reason) != caller) revert ReasonNotAllowed(m.reason, msg.sender);
            if (m.from != m.to && Moves.staysWithAccount(m.reason)) revert AccountsDiffer(m.reason, m.from, m.to);

            _accounts.debit(m.from, Moves.fromBucket(m.reason), m.amount);
            _accounts.credit(m.to, Moves.toBucket(m.reason), m.amount);
            tip = tip.append(m, referenceId);
        }
        _tip = tip;
    }

    /* VIEWS */

    /// @inheritdoc ILedger
    function head() external view returns (bytes32) {
        return _tip.head();
    }

    /// @inheritdoc ILedger
    function seq() external view returns (uint64) {
        return _tip.seq();
    }

    /// @inheritdoc ILedger
    function surplus() external view returns (uint256) {
        return IERC20(TOKEN).balanceOf(address(this)) - total;
    }

    /// @inheritdoc ILedger
    function balanceOf(address account, Bucket bucket) external view returns (uint128) {
        return _accounts.get(account, bucket);
    }

    /// @inheritdoc ILedger
    function balancesOf(address account)
        external
        view
        returns (uint128 free, uint128 escrow, uint128 stake, uint128 unbonding, uint128 lock, uint128 bond)
    {
        free = _accounts.get(account, Bucket.Free);
        escrow = _accounts.get(account, Bucket.Escrow);
        stake = _accounts.get(account, Bucket.Stake);
        unbonding = _accounts.get(account, Bucket.Unbonding);
        lock = _accounts.get(account, Bucket.Lock);
        bond = _accounts.get(account, Bucket.Bond);
    }

    /* INTERNAL */

    function _deposit(address account, uint128 amount) private {
        if (amount == 0) revert AmountZero();

        uint256 balanceBefore = IERC20(TOKEN).balanceOf(address(this));
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(TOKEN).balanceOf(address(this)) - balanceBefore;
        if (received != amount) revert AmountNotReceived(amount, received);

        // INVARIANT: every bucket is at most total, and total fits: no credit anywhere can overflow.
        total += amount;
        _accounts.credit(account, Bucket.Free, amount);
        _tip = _tip.append(Move(msg.sender, account, amount, Reason.Deposit), 0);
    }

    /// @dev Who the caller is in the table of reasons; 0: nobody.
    function _callerRole() private view returns (uint256) {
        if (msg.sender == JOB_MARKET) return Moves.BY_MARKET;
        if (msg.sender == PROVIDER_REGISTRY) return Moves.BY_REGISTRY;
        if (msg.sender == DISPUTE_GAME) return Moves.BY_GAME;
        return 0;
    }

    function _requireOurs(address module, address ledger) private view {
        if (ledger != address(this)) revert ModuleOfOtherLedger(module, address(this), ledger);
    }
}
