// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IEntry} from "./interfaces/IEntry.sol";
import {IGuardian} from "./interfaces/IGuardian.sol";
import {IJobMarket} from "./interfaces/IJobMarket.sol";
import {ILedger} from "./interfaces/ILedger.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {JobHash} from "./libraries/JobHash.sol";
import {Pricing} from "./libraries/Pricing.sol";
import {SpecBounds} from "./libraries/SpecBounds.sol";
import {JobId} from "./types/Ids.sol";
import {Completion, Job, JobSpec, Modules, Parameters, Receipt, State} from "./types/Job.sol";
import {JobWord, JobWords} from "./types/JobWord.sol";
import {Move, Reason} from "./types/Money.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

/// @title See `IJobMarket`
// Deadlines are what this contract is about. The sequencer chooses a block's time within the bounds of the OP Stack, and production windows
// are hours, so that nothing turns on a second of its choice.
// slither-disable-start timestamp
contract JobMarket is IJobMarket {
    /// @dev `subject` is the provider while Claimed, the receipt's digest while Submitted or Challenged, else 0.
    struct Stored {
        JobWord word;
        bytes32 subject;
    }

    /// @inheritdoc IJobMarket
    address public immutable LEDGER;
    /// @inheritdoc IJobMarket
    address public immutable PROVIDER_REGISTRY;
    /// @inheritdoc IJobMarket
    address public immutable MODEL_REGISTRY;
    /// @inheritdoc IEntry
    address public immutable GUARDIAN;
    /// @inheritdoc IJobMarket
    address public immutable DISPUTE_GAME;

    uint32 private immutable _CHALLENGE_WINDOW_SECS;
    uint32 private immutable _EXTENSION_SECS;
    uint32 private immutable _MAX_GAME_SECS;
    uint96 private immutable _MIN_LOCK;
    uint32 private immutable _LOCK_FACTOR_BPS;
    uint16 private immutable _PENALTY_BPS;
    uint16 private immutable _CHALLENGER_SHARE_BPS;
    uint16 private immutable _CLIENT_SHARE_BPS;

    uint256 private immutable _CHAIN_ID;
    bytes32 private immutable _DOMAIN_SEPARATOR;

    mapping(JobId => Stored) private _jobs;

    constructor(Modules memory m, Parameters memory p) {
        if (m.ledger == address(0)) revert ContractNotAllowed("ledger", m.ledger);
        if (m.providerRegistry == address(0)) revert ContractNotAllowed("providerRegistry", m.providerRegistry);
        if (m.modelRegistry.code.length == 0) revert ContractNotAllowed("modelRegistry", m.modelRegistry);
        if (m.guardian.code.length == 0) revert ContractNotAllowed("guardian", m.guardian);
        SpecBounds.within("challengeWindowSecs", p.challengeWindowSecs, 1, 30 days);
        SpecBounds.within("extensionSecs", p.extensionSecs, 1, 30 days);
        if (m.disputeGame == address(0)) SpecBounds.within("maxGameSecs", p.maxGameSecs, 0, 0);
        else SpecBounds.within("maxGameSecs", p.maxGameSecs, 1, 90 days);
        SpecBounds.within("minLock", p.minLock, 1, type(uint96).max);
        SpecBounds.within("lockFactorBps", p.lockFactorBps, 0, 1_000_000);
        SpecBounds.within("penaltyBps", p.penaltyBps, 1, 5000);
        SpecBounds.within("challengerShareBps", p.challengerShareBps, 1, 5000);
        // At least half of a slashed lock helps nobody: else a provider could slash itself for free.
        SpecBounds.within("clientShareBps", p.clientShareBps, 0, 5000 - p.challengerShareBps);

        LEDGER = m.ledger;
        PROVIDER_REGISTRY = m.providerRegistry;
        MODEL_REGISTRY = m.modelRegistry;
        GUARDIAN = m.guardian;
        DISPUTE_GAME = m.disputeGame;
        _CHALLENGE_WINDOW_SECS = p.challengeWindowSecs;
        _EXTENSION_SECS = p.extensionSecs;
        _MAX_GAME_SECS = p.maxGameSecs;
        _MIN_LOCK = p.minLock;
        _LOCK_FACTOR_BPS = p.lockFactorBps;
        _PENALTY_BPS = p.penaltyBps;
        _CHALLENGER_SHARE_BPS = p.challengerShareBps;
        _CLIENT_SHARE_BPS = p.clientShareBps;
        _CHAIN_ID = block.chainid;
        _DOMAIN_SEPARATOR = JobHash.domainSeparator(block.chainid, address(this));
    }

    /* POST AND TAKE BACK */

    /// @inheritdoc IJobMarket
    function post(JobSpec calldata spec) external returns (JobId jobId) {
        Stored storage stored;
        (jobId, stored,) = _load(spec, State.None);
        if (msg.sender != spec.client) revert NotClient(spec.client, msg.sender);
        if (IGuardian(GUARDIAN).entriesStopped()) revert EntriesAreStopped();
        SpecBounds.check(spec);
        uint96 maxFee = maxFeeOf(spec);
        IModelRegistry.Model memory model = IModelRegistry(MODEL_REGISTRY).model(spec.modelId);
        if (model.publisher == address(0)) revert ModelUnknown(spec.modelId);
        if (model.family != spec.kind) revert KindNotOfFamily(spec.modelId, spec.kind, model.family);
        if (block.timestamp > spec.claimBy) revert DeadlinePassed(jobId, spec.claimBy, block.timestamp);

        stored.word = JobWords.open(uint40(block.timestamp));
        emit JobPosted(jobId, spec.client, spec.modelId, maxFee, uint40(block.timestamp), spec);
        _move(jobId, spec.client, maxFee, Reason.Escrowed);
    }

    /// @inheritdoc IJobMarket
    function cancel(JobSpec calldata spec) external {
        (JobId jobId, Stored storage stored, JobWord word) = _load(spec, State.Open);
        if (msg.sender != spec.client) revert NotClient(spec.client, msg.sender);

        uint96 refund = _maxFeeOfPosted(spec);
        stored.word = word.withState(State.Refunded);
        emit JobCancelled(jobId, spec.client, refund);
        _move(jobId, spec.client, refund, Reason.Cancelled);
    }

    /// @inheritdoc IJobMarket
    function expire(JobSpec calldata spec) external {
        (JobId jobId, Stored storage stored, JobWord word) = _load(spec, State.Open);
        if (block.timestamp <= spec.claimBy) revert DeadlineNotPassed(jobId, spec.claimBy, block.timestamp);

        uint96 refund = _maxFeeOfPosted(spec);
        stored.word = word.withState(State.Refunded);
        emit JobExpired(jobId, spec.client, refund);
        _move(jobId, spec.client, refund, Reason.Expired);
    }

    /* CLAIM AND DELIVER */

    /// @inheritdoc IJobMarket
    function claim(JobSpec calldata spec, address provider) external {
        (JobId jobId, Stored storage stored, JobWord word) = _load(spec, State.Open);
        address operator = IProviderRegistry(PROVIDER_REGISTRY).operatorOf(provider);
        if (msg.sender != operator) revert NotOperator(provider, operator, msg.sender);
        if (spec.designated != address(0) && spec.designated != provider) revert NotDesignated(jobId, spec.designated, provider);
        if (block.timestamp > spec.claimBy) revert DeadlinePassed(jobId, spec.claimBy, block.timestamp);

        uint16 priceBps = Pricing.priceBps(spec, block.timestamp - word.clock());
        uint40 deadline = uint40(block.timestamp + spec.deliverWithin);
        uint128 lock = _lockOfPosted(spec);
        stored.word = JobWords.claimed(deadline, priceBps, operator);
        stored.subject = bytes32(uint256(uint160(provider)));
        emit JobClaimed(jobId, provider, operator, priceBps, deadline, lock);
        _move(jobId, provider, lock, Reason.Locked);
    }

    /// @inheritdoc IJobMarket
    function submit(JobSpec calldata spec, Receipt calldata receipt, bytes calldata signature) external {
        (JobId jobId, Stored storage stored, JobWord word) = _load(spec, State.Claimed);
        if (receipt.jobId != jobId) revert ReceiptOfOtherJob(jobId, receipt.jobId);
        address provider = address(uint160(uint256(stored.subject)));
        if (receipt.provider != provider) revert NotClaimant(jobId, provider, receipt.provider);
        bytes32 digest = _receiptDigestOf(receipt);
        // The other two say why there is no signer; a signer of 0 is refused below, whatever the reason.
        // slither-disable-next-line unused-return
        (address signer,,) = ECDSA.tryRecoverCalldata(digest, signature);
        // The operator at the claim was a sender, so it is not 0, which a malformed signature recovers to.
        if (signer != word.operator()) revert SignerNotOperator(jobId, word.operator(), signer);
        SpecBounds.within("outputLen", receipt.outputLen, 0, Pricing.maxOutputLen(spec));
        SpecBounds.checkCodec("outputCodec", receipt.outputCodec);
        SpecBounds.within("energyMethod", receipt.energyMethod, 1, 2);
        if (block.timestamp > word.clock()) revert DeadlinePassed(jobId, word.clock(), block.timestamp);

        uint40 windowEnd = uint40(block.timestamp + _CHALLENGE_WINDOW_SECS);
        stored.word = word.withState(State.Submitted).withClock(windowEnd);
        stored.subject = digest;
        emit ReceiptSubmitted(jobId, provider, digest, windowEnd, receipt);
    }

    /// @inheritdoc IJobMarket
    function refundUndelivered(JobSpec calldata spec) external {
        (JobId jobId, Stored storage stored, JobWord word) = _load(spec, State.Claimed);
        if (block.timestamp <= word.clock()) revert DeadlineNotPassed(jobId, word.clock(), block.timestamp);

        address provider = address(uint160(uint256(stored.subject)));
        uint96 refund = _maxFeeOfPosted(spec);
        uint128 lock = _lockOfPosted(spec);
        uint128 penalty = _shareFloor(lock, _PENALTY_BPS);
        stored.word = word.withState(State.Refunded);
        stored.subject = 0;
        emit JobUndelivered(jobId, spec.client, provider, refund, penalty, lock - penalty);

        Move[] memory moves = new Move[](3);
        moves[0] = Move(spec.client, spec.client, refund, Reason.Undelivered);
        moves[1] = Move(provider, spec.client, penalty, Reason.Penalty);
        moves[2] = Move(provider, provider, lock - penalty, Reason.Unlocked);
        ILedger(LEDGER).move(JobId.unwrap(jobId), moves);
    }

    /* COMPLETE */

    /// @inheritdoc IJobMarket
    function complete(JobSpec calldata spec, Receipt calldata receipt) external {
        (JobId jobId, Stored storage stored, JobWord word) = _load(spec, State.Submitted);
        _requireReceipt(jobId, stored, receipt);
        if (block.timestamp <= word.clock()) revert DeadlineNotPassed(jobId, word.clock(), block.timestamp);

        IModelRegistry.Model memory model = IModelRegistry(MODEL_REGISTRY).model(spec.modelId);
        uint96 fee = uint96(Pricing.fee(spec, receipt.outputLen, word.priceBps()));
        uint96 royalty = uint96(_shareFloor(fee, model.royaltyBps));
        uint96 change = _maxFeeOfPosted(spec) - fee;
        // inputLen + outputLen < 2^65 and macsPerToken < 2^44: fits.
        uint128 workUnits = uint128((uint256(spec.inputLen) + receipt.outputLen) * model.macsPerToken);
        stored.word = word.withState(State.Completed);
        stored.subject = 0;
        emit JobCompleted(jobId, receipt.provider, model.publisher, fee, royalty, change, workUnits);

        Move[] memory moves = new Move[](4);
        moves[0] = Move(spec.client, receipt.provider, fee - royalty, Reason.Fee);
        moves[1] = Move(spec.client, model.publisher, royalty, Reason.Royalty);
        moves[2] = Move(spec.client, spec.client, change, Reason.Change);
        moves[3] = Move(receipt.provider, receipt.provider, _lockOfPosted(spec), Reason.Unlocked);
        ILedger(LEDGER).move(JobId.unwrap(jobId), moves);
    }

    /// @inheritdoc IJobMarket
    function completeMany(Completion[] calldata completions) external {
        for (uint256 i = 0; i < completions.length; ++i) {
            Completion calldata c = completions[i];
            // The call is to this contract, and one that fails is skipped: that is what the loop is for.
            // slither-disable-next-line calls-loop,reentrancy-events
            try this.complete(c.spec, c.receipt) {}
            catch (bytes memory reason) {
                emit CompletionSkipped(_jobIdOf(c.spec), reason);
            }
        }
    }

    /* THE DISPUTE GAME'S FOUR CALLS */

    /// @inheritdoc IJobMarket
    function challengeOpened(JobSpec calldata spec, Receipt calldata receipt) external returns (JobId jobId) {
        jobId = _jobIdOf(spec);
        (Stored storage stored, JobWord word) = _loadInDoubt(jobId);
        _requireGame();
        _requireReceipt(jobId, stored, receipt);
        if (block.timestamp > word.clock()) revert DeadlinePassed(jobId, word.clock(), block.timestamp);

        uint16 challengesOpen = word.challengesOpen() + 1;
        stored.word = word.withState(State.Challenged).withChallengesOpen(challengesOpen);
        emit ChallengeOpened(jobId, challengesOpen);
    }

    /// @inheritdoc IJobMarket
    function challengeDismissed(JobId jobId) external {
        (Stored storage stored, JobWord word) = _load(jobId, State.Challenged);
        _requireGame();

        // INVARIANT: Challenged if and only if challengesOpen > 0.
        uint16 challengesOpen = word.challengesOpen() - 1;
        stored.word = word.withState(challengesOpen == 0 ? State.Submitted : State.Challenged).withChallengesOpen(challengesOpen);
        emit ChallengeDismissed(jobId, challengesOpen);
    }

    /// @inheritdoc IJobMarket
    function convicted(JobSpec calldata spec, Receipt calldata receipt, address challenger) external {
        (JobId jobId, Stored storage stored, JobWord word) = _load(spec, State.Challenged);
        _requireGame();
        _requireReceipt(jobId, stored, receipt);

        uint96 refund = _maxFeeOfPosted(spec);
        uint128 lock = _lockOfPosted(spec);
        uint128 toChallenger = _shareFloor(lock, _CHALLENGER_SHARE_BPS);
        uint128 toClient = _shareFloor(lock, _CLIENT_SHARE_BPS);
        uint128 delayed = lock - toChallenger - toClient;
        stored.word = word.withState(State.Slashed).withChallengesOpen(0);
        stored.subject = 0;
        emit JobSlashed(jobId, receipt.provider, challenger, toChallenger, toClient, delayed, refund);

        Move[] memory moves = new Move[](4);
        moves[0] = Move(receipt.provider, challenger, toChallenger, Reason.SlashedToChallenger);
        moves[1] = Move(receipt.provider, spec.client, toClient, Reason.SlashedToClient);
        moves[2] = Move(receipt.provider, address(0), delayed, Reason.SlashedDelayed);
        moves[3] = Move(spec.client, spec.client, refund, Reason.Voided);
        ILedger(LEDGER).move(JobId.unwrap(jobId), moves);
    }

    /// @inheritdoc IJobMarket
    function extend(JobId jobId) external {
        (Stored storage stored, JobWord word) = _loadInDoubt(jobId);
        _requireGame();
        if (word.extended()) revert AlreadyExtended(jobId);
        uint40 windowEnd = word.clock();
        if (word.state() == State.Submitted && block.timestamp > windowEnd) revert DeadlinePassed(jobId, windowEnd, block.timestamp);

        uint40 extendedEnd = uint40(block.timestamp + _EXTENSION_SECS);
        if (extendedEnd > windowEnd) windowEnd = extendedEnd;
        stored.word = word.withClock(windowEnd).withExtended();
        emit WindowExtended(jobId, windowEnd);
    }

    /* VIEWS */

    /// @inheritdoc IJobMarket
    function jobIdOf(JobSpec calldata spec) external view returns (JobId) {
        return _jobIdOf(spec);
    }

    /// @inheritdoc IJobMarket
    function receiptDigestOf(Receipt calldata receipt) external view returns (bytes32) {
        return _receiptDigestOf(receipt);
    }

    /// @inheritdoc IJobMarket
    function domainSeparator() public view returns (bytes32) {
        // A fork of the chain changes its id: signatures must not be valid on both.
        return block.chainid == _CHAIN_ID ? _DOMAIN_SEPARATOR : JobHash.domainSeparator(block.chainid, address(this));
    }

    /// @inheritdoc IJobMarket
    function job(JobId jobId) external view returns (Job memory) {
        (JobWord word, bytes32 subject) = (_jobs[jobId].word, _jobs[jobId].subject);
        bool claimed = word.state() == State.Claimed;
        return Job({
            state: word.state(),
            clock: word.clock(),
            priceBps: word.priceBps(),
            operator: word.operator(),
            challengesOpen: word.challengesOpen(),
            extended: word.extended(),
            provider: claimed ? address(uint160(uint256(subject))) : address(0),
            receiptDigest: claimed ? bytes32(0) : subject
        });
    }

    /// @inheritdoc IJobMarket
    function maxFeeOf(JobSpec calldata spec) public pure returns (uint96) {
        uint256 maxFee = Pricing.maxFee(spec);
        SpecBounds.within("maxFee", maxFee, 0, type(uint96).max);
        return uint96(maxFee);
    }

    /// @inheritdoc IJobMarket
    function feeOf(JobSpec calldata spec, uint64 outputLen, uint16 priceBps) external pure returns (uint96) {
        uint256 fee = Pricing.fee(spec, outputLen, priceBps);
        SpecBounds.within("fee", fee, 0, type(uint96).max);
        return uint96(fee);
    }

    /// @inheritdoc IJobMarket
    function priceBpsAt(JobSpec calldata spec, uint256 elapsedSecs) external pure returns (uint16) {
        return Pricing.priceBps(spec, elapsedSecs);
    }

    /// @inheritdoc IJobMarket
    function lockOf(JobSpec calldata spec) external view returns (uint128) {
        maxFeeOf(spec);
        return _lockOfPosted(spec);
    }

    /// @inheritdoc IJobMarket
    function parameters() external view returns (Parameters memory) {
        return Parameters({
            challengeWindowSecs: _CHALLENGE_WINDOW_SECS,
            extensionSecs: _EXTENSION_SECS,
            maxGameSecs: _MAX_GAME_SECS,
            minLock: _MIN_LOCK,
            lockFactorBps: _LOCK_FACTOR_BPS,
            penaltyBps: _PENALTY_BPS,
            challengerShareBps: _CHALLENGER_SHARE_BPS,
            clientShareBps: _CLIENT_SHARE_BPS
        });
    }

    /* INTERNAL */

    function _jobIdOf(JobSpec calldata spec) private view returns (JobId) {
        return JobId.wrap(MessageHashUtils.toTypedDataHash(domainSeparator(), JobHash.structHash(spec)));
    }

    function _receiptDigestOf(Receipt calldata receipt) private view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domainSeparator(), JobHash.structHash(receipt));
    }

    function _load(JobSpec calldata spec, State expected) private view returns (JobId jobId, Stored storage stored, JobWord word) {
        jobId = _jobIdOf(spec);
        (stored, word) = _load(jobId, expected);
    }

    function _load(JobId jobId, State expected) private view returns (Stored storage stored, JobWord word) {
        stored = _jobs[jobId];
        word = stored.word;
        if (word.state() != expected) revert JobNotInState(jobId, expected, word.state());
    }

    /// @dev Submitted or Challenged.
    function _loadInDoubt(JobId jobId) private view returns (Stored storage stored, JobWord word) {
        stored = _jobs[jobId];
        word = stored.word;
        State state = word.state();
        if (state != State.Submitted && state != State.Challenged) revert JobNotInState(jobId, State.Submitted, state);
    }

    function _requireGame() private view {
        if (msg.sender != DISPUTE_GAME) revert NotDisputeGame(DISPUTE_GAME, msg.sender);
    }

    function _requireReceipt(JobId jobId, Stored storage stored, Receipt calldata receipt) private view {
        bytes32 digest = _receiptDigestOf(receipt);
        if (digest != stored.subject) revert ReceiptNotSubmitted(jobId, stored.subject, digest);
    }

    /// @dev The maximum fee of a spec that was posted, so that its bound is known to hold.
    function _maxFeeOfPosted(JobSpec calldata spec) private pure returns (uint96) {
        return uint96(Pricing.maxFee(spec));
    }

    /// @dev The lock of a spec whose maximum fee is known to fit; maxFee < 2^96 and the factor < 2^32: fits.
    function _lockOfPosted(JobSpec calldata spec) private view returns (uint128) {
        unchecked {
            uint256 scaled = uint256(_maxFeeOfPosted(spec)) * _LOCK_FACTOR_BPS / Pricing.ONE_BPS;
            return uint128(scaled < _MIN_LOCK ? _MIN_LOCK : scaled);
        }
    }

    /// @dev amount < 2^128 and bps <= 10,000. ROUNDING: down.
    function _shareFloor(uint256 amount, uint256 bps) private pure returns (uint128) {
        unchecked {
            return uint128(amount * bps / Pricing.ONE_BPS);
        }
    }

    /// @dev One move within one account.
    function _move(JobId jobId, address account, uint128 amount, Reason reason) private {
        Move[] memory moves = new Move[](1);
        moves[0] = Move(account, account, amount, reason);
        ILedger(LEDGER).move(JobId.unwrap(jobId), moves);
    }
}
// slither-disable-end timestamp
