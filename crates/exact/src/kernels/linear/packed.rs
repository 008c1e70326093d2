use std::{fmt, ops::Range, sync::Arc};

use thiserror::Error;

use crate::{
    arith::{clamp32, rs},
    bounds::{GROUP, PRODUCT_COLS, ROW_SHIFT_MIN, VOCABULARY},
    format::{Q8Matrix, Row},
    kernels::{OutOfMemory, Pages},
};

/// Rows of a block.
pub(super) const BLOCK: usize = 16;
/// Columns that lie together.
pub(super) const QUAD: usize = 4;
/// Bytes of the quads of one block: 16 rows of 4 columns.
pub(super) const QUAD_BYTES: usize = BLOCK * QUAD;
/// Quads of a group of 128 columns.
pub(super) const GROUP_QUADS: usize = GROUP / QUAD;
/// Bytes of a block's mantissas of one group.
pub(super) const MANTISSA_BYTES: usize = BLOCK * 2;
/// Bytes of what a block's rows have once: 16 sums (int64), 16 biases (int32), 16 shifts (uint8).
pub(super) const TAIL_BYTES: usize = TAIL_SHIFTS + BLOCK;
pub(super) const TAIL_BIAS: usize = 8 * BLOCK;
pub(super) const TAIL_SHIFTS: usize = TAIL_BIAS + 4 * BLOCK;

const ALIGN: usize = 64;
const HEADER: usize = ALIGN;
const MAGIC: [u8; 8] = *b"q8a16pk\0";

/// A matrix packed for kernels: derived, never hashed, the same bytes on every machine.
///
/// Layout 1, all numbers little-endian, every part aligned to 64 bytes from the start:
///
/// | part | what |
/// |---|---|
/// | header | magic `q8a16pk\0`, layout, rows, columns (uint32 each), zeros to 64 bytes |
/// | weights | int8 `[block of 16 rows][quad of 4 columns][row][column]`, zeros beyond the last row and column |
/// | mantissas | uint16 `[block][group][row]`, 1 beyond the last row |
/// | tails | per block: int64 Σ m · Σ w of each row, int32 biases, uint8 shifts |
///
/// One multiply-add of bytes serves 16 rows and 4 columns. It takes one side unsigned, so kernels multiply by q + 32768 (or q - 128) and take
/// the difference back once per row: that is what the sums are for.
#[derive(Clone)]
pub struct Packed {
    rows: usize,
    cols: usize,
    buffer: Arc<dyn AsRef<[u8]> + Send + Sync>,
    window: Range<usize>,
}

/// Why bytes are not a packed matrix of this release.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PackedError {
    /// Another kind of file, or another release's: derived files are made anew from the package.
    #[error("the bytes at {at} are not a packed matrix of layout {}; make the packed file anew from its package", Packed::LAYOUT)]
    Layout {
        /// Offset in the buffer.
        at: usize,
    },
    /// Not the matrix that was expected.
    #[error("the packed matrix at {at} is {rows} x {cols}, expected {expected_rows} x {expected_cols}")]
    Shape {
        /// Offset in the buffer.
        at: usize,
        /// Rows found.
        rows: usize,
        /// Columns found.
        cols: usize,
        /// Rows expected.
        expected_rows: usize,
        /// Columns expected.
        expected_cols: usize,
    },
    /// A buffer that ends before the matrix does.
    #[error("a packed matrix takes bytes {start}..{end}, the buffer has {len}")]
    Truncated {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
        /// Bytes of the buffer.
        len: usize,
    },
    /// A matrix that does not start at a multiple of 64 bytes in memory.
    #[error("the packed matrix at {at} is not aligned to {ALIGN} bytes in memory")]
    Alignment {
        /// Offset in the buffer.
        at: usize,
    },
}

/// Where the parts of a packed matrix lie.
struct Parts {
    weights: Range<usize>,
    mantissas: Range<usize>,
    tails: Range<usize>,
    end: usize,
}

