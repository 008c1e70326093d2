//! Storage proofs against a real node, and against one that lies: each lie is named by the link that it breaks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod node;

use alloy::primitives::{B256, U256, keccak256};
use quern_chain::{
    BlockSource, Client, Error,
    deployment::{Deployment, DeploymentError},
    proof::{ProofError, output_root, prove_storage},
};
use quern_testkit::{Answer, RpcProxy};
use serde_json::{Value, json};

use node::{ECHO, soon};

const SLOT: B256 = B256::with_last_byte(7);
const EMPTY: B256 = B256::with_last_byte(8);

async fn prove(client: &Client) -> Result<quern_chain::proof::VerifiedStorage, ProofError> {
    let block = client.heads().await.unwrap().latest.hash;
    prove_storage(client, ECHO, &[SLOT, EMPTY], block).await.map_err(|error| match error {
        Error::Proof(error) => error,
        other => panic!("not a proof error: {other}"),
    })
}

/// Adds one to a hexadecimal number.
fn plus_one(value: &Value) -> Value {
    let number: U256 = serde_json::from_value(value.clone()).unwrap();
    serde_json::to_value(number + U256::from(1)).unwrap()
}

#[test]
fn storage_is_proven_and_every_lie_about_it_is_named() {
    let Some(devnet) = node::start() else { return };
    let value = B256::repeat_byte(0xcd);
    devnet.rpc("anvil_setStorageAt", &json!([ECHO, SLOT, value])).unwrap();
    devnet.mine(3).unwrap();
    let proxy = RpcProxy::start(&devnet.url()).unwrap();
    node::runtime().block_on(soon(async {
        let client = node::client(proxy.url());
        let proven = prove(&client).await.unwrap();
        assert_eq!((proven.get(SLOT), proven.get(EMPTY), proven.get(B256::ZERO)), (Some(value), Some(B256::ZERO), None));
        assert_eq!((proven.account, proven.code_hash, proven.block.number), (ECHO, keccak256(node::ECHO_CODE), 3));

        let lie = |lie: fn(&mut Value), in_method: &'static str| {
            proxy.set_rule(move |method, _, honest| {
                if method != in_method || honest.is_null() {
                    return Answer::Honest;
                }
                let mut answer = honest.clone();
                lie(&mut answer);
                Answer::Result(answer)
            });
        };
        lie(|proof| proof["storageProof"][0]["value"] = plus_one(&proof["storageProof"][0]["value"]), "eth_getProof");
        let error = prove(&client).await.unwrap_err();
        assert!(matches!(error, ProofError::Slot { slot: SLOT, .. }), "{error}");

        lie(|proof| proof["storageProof"][0]["value"] = json!("0x0"), "eth_getProof");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::Slot { slot: SLOT, .. }));

        lie(|proof| proof["storageProof"][1]["value"] = json!("0x1"), "eth_getProof");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::Slot { slot: EMPTY, .. }));

        lie(|proof| proof["storageProof"][0]["proof"] = json!([]), "eth_getProof");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::Slot { slot: SLOT, .. }));

        lie(|proof| proof["balance"] = plus_one(&proof["balance"]), "eth_getProof");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::Account { .. }));

        lie(|proof| proof["storageHash"] = json!(B256::repeat_byte(1)), "eth_getProof");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::Account { .. }));

        lie(|proof| drop(proof["storageProof"].as_array_mut().unwrap().pop()), "eth_getProof");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::Shape { .. }));

        lie(|proof| proof["storageProof"].as_array_mut().unwrap().reverse(), "eth_getProof");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::Shape { .. }));

        lie(|proof| proof["address"] = json!(alloy::primitives::Address::ZERO), "eth_getProof");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::Shape { .. }));

        // A header with another state root, under the right hash.
        lie(|block| block["stateRoot"] = json!(B256::repeat_byte(2)), "eth_getBlockByHash");
        assert!(matches!(prove(&client).await.unwrap_err(), ProofError::HeaderHash { .. }));

        proxy.be_honest();
        let block = client.heads().await.unwrap().latest.hash;
        let nobody = alloy::primitives::Address::repeat_byte(0x77);
        let error = prove_storage(&client, nobody, &[SLOT], block).await.unwrap_err();
        assert!(matches!(error, Error::Proof(ProofError::NoContract { .. })), "{error}");
        let error = prove_storage(&client, ECHO, &[SLOT], B256::repeat_byte(3)).await.unwrap_err();
        assert!(matches!(error, Error::MissingBlock { .. }), "{error}");
    }));
}

