//! int32 rows to int16 operands in the layout of the kernels; twin of [`reference::to_operand`](crate::reference::to_operand).

use std::ops::Range;

use super::{Isa, Pool, isa::multiversion, slots::Slots};
use crate::{
    arith::{bit_length, clamp16},
    bounds::PRODUCT_COLS,
};

/// Columns that lie together.
const QUAD: usize = 4;
/// Columns that lie together in tiles of AMX.
#[cfg(target_arch = "x86_64")]
const TILE: usize = super::tiles::TILE_BYTES;
/// Digits begin at a multiple of this: a row of a tile that lay across two cache lines would be loaded at half the speed.
const LINE: usize = 64;
/// Positions from which tiles of AMX are faster than the multiply-adds of AVX-512.
#[cfg(target_arch = "x86_64")]
const TILES_FROM: usize = 8;

/// Operands of a product, one per position, laid out for the kernels of one instruction set. Can be filled again and again.
///
/// Positions form panels, the width of a tile at most and of nearly equal width: 20 positions are two sevens and a six. Most kernels read rows of
/// int16. Kernels with a dot product of bytes read digits, q + 32768 = 256 · high + low (or q - 128, for signed bytes):
/// `[panel][high, low][quad of columns][position][column]`. In tiles of AMX, 64 columns lie together instead of four, and zeros pad a row to
/// a multiple of 64.
#[derive(Debug, Clone)]
pub struct Operands {
    isa: Isa,
    cols: usize,
    shifts: Vec<u32>,
    /// Rows of int16, if the kernels read those.
    elements: Vec<i16>,
    /// Digits, if the kernels read those.
    digits: Vec<u8>,
    /// Where they begin: at a cache line, unless they are a clone.
    first_digit: usize,
}

/// What is added to q before its digits are taken.
#[derive(Clone, Copy)]
enum Digits {
    /// high and low unsigned: q + 32768.
    #[cfg(any(target_arch = "x86_64", test))]
    Unsigned,
    /// high and low signed: q - 128, so that 256 · high + low = q - 128.
    #[cfg(any(target_arch = "aarch64", test))]
    Signed,
}

impl Default for Operands {
    /// None yet, for whatever pool fills them first.
    fn default() -> Self {
        Self::new(Isa::Portable)
    }
}

impl Operands {
    /// None yet.
    #[must_use]
    pub const fn new(isa: Isa) -> Self {
        Self { isa, cols: 0, shifts: Vec::new(), elements: Vec::new(), digits: Vec::new(), first_digit: 0 }
    }

