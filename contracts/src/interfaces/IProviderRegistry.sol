// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ModelId} from "../types/Ids.sol";
import {IEntry} from "./IEntry.sol";

/// @title Providers: stakes, operator keys, offers
/// @notice A provider is the address of its owner, a cold key that stakes, unstakes and names the operator, a hot key that only works:
/// it claims, signs receipts and announces, and can never move money out. Stake is Free money of the owner in the Ledger put into the
/// bucket Stake. Unbonding stake cannot be locked by a claim, locked stake cannot unbond.
///
/// Storage: slot 0: mapping provider => one word: bits 0 to 159 operator, 160 to 199 unbondedAt (seconds).
interface IProviderRegistry is IEntry {
    /// @notice The most a provider asks, in the token's smallest unit, with the meaning of the same fields of a `JobSpec`.
    struct Prices {
        uint96 basePrice;
        uint96 inputPrice;
        uint96 outputPrice;
        uint96 itemPrice;
    }

    /// @notice From now on this key claims and signs for the provider; 0: nobody does.
    event OperatorChanged(address indexed provider, address indexed operator);
    /// @notice The provider's content gateway (Trustless Gateway) is at this URL; empty: nowhere.
    event ProviderAnnounced(address indexed provider, string gateway);
    /// @notice The provider takes jobs of this model at these prices.
    event PriceListed(address indexed provider, ModelId indexed modelId, Prices prices);
    /// @notice The provider takes no more jobs of this model.
    event PriceUnlisted(address indexed provider, ModelId indexed modelId);
    /// @notice Money was put at stake.
    event StakeAdded(address indexed provider, uint128 amount);
    /// @notice Stake is on its way out; all that is unbonding can be withdrawn after `unbondedAt`.
    event UnbondingStarted(address indexed provider, uint128 amount, uint40 unbondedAt);
    /// @notice Stake that was on its way out is stake again.
    event UnbondingCancelled(address indexed provider, uint128 amount);
    /// @notice Unbonded stake is Free money again.
    event StakeWithdrawn(address indexed provider, uint128 amount);

    /// @notice Neither the owner nor the operator of this provider.
    error NotProvider(address provider, address operator, address actual);
    /// @notice It unbonds until `unbondedAt` and can be withdrawn only after.
    error StillUnbonding(address provider, uint256 unbondedAt, uint256 nowSecs);
    /// @notice At deployment: unbonding must take longer than a receipt can be in doubt.
    error UnbondingTooShort(uint256 unbondingSecs, uint256 longerThanSecs);

    /// @notice Names the key that claims and signs for the caller; 0 revokes it.
    /// @dev Any account, at any time. Jobs that were claimed under the key before stay with that key. Emits `OperatorChanged`.
    /// One key may serve several providers: every act of an operator names its provider, and a key that had to be unique could be taken
    /// by somebody else first.
    function setOperator(address operator) external;

    /// @notice Announces where the provider serves content. Owner or operator. At most 256 bytes. Emits `ProviderAnnounced`.
    function announce(address provider, string calldata gateway) external;

    /// @notice Lists prices for a model. Owner or operator. Emits `PriceListed`.
    function listPrice(address provider, ModelId modelId, Prices calldata prices) external;

    /// @notice Takes a listing back. Owner or operator. Emits `PriceUnlisted`.
    function unlistPrice(address provider, ModelId modelId) external;

    /// @notice Puts `amount` of the caller's Free money at stake.
    /// @dev Any account, while entries are not stopped. Moves: 13 Staked. Emits `StakeAdded`.
    function stake(uint128 amount) external;

    /// @notice Starts to unbond `amount` of the caller's Stake. The clock of everything that is unbonding starts anew.
    /// @dev Any account, at any time. Moves: 14 UnbondStarted. Emits `UnbondingStarted`.
    function unstake(uint128 amount) external;

    /// @notice Puts `amount` of what is unbonding back at stake. Any account, at any time. Moves: 15 UnbondCancelled.
    function cancelUnbonding(uint128 amount) external;

    /// @notice Makes all unbonded stake of `provider` Free money of its owner. Anyone, after `unbondedAt`. Moves: 16 Unbonded.
    function withdrawUnbonded(address provider) external;

    /// @notice The key that claims and signs for this provider now; 0: none.
    function operatorOf(address provider) external view returns (address);

    /// @notice The last second in which the provider's unbonding stake cannot be withdrawn; 0: it never unbonded.
    function unbondedAt(address provider) external view returns (uint40);

    /// @notice Seconds from `unstake` to withdrawal.
    function UNBONDING_SECS() external view returns (uint40);

    /// @notice Where the money is.
    function LEDGER() external view returns (address);
}
