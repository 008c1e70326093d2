//! The embedded store: what is on disk after crashes, damage, two writers, and collection.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use quern_store::{ContentStore, EmbeddedConfig, EmbeddedStore, MemoryStore, StoreError};
use support::{MIB, Pattern, embedded, node, raw, reopen};

async fn open(path: &std::path::Path, max_bytes: u64, grace_secs: u64) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(path, EmbeddedConfig { max_bytes, grace_secs }).await
}

#[tokio::test]
async fn content_and_pins_survive_a_restart() {
    let (directory, store) = embedded().await;
    let content = Pattern::bytes(3 * MIB + 17);
    let id = store.put(&content).await.unwrap();
    store.pin(id).await.unwrap();
    drop(store);
    let store = reopen(&directory).await;
    assert_eq!(store.get(id, u64::MAX).await.unwrap(), content);
    assert_eq!(store.pins().await.unwrap(), [id]);
    assert_eq!(store.used_bytes().await.unwrap(), store.stat(id).await.unwrap().stored_bytes);
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_that_names_the_block_and_putting_it_again_mends_it() {
    let (_directory, store) = embedded().await;
    let (id, bytes) = raw(b"the quern is a hand mill");
    store.put_block(id, bytes.clone().into()).await.unwrap();
    let path = store.block_path(id);
    for place in [0, bytes.len() / 2, bytes.len() - 1] {
        for bit in [0x01, 0x80] {
            let mut damaged = bytes.clone();
            damaged[place] ^= bit;
            fs::write(&path, damaged).unwrap();
            let error = store.get_block(id).await.unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { id: named, .. } if named == id), "{error}");
            assert!(error.to_string().contains(&id.to_string()));
            assert!(store.pin(id).await.is_err(), "a damaged block must not be pinned");
        }
    }
    store.put_block(id, bytes.clone().into()).await.unwrap();
    assert_eq!(store.get_block(id).await.unwrap(), bytes);
    assert_eq!(store.used_bytes().await.unwrap(), bytes.len() as u64);
}

#[tokio::test]
async fn a_truncated_an_empty_and_an_overlong_file_are_errors() {
    let (_directory, store) = embedded().await;
    let content = Pattern::bytes(2 * MIB);
    let id = store.put(&content).await.unwrap();
    let leaf = quern_store::block_id(quern_store::ContentCodec::Raw, &content[..MIB as usize]);
    let path = store.block_path(leaf);
    let whole = fs::read(&path).unwrap();
    let mut overlong = whole.clone();
    overlong.push(0);
    for damaged in [&whole[..whole.len() - 1], b"", &overlong, &vec![0; 5 * MIB as usize]] {
        fs::write(&path, damaged).unwrap();
        for error in [store.get(id, u64::MAX).await.unwrap_err(), store.pin(id).await.unwrap_err()] {
            assert!(matches!(error, StoreError::Corrupt { id: named, .. } if named == leaf), "{error}");
        }
    }
    store.put(&content).await.unwrap();
    assert_eq!(store.get(id, u64::MAX).await.unwrap(), content);
}

#[tokio::test]
async fn a_pin_of_an_incomplete_file_is_refused_with_the_missing_block() {
    let (_directory, store) = embedded().await;
    let content = Pattern::bytes(3 * MIB);
    let id = store.put(&content).await.unwrap();
    let leaf = quern_store::block_id(quern_store::ContentCodec::Raw, &content[MIB as usize..2 * MIB as usize]);
    fs::remove_file(store.block_path(leaf)).unwrap();
    let error = store.pin(id).await.unwrap_err();
    assert!(matches!(error, StoreError::Incomplete { root, missing, .. } if (root, missing) == (id, leaf)), "{error}");
    assert!(error.to_string().contains(&leaf.to_string()));
    assert_eq!(store.pins().await.unwrap(), []);
    assert!(!store.has(id).await.unwrap());
}