    /// The instructions whose kernels read them.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Elements of a row.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Number of rows: positions.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.shifts.len()
    }

    /// s of a row.
    #[must_use]
    pub fn shift(&self, row: usize) -> u32 {
        self.shifts[row]
    }

    /// q of a row, in order.
    #[must_use]
    pub fn row(&self, row: usize) -> Vec<i16> {
        let Some(form) = digits_of(self.isa) else { return self.elements(row)[..self.cols].to_vec() };
        let panel = (0..self.panels()).map(|panel| self.panel(panel)).find(|panel| panel.contains(&row)).unwrap_or(0..0);
        let [high, low] = self.digits(&panel);
        let run = self.run();
        let at = |col: usize| (col / run * panel.len() + row - panel.start) * run + col % run;
        (0..self.cols).map(|col| form.join(high[at(col)], low[at(col)])).collect()
    }

    /// Replaces them by those of `rows`, rows of `cols` elements, on all threads of a pool.
    ///
    /// # Panics
    /// If `cols` is 0 or more than a product may have, or `rows` is not whole rows.
    pub fn fill(&mut self, pool: &Pool, rows: &[i32], cols: usize) {
        assert!((1..=PRODUCT_COLS as usize).contains(&cols) && rows.len().is_multiple_of(cols), "whole rows of {cols} elements");
        let count = rows.len() / cols;
        (self.isa, self.cols) = (pool.isa(), cols);
        self.shifts.resize(count, 0);
        let stride = self.stride();
        let form = digits_of(self.isa);
        // Padding to a quad is written too: what stood there was another shape's.
        match form {
            None => self.elements.resize(count * stride, 0),
            Some(_) => {
                self.digits.resize(2 * count * stride + LINE - 1, 0);
                self.first_digit = self.digits.as_ptr().align_offset(LINE).min(LINE - 1);
            }
        }
        let (panels, widest) = (self.panels(), self.panel_max());
        #[cfg(target_arch = "x86_64")]
        let in_tiles = self.in_tiles();
        let digits = self.digits.get_mut(self.first_digit..).unwrap_or_default();
        let (shifts, elements, digits) = (Slots::new(&mut self.shifts), Slots::new(&mut self.elements), Slots::new(digits));
        // A part of less than some thousand elements is not worth waking a thread for.
        let parts = panels.min(4 * pool.width()).min((rows.len() >> 13).max(1));
        pool.run(parts, |part| {
            for panel in panels * part / parts..panels * (part + 1) / parts {
                let positions = panel_of(count, widest, panel);
                let rows = &rows[positions.start * cols..positions.end * cols];
                // SAFETY: panels do not overlap, and each belongs to one part.
                let shifts = unsafe { shifts.piece(positions.clone()) };
                if let Some(form) = form {
                    // SAFETY: as above.
                    let digits = unsafe { digits.piece(2 * positions.start * stride..2 * positions.end * stride) };
                    match pool.isa() {
                        // SAFETY: a value of `Amx` exists only on a machine that has the instructions of `Avx512` too.
                        #[cfg(target_arch = "x86_64")]
                        Isa::Amx(_) if in_tiles => unsafe { avx512::fill_tiles(rows, cols, shifts, digits) },
                        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::fill_digits(rows, cols, shifts, digits) },
                        _ => fill_digits(form, rows, cols, shifts, digits),
                    }
                } else {
                    // SAFETY: as above.
                    let elements = unsafe { elements.piece(positions.start * stride..positions.end * stride) };
                    fill_elements(pool.isa(), rows, cols, shifts, elements);
                }
            }
        });
    }

    /// Elements from one row to the next.
    const fn stride(&self) -> usize {
        self.cols.next_multiple_of(self.run())
    }

    /// Columns that lie together.
    const fn run(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.in_tiles() {
            return TILE;
        }
        QUAD
    }

    /// Whether they are laid out for tiles of AMX.
    #[cfg(target_arch = "x86_64")]
    pub(super) const fn in_tiles(&self) -> bool {
        matches!(self.isa, Isa::Amx(_)) && self.rows() >= TILES_FROM
    }

    /// Whether kernels of `isa` read this layout.
    pub(super) fn fits(&self, isa: Isa) -> bool {
        self.isa == isa
    }

    /// Most positions of a panel.
    pub(super) const fn panel_max(&self) -> usize {
        match self.isa {
            Isa::Portable => 8,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => 3,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(_) if self.in_tiles() => super::tiles::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) | Isa::Amx(_) => 8,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => 1,
            #[cfg(target_arch = "aarch64")]
            Isa::DotProd(_) => 4,
        }
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.rows().div_ceil(self.panel_max())
    }

    /// The positions of a panel.
    pub(super) fn panel(&self, panel: usize) -> Range<usize> {
        panel_of(self.rows(), self.panel_max(), panel)
    }

    /// One padded row of int16.
    pub(super) fn elements(&self, row: usize) -> &[i16] {
        &self.elements[row * self.stride()..(row + 1) * self.stride()]
    }

    /// The high and the low digits of a panel: `[quad][position][column]`, or in tiles `[64 columns][position][column]`.
    pub(super) fn digits(&self, panel: &Range<usize>) -> [&[u8]; 2] {
        let len = panel.len() * self.stride();
        let (high, low) = self.digits[self.first_digit + 2 * panel.start * self.stride()..][..2 * len].split_at(len);
        [high, low]
    }
}

