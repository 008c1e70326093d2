//! int32 rows to int16 operands; twin of [`reference::to_operand`](crate::reference::to_operand).

use super::isa::multiversion;
use crate::arith::{bit_length, clamp16};

/// Operands of one product, one row per position, padded with zeros to an even length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operands {
    /// Elements of a row, without the padding.
    pub cols: usize,
    /// Row-major, rows of `cols` rounded up to even.
    pub elements: Vec<i16>,
    /// Shift of each row.
    pub shifts: Vec<u32>,
}

impl Operands {
    /// Elements from one row to the next.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.cols.next_multiple_of(2)
    }

    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.shifts.len()
    }

    /// One padded row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[i16] {
        &self.elements[row * self.stride()..(row + 1) * self.stride()]
    }
}

multiversion! {
    /// Operands of rows of `cols` elements each.
    ///
    /// # Panics
    /// If `cols` is 0.
    pub fn to_operands(rows: &[i32], cols: usize) -> Operands = body
}

#[inline(always)]
fn body(rows: &[i32], cols: usize) -> Operands {
    let mut out =
        Operands { cols, elements: vec![0; rows.len() / cols * cols.next_multiple_of(2)], shifts: Vec::with_capacity(rows.len() / cols) };
    let stride = out.stride();
    for (row, slot) in rows.chunks_exact(cols).zip(out.elements.chunks_exact_mut(stride)) {
        out.shifts.push(quantise(row, &mut slot[..cols]));
    }
    out
}

/// Writes the operand of one row and returns its shift.
#[inline(always)]
pub(super) fn quantise(row: &[i32], out: &mut [i16]) -> u32 {
    // Same number of bits as the largest magnitude, and one operation fewer than a maximum.
    let bits = row.iter().fold(0, |bits, x| bits | x.unsigned_abs());
    let shift = bit_length(u64::from(bits)).saturating_sub(15);
    if shift == 0 {
        for (slot, &x) in out.iter_mut().zip(row) {
            *slot = clamp16(i64::from(x));
        }
    } else {
        shift_all(row, shift, out);
    }
    shift
}

/// `clamp16(rs(x, shift))` for 0 < shift <= 16 in 32 bits: `rs(x, n) = (x >> n) + ((x >> (n - 1)) & 1)`.
#[inline(always)]
pub(super) fn shift_all(row: &[i32], shift: u32, out: &mut [i16]) {
    for (slot, &x) in out.iter_mut().zip(row) {
        let rounded = (x >> shift).wrapping_add((x >> (shift - 1)) & 1).clamp(-0x7fff, 0x7fff);
        #[expect(clippy::cast_possible_truncation, reason = "limited to 16 bits on the line before")]
        let narrow = rounded as i16;
        *slot = narrow;
    }
}
