//! Who may depend on whom: docs/ARCHITECTURE.md, checked against `cargo metadata`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// What each of our crates may depend on, of ours.
const EDGES: &[(&str, &[&str])] = &[
    ("quern-types", &[]),
    ("quern-telemetry", &[]),
    ("quern-trainer", &[]),
    ("core2", &[]),
    ("quern-exact", &["quern-types"]),
    ("quern-bindings", &["quern-types"]),
    ("quern-store", &["quern-types"]),
    ("quern-db", &["quern-types"]),
    ("quern-commit", &["quern-types", "quern-exact"]),
    ("quern-model", &["quern-types", "quern-exact", "quern-commit"]),
    ("quern-chain", &["quern-types", "quern-bindings"]),
    ("quern-client", &["quern-types", "quern-bindings", "quern-chain", "quern-exact", "quern-commit", "quern-model", "quern-store"]),
    ("quern-indexer", &["quern-types", "quern-bindings", "quern-chain", "quern-db", "quern-telemetry", "quern-store"]),
    (
        "quern-worker",
        &[
            "quern-types",
            "quern-bindings",
            "quern-chain",
            "quern-exact",
            "quern-commit",
            "quern-model",
            "quern-store",
            "quern-db",
            "quern-telemetry",
        ],
    ),
];

/// Crates that may use anything of ours, and that no other crate may use.
const TOP: &[&str] = &["quern-cli", "quern-testkit", "quern-tests"];

/// Foreign crates that only the named crates of ours may depend on.
const CONFINED: &[(&str, &[&str])] = &[
    ("candle-core", &["quern-model", "quern-trainer"]),
    ("candle-nn", &["quern-model"]),
    ("sqlx", &["quern-db"]),
    ("ipfs-api-backend-hyper", &["quern-store"]),
    ("alloy", &["quern-chain", "quern-bindings", "quern-cli"]),
    ("alloy-sol-types", &["quern-bindings", "quern-chain"]),
];

/// Foreign crates that `exact` and `commit` must not know.
const NOT_IN_THE_EXACT_MACHINE: &[&str] = &["tokio", "candle-core", "alloy", "futures", "reqwest", "sqlx", "rand"];

/// Normal dependencies (not for tests) of each of our crates.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let edges = package["dependencies"].as_array().unwrap().iter();
            let normal = edges.filter(|edge| edge["kind"].is_null()).map(|edge| edge["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), normal.collect())
        })
        .collect()
}

#[test]
fn every_edge_between_our_crates_is_in_the_table() {
    let all = dependencies();
    let mut faults = Vec::new();
    for (name, edges) in &all {
        let Some((_, allowed)) = EDGES.iter().find(|(one, _)| one == name) else {
            assert!(TOP.contains(&name.as_str()), "{name} is not in the table: add it here and in docs/ARCHITECTURE.md");
            continue;
        };
        for edge in edges.iter().filter(|edge| all.contains_key(*edge)) {
            if !allowed.contains(&edge.as_str()) {
                faults.push(format!("{name} -> {edge}"));
            }
        }
    }
    assert!(faults.is_empty(), "dependencies that break the layering: {faults:?}");
    for (name, _) in EDGES {
        assert!(all.contains_key(*name), "the table names {name}, which does not exist");
    }
}

#[test]
fn heavy_dependencies_stay_in_their_room() {
    let all = dependencies();
    let mut faults = Vec::new();
    for (name, edges) in &all {
        for (foreign, owners) in CONFINED {
            if edges.iter().any(|edge| edge == foreign) && !owners.contains(&name.as_str()) {
                faults.push(format!("{name} -> {foreign}"));
            }
        }
        if ["quern-exact", "quern-commit"].contains(&name.as_str()) {
            faults.extend(
                edges.iter().filter(|edge| NOT_IN_THE_EXACT_MACHINE.contains(&edge.as_str())).map(|edge| format!("{name} -> {edge}")),
            );
        }
    }
    assert!(faults.is_empty(), "dependencies in the wrong room: {faults:?}");
}
