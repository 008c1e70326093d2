// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IEntry} from "./interfaces/IEntry.sol";
import {IGuardian} from "./interfaces/IGuardian.sol";
import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {ILedger} from "./interfaces/ILedger.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {ModelId} from "./types/Ids.sol";
import {Parameters} from "./types/Job.sol";
import {Bucket, Move, Reason} from "./types/Money.sol";

/// @title See `IProviderRegistry`
contract ProviderRegistry is IProviderRegistry {
    /// @dev bits 0 to 159 operator, bits 160 to 199 unbondedAt.
    struct Provider {
        address operator;
        uint40 unbondedAt;
    }

    /// @notice The longest gateway URL, in bytes.
    uint256 public constant MAX_GATEWAY_BYTES = 256;
    /// @notice The longest unbonding, so that nobody's stake can be bound for ever by a deployment.
    uint256 public constant MAX_UNBONDING_SECS = 180 days;

    /// @inheritdoc IProviderRegistry
    address public immutable LEDGER;
    /// @inheritdoc IEntry
    address public immutable GUARDIAN;
    /// @inheritdoc IProviderRegistry
    uint40 public immutable UNBONDING_SECS;

    mapping(address provider => Provider) private _providers;

    /// @param jobMarket whose windows the unbonding must outlast
    constructor(address ledger, address guardian, address jobMarket, uint40 unbondingSecs) {
        if (ledger == address(0)) revert ContractNotAllowed("ledger", ledger);
        if (guardian.code.length == 0) revert ContractNotAllowed("guardian", guardian);
        if (jobMarket.code.length == 0) revert ContractNotAllowed("jobMarket", jobMarket);
        Parameters memory p = IJobMarket(jobMarket).parameters();
        uint256 inDoubtSecs = uint256(p.challengeWindowSecs) + p.extensionSecs + p.maxGameSecs;
        if (unbondingSecs <= inDoubtSecs) revert UnbondingTooShort(unbondingSecs, inDoubtSecs);
        if (unbondingSecs > MAX_UNBONDING_SECS) {
            revert FieldOutOfBounds("unbondingSecs", unbondingSecs, inDoubtSecs + 1, MAX_UNBONDING_SECS);
        }
        LEDGER = ledger;
        GUARDIAN = guardian;
        UNBONDING_SECS = unbondingSecs;
    }

    /* KEYS AND OFFERS */

    /// @inheritdoc IProviderRegistry
    function setOperator(address operator) external {
        _providers[msg.sender].operator = operator;
        emit OperatorChanged(msg.sender, operator);
    }

    /// @inheritdoc IProviderRegistry
    function announce(address provider, string calldata gateway) external {
        _requireOwnerOrOperator(provider);
        uint256 length = bytes(gateway).length;
        if (length > MAX_GATEWAY_BYTES) revert FieldOutOfBounds("gateway", length, 0, MAX_GATEWAY_BYTES);
        emit ProviderAnnounced(provider, gateway);
    }

    /// @inheritdoc IProviderRegistry
    function listPrice(address provider, ModelId modelId, Prices calldata prices) external {
        _requireOwnerOrOperator(provider);
        emit PriceListed(provider, modelId, prices);
    }

    /// @inheritdoc IProviderRegistry
    function unlistPrice(address provider, ModelId modelId) external {
        _requireOwnerOrOperator(provider);
        emit PriceUnlisted(provider, modelId);
    }

    /* STAKE */

    /// @inheritdoc IProviderRegistry
    function stake(uint128 amount) external {
        if (IGuardian(GUARDIAN).entriesStopped()) revert EntriesAreStopped();
        if (amount == 0) revert FieldOutOfBounds("amount", amount, 1, type(uint128).max);
        emit StakeAdded(msg.sender, amount);
        _move(msg.sender, amount, Reason.Staked);
    }

    /// @inheritdoc IProviderRegistry
    function unstake(uint128 amount) external {
        if (amount == 0) revert FieldOutOfBounds("amount", amount, 1, type(uint128).max);
        uint40 end = uint40(block.timestamp) + UNBONDING_SECS;
        _providers[msg.sender].unbondedAt = end;
        emit UnbondingStarted(msg.sender, amount, end);
        _move(msg.sender, amount, Reason.UnbondStarted);
    }

    /// @inheritdoc IProviderRegistry
    function cancelUnbonding(uint128 amount) external {
        if (amount == 0) revert FieldOutOfBounds("amount", amount, 1, type(uint128).max);
        emit UnbondingCancelled(msg.sender, amount);
        _move(msg.sender, amount, Reason.UnbondCancelled);
    }

    /// @inheritdoc IProviderRegistry
    function withdrawUnbonded(address provider) external {
        uint40 end = _providers[provider].unbondedAt;
        // Days pass here; a second of the sequencer's choice changes nothing.
        // slither-disable-next-line timestamp
        if (block.timestamp <= end) revert StillUnbonding(provider, end, block.timestamp);
        uint128 amount = ILedger(LEDGER).balanceOf(provider, Bucket.Unbonding);
        if (amount == 0) revert FieldOutOfBounds("amount", amount, 1, type(uint128).max);
        emit StakeWithdrawn(provider, amount);
        _move(provider, amount, Reason.Unbonded);
    }

    /* VIEWS */

    /// @inheritdoc IProviderRegistry
    function operatorOf(address provider) external view returns (address) {
        return _providers[provider].operator;
    }

    /// @inheritdoc IProviderRegistry
    function unbondedAt(address provider) external view returns (uint40) {
        return _providers[provider].unbondedAt;
    }

    /* INTERNAL */

    function _requireOwnerOrOperator(address provider) private view {
        address operator = _providers[provider].operator;
        if (msg.sender != provider && msg.sender != operator) revert NotProvider(provider, operator, msg.sender);
    }

    function _move(address account, uint128 amount, Reason reason) private {
        Move[] memory moves = new Move[](1);
        moves[0] = Move(account, account, amount, reason);
        ILedger(LEDGER).move(0, moves);
    }
}
