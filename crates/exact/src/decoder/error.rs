use thiserror::Error;

/// Why a step of a decoder was not made. Nothing was changed then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecoderError {
    /// The system refuses the memory of a cache.
    #[error("no memory for the keys and values of {positions} positions, {bytes} bytes: ask for fewer positions or fewer sequences")]
    OutOfMemory {
        /// Positions asked for.
        positions: usize,
        /// Bytes that they take.
        bytes: usize,
    },
    /// More ids than a cache has room for.
    #[error("a cache of {capacity} positions has {len}, and {ids} more were to come")]
    CacheFull {
        /// Positions in it.
        len: usize,
        /// Ids of the run.
        ids: usize,
        /// Positions it has room for.
        capacity: usize,
    },
    /// An id outside the vocabulary.
    #[error("id {id} is outside the vocabulary of {vocabulary}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Ids of the model.
        vocabulary: u32,
    },
    /// A step of more rows than its workspace was made for.
    #[error("a step of {rows} rows in a workspace of {limit}")]
    TooManyRows {
        /// Ids of all runs.
        rows: usize,
        /// Rows of the workspace.
        limit: usize,
    },
    /// A step or a run without ids.
    #[error("a run without ids")]
    NoIds,
    /// A cache or workspace of a model of another shape.
    #[error("a cache or workspace of another model")]
    ForeignCache,
    /// A cache whose ids are not the beginning of an item, with at least its last id left to be computed.
    #[error("a cache of {prefix} positions does not hold the beginning of this item of {item} ids, or leaves none of it to be computed")]
    Prefix {
        /// Positions in the cache.
        prefix: usize,
        /// Ids of the item.
        item: usize,
    },
}