#[tokio::test]
async fn collection_takes_what_no_pin_needs_and_nothing_else() {
    let (directory, store) = embedded().await;
    // The two files share their first two chunks; the third is a chunk of the first, and a pin of its own.
    let long = Pattern::bytes(3 * MIB);
    let short = Pattern::bytes(2 * MIB + 5);
    let (a, b) = (store.put(&long).await.unwrap(), store.put(&short).await.unwrap());
    let chunk = store.put(&long[..MIB as usize]).await.unwrap();
    for id in [a, b, chunk] {
        store.pin(id).await.unwrap();
    }
    let before = store.used_bytes().await.unwrap();
    let report = store.collect_garbage().await.unwrap();
    assert_eq!((report.removed_blocks, report.pinned_blocks, report.used_bytes), (0, 6, before));

    assert!(store.unpin(a).await.unwrap());
    assert!(!store.unpin(a).await.unwrap(), "a second unpin has nothing to do");
    let report = store.collect_garbage().await.unwrap();
    assert_eq!(report.removed_blocks, 2, "its last chunk and its top");
    assert!(!store.has(a).await.unwrap());
    assert_eq!(store.get(b, u64::MAX).await.unwrap(), short);

    assert!(store.unpin(b).await.unwrap());
    drop(store);
    let store = reopen(&directory).await;
    store.collect_garbage().await.unwrap();
    assert!(!store.has(b).await.unwrap());
    assert_eq!(store.get(chunk, u64::MAX).await.unwrap(), long[..MIB as usize]);
    assert_eq!(store.used_bytes().await.unwrap(), MIB);
    assert!(store.unpin(chunk).await.unwrap());
    let report = store.collect_garbage().await.unwrap();
    assert_eq!((report.used_bytes, store.used_bytes().await.unwrap()), (0, 0));
}

#[tokio::test]
async fn collection_leaves_young_blocks_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), MIB, 3600).await.unwrap();
    let young = store.put(b"just put").await.unwrap();
    let old = store.put(b"put long ago").await.unwrap();
    let again = store.put(b"put long ago and again now").await.unwrap();
    let two_hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for id in [old, again] {
        fs::File::options().write(true).open(store.block_path(id)).unwrap().set_modified(two_hours_ago).unwrap();
    }
    assert_eq!(store.put(b"put long ago and again now").await.unwrap(), again);
    let report = store.collect_garbage().await.unwrap();
    assert_eq!((report.removed_blocks, report.young_blocks), (1, 2));
    assert!(store.has(young).await.unwrap() && store.has(again).await.unwrap() && !store.has(old).await.unwrap());
}

#[tokio::test]
async fn collection_removes_nothing_where_a_pinned_file_cannot_be_walked() {
    let (_directory, store) = embedded().await;
    let id = store.put(&Pattern::bytes(2 * MIB)).await.unwrap();
    store.pin(id).await.unwrap();
    let garbage = store.put(b"garbage").await.unwrap();
    fs::write(store.block_path(id), b"damaged").unwrap();
    let error = store.collect_garbage().await.unwrap_err();
    assert!(matches!(error, StoreError::PinBroken { root, .. } if root == id), "{error}");
    assert!(store.has(garbage).await.unwrap());
    // A name in pins/ that cannot be read is not "no pin".
    store.unpin(id).await.unwrap();
    fs::write(store.directory().join("pins/bafkreinonsense"), b"").unwrap();
    assert!(matches!(store.collect_garbage().await, Err(StoreError::Layout { .. })));
    assert!(store.has(garbage).await.unwrap());
}

#[tokio::test]
async fn a_full_store_says_so_and_has_room_again_after_collection() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 1000, 0).await.unwrap();
    let kept = store.put(&[1; 600]).await.unwrap();
    store.pin(kept).await.unwrap();
    let garbage = store.put(&[2; 400]).await.unwrap();
    let error = store.put(&[3; 1]).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { used: 1000, needed: 1, limit: 1000, .. }), "{error}");
    // What is there already needs no room.
    assert_eq!(store.put(&[2; 400]).await.unwrap(), garbage);
    store.collect_garbage().await.unwrap();
    store.put(&[3; 400]).await.unwrap();
    assert_eq!(store.get(kept, 600).await.unwrap(), [1; 600]);
}

#[tokio::test]
async fn what_a_crash_left_is_removed_at_the_next_opening() {
    let (directory, store) = embedded().await;
    let id = store.put(b"whole").await.unwrap();
    drop(store);
    // A crash between the temporary file and its rename; one while USED was written, or after it was raised and before the rename.
    fs::write(directory.path().join("tmp/4711-0"), b"half a blo").unwrap();
    for used in [&b""[..], &[0; 3], &u64::MAX.to_be_bytes()] {
        fs::write(directory.path().join("USED"), used).unwrap();
        let store = reopen(&directory).await;
        assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(store.used_bytes().await.unwrap(), 5);
        assert_eq!(store.get(id, 5).await.unwrap(), b"whole");
    }
    // A crash before the first opening was done.
    fs::remove_file(directory.path().join("VERSION")).unwrap();
    assert_eq!(reopen(&directory).await.get(id, 5).await.unwrap(), b"whole");
}

