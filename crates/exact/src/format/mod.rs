//! What a model is made of: quantised matrices, tables and vectors (EXACT.md, section 1). Every value that exists is well formed.

mod matrix;
mod table;
mod weights;

pub use matrix::{Q8Matrix, Row};
pub use table::{TableI32, VectorI32};
pub use weights::Weights;

use thiserror::Error;

use crate::bounds;

/// Why numbers are not a well-formed matrix, table or vector. All positions count from 0.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A matrix without elements or with a K beyond the widths that are proven.
    #[error("a matrix of {rows} rows and {cols} columns: rows must be 1 to 2^24, columns 1 to {}", bounds::PRODUCT_COLS)]
    Shape {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// A part that does not have the size that the shape asks for.
    #[error("{part} has {actual} elements, {expected} were expected")]
    Size {
        /// Which part: "weights", "mantissas", "shifts", "bias", "table".
        part: &'static str,
        /// Elements given.
        actual: usize,
        /// Elements that the shape asks for.
        expected: usize,
    },
    /// The weight -128, which no row may hold.
    #[error("row {row}, column {col} is -128; weights are -127 to 127")]
    Weight {
        /// Row.
        row: usize,
        /// Column.
        col: usize,
    },
    /// A group mantissa of 0.
    #[error("row {row}, group {group} has mantissa 0; mantissas are 1 to 65535")]
    Mantissa {
        /// Row.
        row: usize,
        /// Group along K.
        group: usize,
    },
    /// A row shift outside 17 to 62.
    #[error("row {row} has shift {shift}; shifts are {} to {}", bounds::ROW_SHIFT_MIN, bounds::ROW_SHIFT_MAX)]
    Shift {
        /// Row.
        row: usize,
        /// Shift found.
        shift: u8,
    },
    /// A window of a shared buffer that the buffer does not cover.
    #[error("weights {start}..{end} lie outside a buffer of {len}")]
    Window {
        /// First element.
        start: usize,
        /// One past the last element.
        end: usize,
        /// Elements of the buffer.
        len: usize,
    },
}
