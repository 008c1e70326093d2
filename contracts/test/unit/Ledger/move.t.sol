// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Ledger} from "../../../src/Ledger.sol";
import {ILedger} from "../../../src/interfaces/ILedger.sol";
import {Bucket, Move, Reason} from "../../../src/types/Money.sol";
import {Base} from "../../Base.sol";
import {Vm} from "../../Vm.sol";
import {PlainLedger} from "../../reference/PlainLedger.sol";

/// @title Money inside: `move`, the head, the storage that auditors prove
contract LedgerMoveTest is Base {
    PlainLedger private _plain;

    function setUp() public override {
        super.setUp();
        _plain = new PlainLedger();
    }

    /* WHO MAY */

    function testFuzz_move_revertsForEveryReasonIfNotAModule(address caller, uint8 reason) external {
        vm.assume(caller != address(market) && caller != address(providers) && caller != address(game));
        Reason r = Reason(uint8(bound(reason, 0, 23)));
        _refused(caller, r, abi.encodeWithSelector(ILedger.ReasonNotAllowed.selector, r, caller));
    }

    function testFuzz_move_revertsIfTheReasonBelongsToAnotherModule(uint8 reason, uint8 module) external {
        Reason r = Reason(uint8(bound(reason, 0, 23)));
        address caller = [address(market), address(providers), address(game)][module % 3];
        vm.assume(caller != _giver(r));
        _refused(caller, r, abi.encodeWithSelector(ILedger.ReasonNotAllowed.selector, r, caller));
    }

    /// @dev Deposit and Withdrawal are the Ledger's own: a module that could give them would mint.
    function test_move_letsNoModuleDepositOrWithdraw() external view {
        vm.assertEq(_giver(Reason.Deposit), address(ledger));
        vm.assertEq(_giver(Reason.Withdrawal), address(ledger));
        vm.assertEq(_giver(Reason.None), address(0));
    }

    function testFuzz_move_revertsIfAReasonOfOneAccountNamesTwo(uint8 reason, address other) external {
        vm.assume(other != client);
        Reason r = Reason(uint8(bound(reason, 3, 23)));
        vm.assume(_plain.rowOf(r).sameAccount);
        bytes memory differ = abi.encodeWithSelector(ILedger.AccountsDiffer.selector, r, client, other);
        vm.expectRevert(differ);
        vm.prank(_giver(r));
        ledger.move(0, _one(Move(client, other, 1, r)));
    }

    function testFuzz_move_revertsIfAnOwnersBucketBelongsToNobody(uint128 amount) external {
        _postAndClaim(embedSpec());
        amount = uint128(bound(amount, 1, 1e18));
        vm.expectRevert(abi.encodeWithSelector(ILedger.AccountNotAllowed.selector, Bucket.Free, address(0)));
        vm.prank(address(market));
        ledger.move(0, _one(Move(provider, address(0), amount, Reason.SlashedToClient)));
        vm.expectRevert(abi.encodeWithSelector(ILedger.AccountNotAllowed.selector, Bucket.Delayed, client));
        vm.prank(address(market));
        ledger.move(0, _one(Move(provider, client, amount, Reason.SlashedDelayed)));
    }

    function testFuzz_move_revertsBeyondTheBalanceOfTheBucket(uint8 reason, uint128 amount, uint128 has) external {
        Reason r = Reason(uint8(bound(reason, 3, 23)));
        PlainLedger.Row memory row = _plain.rowOf(r);
        has = uint128(bound(has, 0, 1000));
        amount = uint128(bound(amount, uint256(has) + 1, type(uint128).max));
        _give(stranger, row.from, has);
        vm.expectRevert(insufficient(stranger, row.from, amount, has));
        vm.prank(_giver(r));
        ledger.move(0, _one(Move(stranger, row.to == Bucket.Delayed ? address(0) : stranger, amount, r)));
    }

    function test_move_makesNoEntryOfAmountZero() external {
        (bytes32 head, uint64 seq) = (ledger.head(), ledger.seq());
        vm.prank(address(market));
        ledger.move(0, _one(Move(client, client, 0, Reason.Escrowed)));
        vm.assertEq(ledger.head(), head);
        vm.assertEq(ledger.seq(), seq);
    }

    /* THE PLAIN TWIN */

    /// @dev Random histories of moves: balances, head, sequence numbers and events equal those of the twin, including neighbours in a word.
    function testFuzz_move_equalsThePlainTwin(uint256 seed, uint8 length) external {
        _deploy(_config());
        address[4] memory accounts = [client, provider, challenger, stranger];
        bytes32 referenceId = bytes32(seed);
        for (uint256 i = 0; i < 4; ++i) {
            _twinDeposit(accounts[i], 1000);
        }
        for (uint256 i = 0; i < length % 24 + 1; ++i) {
            uint256 x = _draw(seed, i);
            Move memory m;
            m.reason = Reason(uint8(bound(x, 3, 23)));
            PlainLedger.Row memory row = _plain.rowOf(m.reason);
            m.from = accounts[x >> 32 & 3];
            m.to = row.to == Bucket.Delayed ? address(0) : row.sameAccount ? m.from : accounts[x >> 64 & 3];
            uint128 available = ledger.balanceOf(m.from, row.from);
            if (available == 0) continue;
            m.amount = uint128(bound(x >> 96, 1, available));
            _plain.append(address(ledger), m, referenceId);
            vm.expectEmit(true, true, true, true, address(ledger));
            emit ILedger.Moved(_plain.seq(), m.from, row.from, m.to, row.to, m.amount, m.reason, referenceId, _plain.head());
            vm.prank(_giver(m.reason));
            ledger.move(referenceId, _one(m));
        }
        vm.assertEq(ledger.head(), _plain.head());
        vm.assertEq(ledger.seq(), _plain.seq());
        for (uint256 i = 0; i < 4; ++i) {
            for (uint256 b = 0; b <= 10; ++b) {
                _sameBalance(accounts[i], Bucket(b));
            }
        }
        _sameBalance(address(0), Bucket.Delayed);
        _sameBalance(address(0), Bucket.Burned);
        _sameBalance(address(0), Bucket.RewardPool);
    }

    function test_move_chainsManyEntriesLikeSingleOnes() external {
        _deploy(_config());
        _twinDeposit(client, 100);
        Move[] memory moves = new Move[](3);
        moves[0] = Move(client, client, 60, Reason.Escrowed);
        moves[1] = Move(client, provider, 40, Reason.Fee);
        moves[2] = Move(client, client, 20, Reason.Change);
        for (uint256 i = 0; i < 3; ++i) {
            _plain.append(address(ledger), moves[i], "job");
        }
        vm.prank(address(market));
        ledger.move("job", moves);
        vm.assertEq(ledger.head(), _plain.head());
        vm.assertEq(ledger.seq(), 4);
        vm.assertEq(free(client), 60);
        vm.assertEq(free(provider), 40);
    }

    function testFuzz_head_dependsOnChainAndLedger(uint32 chain) external {
        vm.assume(chain != block.chainid);
        uint256 start = vm.snapshotState();
        _deploy(_config());
        address first = address(ledger);
        _fund(client, 5);
        bytes32 head = ledger.head();
        // Another Ledger on the same chain.
        _deploy(_config());
        _fund(client, 5);
        vm.assertNotEq(ledger.head(), head);
        // The same Ledger on another chain.
        vm.revertToState(start);
        vm.chainId(chain);
        _deploy(_config());
        vm.assertEq(address(ledger), first);
        _fund(client, 5);
        vm.assertNotEq(ledger.head(), head);
        vm.assertEq(uint256(ledger.head()) & type(uint64).max, 0);
    }

    /* STORAGE */

    function test_storageSlots_areAsDocumented() external {
        _fund(challenger, 10e18);
        _challenge(embedSpec(), _postClaimSubmit(embedSpec()));
        game.convict(embedSpec(), receiptOf(embedSpec()));
        vm.prank(provider);
        providers.unstake(3e18);
        uint256 tip = uint256(vm.load(address(ledger), 0));
        vm.assertEq(bytes32(tip & ~uint256(type(uint64).max)), ledger.head());
        vm.assertEq(tip & type(uint64).max, ledger.seq());
        vm.assertEq(uint256(vm.load(address(ledger), bytes32(uint256(1)))), ledger.total());
        address[4] memory accounts = [client, provider, challenger, publisher];
        for (uint256 i = 0; i < 4; ++i) {
            _sameWords(accounts[i], [Bucket.Free, Bucket.Escrow, Bucket.Stake, Bucket.Lock, Bucket.Unbonding, Bucket.Bond]);
        }
        vm.assertGt(bucket(address(0), Bucket.Delayed), 0);
        _sameWords(address(0), [Bucket.Burned, Bucket.Delayed, Bucket.RewardPool, Bucket.None, Bucket.None, Bucket.None]);
    }

    /// @dev By low and high half of the three words.
    function _sameWords(address account, Bucket[6] memory halves) private view {
        uint256 slot = uint256(keccak256(abi.encode(account, uint256(2))));
        for (uint256 i = 0; i < 6; ++i) {
            uint256 word = uint256(vm.load(address(ledger), bytes32(slot + i / 2)));
            vm.assertEq(uint128(i % 2 == 0 ? word : word >> 128), bucket(account, halves[i]));
        }
    }

    /* CONSTRUCTION */

    function test_constructor_refusesMiswiredModules() external {
        address code = address(market);
        vm.expectRevert(abi.encodeWithSelector(ILedger.ModuleNotAllowed.selector, stranger));
        new Ledger(stranger, code, address(providers), address(game));
        vm.expectRevert(abi.encodeWithSelector(ILedger.ModuleNotAllowed.selector, code));
        new Ledger(address(token), code, code, address(game));
        address next = vm.computeCreateAddress(address(this), vm.getNonce(address(this)));
        vm.expectRevert(abi.encodeWithSelector(ILedger.ModuleOfOtherLedger.selector, market, next, ledger));
        new Ledger(address(token), code, address(providers), address(game));
    }

    /* HELPERS */

    function _giver(Reason r) private view returns (address) {
        if (r == Reason.None) return address(0);
        if (r <= Reason.Withdrawal) return address(ledger);
        if (r >= Reason.Staked && r <= Reason.Unbonded) return address(providers);
        if (r >= Reason.BondPosted && r <= Reason.BondLost) return address(game);
        return address(market);
    }

    function _refused(address caller, Reason r, bytes memory reason) private {
        vm.expectRevert(reason);
        vm.prank(caller);
        ledger.move(0, _one(Move(client, client, 1, r)));
    }

    function _one(Move memory m) private pure returns (Move[] memory moves) {
        moves = new Move[](1);
        moves[0] = m;
    }

    /// @dev Puts money into a bucket by the moves that lead there.
    function _give(address account, Bucket b, uint128 amount) private {
        if (amount == 0) return;
        _fund(account, amount);
        if (b == Bucket.Escrow) _as(address(market), account, amount, Reason.Escrowed);
        if (b == Bucket.Bond) _as(address(game), account, amount, Reason.BondPosted);
        if (b == Bucket.Stake || b == Bucket.Lock || b == Bucket.Unbonding) _as(address(providers), account, amount, Reason.Staked);
        if (b == Bucket.Lock) _as(address(market), account, amount, Reason.Locked);
        if (b == Bucket.Unbonding) _as(address(providers), account, amount, Reason.UnbondStarted);
    }

    function _as(address module, address account, uint128 amount, Reason r) private {
        vm.prank(module);
        ledger.move(0, _one(Move(account, account, amount, r)));
    }

    function _twinDeposit(address account, uint128 amount) private {
        _fund(account, amount);
        _plain.append(address(ledger), Move(address(this), account, amount, Reason.Deposit), 0);
    }

    function _sameBalance(address account, Bucket b) private view {
        uint128 expected = b == Bucket.Outside || b == Bucket.None ? 0 : _plain.balanceOf(account, b);
        vm.assertEq(ledger.balanceOf(account, b), expected);
    }
}
