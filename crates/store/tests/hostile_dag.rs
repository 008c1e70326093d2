//! Trees of blocks that somebody made to hurt: each is refused with its reason, before it costs anything.
#![allow(clippy::unwrap_used)]

mod support;

use quern_store::{ContentId, ContentStore, DagFault, MAX_BLOCK_BYTES, MemoryStore, StoreError};
use support::{node, raw};

const FILE: u64 = 2;

async fn hold(store: &MemoryStore, (id, bytes): (ContentId, Vec<u8>)) -> ContentId {
    store.put_block(id, bytes.into()).await.unwrap();
    id
}

/// Reading, and walking, `id` must both end with this fault.
async fn refused(store: &MemoryStore, id: ContentId) -> DagFault {
    let StoreError::BadDag { fault: read, .. } = store.get(id, 1 << 30).await.unwrap_err() else { panic!("read: another error") };
    let StoreError::BadDag { fault: walked, .. } = store.pin(id).await.unwrap_err() else { panic!("pin: another error") };
    assert_eq!(read, walked);
    assert_eq!(store.pins().await.unwrap(), []);
    read
}

#[tokio::test]
async fn files_of_other_tools_are_read() {
    let store = MemoryStore::new();
    let hello = hold(&store, raw(b"hello ")).await;
    // A leaf inside dag-pb, as CIDv0 tools write it; and one of type raw without a size.
    let world = hold(&store, node(FILE, Some(b"wor"), Some(3), &[])).await;
    let end = hold(&store, node(0, Some(b"ld"), None, &[])).await;
    let inner = hold(&store, node(FILE, None, Some(5), &[(world, 3), (end, 2)])).await;
    let top = hold(&store, node(FILE, None, Some(17), &[(hello, 6), (inner, 5), (hello, 6)])).await;
    assert_eq!(store.get(top, 17).await.unwrap(), b"hello worldhello ");
    let stat = store.stat(top).await.unwrap();
    assert_eq!((stat.size_bytes, stat.blocks), (17, 5));
    let empty = hold(&store, node(FILE, None, Some(0), &[])).await;
    assert_eq!(store.get(empty, 0).await.unwrap(), b"");
}

#[tokio::test]
async fn content_over_the_limit_is_refused_by_its_top_node() {
    let store = MemoryStore::new();
    let ten = hold(&store, raw(b"0123456789")).await;
    assert_eq!(store.get(ten, 10).await.unwrap().len(), 10);
    assert!(matches!(store.get(ten, 9).await, Err(StoreError::TooLarge { size: 10, limit: 9, .. })));
    // Its children are not even there: nobody asked for them.
    let huge = hold(&store, node(FILE, None, Some(1 << 60), &[(raw(b"absent").0, 1 << 60)])).await;
    assert!(matches!(store.get(huge, 1 << 30).await, Err(StoreError::TooLarge { size, .. }) if size == 1 << 60));
}

#[tokio::test]
async fn a_child_of_another_size_than_its_parent_says_is_refused() {
    let store = MemoryStore::new();
    let ten = hold(&store, raw(b"0123456789")).await;
    for claimed in [1, 9, 11, 1 << 20] {
        let top = hold(&store, node(FILE, None, Some(claimed), &[(ten, claimed)])).await;
        assert_eq!(refused(&store, top).await, DagFault::Size { expected: claimed, found: 10 });
    }
    let inner = hold(&store, node(FILE, None, Some(10), &[(ten, 10)])).await;
    let top = hold(&store, node(FILE, None, Some(4), &[(inner, 4)])).await;
    assert_eq!(refused(&store, top).await, DagFault::Size { expected: 4, found: 10 });
    // The same block twice, once under a wrong size.
    let top = hold(&store, node(FILE, None, Some(13), &[(ten, 10), (ten, 3)])).await;
    assert_eq!(refused(&store, top).await, DagFault::Size { expected: 3, found: 10 });
}

