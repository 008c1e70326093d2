// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobId, ModelId} from "./Ids.sol";

/// @notice What a client asks for and offers. Static words in this order: the EIP-712 digest is the job id, the chain keeps
/// no copy, and every later call carries the whole (docs/PROTOCOL.md, section 3, gives bounds and units of each field).
struct JobSpec {
    address client;
    ModelId modelId;
    uint8 kind;
    uint32 itemCount;
    uint32 samplesPerItem;
    bytes32 inputRoot;
    uint64 inputLen;
    uint32 maxOutput;
    bytes32 stopIds;
    uint32 temperature;
    uint32 minP;
    bytes32 seed;
    uint96 basePrice;
    uint96 inputPrice;
    uint96 outputPrice;
    uint96 itemPrice;
    uint16 rampFloorBps;
    uint32 rampSecs;
    uint64 claimBy;
    uint32 deliverWithin;
    address designated;
    uint8 inputCodec;
    bytes32 inputDigest;
    bytes32 salt;
}

/// @notice What a provider attests, signed (EIP-712, same domain) by the operator key that made the claim
/// (docs/PROTOCOL.md, section 4).
struct Receipt {
    JobId jobId;
    address provider;
    bytes32 outputRoot;
    uint64 outputLen;
    uint8 outputCodec;
    bytes32 outputDigest;
    bytes32 workDigest;
    uint64 energyMillijoules;
    uint8 energyMethod;
}

/// @notice The life of a job. Completed, Refunded and Slashed are final.
enum State {
    None,
    Open,
    Claimed,
    Submitted,
    Challenged,
    Completed,
    Refunded,
    Slashed
}

/// @notice What storage holds of a job, decoded. Fields that the state does not have are 0.
/// @param clock seconds: Open: when it was posted; Claimed: last second to submit; Submitted, Challenged: last second to challenge;
/// final: the clock of the state before
/// @param priceBps the price fixed by the claim, in 1/10,000 of the client's maximum
/// @param operator the provider's operator key at the claim; only it may sign the receipt
/// @param challengesOpen challenges and data demands that the dispute game has opened and not ended
/// @param extended whether the window was extended; it can be once
/// @param provider Claimed: who claimed it
/// @param receiptDigest Submitted, Challenged: the EIP-712 digest of the receipt
struct Job {
    State state;
    uint40 clock;
    uint16 priceBps;
    address operator;
    uint16 challengesOpen;
    bool extended;
    address provider;
    bytes32 receiptDigest;
}

/// @notice One entry of `completeMany`.
struct Completion {
    JobSpec spec;
    Receipt receipt;
}

/// @notice The parameters of a `JobMarket`, fixed for ever at its deployment.
/// @param challengeWindowSecs seconds after a submission in which it can be challenged
/// @param extensionSecs the time that a data answer leaves to auditors, at least, counted from the answer
/// @param maxGameSecs the longest time that a dispute game may take from its opening; 0 where there is no game
/// @param minLock the least stake locked behind a job, in the token's smallest unit
/// @param lockFactorBps the lock in 1/10,000 of the job's maximum fee, where that is more than `minLock`
/// @param penaltyBps the part of the lock that a client gets for a claimed job that was not delivered
/// @param challengerShareBps the part of a slashed lock that goes to the challenger
/// @param clientShareBps the part of a slashed lock that goes to the client; what is left, at least half, is held as Delayed
struct Parameters {
    uint32 challengeWindowSecs;
    uint32 extensionSecs;
    uint32 maxGameSecs;
    uint96 minLock;
    uint32 lockFactorBps;
    uint16 penaltyBps;
    uint16 challengerShareBps;
    uint16 clientShareBps;
}

/// @notice The contracts that a `JobMarket` works with, fixed for ever at its deployment.
/// @param ledger holds the money
/// @param providerRegistry knows the operators
/// @param modelRegistry knows the models
/// @param guardian says whether entries are stopped
/// @param disputeGame may challenge; 0: none
struct Modules {
    address ledger;
    address providerRegistry;
    address modelRegistry;
    address guardian;
    address disputeGame;
}
