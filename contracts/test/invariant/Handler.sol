// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Guardian} from "../../src/Guardian.sol";
import {JobMarket} from "../../src/JobMarket.sol";
import {Ledger} from "../../src/Ledger.sol";
import {ProviderRegistry} from "../../src/ProviderRegistry.sol";
import {QuernToken} from "../../src/QuernToken.sol";
import {JobId, ModelId} from "../../src/types/Ids.sol";
import {Completion, Job, JobSpec, Receipt, State} from "../../src/types/Job.sol";
import {Bucket} from "../../src/types/Money.sol";
import {Vm} from "../Vm.sol";
import {GameDouble} from "../mocks/GameDouble.sol";
import {LogModel} from "./LogModel.sol";

/// @title Every actor of the market, acting at random and never reverting
/// @notice Each function does what its actor may do in the state that it finds, or nothing. `fail_on_revert` is on: a call that the
/// handler thinks allowed and the contracts refuse is a failure, as is a state in which nobody can act.
contract Handler {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 private constant ACTORS = 3;

    QuernToken public immutable token;
    Ledger public immutable ledger;
    JobMarket public immutable market;
    ProviderRegistry public immutable providers;
    Guardian public immutable guardian;
    GameDouble public immutable game;
    LogModel public immutable log;
    ModelId[3] private _models;

    /// @dev A job with the receipt that was submitted for it.
    struct Known {
        JobSpec spec;
        Receipt receipt;
        State last;
    }

    Known[] private _jobs;
    uint256 public donated;
    /// @dev How often each action did something.
    mapping(bytes32 => uint256) public done;

    constructor(
        QuernToken token_,
        Ledger ledger_,
        JobMarket market_,
        ProviderRegistry providers_,
        Guardian guardian_,
        GameDouble game_,
        LogModel log_,
        ModelId[3] memory models
    ) {
        (token, ledger, market, providers) = (token_, ledger_, market_, providers_);
        (guardian, game, log) = (guardian_, game_, log_);
        _models = models;
    }

    /// @dev After every action the new logs go into the model.
    modifier logged() {
        vm.recordLogs();
        _;
        log.fold(vm.getRecordedLogs());
    }

    /* ACTORS */

    function clientOf(uint256 i) public pure returns (address) {
        return vm.addr(0xC0 + i % ACTORS);
    }

    function providerOf(uint256 i) public pure returns (address) {
        return vm.addr(0xA0 + i % ACTORS);
    }

    function challengerOf(uint256 i) public pure returns (address) {
        return vm.addr(0xB0 + i % ACTORS);
    }

    function operatorKey(uint256 i, uint256 rotation) public pure returns (uint256) {
        return 0x1000 + (i % ACTORS) * 16 + rotation % 4;
    }

    function accounts() public pure returns (address[] memory list) {
        list = new address[](3 * ACTORS + 1);
        for (uint256 i = 0; i < ACTORS; ++i) {
            (list[i], list[ACTORS + i], list[2 * ACTORS + i]) = (clientOf(i), providerOf(i), challengerOf(i));
        }
        list[3 * ACTORS] = vm.addr(0xD0); // the publisher
    }

    function jobCount() external view returns (uint256) {
        return _jobs.length;
    }

    function jobAt(uint256 i) external view returns (Known memory) {
        return _jobs[i];
    }

    /* TIME */

    function passTime(uint256 secs) external logged {
        // Mostly minutes, so that windows are still open when somebody comes; now and then hours, so that deadlines pass.
        vm.warp(block.timestamp + secs % (secs % 5 == 0 ? 6 hours : 10 minutes));
        vm.roll(block.number + secs % 5000);
        ++done["passTime"];
    }

    /* ANYONE'S MONEY */

    function deposit(uint256 who, uint128 amount) external logged {
        address account = accounts()[who % accounts().length];
        amount = amount % 1000e18 + 1;
        token.approve(address(ledger), amount);
        ledger.deposit(account, amount);
        ++done["deposit"];
    }

    function withdraw(uint256 who, uint128 amount) external logged {
        address account = accounts()[who % accounts().length];
        uint128 free = ledger.balanceOf(account, Bucket.Free);
        if (free == 0) return;
        vm.prank(account);
        ledger.withdraw(account, amount % free + 1);
        ++done["withdraw"];
    }

    /// @dev A donor sends tokens past the books.
    function donate(uint256 amount) external logged {
        amount %= 10e18;
        token.transfer(address(ledger), amount);
        donated += amount;
        ++done["donate"];
    }

    /* GUARDIAN */

    function toggleEntries(uint256 dice) external logged {
        if (dice % 4 != 0 || block.number > guardian.EXPIRES_AT_BLOCK()) return;
        bool stopped = guardian.entriesStopped();
        vm.prank(guardian.GUARDIAN());
        if (stopped) guardian.resumeEntries();
        else guardian.stopEntries();
        ++done["toggleEntries"];
    }

    /* PROVIDER */

    function stake(uint256 who, uint128 amount) external logged {
        address provider = providerOf(who);
        uint128 free = ledger.balanceOf(provider, Bucket.Free);
        if (free == 0 || guardian.entriesStopped()) return;
        vm.prank(provider);
        providers.stake(amount % free + 1);
        ++done["stake"];
    }

    function unstake(uint256 who, uint128 amount) external logged {
        address provider = providerOf(who);
        uint128 staked = ledger.balanceOf(provider, Bucket.Stake);
        if (staked == 0) return;
        vm.prank(provider);
        providers.unstake(amount % staked + 1);
        ++done["unstake"];
    }

    function cancelUnbonding(uint256 who, uint128 amount) external logged {
        address provider = providerOf(who);
        uint128 unbonding = ledger.balanceOf(provider, Bucket.Unbonding);
        if (unbonding == 0) return;
        vm.prank(provider);
        providers.cancelUnbonding(amount % unbonding + 1);
        ++done["cancelUnbonding"];
    }

    function withdrawUnbonded(uint256 who) external logged {
        address provider = providerOf(who);
        if (ledger.balanceOf(provider, Bucket.Unbonding) == 0 || block.timestamp <= providers.unbondedAt(provider)) return;
        providers.withdrawUnbonded(provider);
        ++done["withdrawUnbonded"];
    }

    function rotateOperator(uint256 who, uint256 rotation) external logged {
        vm.prank(providerOf(who));
        providers.setOperator(vm.addr(operatorKey(who, rotation)));
        ++done["rotateOperator"];
    }

    function claim(uint256 which, uint256 who) external logged {
        (Known storage known, bool found) = _find(which, State.Open);
        address provider = providerOf(who);
        address operator = providers.operatorOf(provider);
        if (!found || operator == address(0) || block.timestamp > known.spec.claimBy) return;
        if (known.spec.designated != address(0) && known.spec.designated != provider) return;
        if (ledger.balanceOf(provider, Bucket.Stake) < market.lockOf(known.spec)) return;
        vm.prank(operator);
        market.claim(known.spec, provider);
        known.last = State.Claimed;
        ++done["claim"];
    }

    /// @dev The receipt is signed by the key of the claim, whatever the provider has rotated to since, and relayed by anyone.
    function submit(uint256 which, uint64 outputLen, bytes32 root) external logged {
        (Known storage known, bool found) = _find(which, State.Claimed);
        if (!found) return;
        JobId id = market.jobIdOf(known.spec);
        Job memory job = market.job(id);
        if (block.timestamp > job.clock) return;
        uint256 most = uint256(known.spec.maxOutput) * known.spec.itemCount * known.spec.samplesPerItem;
        Receipt memory receipt;
        (receipt.jobId, receipt.provider, receipt.outputRoot) = (id, job.provider, root);
        receipt.outputLen = uint64(most == 0 ? 0 : outputLen % (most + 1));
        (receipt.outputCodec, receipt.energyMethod) = (0x55, 1);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_keyOf(job.operator), market.receiptDigestOf(receipt));
        market.submit(known.spec, receipt, abi.encodePacked(r, s, v));
        known.receipt = receipt;
        known.last = State.Submitted;
        ++done["submit"];
    }

    /* CLIENT */

    function post(uint256 who, uint256 seed) external logged {
        JobSpec memory spec;
        spec.client = clientOf(who);
        uint256 m = seed % 3;
        (spec.modelId, spec.kind) = (_models[m], m == 2 ? 2 : 1);
        spec.itemCount = uint32(1 + _draw(seed, 0) % 100);
        spec.samplesPerItem = 1;
        spec.inputLen = uint64(_draw(seed, 1) % 10_000);
        spec.basePrice = uint96(_draw(seed, 2) % 10e18);
        spec.inputPrice = uint96(_draw(seed, 3) % 1e15);
        spec.itemPrice = uint96(_draw(seed, 4) % 1e17);
        if (spec.kind == 2) {
            spec.maxOutput = uint32(1 + _draw(seed, 5) % 1000);
            spec.outputPrice = uint96(_draw(seed, 6) % 1e14);
        }
        spec.rampFloorBps = uint16(1 + _draw(seed, 7) % 10_000);
        spec.rampSecs = uint32(_draw(seed, 8) % 2 hours);
        spec.claimBy = uint64(block.timestamp + _draw(seed, 9) % 6 hours);
        spec.deliverWithin = uint32(1 + _draw(seed, 10) % 6 hours);
        if (_draw(seed, 11) % 4 == 0) spec.designated = providerOf(seed >> 8);
        spec.inputCodec = 0x55;
        spec.salt = bytes32(_jobs.length);
        if (guardian.entriesStopped() || ledger.balanceOf(spec.client, Bucket.Free) < market.maxFeeOf(spec)) return;
        vm.prank(spec.client);
        market.post(spec);
        Known storage known = _jobs.push();
        (known.spec, known.last) = (spec, State.Open);
        ++done["post"];
    }

    function cancel(uint256 which) external logged {
        (Known storage known, bool found) = _find(which, State.Open);
        if (!found) return;
        vm.prank(known.spec.client);
        market.cancel(known.spec);
        known.last = State.Refunded;
        ++done["cancel"];
    }

    /* KEEPER */

    function expire(uint256 which) external logged {
        (Known storage known, bool found) = _find(which, State.Open);
        if (!found || block.timestamp <= known.spec.claimBy) return;
        market.expire(known.spec);
        known.last = State.Refunded;
        ++done["expire"];
    }

    function refundUndelivered(uint256 which) external logged {
        (Known storage known, bool found) = _find(which, State.Claimed);
        if (!found || block.timestamp <= market.job(market.jobIdOf(known.spec)).clock) return;
        market.refundUndelivered(known.spec);
        known.last = State.Refunded;
        ++done["refundUndelivered"];
    }

    function complete(uint256 which) external logged {
        (Known storage known, bool found) = _find(which, State.Submitted);
        if (!found || block.timestamp <= market.job(known.receipt.jobId).clock) return;
        market.complete(known.spec, known.receipt);
        known.last = State.Completed;
        ++done["complete"];
    }

    /// @dev All jobs of which a receipt is known, whatever their state: what can complete completes, the rest is skipped.
    function completeMany(uint256 from, uint256 count) external logged {
        if (_jobs.length == 0) return;
        Completion[] memory completions = new Completion[](count % 6);
        for (uint256 i = 0; i < completions.length; ++i) {
            Known storage known = _jobs[(from % _jobs.length + i) % _jobs.length];
            completions[i] = Completion(known.spec, known.receipt);
        }
        market.completeMany(completions);
        for (uint256 i = 0; i < completions.length; ++i) {
            Known storage known = _jobs[(from % _jobs.length + i) % _jobs.length];
            known.last = market.job(market.jobIdOf(known.spec)).state;
        }
        ++done["completeMany"];
    }

    /* CHALLENGER AND GAME */

    function challenge(uint256 which, uint256 who) external logged {
        (Known storage known, bool found) = _find(which, which % 2 == 0 ? State.Submitted : State.Challenged);
        if (!found || block.timestamp > market.job(known.receipt.jobId).clock) return;
        address challenger = challengerOf(who);
        if (ledger.balanceOf(challenger, Bucket.Free) < game.BOND()) {
            token.approve(address(ledger), game.BOND());
            ledger.deposit(challenger, game.BOND());
        }
        vm.prank(challenger);
        game.challenge(known.spec, known.receipt);
        known.last = State.Challenged;
        ++done["challenge"];
    }

    function dismiss(uint256 which) external logged {
        (Known storage known, bool found) = _find(which, State.Challenged);
        if (!found) return;
        game.dismiss(known.receipt.jobId, known.receipt.provider);
        known.last = game.live(known.receipt.jobId) == 0 ? State.Submitted : State.Challenged;
        ++done["dismiss"];
    }

    function convict(uint256 which) external logged {
        (Known storage known, bool found) = _find(which, State.Challenged);
        if (!found) return;
        game.convict(known.spec, known.receipt);
        known.last = State.Slashed;
        ++done["convict"];
    }

    function extend(uint256 which) external logged {
        (Known storage known, bool found) = _find(which, State.Challenged);
        if (!found || market.job(known.receipt.jobId).extended) return;
        game.extend(known.receipt.jobId);
        ++done["extend"];
    }

    /* INTERNAL */

    /// @dev The first job from `which` on, around the end, whose last known state this is.
    function _find(uint256 which, State state) private view returns (Known storage known, bool found) {
        uint256 length = _jobs.length;
        for (uint256 i = 0; i < length; ++i) {
            known = _jobs[(which % length + i) % length];
            if (known.last == state) return (known, true);
        }
        assembly ("memory-safe") {
            known.slot := 0
        }
    }

    function _keyOf(address operator) private pure returns (uint256 key) {
        for (uint256 i = 0; i < ACTORS * 4; ++i) {
            key = operatorKey(i / 4, i % 4);
            if (vm.addr(key) == operator) return key;
        }
        revert("no such operator");
    }

    function _draw(uint256 seed, uint256 index) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, index)));
    }
}