const fn parts(rows: usize, cols: usize) -> Parts {
    let blocks = rows.div_ceil(BLOCK);
    let weights = blocks * cols.div_ceil(QUAD) * QUAD_BYTES;
    let mantissas = blocks * cols.div_ceil(GROUP) * MANTISSA_BYTES;
    let first_mantissa = HEADER + weights;
    let first_tail = first_mantissa + mantissas.next_multiple_of(ALIGN);
    let tails = blocks * TAIL_BYTES;
    Parts {
        weights: HEADER..first_mantissa,
        mantissas: first_mantissa..first_mantissa + mantissas,
        tails: first_tail..first_tail + tails,
        end: first_tail + tails.next_multiple_of(ALIGN),
    }
}

impl Packed {
    /// The layout that this release writes and reads.
    pub const LAYOUT: u32 = 1;

    /// Packs a matrix into memory of its own.
    ///
    /// # Panics
    /// If there is not enough memory.
    #[must_use]
    pub fn new(matrix: &Q8Matrix) -> Self {
        Self::try_new(matrix).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// As [`Packed::new`], but memory that the system refuses is an error.
    ///
    /// # Errors
    /// The memory is not to be had.
    pub fn try_new(matrix: &Q8Matrix) -> Result<Self, OutOfMemory> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let end = Self::bytes(rows, cols);
        let mut pages = Pages::try_new(end)?;
        Self::write(matrix, pages.as_mut_slice());
        Ok(Self { rows, cols, buffer: Arc::new(pages), window: 0..end })
    }

    /// Packs the matrices of a model into one piece of memory, in their order: rows of a small matrix then lie in huge pages too, and the next
    /// matrix is where the processor fetches ahead.
    ///
    /// # Panics
    /// If there is not enough memory.
    #[must_use]
    pub fn all(matrices: &[&Q8Matrix]) -> Vec<Self> {
        let ends: Vec<usize> = matrices
            .iter()
            .scan(0, |end, matrix| {
                *end += Self::bytes(matrix.rows(), matrix.cols());
                Some(*end)
            })
            .collect();
        let mut pages = Pages::new(ends.last().copied().unwrap_or(0));
        let windows = || matrices.iter().zip(&ends).map(|(matrix, &end)| (matrix, end - Self::bytes(matrix.rows(), matrix.cols())..end));
        for (matrix, window) in windows() {
            Self::write(matrix, &mut pages.as_mut_slice()[window]);
        }
        let buffer: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(pages);
        let window = |(matrix, window): (&&Q8Matrix, Range<usize>)| Self {
            rows: matrix.rows(),
            cols: matrix.cols(),
            buffer: Arc::clone(&buffer),
            window,
        };
        windows().map(window).collect()
    }

    /// Bytes of a packed matrix: a multiple of 64.
    #[must_use]
    pub const fn bytes(rows: usize, cols: usize) -> usize {
        parts(rows, cols).end
    }

