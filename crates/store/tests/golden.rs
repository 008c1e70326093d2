//! Content ids against those of two implementations that are not ours.
//!
//! Source of the values: Kubo 0.40.1, `ipfs add -Q --only-hash --cid-version=1 --raw-leaves --chunker=size-1048576
//! --max-file-links=1024`, and npm `ipfs-unixfs-importer` 17.1.1 with `{ profile: 'unixfs-v1-2025' }`, over the content of
//! `support::pattern_byte`. Both gave all of them.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use quern_store::{ContentStore, MemoryStore, dag};
use support::{MIB, Pattern};
use tokio::io::{AsyncReadExt, AsyncWrite};

const GOLDEN: [(u64, &str); 9] = [
    (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
    (1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
    (MIB - 1, "bafkreielkxdkfu2eicjkgfuykayoada6n6dar2xzclejnxxhyn2niqhnce"),
    (MIB, "bafkreidddocae7lltzjlkooe5a3tmiwsgazn7logjvqk7bzttsidpzhxne"),
    (MIB + 1, "bafybeibzll356dgcgxx5ckr5dfwpdbh4vgiqrzztrqlfvy3wpf6i6g6viu"),
    (2 * MIB, "bafybeiamu2gay3voz63rn3hea6eip7qbsguafc3to4xwnwug2ztytja2n4"),
    // 1024 chunks: one node. 1025 chunks, the last of one byte, then of a whole MiB: two levels of nodes.
    (1024 * MIB, "bafybeicslzhub4ib6z2zvrehyn2jiqowc6ia6dxnsadcemjkeqj4k4mfhq"),
    (1024 * MIB + 1, "bafybeiep5fdajoklackcf7y35ucq2x5nkifst3zsm3ihdtu7piwm3kxdb4"),
    (1025 * MIB, "bafybeif5cr3k4tnyrj7bz4rjkcwq4wyemfnf2ff2cjtfyxfk7hjbr3b2ku"),
];

#[tokio::test]
async fn streamed_content_has_the_id_that_other_implementations_give_it() {
    for (size, expected) in GOLDEN {
        let (id, read) = dag::content_id_of(&mut Pattern::new(size)).await.unwrap();
        assert_eq!((read, id.to_string().as_str()), (size, expected));
    }
}

#[tokio::test]
async fn content_in_memory_and_content_in_a_store_have_the_same_id() {
    for (size, expected) in GOLDEN.into_iter().filter(|(size, _)| *size <= 2 * MIB) {
        let content = Pattern::bytes(size);
        assert_eq!(dag::content_id(&content).unwrap().to_string(), expected);
        let store = MemoryStore::new();
        let id = store.put(&content).await.unwrap();
        assert_eq!(id.to_string(), expected);
        assert_eq!(store.get(id, size).await.unwrap(), content);
    }
}

#[tokio::test]
async fn a_file_of_two_levels_of_nodes_reads_back() {
    let size = 1025 * MIB;
    let mut content = tokio::io::repeat(0x51).take(size);
    // One chunk 1025 times, so it is held in four blocks: the chunk and three nodes.
    let store = MemoryStore::with_limit(2 * MIB);
    let id = store.put_reader(&mut content).await.unwrap();
    let stat = store.stat(id).await.unwrap();
    assert_eq!((stat.size_bytes, stat.blocks), (size, 4));
    let mut read = Count { bytes: 0 };
    assert_eq!(store.get_to(id, size, &mut read).await.unwrap(), size);
    assert_eq!(read.bytes, size);
}

/// A writer that takes this one byte, and counts.
struct Count {
    bytes: u64,
}

impl AsyncWrite for Count {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        assert!(bytes.iter().all(|byte| *byte == 0x51));
        self.bytes += bytes.len() as u64;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
