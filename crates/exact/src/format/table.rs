//! int32 tables and vectors: positions, token types, norms, static shifts, and rows of activations.

use super::{FormatError, matrix::size};

/// `rows` rows of `width` int32 each, row-major; activations and tables in Q14. May have no rows, never no width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableI32 {
    width: usize,
    data: Vec<i32>,
}

impl TableI32 {
    /// A table of `rows` rows of `width` elements.
    ///
    /// # Errors
    /// [`FormatError::Size`] if `data` is not `rows * width` long or `width` is 0.
    pub fn new(rows: usize, width: usize, data: Vec<i32>) -> Result<Self, FormatError> {
        if width == 0 {
            return Err(FormatError::Shape { rows, cols: width });
        }
        size("table", data.len(), rows.checked_mul(width).ok_or(FormatError::Shape { rows, cols: width })?)?;
        Ok(Self { width, data })
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.data.len() / self.width
    }

    /// Elements of a row, at least 1.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// All elements, row-major.
    #[must_use]
    pub fn data(&self) -> &[i32] {
        &self.data
    }

    /// One row, or `None` past the last.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<&[i32]> {
        self.data.get(row.checked_mul(self.width)?..)?.get(..self.width)
    }

    /// All rows in order.
    pub fn iter_rows(&self) -> std::slice::ChunksExact<'_, i32> {
        self.data.chunks_exact(self.width)
    }
}

/// A vector of int32: a norm's gain (Q14) or bias (Q14). May be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VectorI32(Vec<i32>);

impl VectorI32 {
    /// Elements.
    #[must_use]
    pub fn as_slice(&self) -> &[i32] {
        &self.0
    }

    /// Number of elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<i32>> for VectorI32 {
    fn from(elements: Vec<i32>) -> Self {
        Self(elements)
    }
}