#[test]
fn output_root_is_that_of_the_specification() {
    // OP Stack specification: keccak(version 0 as 32 bytes ‖ state root ‖ storage root of the message passer ‖ block hash).
    let (state, passer, block) = (B256::repeat_byte(1), B256::repeat_byte(2), B256::repeat_byte(3));
    let expected = keccak256([[0u8; 32], state.0, passer.0, block.0].concat());
    assert_eq!(output_root(state, passer, block), expected);
    assert_eq!(keccak256([0u8; 128]), output_root(B256::ZERO, B256::ZERO, B256::ZERO));
}

#[test]
fn deployment_is_compared_with_the_chain_contract_by_contract() {
    let Some(devnet) = node::start() else { return };
    let contract = json!({ "address": ECHO, "codeHash": keccak256(node::ECHO_CODE) });
    let names = ["QuernToken", "Guardian", "ModelRegistry", "JobMarket", "ProviderRegistry", "Ledger"];
    let contracts: serde_json::Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), contract.clone())).collect();
    let parameters = json!({
        "challengeWindowSecs": 4, "extensionSecs": 5, "maxGameSecs": 0, "minLock": "1000000000000000000", "lockFactorBps": 20000,
        "penaltyBps": 1000, "challengerShareBps": 3000, "clientShareBps": 2000,
    });
    let file = json!({
        "chainId": 901, "fromBlock": 0, "contracts": contracts, "tokenDeployed": true, "disputeGame": ECHO, "parameters": parameters,
    });
    let read = |file: &Value| {
        let path = devnet.folder().join("deployment.json");
        std::fs::write(&path, file.to_string()).unwrap();
        Deployment::read(&path)
    };
    let client = node::client(devnet.url());
    let check = |file: Value| {
        let deployment = read(&file).unwrap();
        node::runtime().block_on(soon(deployment.verify(&client)))
    };
    check(file.clone()).unwrap();
    let found = read(&file).unwrap();
    assert_eq!((found.first_block(), found.token_deployed, found.parameters.extension_secs), (1, true, 5));
    assert_eq!(found.parameters.job.min_lock, quern_types::Amount::ONE_TOKEN);

    let mut other = file.clone();
    other["contracts"]["Ledger"]["codeHash"] = json!(B256::ZERO);
    let error = check(other).unwrap_err();
    assert!(matches!(error, Error::Deployment(DeploymentError::OtherCode { contract: "Ledger", .. })), "{error}");

    let mut absent = file.clone();
    absent["contracts"]["Guardian"]["address"] = json!(alloy::primitives::Address::repeat_byte(0x66));
    let error = check(absent).unwrap_err();
    assert!(matches!(error, Error::Deployment(DeploymentError::Absent { contract: "Guardian", .. })), "{error}");

    let mut elsewhere = file.clone();
    elsewhere["chainId"] = json!(10);
    let error = check(elsewhere).unwrap_err();
    assert!(matches!(error, Error::Deployment(DeploymentError::OtherChain { expected: 10, actual: 901 })), "{error}");

    for field in ["minLock", "clientShareBps"] {
        let mut without = file.clone();
        without["parameters"].as_object_mut().unwrap().remove(field);
        let error = read(&without).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }

    let mut cut = file;
    cut["contracts"].as_object_mut().unwrap().remove("JobMarket");
    let error = read(&cut).unwrap_err();
    assert!(error.to_string().contains("JobMarket"), "{error}");
    assert!(matches!(Deployment::read(std::path::Path::new("/nowhere/at/all.json")).unwrap_err(), DeploymentError::Io { .. }));
}