    /// Packs a matrix into bytes that a file or a shared buffer holds. All of them are written.
    ///
    /// # Panics
    /// If `out` is not [`Packed::bytes`] long.
    pub fn write(matrix: &Q8Matrix, out: &mut [u8]) {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let parts = parts(rows, cols);
        assert_eq!(out.len(), parts.end, "a packed matrix of {rows} x {cols} takes {} bytes", parts.end);
        out.fill(0);
        out[..8].copy_from_slice(&MAGIC);
        for (at, number) in [Self::LAYOUT as usize, rows, cols].into_iter().enumerate() {
            // Both sizes are below 2^25.
            out[8 + 4 * at..][..4].copy_from_slice(&number.to_le_bytes()[..4]);
        }
        let block_bytes = cols.div_ceil(QUAD) * QUAD_BYTES;
        for (row, Row { weights, .. }) in matrix.iter_rows().enumerate() {
            let block = &mut out[parts.weights.clone()][row / BLOCK * block_bytes..][..block_bytes];
            for (quad, weights) in block.as_chunks_mut::<QUAD_BYTES>().0.iter_mut().zip(weights.chunks(QUAD)) {
                for (slot, &weight) in quad[row % BLOCK * QUAD..].iter_mut().zip(weights) {
                    *slot = weight.to_le_bytes()[0];
                }
            }
        }
        for (block, group, mantissas) in out[parts.mantissas]
            .as_chunks_mut::<MANTISSA_BYTES>()
            .0
            .iter_mut()
            .enumerate()
            .map(|(at, m)| (at / matrix.groups(), at % matrix.groups(), m))
        {
            for (lane, slot) in mantissas.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *slot = matrix.row(block * BLOCK + lane).map_or(1, |row| row.mantissas[group]).to_le_bytes();
            }
        }
        for (block, tail) in out[parts.tails].as_chunks_mut::<TAIL_BYTES>().0.iter_mut().enumerate() {
            for lane in 0..BLOCK {
                let row = matrix.row(block * BLOCK + lane);
                let sum = row.map_or(0, |row| weighted_sum(&row));
                tail[8 * lane..][..8].copy_from_slice(&sum.to_le_bytes());
                tail[TAIL_BIAS + 4 * lane..][..4].copy_from_slice(&row.map_or(0, |row| row.bias).to_le_bytes());
                tail[TAIL_SHIFTS + lane] = row.map_or(ROW_SHIFT_MIN, |row| row.shift);
            }
        }
    }

    /// A packed matrix that lies in a buffer from `start` on: a mapped file, or one allocation for a whole model. Nothing is copied.
    ///
    /// TRUST: what the weights are is not checked here; whoever derived the bytes from a package vouches for them. Wrong ones give wrong
    /// results, nothing worse. The buffer must not change while it is in use.
    ///
    /// # Errors
    /// The bytes are of another layout or shape, end too early, or are not aligned in memory.
    pub fn open(buffer: Arc<dyn AsRef<[u8]> + Send + Sync>, start: usize, rows: usize, cols: usize) -> Result<Self, PackedError> {
        let bytes = (*buffer).as_ref();
        let truncated = |end| PackedError::Truncated { start, end, len: bytes.len() };
        let header_end = start.saturating_add(HEADER);
        let header = bytes.get(start..header_end).ok_or(truncated(header_end))?;
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let [layout, actual_rows, actual_cols] = [number(8), number(12), number(16)];
        let sane = (1..=VOCABULARY).contains(&actual_rows) && (1..=PRODUCT_COLS).contains(&actual_cols);
        if header[..8] != MAGIC || layout != Self::LAYOUT || !sane {
            return Err(PackedError::Layout { at: start });
        }
        let [actual_rows, actual_cols] = [actual_rows, actual_cols].map(|n| n as usize);
        if (actual_rows, actual_cols) != (rows, cols) {
            return Err(PackedError::Shape { at: start, rows: actual_rows, cols: actual_cols, expected_rows: rows, expected_cols: cols });
        }
        let end = start.saturating_add(Self::bytes(rows, cols));
        if end > bytes.len() {
            return Err(truncated(end));
        }
        if !header.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(PackedError::Alignment { at: start });
        }
        Ok(Self { rows, cols, buffer, window: start..end })
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

    /// Its bytes, as [`Packed::write`] makes them.
    ///
    /// # Panics
    /// If the buffer broke its promise and shrank.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &(*self.buffer).as_ref()[self.window.clone()]
    }

    /// The weights of one row in natural order, for instance of a word embedding that is also the head; `None` past the last.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<PackedRow> {
        (row < self.rows).then(|| {
            let (tail, lane) = (self.view().block_tail(row / BLOCK), row % BLOCK);
            let (weights, mantissas) = self.parts_of(row);
            PackedRow { shift: tail.shift(lane), bias: tail.bias(lane), mantissas: mantissas.collect(), weights: weights.collect() }
        })
    }

    /// The embedding of the word of a row (EXACT.md, section 4.3) into `out`; twin of [`embed_word`](crate::reference::embed_word), whose widths
    /// hold here.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as wide as the matrix.
    pub fn embed_word(&self, row: usize, scale: u32, out: &mut [i32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {} by {} into {}", self.rows, self.cols, out.len());
        let scale = if scale == 0 { 1 << 14 } else { i64::from(scale) };
        let shift = u32::from(self.view().block_tail(row / BLOCK).shift(row % BLOCK));
        let (mut weights, mantissas) = self.parts_of(row);
        for (out, mantissa) in out.chunks_mut(GROUP).zip(mantissas) {
            for (out, weight) in out.iter_mut().zip(&mut weights) {
                *out = clamp32(rs(i64::from(weight) * i64::from(mantissa) * scale, shift));
            }
        }
    }

    /// The weights and the mantissas of a row that there is.
    fn parts_of(&self, row: usize) -> (impl Iterator<Item = i8>, impl Iterator<Item = u16>) {
        let (view, block, lane) = (self.view(), row / BLOCK, row % BLOCK);
        let quads = view.block_weights(block).as_chunks::<QUAD_BYTES>().0;
        let weights = (0..self.cols).map(move |col| i8::from_le_bytes([quads[col / QUAD][lane * QUAD + col % QUAD]]));
        let mantissas = view.block_mantissas(block).as_chunks::<MANTISSA_BYTES>().0;
        (weights, mantissas.iter().map(move |m| u16::from_le_bytes([m[2 * lane], m[2 * lane + 1]])))
    }

    pub(super) fn view(&self) -> View<'_> {
        let (bytes, parts) = (self.as_bytes(), parts(self.rows, self.cols));
        View {
            rows: self.rows,
            quads: self.cols.div_ceil(QUAD),
            groups: self.cols.div_ceil(GROUP),
            weights: &bytes[parts.weights],
            mantissas: &bytes[parts.mantissas],
            tails: &bytes[parts.tails],
        }
    }
}

