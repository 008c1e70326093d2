// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Modules, Parameters} from "../src/types/Job.sol";
import {Vm} from "../test/Vm.sol";

/// @title The one way in which the contracts are deployed, by the script and by every test
/// @notice The contracts name each other for ever, so their addresses are known before they exist: each is created by the deployer with
/// the next nonce, in this order: QuernToken (where the configuration names no token), Guardian, ModelRegistry, JobMarket,
/// ProviderRegistry, Ledger. The Ledger comes last and reverts where a module names another one.
///
/// What is deployed is the bytecode that is committed in snapshots/bytecode, so that scripts, tests and the deployment checker speak of one
/// thing; QUERN_BYTECODE names another folder (scripts/contracts-test: the bytecode that was just compiled).
library Deployment {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// @param token the ERC-20 that money is counted in; 0: deploy `QuernToken`
    /// @param bridge the L2 standard bridge of a deployed token; 0: none
    /// @param remoteToken the L1 token of a deployed token; 0: none
    /// @param holder gets the initial supply of a deployed token
    /// @param initialSupply in the smallest unit
    /// @param guardian may stop entries
    /// @param guardianExpiresAtBlock the last block in which it may
    /// @param disputeGame may challenge receipts; 0: nobody
    /// @param unbondingSecs from `unstake` to withdrawal
    /// @param parameters of the market
    struct Config {
        address token;
        address bridge;
        address remoteToken;
        address holder;
        uint256 initialSupply;
        address guardian;
        uint256 guardianExpiresAtBlock;
        address disputeGame;
        uint40 unbondingSecs;
        Parameters parameters;
    }

    struct Contracts {
        address token;
        address guardian;
        address modelRegistry;
        address jobMarket;
        address providerRegistry;
        address ledger;
    }

    /// @notice A contract came out at another address than its predecessors name: the deployer sent something in between.
    error AddressDiffers(address expected, address actual);

    /// @notice The addresses at which `deploy` will put the contracts.
    function addresses(Config memory config, address deployer, uint256 nonce) internal pure returns (Contracts memory c) {
        c.token = config.token == address(0) ? create(deployer, nonce++) : config.token;
        c.guardian = create(deployer, nonce++);
        c.modelRegistry = create(deployer, nonce++);
        c.jobMarket = create(deployer, nonce++);
        c.providerRegistry = create(deployer, nonce++);
        c.ledger = create(deployer, nonce);
    }

    /// @param deployer whoever creates: the sender of the transactions, or the contract that calls this
    /// @param nonce the deployer's next nonce
    function deploy(Config memory config, address deployer, uint256 nonce) internal returns (Contracts memory c) {
        c = addresses(config, deployer, nonce);
        if (config.token == address(0)) {
            bytes memory supply = abi.encode(config.bridge, config.remoteToken, config.holder, config.initialSupply);
            _deploy("QuernToken", supply, c.token);
        }
        _deploy("Guardian", abi.encode(config.guardian, config.guardianExpiresAtBlock), c.guardian);
        _deploy("ModelRegistry", abi.encode(c.guardian), c.modelRegistry);
        Modules memory modules = Modules(c.ledger, c.providerRegistry, c.modelRegistry, c.guardian, config.disputeGame);
        _deploy("JobMarket", abi.encode(modules, config.parameters), c.jobMarket);
        _deploy("ProviderRegistry", abi.encode(c.ledger, c.guardian, c.jobMarket, config.unbondingSecs), c.providerRegistry);
        _deploy("Ledger", abi.encode(c.token, c.jobMarket, c.providerRegistry, config.disputeGame), c.ledger);
    }

    /// @notice The address of a contract that `deployer` creates with `nonce`: the last 20 bytes of keccak(rlp([deployer, nonce])).
    function create(address deployer, uint256 nonce) internal pure returns (address) {
        bytes memory encoded;
        if (nonce == 0) encoded = abi.encodePacked(hex"d694", deployer, hex"80");
        else if (nonce < 0x80) encoded = abi.encodePacked(hex"d694", deployer, uint8(nonce));
        else if (nonce < 1 << 8) encoded = abi.encodePacked(hex"d794", deployer, hex"81", uint8(nonce));
        else if (nonce < 1 << 16) encoded = abi.encodePacked(hex"d894", deployer, hex"82", uint16(nonce));
        else if (nonce < 1 << 24) encoded = abi.encodePacked(hex"d994", deployer, hex"83", uint24(nonce));
        else encoded = abi.encodePacked(hex"da94", deployer, hex"84", uint32(nonce));
        return address(uint160(uint256(keccak256(encoded))));
    }

    function _deploy(string memory name, bytes memory arguments, address expected) private {
        string memory folder = vm.envOr("QUERN_BYTECODE", string("snapshots/bytecode"));
        string memory json = vm.readFile(string.concat(folder, "/", name, ".json"));
        bytes memory code = bytes.concat(vm.parseJsonBytes(json, ".creation"), arguments);
        address actual;
        assembly ("memory-safe") {
            actual := create(0, add(code, 0x20), mload(code))
            // A constructor that refuses says why.
            if iszero(actual) {
                returndatacopy(mload(0x40), 0, returndatasize())
                revert(mload(0x40), returndatasize())
            }
        }
        if (actual != expected) revert AddressDiffers(expected, actual);
    }
}
