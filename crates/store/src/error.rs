//! Everything that can go wrong with content, and who must act.

use std::{fmt, io, path::PathBuf};

use quern_types::{ContentId, ContentIdError};

/// What a loop does about an error. (Content is addressed by its hash, so no reorg can unmake it: there is no Unwind here.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Ask again later: another gateway, a daemon that comes back, a blob that is still on its way.
    Retry,
    /// Asking again changes nothing; a person, or the caller's own decision, is needed.
    Fatal,
}

/// Errors of the content stores. Each names the content it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// This store does not hold the block.
    #[error("{id} is not in the {store} store")]
    NotFound {
        /// The block.
        id: ContentId,
        /// Which store.
        store: &'static str,
    },
    /// A file lacks one of its blocks.
    #[error("{root} is incomplete: its block {missing} is not in the {store} store; fetch or put the content again")]
    Incomplete {
        /// The file.
        root: ContentId,
        /// The first block that is missing, in reading order.
        missing: ContentId,
        /// Which store.
        store: &'static str,
    },
    /// A block is there, and its bytes are not the ones that were stored.
    #[error("{id} is damaged in the {store} store ({place}): {len} bytes that hash to {found}; put or fetch the content again to mend it")]
    Corrupt {
        /// The block.
        id: ContentId,
        /// Which store.
        store: &'static str,
        /// The file or endpoint it was read from.
        place: String,
        /// How many bytes were read.
        len: u64,
        /// What they hash to, with the codec of `id`; for a block that is too long to be one: what its first bytes hash to.
        found: ContentId,
    },
    /// The caller offered bytes under an id that is not theirs.
    #[error("the {len} bytes offered as {id} hash to {found}")]
    WrongBytes {
        /// The id that they were offered under.
        id: ContentId,
        /// Their true id.
        found: ContentId,
        /// How many they are.
        len: usize,
    },
    /// The content is larger than the caller's limit. Nothing beyond the limit was read.
    #[error("{id} says it has {size} bytes, more than the {limit} that the caller takes")]
    TooLarge {
        /// The content.
        id: ContentId,
        /// Its size by its top node, in bytes.
        size: u64,
        /// The caller's limit, in bytes.
        limit: u64,
    },
    /// A block is larger than any block may be.
    #[error("block {id} has {size} bytes or more; a block has at most {limit}", limit = crate::MAX_BLOCK_BYTES)]
    BlockTooLarge {
        /// The block.
        id: ContentId,
        /// Its size as far as known, in bytes.
        size: u64,
    },
    /// Nodes that are not a well-formed UnixFS file.
    #[error("{id} is not a UnixFS file that can be read: {fault}")]
    BadDag {
        /// The node at fault.
        id: ContentId,
        /// What is wrong with it.
        fault: DagFault,
    },
    /// The store's own limit is reached.
    #[error("the {store} store is full: {used} of {limit} bytes used, {needed} more needed; unpin and collect, or raise its limit")]
    Full {
        /// Which store.
        store: &'static str,
        /// Bytes held.
        used: u64,
        /// Bytes that the write would have added.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file system has no room, or the user's quota is used up.
    #[error("no room on the disk under {path} for {needed} bytes; free some or move the store")]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Bytes that were to be written.
        needed: u64,
    },
    /// This store only reads.
    #[error("the {store} store only reads: it cannot {action} {id}")]
    ReadOnly {
        /// Which store.
        store: &'static str,
        /// What was asked.
        action: &'static str,
        /// Of what.
        id: ContentId,
    },
    /// No gateway gave the block. TRUST: none of what they sent was passed on.
    #[error("no gateway gave {id}: {}", Listed(attempts))]
    Unavailable {
        /// The block.
        id: ContentId,
        /// What each gateway did, in the order they were asked.
        attempts: Vec<GatewayAttempt>,
    },
    /// Every block came in time, and the file did not.
    #[error("{id} comes too slowly: {read} of {size} bytes in {after_secs} s; another gateway may be faster")]
    TooSlow {
        /// The content.
        id: ContentId,
        /// How long it was waited for, in seconds.
        after_secs: u64,
        /// Bytes that came.
        read: u64,
        /// Its size as far as known, in bytes.
        size: u64,
    },
    /// Collection stopped before it removed anything: what a pinned file needs cannot be told.
    #[error("nothing was collected: the pinned {root} cannot be walked ({source}); mend it or unpin it first")]
    PinBroken {
        /// The pin.
        root: ContentId,
        /// Why.
        source: Box<StoreError>,
    },
    /// A file or directory of the store could not be used.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A directory that is not a store of this version.
    #[error("{path} is not a content store that this version reads: {reason}")]
    Layout {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        reason: String,
    },
    /// The reader that content was put from, or the writer that it was exported to, failed.
    #[error("cannot {action}: {source}")]
    Stream {
        /// What was being done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A CAR that cannot be read or written.
    #[error("CAR: {reason}")]
    Car {
        /// What is wrong.
        reason: String,
    },
    /// The HTTP client could not be set up, or an address cannot be used.
    #[error("cannot use {address}: {reason}")]
    Address {
        /// The address as configured.
        address: String,
        /// Why not.
        reason: String,
    },
    /// A call to the Kubo node failed.
    #[error("Kubo at {address} failed to {action}: {reason}")]
    Kubo {
        /// The node.
        address: String,
        /// What was asked.
        action: &'static str,
        /// Its answer, or why there is none.
        reason: String,
        /// False where no answer came at all.
        answered: bool,
    },
    /// The Kubo node names a block otherwise than we do.
    #[error("Kubo stored our block {ours} as {theirs}: its CIDs cannot be relied on, use another node")]
    KuboDisagrees {
        /// Our id.
        ours: ContentId,
        /// What it answered.
        theirs: String,
    },
    /// A task of ours was cancelled or died.
    #[error("the {store} store was shut down while it worked on a block")]
    Interrupted {
        /// Which store.
        store: &'static str,
    },
}

