//! The tile registers of AMX. A thread gives them shapes before it uses them and releases them after.

use std::{arch::asm, marker::PhantomData};

use super::isa::Amx;

/// Rows of a tile, at most; bytes of each of its rows.
pub(super) const TILE_ROWS: usize = 16;
pub(super) const TILE_BYTES: usize = 64;

/// Tiles 0 to 3 hold sums and 4 and 5 operands, a row for each of some positions; 6 and 7 hold weights, 16 rows. All rows are 64 bytes.
pub(super) struct Tiles {
    positions: usize,
    /// They are this thread's.
    thread: PhantomData<*const ()>,
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Tiles without a shape yet.
    pub(super) const fn new(_: Amx) -> Self {
        Self { positions: 0, thread: PhantomData }
    }

    /// Tiles for `positions`, 1 to 16. What they held is lost.
    pub(super) fn shape(&mut self, positions: usize) {
        assert!((1..=TILE_ROWS).contains(&positions), "a tile of {positions} positions");
        if self.positions == positions {
            return;
        }
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        shapes.row_bytes[..8].fill(64);
        shapes.rows[..8].fill(16);
        // At most 16, by the assertion.
        shapes.rows[..6].fill(positions.to_le_bytes()[0]);
        // SAFETY: a value of `Amx` exists only on a machine that has the instructions. 64 bytes of a palette that it knows are read.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &raw const shapes,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags),
            );
        }
        self.positions = positions;
    }

    /// Positions of a tile now.
    pub(super) const fn positions(&self) -> usize {
        self.positions
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if self.positions != 0 {
            // SAFETY: `shape` ran on this thread, so it has the instruction.
            unsafe {
                asm!(
                    "tilerelease",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nomem, nostack, preserves_flags),
                );
            }
        }
    }
}
