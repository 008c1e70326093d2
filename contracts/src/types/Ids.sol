// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

/// @notice The EIP-712 digest of a `JobSpec` in the domain of the `JobMarket` that holds the job (docs/PROTOCOL.md, section 3).
type JobId is bytes32;

/// @notice An offer to compute: keccak(0x31 ‖ package root ‖ publisher ‖ royalty) (docs/PROTOCOL.md, section 2).
type ModelId is bytes32;

using {equalJobId as ==, notEqualJobId as !=} for JobId global;
using {equalModelId as ==, notEqualModelId as !=} for ModelId global;

function equalJobId(JobId a, JobId b) pure returns (bool) {
    return JobId.unwrap(a) == JobId.unwrap(b);
}

function notEqualJobId(JobId a, JobId b) pure returns (bool) {
    return JobId.unwrap(a) != JobId.unwrap(b);
}

function equalModelId(ModelId a, ModelId b) pure returns (bool) {
    return ModelId.unwrap(a) == ModelId.unwrap(b);
}

function notEqualModelId(ModelId a, ModelId b) pure returns (bool) {
    return ModelId.unwrap(a) != ModelId.unwrap(b);
}
