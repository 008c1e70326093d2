use thiserror::Error;

/// Why a tree or an opening cannot be built or does not stand.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A tree has at least one leaf.
    #[error("a tree needs at least one leaf")]
    NoLeaves,
    /// More than 2^32 - 1 of something whose number is hashed as a u32.
    #[error("{count} {what} are more than 2^32 - 1")]
    TooMany {
        /// Leaves, rows, elements.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The counts of a sum tree add up to more than 2^64 - 1.
    #[error("the counts of a sum tree add up to more than 2^64 - 1")]
    CountOverflow,
    /// An index beyond the last leaf.
    #[error("leaf {index} of a tree with {leaves} leaves does not exist")]
    NoSuchLeaf {
        /// Index asked for, from 0.
        index: usize,
        /// Leaves of the tree.
        leaves: usize,
    },
    /// A path that is shorter or longer than the number of leaves says: it would open an inner node as a leaf.
    #[error("an opening of a tree with {leaves} leaves has {expected} steps, this one has {actual}")]
    PathLength {
        /// Leaves of the tree.
        leaves: usize,
        /// Steps that follow from them.
        expected: usize,
        /// Steps given.
        actual: usize,
    },
    /// A node of a tensor opening that has another number of children than the number of rows says, or does not hold its child.
    #[error("level {level} of a tensor opening does not hold the node below it at its place")]
    TensorPath {
        /// Level from the rows up, from 0.
        level: usize,
    },
    /// Rows of another width than the tensor's.
    #[error("row {row} has {actual} elements, the tensor's width is {expected}")]
    RowWidth {
        /// Row, from 0.
        row: usize,
        /// Its elements.
        actual: usize,
        /// The width.
        expected: usize,
    },
}

/// The u32 that is hashed for this number.
pub(crate) fn as_u32(what: &'static str, count: usize) -> Result<u32, CommitError> {
    u32::try_from(count).map_err(|_| CommitError::TooMany { what, count })
}
