//! A quantised matrix: int8 rows in groups of 128 along K, a 16-bit mantissa per group, one shift per row.

use super::{FormatError, Weights};
use crate::bounds;

/// A matrix of `rows` output rows and `cols` = K input columns. Element (n, k) is `w · m · 2^-t` with the weight's own `w`, the
/// mantissa `m` of its row and group `k / 128`, and the shift `t` of its row; the bias is in Q14.
///
/// INVARIANT: every weight is in -127 to 127, every mantissa at least 1, every shift 17 to 62, every size fits the shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Q8Matrix {
    rows: usize,
    cols: usize,
    weights: Weights,
    mantissas: Vec<u16>,
    shifts: Vec<u8>,
    bias: Option<Vec<i32>>,
}

/// One output row of a [`Q8Matrix`], as it is hashed and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// t: 17 to 62.
    pub shift: u8,
    /// Bias in Q14; 0 where the matrix has none.
    pub bias: i32,
    /// One per group of 128 columns, each at least 1.
    pub mantissas: &'a [u16],
    /// In natural order, -127 to 127.
    pub weights: &'a [i8],
}

impl Q8Matrix {
    /// A checked matrix. `weights` are row-major; `mantissas` are row-major over `cols.div_ceil(128)` groups.
    ///
    /// # Errors
    /// The first rule of the invariant that is broken, with its position.
    pub fn new(
        rows: usize,
        cols: usize,
        weights: impl Into<Weights>,
        mantissas: Vec<u16>,
        shifts: Vec<u8>,
        bias: Option<Vec<i32>>,
    ) -> Result<Self, FormatError> {
        const MAX_ROWS: usize = 1 << 24;
        const MAX_COLS: usize = 1 << 15;
        const { assert!(MAX_ROWS == bounds::VOCABULARY as usize && MAX_COLS == bounds::PRODUCT_COLS as usize) };
        if !(1..=MAX_ROWS).contains(&rows) || !(1..=MAX_COLS).contains(&cols) {
            return Err(FormatError::Shape { rows, cols });
        }
        let weights = weights.into();
        let groups = cols.div_ceil(bounds::GROUP);
        let shape = FormatError::Shape { rows, cols };
        let elements = rows.checked_mul(cols).ok_or(shape)?;
        size("weights", weights.as_slice().len(), elements)?;
        size("mantissas", mantissas.len(), rows * groups)?;
        size("shifts", shifts.len(), rows)?;
        if let Some(bias) = &bias {
            size("bias", bias.len(), rows)?;
        }
        if let Some(at) = weights.as_slice().iter().position(|&w| w == i8::MIN) {
            return Err(FormatError::Weight { row: at / cols, col: at % cols });
        }
        if let Some(at) = mantissas.iter().position(|&m| m == 0) {
            return Err(FormatError::Mantissa { row: at / groups, group: at % groups });
        }
        let legal = bounds::ROW_SHIFT_MIN..=bounds::ROW_SHIFT_MAX;
        if let Some((row, &shift)) = shifts.iter().enumerate().find(|(_, shift)| !legal.contains(shift)) {
            return Err(FormatError::Shift { row, shift });
        }
        Ok(Self { rows, cols, weights, mantissas, shifts, bias })
    }

    /// Output rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns, K.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Groups of 128 along K; the last may be shorter.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.cols.div_ceil(bounds::GROUP)
    }

    /// Whether the matrix has a bias of its own; without one every row's bias counts and hashes as 0.
    #[must_use]
    pub const fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// All weights, row-major in natural order.
    #[must_use]
    pub fn weights(&self) -> &[i8] {
        self.weights.as_slice()
    }

    /// All mantissas, row-major over groups.
    #[must_use]
    pub fn mantissas(&self) -> &[u16] {
        &self.mantissas
    }

    /// The shift of each row.
    #[must_use]
    pub fn shifts(&self) -> &[u8] {
        &self.shifts
    }

    /// The bias of each row in Q14, if the matrix has one.
    #[must_use]
    pub fn bias(&self) -> Option<&[i32]> {
        self.bias.as_deref()
    }

    /// One output row, or `None` past the last.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<Row<'_>> {
        let groups = self.groups();
        Some(Row {
            shift: *self.shifts.get(row)?,
            bias: self.bias.as_ref().map_or(Some(0), |bias| bias.get(row).copied())?,
            mantissas: self.mantissas.get(row * groups..(row + 1) * groups)?,
            weights: self.weights().get(row * self.cols..(row + 1) * self.cols)?,
        })
    }

    /// All output rows in order.
    pub fn iter_rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        let bias = |row: usize| self.bias.as_ref().map_or(0, |bias| bias[row]);
        let parts = self.weights().chunks_exact(self.cols).zip(self.mantissas.chunks_exact(self.groups()));
        parts.zip(&self.shifts).enumerate().map(move |(row, ((weights, mantissas), &shift))| Row {
            shift,
            bias: bias(row),
            mantissas,
            weights,
        })
    }
}

pub(super) fn size(part: &'static str, actual: usize, expected: usize) -> Result<(), FormatError> {
    if actual == expected { Ok(()) } else { Err(FormatError::Size { part, actual, expected }) }
}