/// Panels of nearly equal width, the wider ones first.
fn panel_of(positions: usize, widest: usize, panel: usize) -> Range<usize> {
    let panels = positions.div_ceil(widest);
    let (width, wider) = (positions / panels, positions % panels);
    let start = |panel: usize| panel * width + panel.min(wider);
    start(panel)..start(panel + 1)
}

const fn digits_of(isa: Isa) -> Option<Digits> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => Some(Digits::Unsigned),
        #[cfg(target_arch = "aarch64")]
        Isa::DotProd(_) => Some(Digits::Signed),
        _ => None,
    }
}

impl Digits {
    /// high and low of q.
    #[inline(always)]
    const fn split(self, q: i16) -> [u8; 2] {
        let [low, high] = q.to_le_bytes();
        match self {
            // Adding 32768 flips the top bit.
            #[cfg(any(target_arch = "x86_64", test))]
            Self::Unsigned => [high ^ 0x80, low],
            // Subtracting 128 from the low byte leaves the high one.
            #[cfg(any(target_arch = "aarch64", test))]
            Self::Signed => [high, low ^ 0x80],
        }
    }

    const fn join(self, high: u8, low: u8) -> i16 {
        match self {
            #[cfg(any(target_arch = "x86_64", test))]
            Self::Unsigned => i16::from_le_bytes([low, high ^ 0x80]),
            #[cfg(any(target_arch = "aarch64", test))]
            Self::Signed => i16::from_le_bytes([low ^ 0x80, high]),
        }
    }
}

/// Operands of rows of `cols` elements each.
///
/// # Panics
/// As [`Operands::fill`].
#[must_use]
pub fn to_operands(isa: Isa, rows: &[i32], cols: usize) -> Operands {
    let mut operands = Operands::new(isa);
    operands.fill(&Pool::single(isa), rows, cols);
    operands
}

multiversion! { fn fill_elements(rows: &[i32], cols: usize, shifts: &mut [u32], elements: &mut [i16]) -> () = fill_elements_body }

#[inline(always)]
fn fill_elements_body(rows: &[i32], cols: usize, shifts: &mut [u32], elements: &mut [i16]) {
    let slots = elements.chunks_exact_mut(cols.next_multiple_of(QUAD)).zip(shifts);
    for (row, (slot, shift)) in rows.chunks_exact(cols).zip(slots) {
        *shift = quantise(row, &mut slot[..cols]);
        slot[cols..].fill(0);
    }
}

/// The digits of one panel.
fn fill_digits(form: Digits, rows: &[i32], cols: usize, shifts: &mut [u32], digits: &mut [u8]) {
    /// Columns at a time: they stay in registers and in the first-level cache.
    const RUN: usize = 64;
    let (width, half) = (shifts.len(), digits.len() / 2);
    let (highs, lows) = digits.split_at_mut(half);
    for (position, (row, shift)) in rows.chunks_exact(cols).zip(shifts).enumerate() {
        *shift = shift_of(row);
        let mut run = [0i16; RUN];
        for (at, part) in row.chunks(RUN).enumerate() {
            shift_or_clamp(part, *shift, &mut run[..part.len()]);
            run[part.len()..].fill(0);
            let first = at * (RUN / QUAD) * width * QUAD;
            let end = half.min(first + RUN * width);
            let slots = highs[first..end].chunks_exact_mut(QUAD * width).zip(lows[first..end].chunks_exact_mut(QUAD * width));
            for (q, (high, low)) in run.as_chunks::<QUAD>().0.iter().zip(slots) {
                let digits = q.map(|q| form.split(q));
                high[position * QUAD..][..QUAD].copy_from_slice(&digits.map(|[high, _]| high));
                low[position * QUAD..][..QUAD].copy_from_slice(&digits.map(|[_, low]| low));
            }
        }
    }
}