#[tokio::test]
async fn a_directory_that_is_not_a_store_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), b"years of work").unwrap();
    assert!(matches!(open(directory.path(), MIB, 0).await, Err(StoreError::Layout { .. })));
    assert!(!directory.path().join("blocks").exists());
    let newer = tempfile::tempdir().unwrap();
    fs::write(newer.path().join("VERSION"), "quern content store 2\n").unwrap();
    assert!(matches!(open(newer.path(), MIB, 0).await, Err(StoreError::Layout { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_of_the_same_blocks_through_two_openings_count_each_once() {
    let (directory, one) = embedded().await;
    let two = reopen(&directory).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8u64 {
        let store = if writer % 2 == 0 { one.clone() } else { two.clone() };
        writers.spawn(async move {
            let shared = store.put(&Pattern::bytes(2 * MIB + 1)).await.unwrap();
            let own = store.put(&writer.to_be_bytes()).await.unwrap();
            store.pin(shared).await.unwrap();
            store.pin(own).await.unwrap();
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let counted = one.used_bytes().await.unwrap();
    let report = two.collect_garbage().await.unwrap();
    assert_eq!((report.removed_blocks, report.pinned_blocks, report.used_bytes), (0, 4 + 8, counted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collection_and_pinning_at_once_never_leave_a_pin_without_its_blocks() {
    let (directory, store) = embedded().await;
    let collector = reopen(&directory).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let collecting = tokio::spawn(async move {
        let mut rounds = 0;
        while stopped.try_recv().is_err() {
            collector.collect_garbage().await.unwrap();
            rounds += 1;
        }
        rounds
    });
    let (mut kept, mut lost) = (0, 0);
    for round in 0..60u64 {
        let content = [&round.to_be_bytes()[..], &[7; 1000]].concat();
        let id = store.put(&content).await.unwrap();
        // Without a grace period the block may be gone before it is pinned; the pin then says so. A pin that was given holds.
        match store.pin(id).await {
            Ok(()) => {
                kept += 1;
                assert_eq!(store.get(id, 2000).await.unwrap(), content);
            }
            Err(StoreError::NotFound { .. }) => lost += 1,
            Err(other) => panic!("{other}"),
        }
    }
    stop.send(()).unwrap();
    assert!(collecting.await.unwrap() > 0);
    for id in store.pins().await.unwrap() {
        assert!(store.get(id, 2000).await.is_ok());
    }
    assert_eq!((kept + lost, store.pins().await.unwrap().len()), (60, kept));
}

#[tokio::test]
async fn a_dropped_put_leaves_whole_blocks_or_none() {
    let (directory, store) = embedded().await;
    for polls in 1..6 {
        let content = Pattern::bytes(4 * MIB);
        let mut put = Box::pin(store.put(&content));
        for _ in 0..polls {
            let waker = std::task::Waker::noop();
            assert!(put.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
            tokio::task::yield_now().await;
        }
        drop(put);
    }
    // Opening waits for the write that is still under way.
    let store_again = reopen(&directory).await;
    assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    let report = store_again.collect_garbage().await.unwrap();
    assert_eq!(report.used_bytes, 0);
    let id = store.put(&Pattern::bytes(4 * MIB)).await.unwrap();
    assert_eq!(store.get(id, 4 * MIB).await.unwrap(), Pattern::bytes(4 * MIB));
}

#[tokio::test]
async fn a_car_of_a_file_fills_an_empty_store() {
    let (_directory, store) = embedded().await;
    let content = [Pattern::bytes(MIB), Pattern::bytes(MIB), vec![9; 100]].concat();
    let id = store.put(&content).await.unwrap();
    let mut car = Vec::new();
    let length = store.export_car(id, &mut car).await.unwrap();
    assert_eq!(length, car.len() as u64);
    assert!(length < 2 * MIB, "a block that is there twice is sent once");
    let other = MemoryStore::new();
    let roots = quern_store::car::import(&other, &mut &*car, 8 * MIB).await.unwrap();
    assert_eq!(roots, [id]);
    assert_eq!(other.get(id, u64::MAX).await.unwrap(), content);
    assert!(matches!(quern_store::car::import(&other, &mut &*car, length - 1).await, Err(StoreError::Car { .. })));
    // A CAR with a false block in it.
    let place = car.len() - 1;
    car[place] ^= 1;
    let error = quern_store::car::import(&MemoryStore::new(), &mut &*car, 8 * MIB).await.unwrap_err();
    assert!(matches!(error, StoreError::WrongBytes { .. }), "{error}");
}

#[tokio::test]
async fn a_pinned_raw_block_may_also_be_the_leaf_of_a_pinned_file() {
    let (_directory, store) = embedded().await;
    let (leaf, bytes) = raw(b"both");
    store.put_block(leaf, bytes.into()).await.unwrap();
    let (top, bytes) = node(2, None, Some(8), &[(leaf, 4), (leaf, 4)]);
    store.put_block(top, bytes.into()).await.unwrap();
    store.pin(leaf).await.unwrap();
    store.pin(top).await.unwrap();
    assert_eq!(store.collect_garbage().await.unwrap().pinned_blocks, 2);
}
