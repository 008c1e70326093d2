//! Where the programs are that the actors run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent).unwrap_or(Path::new("."))
}

/// A program of the Foundry suite (`anvil`, `forge`, `cast`): the native binary that npm installed under `contracts/`, so that killing it leaves no
/// child behind.
///
/// # Errors
/// Names the command that installs it.
pub fn tool(name: &str) -> Result<PathBuf> {
    let (os, machine) =
        (if cfg!(target_os = "macos") { "darwin" } else { "linux" }, if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let path = repository().join(format!("contracts/node_modules/@foundry-rs/{name}-{os}-{machine}/bin/{name}"));
    if !path.is_file() {
        bail!("{name} is not installed ({} is missing): run `npm ci` in contracts/", path.display());
    }
    Ok(path)
}

/// The `quern` binary that was built beside the running test or demo.
///
/// # Errors
/// Names the command that builds it.
pub fn quern() -> Result<PathBuf> {
    let here = std::env::current_exe().context("asking for the path of the running program")?;
    here.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("quern"))
        .find(|path| path.is_file())
        .with_context(|| format!("no `quern` beside {}: run `cargo build --release -p quern-cli`", here.display()))
}

/// The exact package of all-MiniLM-L6-v2 that `scripts/prepare-minilm` makes.
///
/// # Errors
/// Names the command that makes it.
pub fn minilm_package() -> Result<PathBuf> {
    let path = repository().join("target/models/all-MiniLM-L6-v2.quern");
    if !path.join("header.bin").is_file() {
        bail!("{} is missing: run scripts/prepare-minilm", path.display());
    }
    Ok(path)
}

/// The exact package of the extractor, which ships with the trainer that made it.
///
/// # Errors
/// If it is not there.
pub fn extractor_package() -> Result<PathBuf> {
    let path = repository().join("crates/trainer/extractor.quern");
    if !path.join("header.bin").is_file() {
        bail!("{} is missing: it is part of the repository; `git checkout` brings it back", path.display());
    }
    Ok(path)
}
