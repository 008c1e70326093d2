//! What the tests of the stores share.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::Router;
use quern_store::{ContentCodec, ContentId, EmbeddedConfig, EmbeddedStore, block_id};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpListener,
    task::JoinHandle,
};

pub(crate) const MIB: u64 = 1 << 20;

/// Byte `i` of the content of the golden values: `(i mod 251) xor (i / 2^20 mod 256)`, so that no two of 251 chunks in a row are alike.
pub(crate) fn pattern_byte(i: u64) -> u8 {
    ((i % 251) ^ ((i >> 20) & 0xff)) as u8
}

/// The first `len` bytes of that content, streamed.
pub(crate) struct Pattern {
    at: u64,
    len: u64,
}

impl Pattern {
    pub(crate) fn new(len: u64) -> Self {
        Self { at: 0, len }
    }

    pub(crate) fn bytes(len: u64) -> Vec<u8> {
        (0..len).map(pattern_byte).collect()
    }
}

impl AsyncRead for Pattern {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        // Pieces of a length that divides nothing, so that no chunk boundary is met by luck; within a MiB the xor is constant.
        let piece = (self.len - self.at).min(buffer.remaining() as u64).min(65_521).min(MIB - self.at % MIB);
        let (start, mask) = ((self.at % 251) as usize, ((self.at >> 20) & 0xff) as u8);
        let bytes: Vec<u8> = CYCLE[start..start + piece as usize].iter().map(|byte| byte ^ mask).collect();
        buffer.put_slice(&bytes);
        self.at += piece;
        Poll::Ready(Ok(()))
    }
}

static CYCLE: [u8; 66_000] = {
    let mut cycle = [0; 66_000];
    let mut i = 0;
    while i < cycle.len() {
        cycle[i] = (i % 251) as u8;
        i += 1;
    }
    cycle
};

/// A store in a directory of its own, without a grace period; the directory goes with the first of the two.
pub(crate) async fn embedded() -> (tempfile::TempDir, EmbeddedStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(&directory).await;
    (directory, store)
}

pub(crate) async fn reopen(directory: &tempfile::TempDir) -> EmbeddedStore {
    EmbeddedStore::open(directory.path(), EmbeddedConfig { grace_secs: 0, ..EmbeddedConfig::default() }).await.unwrap()
}

/// An HTTP server on loopback that stops with it.
pub(crate) struct Server {
    pub(crate) address: String,
    serving: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, serving }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A raw block and its id.
pub(crate) fn raw(bytes: &[u8]) -> (ContentId, Vec<u8>) {
    (block_id(ContentCodec::Raw, bytes), bytes.to_vec())
}

/// A dag-pb node as a tool of another kind would write it: `kind` is the UnixFS type, each child is an id and the size claimed for it.
pub(crate) fn node(kind: u64, data: Option<&[u8]>, file_size: Option<u64>, children: &[(ContentId, u64)]) -> (ContentId, Vec<u8>) {
    let mut unixfs = vec![0x08];
    varint(&mut unixfs, kind);
    if let Some(data) = data {
        field(&mut unixfs, 0x12, data);
    }
    if let Some(size) = file_size {
        unixfs.push(0x18);
        varint(&mut unixfs, size);
    }
    for (_, size) in children {
        unixfs.push(0x20);
        varint(&mut unixfs, *size);
    }
    let mut block = Vec::new();
    for (id, size) in children {
        let mut link = Vec::new();
        field(&mut link, 0x0a, &id.to_bytes());
        field(&mut link, 0x12, b"");
        link.push(0x18);
        varint(&mut link, *size);
        field(&mut block, 0x12, &link);
    }
    field(&mut block, 0x0a, &unixfs);
    (block_id(ContentCodec::DagPb, &block), block)
}

fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