#[tokio::test]
async fn parts_that_do_not_add_up_are_refused() {
    let store = MemoryStore::new();
    let ten = hold(&store, raw(b"0123456789")).await;
    let top = hold(&store, node(FILE, None, Some(11), &[(ten, 10)])).await;
    assert_eq!(refused(&store, top).await, DagFault::Sum { says: 11, parts: 10 });
    // A sum that wraps around to the true size.
    let top = hold(&store, node(FILE, None, Some(10), &[(ten, 11), (ten, u64::MAX)])).await;
    assert_eq!(refused(&store, top).await, DagFault::Sum { says: 10, parts: u64::MAX });
    let leaf = hold(&store, node(FILE, Some(b"abc"), Some(4), &[])).await;
    assert_eq!(refused(&store, leaf).await, DagFault::Sum { says: 4, parts: 3 });
}

#[tokio::test]
async fn malformed_nodes_are_refused() {
    let store = MemoryStore::new();
    let ten = hold(&store, raw(b"0123456789")).await;
    let malformed = [
        node(FILE, Some(b"x"), Some(11), &[(ten, 10)]),
        node(0, None, Some(10), &[(ten, 10)]),
        node(FILE, None, None, &[(ten, 10)]),
        // A link to nothing: a tree of these has no end and no size.
        node(FILE, None, Some(10), &[(ten, 10), (raw(b"").0, 0)]),
    ];
    for block in malformed {
        let top = hold(&store, block).await;
        assert!(matches!(refused(&store, top).await, DagFault::Malformed(_)));
    }
    for kind in [1, 3, 4, 5, 77] {
        let top = hold(&store, node(kind, None, None, &[])).await;
        assert_eq!(refused(&store, top).await, DagFault::NotAFile(kind));
    }
}

#[tokio::test]
async fn a_tower_of_nodes_is_refused() {
    let store = MemoryStore::new();
    let mut top = hold(&store, raw(b"x")).await;
    for _ in 0..40 {
        top = hold(&store, node(FILE, None, Some(1), &[(top, 1)])).await;
    }
    assert!(matches!(refused(&store, top).await, DagFault::TooDeep(_)));
}

#[tokio::test]
async fn content_in_crumbs_is_refused() {
    let store = MemoryStore::new();
    let mut crumbs = Vec::new();
    for i in 0..1000u32 {
        crumbs.push((hold(&store, raw(&i.to_be_bytes())).await, 4));
    }
    let top = hold(&store, node(FILE, None, Some(4000), &crumbs)).await;
    assert!(matches!(refused(&store, top).await, DagFault::TooManyBlocks(_)));
}

#[tokio::test]
async fn a_small_tree_that_unfolds_without_end_is_refused_by_its_size() {
    let store = MemoryStore::new();
    let (mut top, mut size) = (hold(&store, raw(&[7; 1000])).await, 1000u64);
    for _ in 0..5 {
        let children = vec![(top, size); 1000];
        size *= 1000;
        top = hold(&store, node(FILE, None, Some(size), &children)).await;
    }
    assert!(matches!(store.get(top, 1 << 40).await, Err(StoreError::TooLarge { .. })));
    // Walks take each block once, so a pin of it is six blocks.
    store.pin(top).await.unwrap();
    assert_eq!(store.stat(top).await.unwrap().blocks, 6);
}

#[tokio::test]
async fn a_block_longer_than_any_block_is_refused() {
    let store = MemoryStore::new();
    let (id, bytes) = raw(&vec![1; MAX_BLOCK_BYTES + 1]);
    assert!(matches!(store.put_block(id, bytes.into()).await, Err(StoreError::BlockTooLarge { .. })));
    let (id, bytes) = raw(&vec![1; MAX_BLOCK_BYTES]);
    store.put_block(id, bytes.into()).await.unwrap();
    assert_eq!(store.get(id, MAX_BLOCK_BYTES as u64).await.unwrap().len(), MAX_BLOCK_BYTES);
}

#[tokio::test]
async fn bytes_under_a_foreign_id_are_refused() {
    let store = MemoryStore::new();
    let (id, _) = raw(b"right");
    let error = store.put_block(id, b"wrong"[..].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::WrongBytes { id: named, .. } if named == id), "{error}");
    assert!(!store.has(id).await.unwrap());
}

