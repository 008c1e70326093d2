// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobId, ModelId} from "../types/Ids.sol";
import {Completion, Job, JobSpec, Parameters, Receipt, State} from "../types/Job.sol";
import {IEntry} from "./IEntry.sol";

/// @title Jobs: posted, claimed, delivered, paid
/// @notice A job is a batch of items for one model. The client escrows its maximum fee, the price rises while nobody claims, the claim
/// fixes it and locks stake, the operator attests a result, and after the challenge window anyone completes the job: the provider is
/// paid for what the committed trees count, the client gets the rest back.
///
/// | state      | silence means                                            | who may act                                  |
/// |------------|----------------------------------------------------------|----------------------------------------------|
/// | Open       | after claimBy: `expire`, full refund                     | an operator claims; the client cancels       |
/// | Claimed    | after the deadline: `refundUndelivered`, with a penalty  | the operator's signed receipt, sent by anyone |
/// | Submitted  | after the window: `complete`                             | the dispute game opens a challenge           |
/// | Challenged | the game's clocks decide                                 | the dispute game                             |
/// Completed, Refunded and Slashed are final. An action is valid if and only if now <= its deadline, an expiry if and only if now > it.
/// Anyone may call what silence means; nothing waits for a party, and no call here reaches a contract other than the Ledger and views.
///
/// Guards stand in one order: state, caller, arguments, time, money (the last by the Ledger).
///
/// @dev Safety assumes: the Ledger, the registries and the dispute game are the ones named at deployment and do what their interfaces
/// say. Liveness assumes: the L2 includes transactions within the windows (forced inclusion through L1 must be shorter than they are in
/// production), and the dispute game ends every challenge within `maxGameSecs`.
///
/// Storage: slot 0: mapping job id => two words.
/// word 0: bits 0 to 7 state, 8 to 47 clock, 48 to 63 priceBps, 64 to 223 operator, 224 to 239 challengesOpen, 240 extended
/// word 1: Claimed: the provider; Submitted, Challenged: the receipt's digest; else 0
interface IJobMarket is IEntry {
    /// @notice A job stands open, with its maximum fee in escrow.
    event JobPosted(JobId indexed jobId, address indexed client, ModelId indexed modelId, uint96 maxFee, uint40 postedAt, JobSpec spec);
    /// @notice A provider has the job until `deadline`, at this price, with this stake locked.
    event JobClaimed(
        JobId indexed jobId, address indexed provider, address indexed operator, uint16 priceBps, uint40 deadline, uint128 lock
    );
    /// @notice A result is attested; it can be challenged up to `windowEnd`.
    event ReceiptSubmitted(JobId indexed jobId, address indexed provider, bytes32 receiptDigest, uint40 windowEnd, Receipt receipt);
    /// @notice The provider got `fee` - `royalty`, the publisher `royalty`, the client `change`; the lock is stake again. `workUnits`,
    /// (inputLen + outputLen) * the model's multiply-adds per token, is what the provider has worked.
    event JobCompleted(
        JobId indexed jobId,
        address indexed provider,
        address indexed publisher,
        uint96 fee,
        uint96 royalty,
        uint96 change,
        uint128 workUnits
    );
    /// @notice The client took an unclaimed job back.
    event JobCancelled(JobId indexed jobId, address indexed client, uint96 refund);
    /// @notice Nobody claimed the job in time; the client has its money back.
    event JobExpired(JobId indexed jobId, address indexed client, uint96 refund);
    /// @notice The provider did not deliver in time; the client has its money back and `penalty` of the provider's lock.
    event JobUndelivered(
        JobId indexed jobId, address indexed client, address indexed provider, uint96 refund, uint128 penalty, uint128 unlocked
    );
    /// @notice The dispute game opened a challenge; `challengesOpen` are open now.
    event ChallengeOpened(JobId indexed jobId, uint16 challengesOpen);
    /// @notice A challenge ended in favour of the provider; `challengesOpen` are open now.
    event ChallengeDismissed(JobId indexed jobId, uint16 challengesOpen);
    /// @notice The window was extended, once, to `windowEnd`.
    event WindowExtended(JobId indexed jobId, uint40 windowEnd);
    /// @notice The provider was convicted: the lock is divided, the client has its money back.
    event JobSlashed(
        JobId indexed jobId,
        address indexed provider,
        address indexed challenger,
        uint128 toChallenger,
        uint128 toClient,
        uint128 delayed,
        uint96 refund
    );
    /// @notice An entry of `completeMany` could not complete; `reason` is its revert data. The others went on.
    event CompletionSkipped(JobId indexed jobId, bytes reason);

