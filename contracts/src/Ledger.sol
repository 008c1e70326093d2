// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {ILedger} from "./interfaces/ILedger.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {Moves} from "./libraries/Moves.sol";
import {Bucket, Move, Reason} from "./types/Money.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title See `ILedger`
contract Ledger is ILedger, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @dev The tag of a ledger head's preimage (docs/PROTOCOL.md, section 1).
    uint8 private constant HEAD_TAG = 0x50;

    /// @inheritdoc ILedger
    address public immutable TOKEN;
    /// @inheritdoc ILedger
    address public immutable JOB_MARKET;
    /// @inheritdoc ILedger
    address public immutable PROVIDER_REGISTRY;
    /// @inheritdoc ILedger
    address public immutable DISPUTE_GAME;

    /// @inheritdoc ILedger
    bytes32 public head;
    /// @inheritdoc ILedger
    uint64 public seq;
    /// @inheritdoc ILedger
    uint128 public total;
    /// @dev By position (`_position`): free | escrow, stake | lock, unbonding | bond; of account 0: burned | delayed, rewardPool.
    mapping(address account => uint128[6]) private _balances;

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
    function depositWithPermit(address account, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        // A permit can be sent by anybody who sees it; where it was, the allowance is there, and where it is not, the transfer fails.
        try IERC20Permit(TOKEN).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(account, amount);
    }

    /// @inheritdoc ILedger
    function withdraw(address to, uint128 amount) external nonReentrant {
        if (to == address(0) || to == address(this)) revert RecipientNotAllowed(to);
        if (amount == 0) revert AmountZero();

        _debit(msg.sender, Bucket.Free, amount);
        unchecked {
            // INVARIANT: total is the sum of all buckets, and one of them held the amount.
            total -= amount;
        }
        _append(Move(msg.sender, to, amount, Reason.Withdrawal));

        IERC20(TOKEN).safeTransfer(to, amount);
        uint256 balance = IERC20(TOKEN).balanceOf(address(this));
        if (balance < total) revert Insolvent(total, balance);
    }

    /* MONEY INSIDE */

    /// @inheritdoc ILedger
    function move(bytes32 referenceId, Move[] calldata moves) external {
        uint8 caller = _callerRole();
        (bytes32 lastHead, uint64 lastSeq) = (head, seq);
        for (uint256 i = 0; i < moves.length; ++i) {
            Move memory m = moves[i];
            if (m.amount == 0) continue;
            if (caller == 0 || Moves.givenBy(m.reason) != caller) revert ReasonNotAllowed(m.reason, msg.sender);
            if (Moves.staysWithAccount(m.reason) && m.from != m.to) revert AccountsDiffer(m.reason, m.from, m.to);

            _debit(m.from, Moves.fromBucket(m.reason), m.amount);
            _credit(m.to, Moves.toBucket(m.reason), m.amount);
            lastSeq += 1;
            lastHead = _record(lastHead, lastSeq, m, referenceId);
        }
        (head, seq) = (lastHead, lastSeq);
    }

    /* VIEWS */

    /// @inheritdoc ILedger
    function surplus() external view returns (uint256) {
        return IERC20(TOKEN).balanceOf(address(this)) - total;
    }

    /// @inheritdoc ILedger
    function balanceOf(address account, Bucket bucket) external view returns (uint128) {
        if (bucket <= Bucket.Outside || Moves.isOwnerless(bucket) != (account == address(0))) return 0;
        return _balances[account][_position(bucket)];
    }

    /// @inheritdoc ILedger
    function balancesOf(address account)
        external
        view
        returns (uint128 free, uint128 escrow, uint128 stake, uint128 unbonding, uint128 lock, uint128 bond)
    {
        if (account != address(0)) {
            uint128[6] storage balances = _balances[account];
            (free, escrow, stake, lock, unbonding, bond) = (balances[0], balances[1], balances[2], balances[3], balances[4], balances[5]);
        }
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
        _credit(account, Bucket.Free, amount);
        _append(Move(msg.sender, account, amount, Reason.Deposit));
    }

    function _debit(address account, Bucket bucket, uint128 amount) private {
        uint128[6] storage balances = _balances[account];
        uint256 position = _position(bucket);
        uint128 available = balances[position];
        if (available < amount) revert InsufficientBalance(account, bucket, amount, available);
        unchecked {
            balances[position] = available - amount;
        }
    }

    function _credit(address account, Bucket bucket, uint128 amount) private {
        if (Moves.isOwnerless(bucket) != (account == address(0))) revert AccountNotAllowed(bucket, account);
        unchecked {
            _balances[account][_position(bucket)] += amount;
        }
    }

    /// @dev One entry of this contract's own.
    function _append(Move memory m) private {
        uint64 newSeq = seq + 1;
        seq = newSeq;
        head = _record(head, newSeq, m, 0);
    }

    /// @dev Emits the entry and returns the head after it.
    function _record(bytes32 lastHead, uint64 newSeq, Move memory m, bytes32 referenceId) private returns (bytes32 newHead) {
        Bucket fromBucket = Moves.fromBucket(m.reason);
        Bucket toBucket = Moves.toBucket(m.reason);
        newHead = keccak256(
            abi.encodePacked(
                abi.encodePacked(HEAD_TAG, lastHead, block.chainid, address(this), newSeq),
                abi.encodePacked(m.from, fromBucket, m.to, toBucket, m.amount, m.reason, referenceId)
            )
        );
        emit Moved(newSeq, m.from, fromBucket, m.to, toBucket, m.amount, m.reason, referenceId, newHead);
    }

    function _callerRole() private view returns (uint8) {
        if (msg.sender == JOB_MARKET) return Moves.BY_MARKET;
        if (msg.sender == PROVIDER_REGISTRY) return Moves.BY_REGISTRY;
        if (msg.sender == DISPUTE_GAME) return Moves.BY_GAME;
        return 0;
    }

    /// @dev Buckets that move together share a storage slot: Free and Escrow, Stake and Lock.
    function _position(Bucket bucket) private pure returns (uint256) {
        // Byte n belongs to bucket n: Free 0, Escrow 1, Stake 2, Unbonding 4, Lock 3, Bond 5; Burned 0, Delayed 1, RewardPool 2.
        return uint8(bytes11(hex"0000000102040305000102")[uint8(bucket)]);
    }

    function _requireOurs(address module, address ledger) private view {
        if (ledger != address(this)) revert ModuleOfOtherLedger(module, address(this), ledger);
    }
}