#[tokio::test]
async fn a_missing_block_in_the_middle_is_named() {
    let store = MemoryStore::new();
    let (here, absent) = (hold(&store, raw(b"here")).await, raw(b"absent").0);
    let inner = hold(&store, node(FILE, None, Some(10), &[(here, 4), (absent, 6)])).await;
    let top = hold(&store, node(FILE, None, Some(14), &[(here, 4), (inner, 10)])).await;
    let named = |error: StoreError| matches!(error, StoreError::Incomplete { root, missing, .. } if (root, missing) == (top, absent));
    assert!(named(store.get(top, 100).await.unwrap_err()));
    assert!(named(store.pin(top).await.unwrap_err()));
    assert!(named(store.stat(top).await.unwrap_err()));
    assert!(!store.has(top).await.unwrap());
    assert!(matches!(store.get(absent, 100).await, Err(StoreError::NotFound { id, .. }) if id == absent));
}

/// Gives each block after a while, as a gateway does that drips.
#[derive(Debug)]
struct Dripping(MemoryStore, std::time::Duration);

#[async_trait::async_trait]
impl ContentStore for Dripping {
    fn kind(&self) -> &'static str {
        "dripping"
    }

    async fn get_block(&self, id: ContentId) -> Result<bytes::Bytes, StoreError> {
        tokio::time::sleep(self.1).await;
        self.0.get_block(id).await
    }

    async fn put_block(&self, id: ContentId, bytes: bytes::Bytes) -> Result<(), StoreError> {
        self.0.put_block(id, bytes).await
    }

    async fn has_block(&self, id: ContentId) -> Result<bool, StoreError> {
        self.0.has_block(id).await
    }

    async fn pin(&self, id: ContentId) -> Result<(), StoreError> {
        self.0.pin(id).await
    }

    async fn unpin(&self, id: ContentId) -> Result<bool, StoreError> {
        self.0.unpin(id).await
    }

    async fn pins(&self) -> Result<Vec<ContentId>, StoreError> {
        self.0.pins().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_an_enemy_drips_block_by_block_costs_the_time_of_its_size() {
    let store = MemoryStore::new();
    let mut crumbs = Vec::new();
    for i in 0..1000u32 {
        let crumb: Vec<u8> = i.to_be_bytes().repeat(256);
        crumbs.push((hold(&store, raw(&crumb)).await, 1024));
    }
    let top = hold(&store, node(FILE, None, Some(1000 << 10), &crumbs)).await;
    // Each block within the half minute that one block may take; all of them would take eight hours.
    let dripping = Dripping(store, std::time::Duration::from_secs(29));
    let began = tokio::time::Instant::now();
    let error = dripping.get(top, 1 << 30).await.unwrap_err();
    assert!(matches!(error, StoreError::TooSlow { size: 1_024_000, .. }), "{error}");
    assert!(began.elapsed().as_secs() < 200, "{:?}", began.elapsed());
    // Where only the profile is taken, the first crumb is the last.
    let began = tokio::time::Instant::now();
    let error = dripping.get_ours(top, 1 << 30).await.unwrap_err();
    assert!(matches!(error, StoreError::BadDag { fault: DagFault::OtherProfile, .. }), "{error}");
    assert_eq!(began.elapsed().as_secs(), 2 * 29);
}

#[tokio::test]
async fn only_files_of_the_profile_are_taken_for_ours() {
    let store = MemoryStore::new();
    for length in [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let content = vec![7; length];
        let id = store.put(&content).await.unwrap();
        assert_eq!(store.get_ours(id, 4 << 20).await.unwrap(), content);
    }
    let inline = hold(&store, node(FILE, Some(b"abc"), Some(3), &[])).await;
    let ten = hold(&store, raw(b"0123456789")).await;
    let halves = hold(&store, node(FILE, None, Some(20), &[(ten, 10), (ten, 10)])).await;
    for id in [inline, halves] {
        assert_eq!(store.get(id, 20).await.map(|content| content.is_empty()).ok(), Some(false));
        assert!(matches!(store.get_ours(id, 20).await, Err(StoreError::BadDag { fault: DagFault::OtherProfile, .. })));
    }
}
