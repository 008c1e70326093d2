//! Two processes that put and pin in one directory, a third that collects there, and kill -9 at a moment of nobody's choosing. What was
//! acknowledged must be there afterwards, and nothing else may be.
//!
//! Without the test harness, because it starts itself as the processes to be killed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use quern_store::{ContentId, ContentStore, EmbeddedStore, StoreError};
use support::{Pattern, reopen};

const ROUNDS: u64 = 16;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match arguments.as_slice() {
        [_, role, directory, seed] if role == "writer" => runtime.block_on(write_for_ever(Path::new(directory), seed.parse().unwrap())),
        _ => runtime.block_on(what_was_acknowledged_survives_kills()),
    }
}

/// A file of up to three blocks that is like no other.
fn content(seed: u64, number: u64) -> Vec<u8> {
    let mut content = [seed.to_be_bytes(), number.to_be_bytes()].concat();
    content.extend(Pattern::bytes(number.wrapping_mul(0x9e37_79b9) % 2_200_000));
    content
}

/// Puts, pins, and says so.
async fn write_for_ever(directory: &Path, seed: u64) {
    let config = quern_store::EmbeddedConfig { grace_secs: 0, ..Default::default() };
    let store = EmbeddedStore::open(directory, config).await.unwrap();
    let mut number = 0;
    loop {
        let id = store.put(&content(seed, number)).await.unwrap();
        match store.pin(id).await {
            Ok(()) => {
                println!("{id}");
                std::io::stdout().flush().unwrap();
                number += 1;
            }
            // Collected between the two: there is no grace period here. Once more.
            Err(error) if error.is_absent() => {}
            Err(error) => panic!("{error}"),
        }
    }
}

struct Writer(Child);

impl Writer {
    fn start(directory: &Path, seed: u64) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["writer".as_ref(), directory.as_os_str(), seed.to_string().as_ref()]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Kills it as soon as it has acknowledged `at_least`; returns all that it did acknowledge.
    fn kill_after(&mut self, at_least: usize) -> Vec<ContentId> {
        let mut lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let mut acknowledged: Vec<ContentId> = lines.by_ref().take(at_least).map(|line| line.unwrap().parse().unwrap()).collect();
        assert_eq!(acknowledged.len(), at_least, "the writer stopped by itself");
        self.0.kill().unwrap();
        // The last line may be cut off; only whole ones count.
        acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| line.parse::<ContentId>().ok()));
        self.0.wait().unwrap();
        acknowledged
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn what_was_acknowledged_survives_kills() {
    let directory = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut leftovers) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let collector = reopen(&directory).await;
        let mut writers = [Writer::start(directory.path(), 2 * round), Writer::start(directory.path(), 2 * round + 1)];
        collector.collect_garbage().await.unwrap();
        acknowledged.extend(writers[0].kill_after(1 + (round % 4) as usize));
        collector.collect_garbage().await.unwrap();
        acknowledged.extend(writers[1].kill_after(1 + (round % 3) as usize));
        drop(collector);

        leftovers += fs::read_dir(directory.path().join("tmp")).unwrap().count();
        let store = reopen(&directory).await;
        check(&store, &acknowledged).await;
    }
    println!(
        "crash: {} files acknowledged by writers killed {} times, all there; {leftovers} temporary files left and removed",
        acknowledged.len(),
        2 * ROUNDS
    );
}

async fn check(store: &EmbeddedStore, acknowledged: &[ContentId]) {
    assert_eq!(fs::read_dir(store.directory().join("tmp")).unwrap().count(), 0);
    let pins = store.pins().await.unwrap();
    for id in acknowledged {
        assert!(pins.contains(id), "{id} was acknowledged and is not pinned");
    }
    // Every pin, the one that was not acknowledged any more too, is whole.
    let mut held = std::collections::HashMap::new();
    for id in &pins {
        let mut car = Vec::new();
        store.export_car(*id, &mut car).await.unwrap();
        let memory = quern_store::MemoryStore::new();
        quern_store::car::import(&memory, &mut &*car, u64::MAX).await.unwrap();
        held.insert(*id, memory.stat(*id).await.unwrap());
    }
    // What is there besides is whole too, only not pinned: after collection nothing but pins is left, and the count is exact.
    let before: Result<u64, StoreError> = store.used_bytes().await;
    let report = store.collect_garbage().await.unwrap();
    assert_eq!(before.unwrap(), report.used_bytes + report.removed_bytes);
    assert!(report.used_bytes <= held.values().map(|stat| stat.stored_bytes).sum());
    assert_eq!(report.young_blocks, 0);
}
