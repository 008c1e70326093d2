// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Deployment} from "../script/Deployment.sol";
import {Guardian} from "../src/Guardian.sol";
import {JobMarket} from "../src/JobMarket.sol";
import {Ledger} from "../src/Ledger.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {ProviderRegistry} from "../src/ProviderRegistry.sol";
import {QuernToken} from "../src/QuernToken.sol";
import {IEntry} from "../src/interfaces/IEntry.sol";
import {IJobMarket} from "../src/interfaces/IJobMarket.sol";
import {ILedger} from "../src/interfaces/ILedger.sol";
import {IModelRegistry} from "../src/interfaces/IModelRegistry.sol";
import {JobId, ModelId} from "../src/types/Ids.sol";
import {JobSpec, Parameters, Receipt, State} from "../src/types/Job.sol";
import {Bucket} from "../src/types/Money.sol";
import {Vm} from "./Vm.sol";
import {GameDouble} from "./mocks/GameDouble.sol";

/// @title What every test starts from: the deployed contracts, an actor per role, a registered model, and jobs to post
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint40 internal constant START = 1_700_000_000;
    uint256 internal constant OPERATOR_KEY = 0x0731;
    uint256 internal constant STRANGER_KEY = 0x0732;
    uint128 internal constant FUNDS = 1_000_000e18;
    uint16 internal constant ROYALTY_BPS = 1000;

    address internal immutable client = _actor("client");
    address internal immutable provider = _actor("provider");
    address internal immutable operator = vm.addr(OPERATOR_KEY);
    address internal immutable publisher = _actor("publisher");
    address internal immutable challenger = _actor("challenger");
    address internal immutable guardianKey = _actor("guardian");
    address internal immutable bridge = _actor("bridge");
    address internal immutable stranger = vm.addr(STRANGER_KEY);

    QuernToken internal token;
    Guardian internal guardian;
    ModelRegistry internal models;
    JobMarket internal market;
    ProviderRegistry internal providers;
    Ledger internal ledger;
    GameDouble internal game;

    ModelId internal encoder;
    ModelId internal encoderWithRoyalty;
    ModelId internal decoder;

    function setUp() public virtual {
        vm.warp(START);
        vm.roll(1000);
        game = new GameDouble();
        _deploy(_config());
        game.setMarket(market, ledger);
        encoder = _register(encoderHeader(), 0);
        encoderWithRoyalty = _register(encoderHeader(), ROYALTY_BPS);
        decoder = _register(decoderHeader(), ROYALTY_BPS);
        _fund(client, FUNDS);
        _fund(provider, FUNDS);
        vm.prank(provider);
        providers.setOperator(operator);
        vm.prank(provider);
        providers.stake(FUNDS / 2);
    }

    /* DEPLOYMENT */

    function _config() internal view virtual returns (Deployment.Config memory config) {
        config.bridge = bridge;
        config.holder = address(this);
        config.initialSupply = 1_000_000_000e18;
        config.guardian = guardianKey;
        config.guardianExpiresAtBlock = 1_000_000;
        config.disputeGame = address(game);
        config.unbondingSecs = 10 days;
        config.parameters = Parameters({
            challengeWindowSecs: 1 hours,
            extensionSecs: 30 minutes,
            maxGameSecs: 7 days,
            minLock: 1e18,
            lockFactorBps: 20_000,
            penaltyBps: 1000,
            challengerShareBps: 3000,
            clientShareBps: 2000
        });
    }

    function _deploy(Deployment.Config memory config) internal {
        Deployment.Contracts memory c = Deployment.deploy(config, address(this), vm.getNonce(address(this)));
        token = QuernToken(c.token);
        guardian = Guardian(c.guardian);
        models = ModelRegistry(c.modelRegistry);
        market = JobMarket(c.jobMarket);
        providers = ProviderRegistry(c.providerRegistry);
        ledger = Ledger(c.ledger);
    }

    /// @dev Tokens from the holder, deposited as Free money of `account`.
    function _fund(address account, uint128 amount) internal {
        token.approve(address(ledger), amount);
        ledger.deposit(account, amount);
    }

    /* MODELS */

    /// @dev The shape of all-MiniLM-L6-v2.
    function encoderHeader() internal pure returns (bytes memory) {
        uint32[40] memory h;
        (h[0], h[1], h[2], h[3], h[4]) = (1, 1, 30_522, 384, 6);
        (h[5], h[6], h[7], h[8], h[9]) = (12, 12, 32, 1536, 512);
        (h[12], h[13], h[14], h[15]) = (1, 4_278_694, 1, 1);
        (h[16], h[17], h[18]) = (0xa6, 1, 2);
        for (uint256 i = 19; i < 29; ++i) {
            h[i] = type(uint32).max;
        }
        return packHeader(h);
    }

    /// @dev A decoder of 135M parameters.
    function decoderHeader() internal pure returns (bytes memory) {
        uint32[40] memory h;
        (h[0], h[1], h[2], h[3], h[4]) = (1, 2, 49_152, 576, 30);
        (h[5], h[6], h[7], h[8], h[9]) = (9, 3, 64, 1536, 8192);
        (h[12], h[13], h[14]) = (1, 3_025_512, 2);
        (h[15], h[16], h[32]) = (3, 0x51, 64);
        for (uint256 i = 19; i < 29; ++i) {
            h[i] = type(uint32).max;
        }
        return packHeader(h);
    }

    function packHeader(uint32[40] memory words) internal pure returns (bytes memory header) {
        for (uint256 i = 0; i < 40; ++i) {
            header = abi.encodePacked(header, words[i]);
        }
    }

    function registration(bytes memory header, uint16 royaltyBps) internal pure returns (IModelRegistry.Registration memory) {
        return IModelRegistry.Registration({
            header: header,
            weightsRoot: keccak256("weights"),
            tokenizerHash: keccak256("tokenizer"),
            royaltyBps: royaltyBps,
            packageCodec: 0x70,
            packageDigest: keccak256("package"),
            name: "a model",
            tags: "test"
        });
    }

    function _register(bytes memory header, uint16 royaltyBps) internal returns (ModelId) {
        vm.prank(publisher);
        return models.register(registration(header, royaltyBps));
    }

    /* JOBS */

    /// @dev 16 lines of text, maximum fee 1 + 400 * 0.001 + 16 * 0.01 = 1.56 tokens.
    function embedSpec() internal view returns (JobSpec memory spec) {
        spec.client = client;
        spec.modelId = encoder;
        spec.kind = 1;
        spec.itemCount = 16;
        spec.samplesPerItem = 1;
        spec.inputRoot = keccak256("input");
        spec.inputLen = 400;
        spec.basePrice = 1e18;
        spec.inputPrice = 1e15;
        spec.itemPrice = 1e16;
        spec.rampFloorBps = 5000;
        spec.rampSecs = 600;
        spec.claimBy = START + 1 hours;
        spec.deliverWithin = 600;
        spec.inputCodec = 0x55;
        spec.inputDigest = keccak256("input blob");
        spec.salt = keccak256("salt");
    }

    /// @dev 4 prompts, 2 samples each, up to 100 ids per sample.
    function generateSpec() internal view returns (JobSpec memory spec) {
        spec = embedSpec();
        spec.modelId = decoder;
        spec.kind = 2;
        spec.itemCount = 4;
        spec.samplesPerItem = 2;
        spec.maxOutput = 100;
        spec.stopIds = bytes32(type(uint256).max);
        spec.temperature = 1 << 16;
        spec.minP = 6554;
        spec.seed = keccak256("seed");
        spec.outputPrice = 2e15;
    }

    /// @dev A valid spec of either kind, any of its fields anywhere in its bounds, with a maximum fee that the client can pay.
    function fuzzedSpec(uint256 seed) internal view returns (JobSpec memory spec) {
        spec = _draw(seed, 0) % 2 == 0 ? embedSpec() : generateSpec();
        spec.itemCount = uint32(bound(_draw(seed, 1), 1, 65_536));
        spec.inputLen = uint64(bound(_draw(seed, 2), 0, 1 << 40));
        spec.basePrice = uint96(bound(_draw(seed, 3), 0, 1000e18));
        spec.inputPrice = uint96(bound(_draw(seed, 4), 0, 1000e18 / (uint256(spec.inputLen) + 1)));
        spec.itemPrice = uint96(bound(_draw(seed, 5), 0, 1000e18 / spec.itemCount));
        spec.rampFloorBps = uint16(bound(_draw(seed, 6), 1, 10_000));
        spec.rampSecs = uint32(bound(_draw(seed, 7), 0, 2 hours));
        spec.claimBy = uint64(block.timestamp + bound(_draw(seed, 8), 0, 2 hours));
        spec.deliverWithin = uint32(bound(_draw(seed, 9), 1, 30 days));
        spec.salt = bytes32(_draw(seed, 10));
        if (spec.kind == 2) {
            spec.samplesPerItem = uint32(bound(_draw(seed, 11), 1, 256));
            spec.maxOutput = uint32(bound(_draw(seed, 12), 1, 32_768));
            uint256 outputs = uint256(spec.itemCount) * spec.samplesPerItem * spec.maxOutput;
            spec.outputPrice = uint96(bound(_draw(seed, 13), 0, 1000e18 / outputs));
        }
    }

    function _draw(uint256 seed, uint256 index) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, index)));
    }

    function receiptOf(JobSpec memory spec) internal view returns (Receipt memory receipt) {
        receipt.jobId = market.jobIdOf(spec);
        receipt.provider = provider;
        receipt.outputRoot = keccak256("output");
        receipt.outputLen = spec.kind == 1 ? 0 : uint64(uint256(spec.maxOutput) * spec.itemCount * spec.samplesPerItem * 5 / 8);
        receipt.outputCodec = 0x55;
        receipt.outputDigest = keccak256("output blob");
        receipt.workDigest = keccak256("work");
        receipt.energyMillijoules = 1234;
        receipt.energyMethod = 2;
    }

    function signed(Receipt memory receipt) internal view returns (bytes memory) {
        return signedBy(OPERATOR_KEY, market.receiptDigestOf(receipt));
    }

    function signedBy(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function _post(JobSpec memory spec) internal returns (JobId) {
        vm.prank(spec.client);
        return market.post(spec);
    }

    function _claim(JobSpec memory spec) internal {
        vm.prank(operator);
        market.claim(spec, provider);
    }

    function _submit(JobSpec memory spec) internal returns (Receipt memory receipt) {
        receipt = receiptOf(spec);
        bytes memory signature = signed(receipt);
        vm.prank(operator);
        market.submit(spec, receipt, signature);
    }

    function _postAndClaim(JobSpec memory spec) internal returns (JobId jobId) {
        jobId = _post(spec);
        _claim(spec);
    }

    function _postClaimSubmit(JobSpec memory spec) internal returns (Receipt memory) {
        _postAndClaim(spec);
        return _submit(spec);
    }

    function _challenge(JobSpec memory spec, Receipt memory receipt) internal {
        vm.prank(challenger);
        game.challenge(spec, receipt);
    }

    function stateOf(JobSpec memory spec) internal view returns (State) {
        return market.job(market.jobIdOf(spec)).state;
    }

    /* MONEY */

    function free(address account) internal view returns (uint128) {
        return ledger.balanceOf(account, Bucket.Free);
    }

    function bucket(address account, Bucket b) internal view returns (uint128) {
        return ledger.balanceOf(account, b);
    }

    /* SMALL THINGS */

    function expect(bytes4 selector) internal {
        vm.expectRevert(abi.encodeWithSelector(selector));
    }

    function outOfBounds(bytes32 field, uint256 value, uint256 min, uint256 max) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IEntry.FieldOutOfBounds.selector, field, value, min, max);
    }

    function notInState(JobSpec memory spec, State expected, State actual) internal view returns (bytes memory) {
        return abi.encodeWithSelector(IJobMarket.JobNotInState.selector, market.jobIdOf(spec), expected, actual);
    }

    function insufficient(address account, Bucket b, uint256 required, uint256 available) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ILedger.InsufficientBalance.selector, account, b, required, available);
    }

    function assertState(JobSpec memory spec, State expected) internal view {
        vm.assertEq(uint256(stateOf(spec)), uint256(expected), "state");
    }

    /// @dev A value between min and max, both included, that depends on x and hits the edges for the extremes of x.
    function bound(uint256 x, uint256 min, uint256 max) internal pure returns (uint256) {
        if (x >= min && x <= max) return x;
        uint256 size = max - min;
        if (size == type(uint256).max) return x;
        return min + x % (size + 1);
    }

    function _actor(string memory name) private pure returns (address) {
        return vm.addr(uint256(keccak256(bytes(name))) >> 1);
    }
}
