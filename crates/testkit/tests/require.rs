//! What the scripts ask of a machine.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use quern_testkit::repository;

/// Runs scripts/require on a machine with these versions; without a text there is no such program. Returns whether it is content, and what it says.
fn require(cargo: &str, node: &str, python: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, version) in [("cargo", cargo), ("node", node), ("npm", node), ("python3", python)] {
        let program = folder.path().join(name);
        let script = if version.is_empty() { "exit 127".to_owned() } else { format!("echo '{version}'") };
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let script = repository().join("scripts/require");
    let output = Command::new(script).args(["rust", "node", "python"]).env("PATH", path).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn machine_with_the_promised_versions_or_newer_ones_suffices() {
    for (cargo, node, python) in [
        ("cargo 1.95.0 (f2d3ce0bd 2026-03-21)", "v20.0.0", "3.9.0"),
        ("cargo 1.100.1-nightly (f2d3ce0bd 2026-03-21)", "v24.11.0", "3.14.0rc1"),
        ("cargo 2.0.0 (f2d3ce0bd 2026-03-21)", "v100.0.0", "4.0.0"),
    ] {
        assert_eq!(require(cargo, node, python), (true, String::new()));
    }
}

#[test]
fn what_is_too_old_or_missing_is_named_with_what_is_needed_and_where_it_is() {
    let (content, said) = require("cargo 1.94.9 (f2d3ce0bd 2026-03-21)", "v18.20.4", "3.8.20");
    assert!(!content);
    for text in [
        "too old: Rust (cargo) 1.94.9, and 1.95 or newer is needed",
        "too old: Node v18.20.4, and 20.0 or newer is needed",
        "too old: Python 3.8.20, and 3.9 or newer is needed",
        "https://rustup.rs",
        "https://nodejs.org",
        "https://www.python.org",
    ] {
        assert!(said.contains(text), "no {text:?} in {said}");
    }
    let (content, said) = require("", "", "");
    assert!(!content);
    for text in [
        "missing: Rust (cargo) 1.95 or newer",
        "missing: Node 20.0 or newer",
        "missing: npm",
        "missing: Python 3.9 or newer",
        "missing: pip",
    ] {
        assert!(said.contains(text), "no {text:?} in {said}");
    }
    assert!(!require("cargo 1.95.0", "v20.0.0", "3.8.99").0, "one that is too old is one too many");
}