/// One row of a packed matrix, unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedRow {
    /// t.
    pub shift: u8,
    /// Bias in Q14.
    pub bias: i32,
    /// One per group of 128 columns.
    pub mantissas: Vec<u16>,
    /// In natural order.
    pub weights: Vec<i8>,
}

impl PackedRow {
    /// The row as a matrix has it.
    #[must_use]
    pub fn as_row(&self) -> Row<'_> {
        Row { shift: self.shift, bias: self.bias, mantissas: &self.mantissas, weights: &self.weights }
    }
}

/// Σ m · Σ w: at most 2^8 groups of 2^16 · 2^7 · 2^7, so below 2^38.
fn weighted_sum(row: &Row<'_>) -> i64 {
    let groups = row.weights.chunks(GROUP).zip(row.mantissas);
    groups.map(|(weights, &m)| i64::from(m) * weights.iter().map(|&w| i64::from(w)).sum::<i64>()).sum()
}

/// The parts of a packed matrix, as kernels read them. The slices' lengths fit the numbers.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) rows: usize,
    pub(super) quads: usize,
    pub(super) groups: usize,
    pub(super) weights: &'a [u8],
    pub(super) mantissas: &'a [u8],
    pub(super) tails: &'a [u8],
}

impl<'a> View<'a> {
    pub(super) const fn blocks(&self) -> usize {
        self.rows.div_ceil(BLOCK)
    }

    pub(super) fn block_weights(&self, block: usize) -> &'a [u8] {
        let bytes = self.quads * QUAD_BYTES;
        &self.weights[block * bytes..(block + 1) * bytes]
    }

    pub(super) fn block_mantissas(&self, block: usize) -> &'a [u8] {
        let bytes = self.groups * MANTISSA_BYTES;
        &self.mantissas[block * bytes..(block + 1) * bytes]
    }

    pub(super) fn block_tail(&self, block: usize) -> Tail<'a> {
        Tail(&self.tails.as_chunks().0[block])
    }
}

/// What the rows of a block have once.
#[derive(Clone, Copy)]
pub(super) struct Tail<'a>(&'a [u8; TAIL_BYTES]);

impl Tail<'_> {
    /// Σ m · Σ w of a row.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn sum(&self, lane: usize) -> i64 {
        let (sums, _) = self.0.as_chunks::<8>();
        i64::from_le_bytes(sums[lane])
    }

    pub(super) fn bias(&self, lane: usize) -> i32 {
        let (biases, _) = self.0[TAIL_BIAS..].as_chunks::<4>();
        i32::from_le_bytes(biases[lane])
    }

    pub(super) fn shift(&self, lane: usize) -> u8 {
        self.0[TAIL_SHIFTS + lane]
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} x {})", self.rows, self.cols)
    }
}