impl StoreError {
    /// What a loop does about it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::NotFound { .. }
            | Self::Incomplete { .. }
            | Self::Unavailable { .. }
            | Self::Kubo { .. }
            | Self::TooSlow { .. }
            | Self::Stream { .. }
            | Self::Interrupted { .. } => Severity::Retry,
            Self::Corrupt { .. }
            | Self::WrongBytes { .. }
            | Self::TooLarge { .. }
            | Self::BlockTooLarge { .. }
            | Self::BadDag { .. }
            | Self::Full { .. }
            | Self::DiskFull { .. }
            | Self::ReadOnly { .. }
            | Self::PinBroken { .. }
            | Self::Io { .. }
            | Self::Layout { .. }
            | Self::Car { .. }
            | Self::Address { .. }
            | Self::KuboDisagrees { .. } => Severity::Fatal,
        }
    }

    /// Whether the content, or a part of it, is simply not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Incomplete { .. } => true,
            Self::Unavailable { attempts, .. } => attempts.iter().all(|attempt| matches!(attempt.fault, GatewayFault::Absent)),
            _ => false,
        }
    }

    /// A missing block below `root` makes `root` incomplete.
    pub(crate) fn below(self, root: ContentId) -> Self {
        match self {
            Self::NotFound { id, store } if id != root => Self::Incomplete { root, missing: id, store },
            other => other,
        }
    }
}

/// What is wrong with a node, or with how nodes hang together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DagFault {
    /// Not a protobuf of the dag-pb and UnixFS schemas.
    #[error("malformed node: {0}")]
    Malformed(&'static str),
    /// A directory, a symlink or something newer.
    #[error("UnixFS type {0} is not a file")]
    NotAFile(u64),
    /// A link to a block that this profile has no name for.
    #[error("link {index}: {source}")]
    Link {
        /// Which, from 0.
        index: usize,
        /// What it says.
        source: ContentIdError,
    },
    /// Parent and child disagree about the child's size.
    #[error("{found} bytes where its parent says {expected}")]
    Size {
        /// By the parent, in bytes.
        expected: u64,
        /// By the child, in bytes.
        found: u64,
    },
    /// A node whose parts do not add up to it.
    #[error("says it has {says} bytes, its parts have {parts}")]
    Sum {
        /// The node's own number.
        says: u64,
        /// The sum of its parts.
        parts: u64,
    },
    /// Deeper than any honest file.
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// Another tool's file where only ours is taken.
    #[error("a leaf that is not a chunk of the profile unixfs-v1-2025")]
    OtherProfile,
    /// So many blocks for so few bytes that reading it would be work for nothing.
    #[error("more than {0} blocks, too many for its size")]
    TooManyBlocks(u64),
}

/// One gateway that did not help.
#[derive(Clone, Debug)]
pub struct GatewayAttempt {
    /// Its address.
    pub gateway: String,
    /// What it did.
    pub fault: GatewayFault,
}

/// What a gateway did in place of answering with the block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayFault {
    /// 404 or 410.
    #[error("does not have it")]
    Absent,
    /// Another status.
    #[error("answered with status {0}")]
    Status(u16),
    /// Bytes that are not the block's.
    #[error("lied: sent {len} bytes that hash to {found}")]
    Lied {
        /// How many bytes it sent.
        len: usize,
        /// What they hash to.
        found: ContentId,
    },
    /// A body that does not end where a block must.
    #[error("sent more than the {0} bytes that a block may have")]
    Endless(usize),
    /// Too slow.
    #[error("did not answer within {0} ms")]
    Timeout(u64),
    /// No connection, or one that broke.
    #[error("could not be read: {0}")]
    Transport(String),
}

struct Listed<'a>(&'a [GatewayAttempt]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none is configured");
        }
        for (index, GatewayAttempt { gateway, fault }) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{gateway} {fault}")?;
        }
        Ok(())
    }
}
