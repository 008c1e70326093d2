//! From blocks back to bytes, and walks over all blocks of a file.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use quern_types::{ContentCodec, ContentId};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{CHUNK_BYTES, Node};
use crate::{ContentStat, ContentStore, DagFault, StoreError};

/// Levels of nodes above a leaf. A file of the profile has three at a petabyte; 174 links and chunks of 16 KiB have six there.
pub const MAX_DEPTH: usize = 12;

/// What a walk does with the leaves that are raw blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// Reads each and checks its hash and length.
    Verified,
    /// Asks whether each is there.
    Present,
    /// Only takes its name and length from the node above.
    Named,
}

/// Time for a file beside that for its bytes: finding it, and its top node.
const FIRST: Duration = Duration::from_secs(120);
/// The slowest that a file may come, in bytes per second: a chunk of the profile in 32 seconds.
const LEAST_RATE: u64 = 32 << 10;

/// Who may have built a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builder {
    /// Any tool.
    Anybody,
    /// One that follows the profile to the byte: raw leaves of 1 MiB, the last one shorter. A file of crumbs is refused by its first one.
    Profile,
}

/// INVARIANT: reading or walking a file touches at most this many blocks. An honest chunker gives chunks of a KiB at the least.
fn max_blocks(size: u64) -> u64 {
    16 + size / 512
}

/// A block that is still to be visited.
struct Pending {
    id: ContentId,
    /// Its size by its parent; the top has none.
    expected: Option<u64>,
    depth: usize,
}

/// The part of a file that a block was found to be.
struct Visited {
    size: u64,
    content: Option<Bytes>,
    children: Vec<Pending>,
}

/// Reads one block as a part of a file and checks it against its parent.
async fn visit<S: ContentStore + ?Sized>(store: &S, root: ContentId, at: &Pending) -> Result<(Visited, Bytes), StoreError> {
    let block = store.get_block(at.id).await.map_err(|error| error.below(root))?;
    let visited = understand(at, &block).map_err(|fault| StoreError::BadDag { id: at.id, fault })?;
    match at.expected {
        Some(expected) if expected != visited.size => {
            Err(StoreError::BadDag { id: at.id, fault: DagFault::Size { expected, found: visited.size } })
        }
        _ => Ok((visited, block)),
    }
}

fn understand(at: &Pending, block: &Bytes) -> Result<Visited, DagFault> {
    let leaf = |content: Bytes| Visited { size: content.len() as u64, content: Some(content), children: Vec::new() };
    if at.id.codec == ContentCodec::Raw {
        return Ok(leaf(block.clone()));
    }
    match Node::parse(block)? {
        Node::Leaf(content) => Ok(leaf(content)),
        Node::Branch(_) if at.depth == MAX_DEPTH => Err(DagFault::TooDeep(MAX_DEPTH)),
        Node::Branch(branch) => {
            let children = branch.children.iter().rev();
            let children = children.map(|child| Pending { id: child.id, expected: Some(child.size), depth: at.depth + 1 });
            Ok(Visited { size: branch.size, content: None, children: children.collect() })
        }
    }
}

