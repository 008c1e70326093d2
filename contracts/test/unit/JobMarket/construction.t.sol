// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {JobMarket} from "../../../src/JobMarket.sol";
import {IEntry} from "../../../src/interfaces/IEntry.sol";
import {JobHash} from "../../../src/libraries/JobHash.sol";
import {JobId} from "../../../src/types/Ids.sol";
import {JobSpec, Modules, Parameters, Receipt} from "../../../src/types/Job.sol";
import {State} from "../../../src/types/Job.sol";
import {JobWord, JobWords} from "../../../src/types/JobWord.sol";
import {Base} from "../../Base.sol";

/// @title Construction, hashes and the job's first word
contract JobMarketConstructionTest is Base {
    function test_constructor_refusesParametersOutOfBounds() external {
        Parameters memory p = _config().parameters;
        p.challengeWindowSecs = 0;
        _refused(p, outOfBounds("challengeWindowSecs", 0, 1, 30 days));
        p.challengeWindowSecs = 30 days + 1;
        _refused(p, outOfBounds("challengeWindowSecs", 30 days + 1, 1, 30 days));
        p = _config().parameters;
        p.extensionSecs = 0;
        _refused(p, outOfBounds("extensionSecs", 0, 1, 30 days));
        p.extensionSecs = 30 days + 1;
        _refused(p, outOfBounds("extensionSecs", 30 days + 1, 1, 30 days));
        p = _config().parameters;
        p.maxGameSecs = 0;
        _refused(p, outOfBounds("maxGameSecs", 0, 1, 90 days));
        p.maxGameSecs = 90 days + 1;
        _refused(p, outOfBounds("maxGameSecs", 90 days + 1, 1, 90 days));
        p = _config().parameters;
        p.minLock = 0;
        _refused(p, outOfBounds("minLock", 0, 1, type(uint96).max));
        p = _config().parameters;
        p.lockFactorBps = 1_000_001;
        _refused(p, outOfBounds("lockFactorBps", 1_000_001, 0, 1_000_000));
        p = _config().parameters;
        p.penaltyBps = 0;
        _refused(p, outOfBounds("penaltyBps", 0, 1, 5000));
        p.penaltyBps = 5001;
        _refused(p, outOfBounds("penaltyBps", 5001, 1, 5000));
    }

    /// @dev At least half of a slashed lock is lost to everybody, or a provider could challenge itself for nothing.
    function testFuzz_constructor_keepsHalfOfASlashFromThePlayers(uint16 challengerShare, uint16 clientShare) external {
        Parameters memory p = _config().parameters;
        p.challengerShareBps = uint16(bound(challengerShare, 1, 5000));
        p.clientShareBps = uint16(bound(clientShare, 5001 - p.challengerShareBps, type(uint16).max));
        _refused(p, outOfBounds("clientShareBps", p.clientShareBps, 0, 5000 - p.challengerShareBps));
        p.challengerShareBps = 0;
        _refused(p, outOfBounds("challengerShareBps", 0, 1, 5000));
        p.challengerShareBps = 5001;
        _refused(p, outOfBounds("challengerShareBps", 5001, 1, 5000));
    }

    function test_constructor_refusesMissingContracts() external {
        Modules memory m = _modules();
        m.ledger = address(0);
        _refused(m, "ledger", address(0));
        m = _modules();
        m.providerRegistry = address(0);
        _refused(m, "providerRegistry", address(0));
        m = _modules();
        m.modelRegistry = stranger;
        _refused(m, "modelRegistry", stranger);
        m = _modules();
        m.guardian = stranger;
        _refused(m, "guardian", stranger);
    }

    /// @dev Without a game nobody is the game, and no game's time may be reserved.
    function testFuzz_constructor_withoutAGameNobodyChallenges(address caller) external {
        Parameters memory p = _config().parameters;
        Modules memory m = _modules();
        m.disputeGame = address(0);
        vm.expectRevert(outOfBounds("maxGameSecs", 7 days, 0, 0));
        new JobMarket(m, p);
        p.maxGameSecs = 0;
        JobMarket other = new JobMarket(m, p);
        vm.assertEq(other.DISPUTE_GAME(), address(0));
        vm.assume(caller != address(0));
        vm.expectRevert();
        vm.prank(caller);
        other.extend(JobId.wrap(0));
    }

    function test_parameters_areWhatWasGiven() external view {
        vm.assertEq(abi.encode(market.parameters()), abi.encode(_config().parameters));
        vm.assertEq(market.LEDGER(), address(ledger));
        vm.assertEq(market.PROVIDER_REGISTRY(), address(providers));
        vm.assertEq(market.MODEL_REGISTRY(), address(models));
        vm.assertEq(market.GUARDIAN(), address(guardian));
        vm.assertEq(market.DISPUTE_GAME(), address(game));
    }

    /* HASHES */

    /// @dev The assembly against plain ABI encoding.
    function testFuzz_hashes_equalThePlainEncoding(uint256 seed) external view {
        JobSpec memory spec = fuzzedSpec(seed);
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Quern"),
                keccak256("1"),
                block.chainid,
                market
            )
        );
        vm.assertEq(market.domainSeparator(), domain);
        bytes32 structHash = keccak256(abi.encode(JobHash.JOB_SPEC_TYPEHASH, spec));
        bytes32 id = keccak256(abi.encodePacked(hex"1901", domain, structHash));
        vm.assertEq(JobId.unwrap(market.jobIdOf(spec)), id);
        Receipt memory receipt = receiptOf(spec);
        structHash = keccak256(abi.encode(JobHash.RECEIPT_TYPEHASH, receipt));
        vm.assertEq(market.receiptDigestOf(receipt), keccak256(abi.encodePacked(hex"1901", domain, structHash)));
    }

    /* WORD */

    function testFuzz_jobWord_keepsFieldsApart(uint40 clock, uint16 price, address key, uint16 count, uint40 next, uint8 state)
        external
        pure
    {
        State s = State(uint8(bound(state, 0, 7)));
        JobWord word = JobWords.claimed(clock, price, key);
        _fields(word, State.Claimed, clock, price, key);
        vm.assertEq(word.challengesOpen(), 0);
        vm.assertFalse(word.extended());
        word = word.withState(s).withClock(next).withChallengesOpen(count).withExtended();
        _fields(word, s, next, price, key);
        vm.assertEq(word.challengesOpen(), count);
        vm.assertTrue(word.extended());
        word = word.withChallengesOpen(0).withClock(clock);
        _fields(word, s, clock, price, key);
        vm.assertEq(word.challengesOpen(), 0);
        vm.assertTrue(word.extended());
        _fields(JobWords.open(clock), State.Open, clock, 0, address(0));
    }

    function _fields(JobWord word, State state, uint40 clock, uint16 price, address key) private pure {
        vm.assertEq(uint256(word.state()), uint256(state));
        vm.assertEq(word.clock(), clock);
        vm.assertEq(word.priceBps(), price);
        vm.assertEq(word.operator(), key);
    }

    function _modules() private view returns (Modules memory) {
        return Modules(address(ledger), address(providers), address(models), address(guardian), address(game));
    }

    function _refused(Parameters memory p, bytes memory reason) private {
        Modules memory m = _modules();
        vm.expectRevert(reason);
        new JobMarket(m, p);
    }

    function _refused(Modules memory m, bytes32 role, address actual) private {
        Parameters memory p = _config().parameters;
        vm.expectRevert(abi.encodeWithSelector(IEntry.ContractNotAllowed.selector, role, actual));
        new JobMarket(m, p);
    }
}
