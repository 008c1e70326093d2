// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobSpec, Receipt} from "../types/Job.sol";

/// @title EIP-712 hashes of job specs and receipts (docs/PROTOCOL.md, sections 3 and 4)
library JobHash {
    bytes32 internal constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 internal constant JOB_SPEC_TYPEHASH = keccak256(
        "JobSpec(address client,bytes32 modelId,uint8 kind,uint32 itemCount,uint32 samplesPerItem,bytes32 inputRoot,uint64 inputLen,uint32 maxOutput,bytes32 stopIds,uint32 temperature,uint32 minP,bytes32 seed,uint96 basePrice,uint96 inputPrice,uint96 outputPrice,uint96 itemPrice,uint16 rampFloorBps,uint32 rampSecs,uint64 claimBy,uint32 deliverWithin,address designated,uint8 inputCodec,bytes32 inputDigest,bytes32 salt)"
    );
    bytes32 internal constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(bytes32 jobId,address provider,bytes32 outputRoot,uint64 outputLen,uint8 outputCodec,bytes32 outputDigest,bytes32 workDigest,uint64 energyMillijoules,uint8 energyMethod)"
    );

    /// @notice The separator of the domain "Quern", version "1".
    function domainSeparator(uint256 chainId, address market) internal pure returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, keccak256("Quern"), keccak256("1"), chainId, market));
    }

    /// @notice The EIP-712 struct hash of a spec: the type hash and the 24 words as they stand in calldata.
    /// @dev A field with bits outside its type would hash to another id; `post` and `submit` refuse it when they encode the struct into
    /// their event, so no such id exists in storage.
    function structHash(JobSpec calldata spec) internal pure returns (bytes32 hash) {
        bytes32 typeHash = JOB_SPEC_TYPEHASH;
        assembly ("memory-safe") {
            let preimage := mload(0x40) // scratch beyond the free memory pointer, which stays
            mstore(preimage, typeHash)
            calldatacopy(add(preimage, 0x20), spec, 0x300) // 24 words
            hash := keccak256(preimage, 0x320)
        }
    }

    /// @notice The EIP-712 struct hash of a receipt: the type hash and the 9 words as they stand in calldata.
    function structHash(Receipt calldata receipt) internal pure returns (bytes32 hash) {
        bytes32 typeHash = RECEIPT_TYPEHASH;
        assembly ("memory-safe") {
            let preimage := mload(0x40) // scratch beyond the free memory pointer, which stays
            mstore(preimage, typeHash)
            calldatacopy(add(preimage, 0x20), receipt, 0x120) // 9 words
            hash := keccak256(preimage, 0x140)
        }
    }
}
