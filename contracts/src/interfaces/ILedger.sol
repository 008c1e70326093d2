// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Bucket, Move, Reason} from "../types/Money.sol";

/// @title The only contract that holds the token
/// @notice Balances by account and bucket. Free money comes in by `deposit` and leaves by `withdraw`, by its owner alone; every other
/// move is made by one of three module contracts that are named at deployment and never change. Each move is one entry: one event
/// `Moved`, one sequence number, one step of the hash `head`; so anyone re-derives every balance from events alone and compares the
/// head with storage. There is no owner, no upgrade, no pause.
///
/// INVARIANT: the sum of all buckets is `total()`, and `total()` never exceeds the token balance of this contract. What exceeds it
/// (a donation) is `surplus()`: reported, credited to nobody.
///
/// @dev Safety assumes of the token: its balances change by transfers only (it does not rebase) and a transfer moves what it says or
/// reverts; a fee on transfer is refused by measuring what arrived. Liveness assumes that the token lets this contract transfer out.
///
/// Storage, read by auditors with eth_getProof (checked by the test `test_storageSlots_areAsDocumented`):
/// slot 0: bits 64 to 255 the 24 bytes of `head`, bits 0 to 63 `seq`
/// slot 1: bits 0 to 127 `total`
/// slot 2: mapping account => three words at keccak(account ‖ 2) + 0, 1, 2; low and high 128 bits:
///         free | escrow, stake | lock, unbonding | bond; of account 0: burned | delayed, rewardPool | 0
interface ILedger {
    /// @notice One entry of the ledger. From these alone every balance and the head follow.
    /// @param seq 1 for the first entry, then without a gap
    /// @param from the account that was debited; for a deposit whoever paid the token
    /// @param fromBucket where the money was
    /// @param to the account that was credited; for a withdrawal whoever got the token; 0 for a bucket that belongs to nobody
    /// @param toBucket where the money is now
    /// @param amount in the token's smallest unit; never 0
    /// @param reason why it moved
    /// @param referenceId the job id, or 0 where the move belongs to no job
    /// @param head the head after this entry
    event Moved(
        uint64 seq,
        address indexed from,
        Bucket fromBucket,
        address indexed to,
        Bucket toBucket,
        uint128 amount,
        Reason reason,
        bytes32 indexed referenceId,
        bytes32 head
    );

    /// @notice A bucket holds less than the move takes.
    error InsufficientBalance(address account, Bucket bucket, uint256 required, uint256 available);
    /// @notice The caller is not the module that may give this reason.
    error ReasonNotAllowed(Reason reason, address caller);
    /// @notice The reason moves money within one account, and two were named.
    error AccountsDiffer(Reason reason, address from, address to);
    /// @notice Account 0 was named where an owner is needed, or an owner where the bucket belongs to nobody.
    error AccountNotAllowed(Bucket bucket, address account);
    /// @notice The token delivered another amount than was sent: it charges a fee, or it was called back into.
    error AmountNotReceived(uint256 expected, uint256 actual);
    /// @notice After a withdrawal the token balance would not cover the buckets.
    error Insolvent(uint256 total, uint256 balance);
    /// @notice An amount of 0 moves nothing.
    error AmountZero();
    /// @notice The Ledger itself cannot be the recipient.
    error RecipientNotAllowed(address recipient);
    /// @notice The token or a module was the zero address at deployment, or two modules were one.
    error ModuleNotAllowed(address module);
    /// @notice A module was deployed for another Ledger.
    error ModuleOfOtherLedger(address module, address expected, address actual);

    /// @notice Pulls `amount` of the token from the caller and credits it to `account`, bucket Free.
    /// @dev Anyone, at any time; needs an allowance. Moves: 1 Deposit, emits `Moved`.
    /// Reverts: `AmountZero`, `AccountNotAllowed` (account 0), `AmountNotReceived`, and what the token says.
    function deposit(address account, uint128 amount) external;

    /// @notice As `deposit`, with an ERC-2612 permit of the caller in place of an earlier approval.
    /// @dev A permit that fails is ignored where the allowance suffices: somebody else may have sent it first.
    function depositWithPermit(address account, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Pays `amount` of the caller's Free bucket out to `to`.
    /// @dev Any account, at any time; nobody can stop it. Moves: 2 Withdrawal, emits `Moved`.
    /// Reverts: `AmountZero`, `RecipientNotAllowed` (0 or the Ledger), `InsufficientBalance`, `Insolvent`, and what the token says.
    function withdraw(address to, uint128 amount) external;

    /// @notice Makes the moves in order; those of amount 0 are skipped.
    /// @dev The modules only, each with its own reasons (docs/PROTOCOL.md, section 5). Emits `Moved` for each. Calls nobody.
    /// Reverts: `ReasonNotAllowed`, `AccountsDiffer`, `AccountNotAllowed`, `InsufficientBalance`.
    /// @param referenceId the job id, or 0
    function move(bytes32 referenceId, Move[] calldata moves) external;

    /// @notice The hash of all entries so far, 24 bytes of it and 8 zero bytes; 0 before the first.
    function head() external view returns (bytes32);

    /// @notice The number of the last entry; 0 before the first.
    function seq() external view returns (uint64);

    /// @notice The sum of all buckets of all accounts.
    function total() external view returns (uint128);

    /// @notice Token balance that no bucket accounts for: donations.
    function surplus() external view returns (uint256);

    /// @notice What `account` has in `bucket`. `Outside` and `None` are always 0; for Burned, Delayed and RewardPool the account is 0.
    function balanceOf(address account, Bucket bucket) external view returns (uint128);

    /// @notice All six buckets of an account.
    function balancesOf(address account)
        external
        view
        returns (uint128 free, uint128 escrow, uint128 stake, uint128 unbonding, uint128 lock, uint128 bond);

    /// @notice The ERC-20 token.
    function TOKEN() external view returns (address);

    /// @notice The module that may escrow, pay, lock and slash.
    function JOB_MARKET() external view returns (address);

    /// @notice The module that may stake and unbond.
    function PROVIDER_REGISTRY() external view returns (address);

    /// @notice The module that may bond; 0 where there is none.
    function DISPUTE_GAME() external view returns (address);
}
