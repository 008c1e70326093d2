// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IJobMarket} from "../src/interfaces/IJobMarket.sol";
import {Parameters} from "../src/types/Job.sol";
import {Vm} from "../test/Vm.sol";
import {Deployment} from "./Deployment.sol";

/// @title Deploys the contracts with the parameters of a JSON file and writes where they are to another
/// @notice CONFIG: contracts/config/*.json. OUT: usually deployments/CHAIN_ID.json, which scripts/contracts-verify-deployment compares
/// with the chain. Both are environment variables, both relative to contracts/. scripts/contracts-deploy calls this.
contract Deploy {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    // forge asks scripts for this.
    bool public constant IS_SCRIPT = true;

    function run() external {
        string memory json = vm.readFile(vm.envString("CONFIG"));
        Deployment.Config memory config = read(json);
        uint64 nonce = vm.getNonce(msg.sender);
        vm.startBroadcast();
        Deployment.Contracts memory c = Deployment.deploy(config, msg.sender, nonce);
        vm.stopBroadcast();
        vm.writeFile(vm.envString("OUT"), describe(config, c, msg.sender));
    }

    function read(string memory json) public view returns (Deployment.Config memory config) {
        config.token = vm.parseJsonAddress(json, ".token");
        config.bridge = vm.parseJsonAddress(json, ".bridge");
        config.remoteToken = vm.parseJsonAddress(json, ".remoteToken");
        config.holder = vm.parseJsonAddress(json, ".holder");
        config.initialSupply = vm.parseJsonUint(json, ".initialSupply");
        config.guardian = vm.parseJsonAddress(json, ".guardian");
        config.guardianExpiresAtBlock = block.number + vm.parseJsonUint(json, ".guardianBlocks");
        config.disputeGame = vm.parseJsonAddress(json, ".disputeGame");
        config.unbondingSecs = uint40(_uint(json, ".unbondingSecs", type(uint40).max));
        config.parameters = Parameters({
            challengeWindowSecs: uint32(_uint(json, ".parameters.challengeWindowSecs", type(uint32).max)),
            extensionSecs: uint32(_uint(json, ".parameters.extensionSecs", type(uint32).max)),
            maxGameSecs: uint32(_uint(json, ".parameters.maxGameSecs", type(uint32).max)),
            minLock: uint96(_uint(json, ".parameters.minLock", type(uint96).max)),
            lockFactorBps: uint32(_uint(json, ".parameters.lockFactorBps", type(uint32).max)),
            penaltyBps: uint16(_uint(json, ".parameters.penaltyBps", type(uint16).max)),
            challengerShareBps: uint16(_uint(json, ".parameters.challengerShareBps", type(uint16).max)),
            clientShareBps: uint16(_uint(json, ".parameters.clientShareBps", type(uint16).max))
        });
    }

    function describe(Deployment.Config memory config, Deployment.Contracts memory c, address deployer)
        public
        view
        returns (string memory)
    {
        string memory contracts = string.concat(
            _contract("QuernToken", c.token),
            ",",
            _contract("Guardian", c.guardian),
            ",",
            _contract("ModelRegistry", c.modelRegistry),
            ",",
            _contract("JobMarket", c.jobMarket),
            ",",
            _contract("ProviderRegistry", c.providerRegistry),
            ",",
            _contract("Ledger", c.ledger)
        );
        string memory head = string.concat(
            "{\n  \"chainId\": ",
            vm.toString(block.chainid),
            ",\n  \"deployer\": \"",
            vm.toString(deployer),
            "\",\n  \"fromBlock\": ",
            vm.toString(block.number),
            ",\n  \"contracts\": {",
            contracts,
            "\n  },\n"
        );
        string memory token = string.concat(
            "  \"tokenDeployed\": ",
            config.token == address(0) ? "true" : "false",
            ",\n  \"bridge\": \"",
            vm.toString(config.bridge),
            "\",\n  \"remoteToken\": \"",
            vm.toString(config.remoteToken),
            "\",\n  \"holder\": \"",
            vm.toString(config.holder),
            "\",\n  \"initialSupply\": \"",
            vm.toString(config.initialSupply),
            "\",\n"
        );
        return string.concat(
            head,
            token,
            "  \"guardian\": \"",
            vm.toString(config.guardian),
            "\",\n  \"guardianExpiresAtBlock\": ",
            vm.toString(config.guardianExpiresAtBlock),
            ",\n  \"disputeGame\": \"",
            vm.toString(config.disputeGame),
            "\",\n  \"unbondingSecs\": ",
            vm.toString(uint256(config.unbondingSecs)),
            ",\n  \"parameters\": {",
            _parameters(IJobMarket(c.jobMarket).parameters()),
            "\n  }\n}\n"
        );
    }

    function _parameters(Parameters memory p) private pure returns (string memory) {
        return string.concat(
            _number("challengeWindowSecs", p.challengeWindowSecs),
            ",",
            _number("extensionSecs", p.extensionSecs),
            ",",
            _number("maxGameSecs", p.maxGameSecs),
            ",\n    \"minLock\": \"",
            vm.toString(uint256(p.minLock)),
            "\",",
            _number("lockFactorBps", p.lockFactorBps),
            ",",
            _number("penaltyBps", p.penaltyBps),
            ",",
            _number("challengerShareBps", p.challengerShareBps),
            ",",
            _number("clientShareBps", p.clientShareBps)
        );
    }

    function _contract(string memory name, address deployed) private view returns (string memory) {
        return string.concat(
            "\n    \"", name, "\": { \"address\": \"", vm.toString(deployed), "\", \"codeHash\": \"", vm.toString(deployed.codehash), "\" }"
        );
    }

    function _number(string memory name, uint256 value) private pure returns (string memory) {
        return string.concat("\n    \"", name, "\": ", vm.toString(value));
    }

    function _uint(string memory json, string memory key, uint256 max) private pure returns (uint256 value) {
        value = vm.parseJsonUint(json, key);
        vm.assertLe(value, max, string.concat("CONFIG: too large: ", key));
    }
}