    /// @notice The job is not in the state that this action needs.
    error JobNotInState(JobId jobId, State expected, State actual);
    /// @notice Only the job's client may do this.
    error NotClient(address expected, address actual);
    /// @notice Only the operator key in force of this provider may claim for it.
    error NotOperator(address provider, address expected, address actual);
    /// @notice The job is for one designated provider.
    error NotDesignated(JobId jobId, address expected, address actual);
    /// @notice Only the dispute game that was named at deployment may do this.
    error NotDisputeGame(address expected, address actual);
    /// @notice The model of the job is registered by nobody.
    error ModelUnknown(ModelId modelId);
    /// @notice A job of this kind needs a model of the same family.
    error KindNotOfFamily(ModelId modelId, uint256 kind, uint256 family);
    /// @notice The receipt is for another job.
    error ReceiptOfOtherJob(JobId expected, JobId actual);
    /// @notice The receipt is not the one that was submitted.
    error ReceiptNotSubmitted(JobId jobId, bytes32 expected, bytes32 actual);
    /// @notice The receipt names another provider than the one that claimed.
    error NotClaimant(JobId jobId, address expected, address actual);
    /// @notice The receipt is not signed by the operator key that made the claim; `actual` is 0 for a malformed signature.
    error SignerNotOperator(JobId jobId, address expected, address actual);
    /// @notice Too late: valid up to and including `deadline`.
    error DeadlinePassed(JobId jobId, uint256 deadline, uint256 nowSecs);
    /// @notice Too early: valid after `deadline` only.
    error DeadlineNotPassed(JobId jobId, uint256 deadline, uint256 nowSecs);
    /// @notice The window was extended before.
    error AlreadyExtended(JobId jobId);

    /// @notice Posts a job and escrows its maximum fee from the client's Free money.
    /// @dev The client, while entries are not stopped. None -> Open. Moves: 3 Escrowed. Emits `JobPosted`.
    /// Reverts: `JobNotInState` (posted before), `NotClient`, `EntriesAreStopped`, `FieldOutOfBounds`, `ModelUnknown`,
    /// `KindNotOfFamily`, `DeadlinePassed` (claimBy), `ILedger.InsufficientBalance`.
    function post(JobSpec calldata spec) external returns (JobId);

    /// @notice Claims an open job for `provider` at the price of this second, and locks stake behind it.
    /// @dev The provider's operator, up to and including claimBy. Open -> Claimed. Moves: 8 Locked. Emits `JobClaimed`.
    /// Reverts: `JobNotInState`, `NotOperator`, `NotDesignated`, `DeadlinePassed`, `ILedger.InsufficientBalance`.
    function claim(JobSpec calldata spec, address provider) external;

    /// @notice Hands in the receipt that the operator signed.
    /// @dev Anyone, up to and including the delivery deadline. Claimed -> Submitted. Emits `ReceiptSubmitted`.
    /// Reverts: `JobNotInState`, `ReceiptOfOtherJob`, `NotClaimant`, `SignerNotOperator`, `FieldOutOfBounds`, `DeadlinePassed`.
    /// @param signature 65 bytes r ‖ s ‖ v, s in the lower half
    function submit(JobSpec calldata spec, Receipt calldata receipt, bytes calldata signature) external;

    /// @notice Pays an undisputed job: fee and royalty out of the escrow, change to the client, lock back to stake.
    /// @dev Anyone, after the challenge window. Submitted -> Completed. Moves: 10 Fee, 11 Royalty, 12 Change, 9 Unlocked.
    /// Emits `JobCompleted`. Reverts: `JobNotInState`, `ReceiptNotSubmitted`, `DeadlineNotPassed`.
    function complete(JobSpec calldata spec, Receipt calldata receipt) external;

    /// @notice Completes many jobs; one that cannot complete is skipped with `CompletionSkipped` and does not stop the others.
    /// @dev Anyone. Give gas for all of them: one that runs out is skipped like any other and can be completed later.
    function completeMany(Completion[] calldata completions) external;