/// Writes the operand of one row and returns its shift.
#[inline(always)]
pub(super) fn quantise(row: &[i32], out: &mut [i16]) -> u32 {
    let shift = shift_of(row);
    shift_or_clamp(row, shift, out);
    shift
}

/// s of a row.
#[inline(always)]
fn shift_of(row: &[i32]) -> u32 {
    // Same number of bits as the largest magnitude, and one operation fewer than a maximum.
    let bits = row.iter().fold(0, |bits, x| bits | x.unsigned_abs());
    bit_length(u64::from(bits)).saturating_sub(15)
}

/// `clamp16(rs(x, shift))` for 0 <= shift <= 16 in 32 bits: `rs(x, n) = (x >> n) + ((x >> (n - 1)) & 1)` for n > 0.
#[inline(always)]
pub(super) fn shift_or_clamp(row: &[i32], shift: u32, out: &mut [i16]) {
    if shift == 0 {
        for (slot, &x) in out.iter_mut().zip(row) {
            *slot = clamp16(i64::from(x));
        }
        return;
    }
    for (slot, &x) in out.iter_mut().zip(row) {
        let rounded = (x >> shift).wrapping_add((x >> (shift - 1)) & 1).clamp(-0x7fff, 0x7fff);
        #[expect(clippy::cast_possible_truncation, reason = "limited to 16 bits on the line before")]
        let narrow = rounded as i16;
        *slot = narrow;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_cvtsi32_si128, _mm_storeu_si128, _mm512_abs_epi32, _mm512_add_epi32, _mm512_and_si512, _mm512_cvtepi32_epi8,
        _mm512_max_epi16, _mm512_max_epi32, _mm512_min_epi32, _mm512_or_si512, _mm512_packs_epi32, _mm512_packus_epi16,
        _mm512_permutexvar_epi32, _mm512_reduce_or_epi32, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512,
        _mm512_sra_epi32, _mm512_srli_epi16, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_xor_si512,
    };

    use super::{super::wide::load, QUAD, TILE, bit_length};

    /// As the plain one, for unsigned digits.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn fill_digits(rows: &[i32], cols: usize, shifts: &mut [u32], digits: &mut [u8]) {
        let (width, half) = (shifts.len(), digits.len() / 2);
        let (highs, lows) = digits.split_at_mut(half);
        for (position, (row, shift)) in rows.chunks_exact(cols).zip(shifts).enumerate() {
            *shift = shift_of(row);
            let step = Step::new(*shift);
            let (highs, lows) = (highs.as_chunks_mut::<QUAD>().0, lows.as_chunks_mut::<QUAD>().0);
            for (at, part) in row.chunks(4 * QUAD).enumerate() {
                let [high, low] = step.digits(part);
                let first = at * 4 * width + position;
                for (slots, digits) in [(&mut *highs, high), (&mut *lows, low)] {
                    let mut bytes = [[0; QUAD]; 4];
                    // SAFETY: 16 bytes are writable; the store needs no alignment.
                    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), digits) };
                    for (slot, bytes) in slots[first..].iter_mut().step_by(width).zip(bytes) {
                        *slot = bytes;
                    }
                }
            }
        }
    }

    /// As the plain one, for unsigned digits in tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn fill_tiles(rows: &[i32], cols: usize, shifts: &mut [u32], digits: &mut [u8]) {
        let (width, half) = (shifts.len(), digits.len() / 2);
        let (highs, lows) = digits.split_at_mut(half);
        let (highs, lows) = (highs.as_chunks_mut::<TILE>().0, lows.as_chunks_mut::<TILE>().0);
        for (position, (row, shift)) in rows.chunks_exact(cols).zip(shifts).enumerate() {
            *shift = shift_of(row);
            let step = Step::new(*shift);
            let slots = highs[position..].iter_mut().step_by(width).zip(lows[position..].iter_mut().step_by(width));
            for (columns, (high, low)) in row.chunks(TILE).zip(slots) {
                let digits = step.tile(columns);
                // SAFETY: 64 bytes are writable at each; the stores need no alignment.
                unsafe {
                    _mm512_storeu_si512(high.as_mut_ptr().cast(), digits[0]);
                    _mm512_storeu_si512(low.as_mut_ptr().cast(), digits[1]);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn shift_of(row: &[i32]) -> u32 {
        let mut bits = _mm512_setzero_si512();
        for part in row.chunks(16) {
            bits = _mm512_or_si512(bits, _mm512_abs_epi32(load(part)));
        }
        bit_length(u64::from(_mm512_reduce_or_epi32(bits).cast_unsigned())).saturating_sub(15)
    }

    /// `rs(x, s)` of 16 elements at a time: `((x >> (s - 1)) + 1) >> 1` for s > 0, and x for s = 0.
    struct Step {
        before: __m128i,
        half: __m512i,
        last: __m128i,
    }

    impl Step {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline]
        fn new(shift: u32) -> Self {
            // s <= 17.
            let last = shift.min(1).cast_signed();
            Self { before: _mm_cvtsi32_si128(shift.cast_signed() - last), half: _mm512_set1_epi32(last), last: _mm_cvtsi32_si128(last) }
        }

        /// High and low digits of q + 32768 for up to 16 elements; those of 0 beyond.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline]
        fn digits(&self, part: &[i32]) -> [__m128i; 2] {
            let rounded = self.round(load(part));
            let q = _mm512_max_epi32(_mm512_min_epi32(rounded, _mm512_set1_epi32(0x7fff)), _mm512_set1_epi32(-0x7fff));
            let raised = _mm512_add_epi32(q, _mm512_set1_epi32(0x8000));
            [_mm512_cvtepi32_epi8(_mm512_srli_epi32::<8>(raised)), _mm512_cvtepi32_epi8(raised)]
        }

        /// High and low digits of q + 32768 for up to 64 elements; those of 0 beyond.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline]
        fn tile(&self, columns: &[i32]) -> [__m512i; 2] {
            let part = |at: usize| self.round(load(&columns[columns.len().min(16 * at)..columns.len().min(16 * at + 16)]));
            let sixteen = |at: usize| {
                let q = _mm512_max_epi16(_mm512_packs_epi32(part(at), part(at + 1)), _mm512_set1_epi16(-0x7fff));
                _mm512_xor_si512(q, _mm512_set1_epi16(i16::MIN))
            };
            let raised = [sixteen(0), sixteen(2)];
            // Packing goes by 128 bits: four columns of each of the four parts, and so on.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = |[first, second]: [__m512i; 2]| _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second));
            let low = |x| _mm512_and_si512(x, _mm512_set1_epi16(255));
            [bytes(raised.map(|x| _mm512_srli_epi16::<8>(x))), bytes(raised.map(low))]
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline]
        fn round(&self, x: __m512i) -> __m512i {
            _mm512_sra_epi32(_mm512_add_epi32(_mm512_sra_epi32(x, self.before), self.half), self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Digits;

    #[test]
    fn digits_of_every_operand_stand_for_it_and_come_back() {
        for q in i16::MIN..=i16::MAX {
            let [high, low] = Digits::Unsigned.split(q).map(i32::from);
            assert_eq!(256 * high + low, i32::from(q) + 32_768);
            let [high, low] = Digits::Signed.split(q).map(|digit| i32::from(i8::from_le_bytes([digit])));
            assert_eq!(256 * high + low, i32::from(q) - 128);
            for form in [Digits::Unsigned, Digits::Signed] {
                let [high, low] = form.split(q);
                assert_eq!(form.join(high, low), q);
            }
        }
    }
}