/// Writes the file `id`, of at most `limit` bytes, to `writer`; returns its length in bytes. Holds one block and the links on the path
/// to it, and takes at most the time that its size allows: each block alone may come in time, and the file never. Errors as [`ContentStore::get`].
pub async fn read<S: ContentStore + ?Sized>(
    store: &S,
    id: ContentId,
    limit: u64,
    builder: Builder,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<u64, StoreError> {
    let failed = |source| StoreError::Stream { action: "write the content out", source };
    let began = Instant::now();
    let mut pending = vec![Pending { id, expected: None, depth: 0 }];
    let (mut size, mut written, mut blocks) = (0, 0, 0);
    while let Some(at) = pending.pop() {
        let patience = FIRST + Duration::from_secs(size / LEAST_RATE);
        let visiting = timeout_at(began + patience, visit(store, id, &at)).await;
        let (visited, _) = visiting.map_err(|_| StoreError::TooSlow { id, after_secs: patience.as_secs(), read: written, size })??;
        if at.depth == 0 {
            size = visited.size;
            if size > limit {
                return Err(StoreError::TooLarge { id, size, limit });
            }
        }
        blocks += 1;
        if blocks > max_blocks(size) {
            return Err(StoreError::BadDag { id, fault: DagFault::TooManyBlocks(max_blocks(size)) });
        }
        if let Some(content) = visited.content {
            let ours = at.id.codec == ContentCodec::Raw && content.len() as u64 == (CHUNK_BYTES as u64).min(size - written);
            if builder == Builder::Profile && !ours {
                return Err(StoreError::BadDag { id: at.id, fault: DagFault::OtherProfile });
            }
            written += content.len() as u64;
            writer.write_all(&content).await.map_err(failed)?;
        }
        pending.extend(visited.children);
    }
    writer.flush().await.map_err(failed)?;
    Ok(size)
}

/// Visits every distinct block of the file `id` once.
pub async fn walk<S: ContentStore + ?Sized>(store: &S, id: ContentId, leaves: Leaves) -> Result<ContentStat, StoreError> {
    let mut walk = Walk::new(id, leaves, Seen::new());
    while walk.next(store).await?.is_some() {}
    Ok(walk.stat)
}

/// Blocks that were visited, with their sizes as far as known.
pub(crate) type Seen = HashMap<ContentId, Option<u64>>;

/// A walk over the distinct blocks of a file, depth first, parents before children, in the order of the content.
pub(crate) struct Walk {
    root: ContentId,
    leaves: Leaves,
    pending: Vec<Pending>,
    // Every block that was visited, with its size as a part of a file; none for a top that is a raw block and was not read.
    seen: Seen,
    stat: ContentStat,
}

impl Walk {
    /// A walk from `root` that passes over blocks in `seen`, with all that is below them.
    pub(crate) fn new(root: ContentId, leaves: Leaves, seen: Seen) -> Self {
        let pending = vec![Pending { id: root, expected: None, depth: 0 }];
        Self { root, leaves, pending, seen, stat: ContentStat { size_bytes: 0, blocks: 0, stored_bytes: 0 } }
    }

    /// Every block visited by this walk and those before it.
    pub(crate) fn into_seen(self) -> Seen {
        self.seen
    }

    /// The next block, with its bytes unless it is a leaf that is not read.
    pub(crate) async fn next<S: ContentStore + ?Sized>(&mut self, store: &S) -> Result<Option<(ContentId, Option<Bytes>)>, StoreError> {
        while let Some(at) = self.pending.pop() {
            if let Some(&found) = self.seen.get(&at.id) {
                match (at.expected, found) {
                    (Some(expected), Some(found)) if expected != found => {
                        return Err(StoreError::BadDag { id: at.id, fault: DagFault::Size { expected, found } });
                    }
                    _ => continue,
                }
            }
            return self.step(store, at).await.map(Some);
        }
        Ok(None)
    }

    async fn step<S: ContentStore + ?Sized>(&mut self, store: &S, at: Pending) -> Result<(ContentId, Option<Bytes>), StoreError> {
        let unread = at.id.codec == ContentCodec::Raw && self.leaves != Leaves::Verified;
        let (size, stored, block) = if unread {
            if self.leaves == Leaves::Present && !store.has_block(at.id).await? {
                return Err(StoreError::NotFound { id: at.id, store: store.kind() }.below(self.root));
            }
            (at.expected, at.expected.unwrap_or(0), None)
        } else {
            let (visited, block) = visit(store, self.root, &at).await?;
            self.pending.extend(visited.children);
            (Some(visited.size), block.len() as u64, Some(block))
        };
        if at.depth == 0 {
            self.stat.size_bytes = size.unwrap_or(0);
        }
        self.stat.blocks += 1;
        self.stat.stored_bytes = self.stat.stored_bytes.saturating_add(stored);
        let most = max_blocks(self.stat.size_bytes);
        if self.stat.blocks > most {
            return Err(StoreError::BadDag { id: self.root, fault: DagFault::TooManyBlocks(most) });
        }
        self.seen.insert(at.id, size);
        Ok((at.id, block))
    }
}
