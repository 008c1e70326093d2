//! The real all-MiniLM-L6-v2. Without the weights (scripts/fetch-minilm) these tests say NOT RUN; with CI set they fail.
#![allow(
    clippy::unwrap_used,
    clippy::explicit_write,
    reason = "a test fails by panicking; what eprintln writes is captured where a test passes"
)]

use std::{
    io::Write as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use quern_exact::encoder::Output;
use quern_model::{Corpus, Package, Reference, StratumReport, fidelity};
use tempfile::TempDir;

/// Change it only with a change of docs/EXACT.md or docs/PROTOCOL.md: a new root is another model.
const GOLDEN: &str = "0x442ff1ebc6fde30f68334e444cde05348dfcae2f39690182cd9c734c5b9f7b8f";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of the weights, or a line that says that the test was not run.
fn weights(test: &str) -> Option<PathBuf> {
    let folder = repository().join("target/models/all-MiniLM-L6-v2");
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "{test}: the weights are missing; run scripts/fetch-minilm");
    // Straight to the stream: what a passing test prints is otherwise captured.
    writeln!(std::io::stderr(), "NOT RUN {test}: the weights are missing; run scripts/fetch-minilm").unwrap();
    None
}

/// One import for all tests of this file.
fn package(weights: &Path) -> Package {
    static IMPORTED: OnceLock<TempDir> = OnceLock::new();
    let folder = IMPORTED.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        Package::import(weights, &folder.path().join("minilm.quern"), false).unwrap();
        folder
    });
    Package::open(&folder.path().join("minilm.quern")).unwrap()
}

#[test]
fn minilm_has_its_root_on_every_machine() {
    let Some(weights) = weights("minilm_has_its_root_on_every_machine") else { return };
    let package = package(&weights);
    assert_eq!(package.verify().unwrap().to_string(), GOLDEN);
    assert!(package.record().notes.is_empty(), "{:?}", package.record().notes);
    assert_eq!(package.header().macs_per_token().unwrap(), 10_616_832);
    assert_eq!(package.item(1, "Hello, world!").unwrap(), [101, 7592, 1010, 2088, 999, 102]);
    assert_eq!(package.item(1, "").unwrap(), [101, 102]);
}

#[test]
fn minilm_gives_the_same_bits_for_any_threads_batches_and_order() {
    let Some(weights) = weights("minilm_gives_the_same_bits_for_any_threads_batches_and_order") else { return };
    let package = package(&weights);
    let corpus = Corpus::read(&repository().join("tests/corpus")).unwrap();
    let texts = corpus.strata.iter().flat_map(|stratum| stratum.texts.iter().step_by(9));
    let items: Vec<Vec<u32>> = texts.map(|(_, text)| package.item(1, text).unwrap()).collect();
    let encoder = package.encoder().unwrap();
    let embed = |items: &[Vec<u32>], threads| encoder.embed_many(items, NonZeroUsize::new(threads).unwrap());
    let all: Vec<Output> = embed(&items, 1);
    assert!(embed(&items, 3) == all, "3 threads");
    assert!(items.chunks(4).flat_map(|batch| embed(batch, 2)).collect::<Vec<_>>() == all, "batches of 4");
    let mut reversed: Vec<Output> = embed(&items.iter().rev().cloned().collect::<Vec<_>>(), 2);
    reversed.reverse();
    assert!(reversed == all, "reversed");
}
#[test]
fn minilm_is_faithful_on_the_corpus() {
    let Some(weights) = weights("minilm_is_faithful_on_the_corpus") else { return };
    let package = package(&weights);
    let corpus = Corpus::read(&repository().join("tests/corpus")).unwrap();
    let [lines, words, long] = &corpus.strata[..] else { panic!("three strata") };
    assert!(lines.texts.len() >= 150 && words.texts.len() >= 100 && long.texts.len() >= 20);
    for (place, text) in &long.texts {
        assert_eq!(package.item(1, text).unwrap().len(), 512, "{place}");
    }
    let reports = fidelity(&package, &Reference::open(&weights).unwrap(), &corpus).unwrap();
    for report in &reports {
        println!("{report:?}: {:.1} texts/s", report.texts_per_second());
    }
    assert!(reports.iter().all(StratumReport::holds), "{reports:#?}");
}