    /// @notice Takes an unclaimed job back. The client, at any time while it is Open. Open -> Refunded. Moves: 4 Cancelled.
    /// @dev Emits `JobCancelled`. Reverts: `JobNotInState`, `NotClient`.
    function cancel(JobSpec calldata spec) external;

    /// @notice Refunds a job that nobody claimed. Anyone, after claimBy. Open -> Refunded. Moves: 5 Expired.
    /// @dev Emits `JobExpired`. Reverts: `JobNotInState`, `DeadlineNotPassed`.
    function expire(JobSpec calldata spec) external;

    /// @notice Refunds a job that was claimed and not delivered, with a penalty out of the provider's lock.
    /// @dev Anyone, after the delivery deadline. Claimed -> Refunded. Moves: 6 Undelivered, 7 Penalty, 9 Unlocked.
    /// Emits `JobUndelivered`. Reverts: `JobNotInState`, `DeadlineNotPassed`.
    function refundUndelivered(JobSpec calldata spec) external;

    /// @notice A challenge or a data demand begins; the job cannot complete until it ends.
    /// @dev The dispute game, up to and including the end of the window. Submitted or Challenged -> Challenged. Emits `ChallengeOpened`.
    /// Reverts: `JobNotInState`, `NotDisputeGame`, `ReceiptNotSubmitted`, `DeadlinePassed`.
    function challengeOpened(JobSpec calldata spec, Receipt calldata receipt) external returns (JobId);

    /// @notice A challenge ended in favour of the provider. Challenged -> Challenged, or Submitted where it was the last open one.
    /// @dev The dispute game, at any time. Emits `ChallengeDismissed`. Reverts: `JobNotInState`, `NotDisputeGame`.
    function challengeDismissed(JobId jobId) external;

    /// @notice The provider is convicted: the lock goes to the challenger, the client and Delayed, the escrow back to the client.
    /// @dev The dispute game, at any time. Challenged -> Slashed. Moves: 20 SlashedToChallenger, 21 SlashedToClient,
    /// 22 SlashedDelayed, 23 Voided. Emits `JobSlashed`. Reverts: `JobNotInState`, `NotDisputeGame`, `ReceiptNotSubmitted`.
    function convicted(JobSpec calldata spec, Receipt calldata receipt, address challenger) external;

    /// @notice Extends the window to at least `extensionSecs` from now, once.
    /// @dev The dispute game; while Challenged at any time, while Submitted up to and including the end of the window. No transition.
    /// Emits `WindowExtended`. Reverts: `JobNotInState`, `NotDisputeGame`, `AlreadyExtended`, `DeadlinePassed`.
    function extend(JobId jobId) external;

    /// @notice The id of a job: its EIP-712 digest.
    function jobIdOf(JobSpec calldata spec) external view returns (JobId);

    /// @notice The EIP-712 digest of a receipt: what the operator signs.
    function receiptDigestOf(Receipt calldata receipt) external view returns (bytes32);

    /// @notice The EIP-712 domain separator on this chain.
    function domainSeparator() external view returns (bytes32);

    /// @notice What storage holds of a job, decoded; state None where it was never posted.
    function job(JobId jobId) external view returns (Job memory);

    /// @notice The most that a job can cost its client: what `post` escrows. Reverts `FieldOutOfBounds` where it exceeds uint96.
    function maxFeeOf(JobSpec calldata spec) external pure returns (uint96);

    /// @notice What a job costs with `outputLen` ids of output at the price `priceBps`, rounded down.
    function feeOf(JobSpec calldata spec, uint64 outputLen, uint16 priceBps) external pure returns (uint96);

    /// @notice The price in 1/10,000 of the maximum, `elapsedSecs` after the posting, rounded down.
    function priceBpsAt(JobSpec calldata spec, uint256 elapsedSecs) external pure returns (uint16);

    /// @notice The stake that a claim locks.
    function lockOf(JobSpec calldata spec) external view returns (uint128);

    /// @notice The parameters of this market, fixed for ever.
    function parameters() external view returns (Parameters memory);

    /// @notice Where the money is.
    function LEDGER() external view returns (address);

    /// @notice Where operators are looked up at the claim.
    function PROVIDER_REGISTRY() external view returns (address);

    /// @notice Where models are looked up.
    function MODEL_REGISTRY() external view returns (address);

    /// @notice The only contract that may challenge, dismiss, convict and extend; 0: none.
    function DISPUTE_GAME() external view returns (address);
}
