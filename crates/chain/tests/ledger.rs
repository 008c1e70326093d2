//! The real contracts, end to end through this crate: money moves by the sender, comes back as events, and the storage of the Ledger is proven to hold what
//! the events say, slot by slot.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod node;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy::primitives::{Address, B256, Bytes, U256};
use quern_bindings::{
    QuernEvent, Revert,
    abi::{Ledger, ProviderRegistry, QuernToken},
    storage::{LEDGER_TIP, LEDGER_TOTAL, ledger_balance, ledger_tip, ledger_total},
};
use quern_chain::{
    At, EventStream, Start, Step, StreamConfig,
    deployment::Deployment,
    keys::Key,
    proof::prove_storage,
    sender::{Call, MemoryJournal, Outcome, SenderConfig, TxSender},
};
use quern_testkit::DevnetOptions;
use quern_types::{Amount, Bucket, Head, LedgerHead};

use node::soon;

#[test]
fn storage_of_the_ledger_is_proven_to_be_what_its_events_say() {
    let Some(devnet) = node::start_with(DevnetOptions { block_secs: None, epoch_blocks: 2 }) else { return };
    devnet.deploy().unwrap();
    let deployment = Deployment::read(&devnet.deployment()).unwrap();
    let client = node::client(devnet.url());
    let bytes: B256 = devnet.deployer().key.parse().unwrap();
    let key = Key::from_bytes(&bytes.0).unwrap();
    let (holder, other) = (key.address(), Address::repeat_byte(0x31));
    node::runtime().block_on(soon(async {
        deployment.verify(&client).await.unwrap();
        let contracts = deployment.contracts;
        let (token, ledger) = (contracts.quern_token.address, contracts.ledger.address);
        let config = SenderConfig { poll: Duration::from_millis(20), ..SenderConfig::default() };
        let sender = TxSender::new(client.clone(), key, Arc::new(MemoryJournal::new()), config);
        let calls = [
            Call::new(token, &QuernToken::approveCall { spender: ledger, value: U256::from(10_000) }),
            Call::new(ledger, &Ledger::depositCall { account: holder, amount: 5_000 }),
            Call::new(ledger, &Ledger::depositCall { account: other, amount: 77 }),
            Call::new(contracts.provider_registry.address, &ProviderRegistry::stakeCall { amount: 1_234 }),
            Call::new(contracts.provider_registry.address, &ProviderRegistry::unstakeCall { amount: 34 }),
            Call::new(ledger, &Ledger::withdrawCall { to: holder, amount: 66 }),
        ];
        for (index, call) in calls.iter().enumerate() {
            let outcome = sender.send(&format!("{index}"), call, Head::Latest).await.unwrap();
            assert!(matches!(outcome, Outcome::Done(_)), "call {index}: {outcome:?}");
        }
        let greedy = Call::new(ledger, &Ledger::withdrawCall { to: holder, amount: 1_000_000 });
        let Outcome::Refused { revert: Revert::InsufficientBalance(error) } = sender.send("greedy", &greedy, Head::Latest).await.unwrap()
        else {
            panic!("not refused for its balance")
        };
        assert_eq!((error.account, error.required, error.available), (holder, U256::from(1_000_000), U256::from(5_000 - 1_234 - 66)));

        // Re-derive everything from the events.
        let mut stream =
            EventStream::new(client.clone(), &deployment, Start::at_block(deployment.first_block()), StreamConfig::default()).unwrap();
        let mut head = LedgerHead::genesis(deployment.chain_id, ledger);
        let mut balances: BTreeMap<(Address, Bucket), u128> = BTreeMap::new();
        let mut operators = 0;
        let tip = loop {
            let Step::Batch(batch) = stream.next().await.unwrap() else { panic!("nothing was taken back") };
            for event in batch.events {
                match event.event {
                    QuernEvent::Moved { entry, head: said } => {
                        assert_eq!((event.address, entry.seq), (ledger, head.seq + 1));
                        head = head.after(&entry);
                        assert_eq!(head.hash, said);
                        if entry.from_bucket != Bucket::Outside {
                            *balances.get_mut(&(entry.from, entry.from_bucket)).unwrap() -= entry.amount.units();
                        }
                        if entry.to_bucket != Bucket::Outside {
                            *balances.entry((entry.to, entry.to_bucket)).or_default() += entry.amount.units();
                        }
                    }
                    QuernEvent::StakeAdded { provider, amount } => {
                        operators += 1;
                        assert_eq!((provider, amount), (holder, Amount::from_units(1_234)));
                    }
                    QuernEvent::Unknown { .. } | QuernEvent::Unreadable { .. } => panic!("{event:?}"),
                    _ => {}
                }
            }
            if let Some(last) = batch.blocks.last().filter(|last| last.at == batch.heads.latest) {
                break last.at;
            }
        };
        assert_eq!((head.seq, operators), (5, 1));

        // And compare with what the block's hash proves.
        let places: Vec<_> = balances.keys().map(|(account, bucket)| ledger_balance(*account, *bucket).unwrap()).collect();
        let slots: Vec<B256> = [LEDGER_TIP, LEDGER_TOTAL].into_iter().chain(places.iter().map(|place| place.slot)).collect();
        let proven = prove_storage(&client, ledger, &slots, tip.hash).await.unwrap();
        assert_eq!(proven.code_hash, contracts.ledger.code_hash);
        assert_eq!(ledger_tip(proven.slots[0].1), (head.seq, head.hash));
        assert_eq!(ledger_total(proven.slots[1].1).units(), balances.values().sum::<u128>());
        for (((account, bucket), expected), (place, (slot, word))) in balances.iter().zip(places.iter().zip(&proven.slots[2..])) {
            assert_eq!((place.slot, place.read(*word).units()), (*slot, *expected), "{account} {bucket:?}");
            let call = Ledger::balanceOfCall { account: *account, bucket: bucket.code() };
            assert_eq!(client.call(ledger, &call, At::Block(tip.hash)).await.unwrap(), *expected);
        }
        assert!(balances.len() >= 4, "{balances:?}");

        // A read that is pinned to a block which is gone says so, and one of the wrong contract too.
        let gone = client.call(ledger, &Ledger::headCall {}, At::Block(B256::repeat_byte(1))).await.unwrap_err();
        assert!(matches!(gone, quern_chain::Error::MissingBlock { .. }), "{gone}");
        let wrong = client.call(Address::repeat_byte(0x44), &Ledger::headCall {}, At::Latest).await.unwrap_err();
        assert!(matches!(wrong, quern_chain::Error::Decode { .. }), "{wrong}");
        let none = client.call_raw(ledger, Bytes::new(), None, At::Latest).await.unwrap_err();
        assert!(matches!(none, quern_chain::Error::Reverted { .. }), "{none}");
    }));
}
