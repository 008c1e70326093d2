//! Tiles of two blocks of 16 rows times up to 16 positions, by `tdpbusd` on tiles: int8 weights times unsigned digits of q + 32768, 64 columns
//! a step. Sixteen quads of a block are a tile as they lie.
//!
//! A few panels of positions go through one group of columns before the next: its weights stay in the first-level cache meanwhile, and so do
//! all sums. What tiles and vectors do is one stream of instructions, slices of the one between those of the other, because the processor sees
//! only some hundreds of them at a time: while the tiles multiply a group, the products of the one before leave them for memory, and those of
//! the one before that are joined, multiplied by the mantissas and added to the sums. The last group's slices finish their results.
//! Bounds and tails are those of [`avx512`](super::avx512).

use std::{
    arch::{
        asm,
        x86_64::{
            _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_add_epi32, _mm512_add_epi64, _mm512_cvtepu16_epi32, _mm512_load_si512,
            _mm512_mul_epi32, _mm512_slli_epi32, _mm512_srli_epi64,
        },
    },
    ops::Range,
};

use super::{
    Job,
    avx512::{Eight, Finish, correction},
    packed::{BLOCK, GROUP_QUADS, MANTISSA_BYTES, QUAD_BYTES},
};
use crate::kernels::{
    Operands,
    isa::Amx,
    tiles::{TILE_BYTES, TILE_ROWS, Tiles},
};

/// Blocks of a tile's step.
const BLOCKS: usize = 2;
/// Panels that share the weights of a group. Their sums and two groups' products are 24 KiB.
const PANELS: usize = 4;
/// Bytes of a tile of weights.
const WEIGHTS: usize = TILE_ROWS * QUAD_BYTES;
/// Steps of a group.
const STEPS: usize = GROUP_QUADS / TILE_ROWS;
/// Positions of a slice, which is of one block.
const SLICE: usize = 4;
/// Slices of a panel and two blocks.
const SLICES: usize = BLOCKS * TILE_ROWS / SLICE;

/// Sums of a panel and two blocks: for each block and position, the even rows, then the odd ones.
type Sums = [[[Eight; 2]; TILE_ROWS]; BLOCKS];

/// Products of a group: for each block, its high digits', then its low ones', by position.
#[repr(align(64))]
struct Products([[[[i32; BLOCK]; TILE_ROWS]; 2]; BLOCKS]);

/// The last quads of a block where they are less than a tile, zeros behind them.
#[repr(align(64))]
struct Rest([u8; WEIGHTS]);

/// One group of columns, two blocks and a panel.
struct Unit {
    /// One block alone is there twice; a matrix has one such at most.
    pair: [usize; BLOCKS],
    group: usize,
    positions: Range<usize>,
    /// Which sums are the panel's.
    sums: usize,
}

/// Products on their way. All but the weights and digits stays in the first-level cache.
struct Flow<'a> {
    job: &'a Job<'a>,
    x: &'a Operands,
    tiles: Tiles,
    sums: [Sums; PANELS],
    /// Those that leave the tiles, and those of the unit before, in turns.
    products: [Products; 2],
    /// Whose they are. Written in place and read field by field: a copy would wait until the tiles before have left for the cache.
    units: [Unit; 2],
    /// Which of them is stored; the other is in the tiles.
    turn: usize,
    /// Whether a unit is in the tiles, and whether one is stored.
    held: bool,
    stored: bool,
    rests: [Rest; BLOCKS],
}

/// Stores a tile's products and makes them zero.
macro_rules! store {
    ($tile:tt, $out:expr) => {
        asm!(
            concat!("tilestored [{out} + {line}], ", $tile), concat!("tilezero ", $tile),
            out = in(reg) $out, line = in(reg) TILE_BYTES, out($tile) _, options(nostack, preserves_flags),
        )
    };
}

/// Loads a tile.
macro_rules! load {
    ($tile:tt, $at:expr) => {
        asm!(
            concat!("tileloadd ", $tile, ", [{at} + {line}]"),
            at = in(reg) $at, line = in(reg) TILE_BYTES, out($tile) _, options(nostack, preserves_flags, readonly),
        )
    };
}

/// Adds the dot products of a tile of digits and one of weights to a tile.
macro_rules! dot {
    ($sums:tt, $digits:tt, $weights:tt) => {
        asm!(concat!("tdpbusd ", $sums, ", ", $digits, ", ", $weights), out($sums) _, options(nostack, preserves_flags))
    };
}

/// Products of some blocks with some panels of positions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn run(amx: Amx, job: &Job<'_>, blocks: Range<usize>, x: &Operands, panels: Range<usize>) {
    let mut flow = Flow {
        job,
        x,
        tiles: Tiles::new(amx),
        sums: [[[[Eight([0; 8]); 2]; TILE_ROWS]; BLOCKS]; PANELS],
        products: [const { Products([[[[0; BLOCK]; TILE_ROWS]; 2]; BLOCKS]) }; 2],
        units: [const { Unit { pair: [0; BLOCKS], group: 0, positions: 0..0, sums: 0 } }; 2],
        turn: 0,
        held: false,
        stored: false,
        rests: [const { Rest([0; WEIGHTS]) }; BLOCKS],
    };
    for block in blocks.clone().step_by(BLOCKS) {
        let pair = [block, (block + 1).min(blocks.end - 1)];
        let mut first = panels.start;
        while first < panels.end {
            let width = x.panel(first).len();
            if width != flow.tiles.positions() {
                flow.drain();
                flow.tiles.shape(width);
            }
            let same = (first..panels.end).take(PANELS).take_while(|&panel| x.panel(panel).len() == width);
            let last = first + same.count();
            flow.sweep(pair, first..last);
            first = last;
        }
    }
    flow.drain();
}

impl Flow<'_> {
    /// The whole of K for two blocks and up to [`PANELS`] panels of the tiles' shape.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn sweep(&mut self, pair: [usize; BLOCKS], panels: Range<usize>) {
        let view = self.job.view;
        let count = panels.len();
        let (whole, rest) = (view.quads / TILE_ROWS, view.quads % TILE_ROWS);
        let weights = pair.map(|block| view.block_weights(block));
        for (Rest(slot), weights) in self.rests.iter_mut().zip(weights) {
            slot[..rest * QUAD_BYTES].copy_from_slice(&weights[whole * WEIGHTS..]);
            slot[rest * QUAD_BYTES..].fill(0);
        }
        let rests = self.rests.each_ref().map(|Rest(rest)| rest.as_ptr());
        let steps = whole + usize::from(rest != 0);
        let positions: [_; PANELS] = std::array::from_fn(|at| self.x.panel(panels.start + at.min(count - 1)));
        let digits = positions.each_ref().map(|positions| self.x.digits(positions));
        let tile = self.tiles.positions() * TILE_BYTES;
        assert!(digits.as_flattened().iter().all(|digits| digits.len() == steps * tile), "digits of {steps} steps");
        assert!(weights.iter().all(|weights| weights.len() >= whole * WEIGHTS), "weights of {whole} steps");
        let weight = |at: usize, step: usize| if step < whole { weights[at].as_ptr().wrapping_add(step * WEIGHTS) } else { rests[at] };
        for group in 0..view.groups {
            let first = group * STEPS;
            let last = steps.min(first + STEPS) - 1;
            let [w, x, y, z] = [weight(0, first), weight(1, first), weight(0, last), weight(1, last)];
            for at in 0..count {
                let [high, low] = [digits[at][0].as_ptr(), digits[at][1].as_ptr()];
                let read = Read {
                    digits: [
                        [high.wrapping_add(first * tile), low.wrapping_add(first * tile)],
                        [high.wrapping_add(last * tile), low.wrapping_add(last * tile)],
                    ],
                    weights: [[w, x], [y, z]],
                    both: first != last,
                };
                // SAFETY: by the assertions, tiles of the shape's rows are readable at the digits, of 16 rows at the weights.
                unsafe { self.step(Some(&read)) };
                let unit = &mut self.units[self.turn ^ 1];
                unit.pair = pair;
                unit.group = group;
                unit.positions.start = positions[at].start;
                unit.positions.end = positions[at].end;
                unit.sums = at;
                self.held = true;
                if at == 0 {
                    for weights in weights {
                        fetch(weights, (first + STEPS) * WEIGHTS);
                    }
                }
            }
        }
    }

    /// Finishes what is on its way.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn drain(&mut self) {
        while self.held || self.stored {
            // SAFETY: the tiles have a shape since the first unit came, and nothing is read into them.
            unsafe { self.step(None) };
        }
    }

    /// Multiplies one group of two blocks and a panel, or nothing. The products that were in the tiles go to memory meanwhile, those in memory to
    /// the sums.
    ///
    /// # Safety
    /// The tiles have a shape; tiles of it are readable at the digits and weights.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn step(&mut self, read: Option<&Read>) {
        // SAFETY: by this function's contract.
        unsafe {
            self.slice::<0>(read);
            self.slice::<1>(read);
            self.slice::<2>(read);
            self.slice::<3>(read);
            self.slice::<4>(read);
            self.slice::<5>(read);
            self.slice::<6>(read);
            self.slice::<7>(read);
        }
        self.turn ^= 1;
        self.stored = std::mem::replace(&mut self.held, false);
    }

    /// A slice of a step.
    ///
    /// # Safety
    /// As [`Flow::step`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    unsafe fn slice<const S: usize>(&mut self, read: Option<&Read>) {
        let [now, then] = &mut self.products;
        let (leaving, stored) = if self.turn == 0 { (then, now) } else { (now, then) };
        let out = (&raw mut *leaving).cast::<u8>();
        // SAFETY: what is read is readable by this function's contract; what is written are four tiles of at most 16 rows of 64 bytes each,
        // as `Products` has them. The compiler has no use for tiles of its own: they keep what they hold from one of these to the next.
        unsafe {
            match S {
                0 => store!("tmm0", out),
                1 => store!("tmm1", out.add(1024)),
                2 => store!("tmm2", out.add(2048)),
                3 => store!("tmm3", out.add(3072)),
                _ => (),
            }
            if let Some(Read { digits, weights, both }) = read
                && (S < 4 || *both)
            {
                let [high, low] = digits[S / 4];
                let [first, second] = weights[S / 4];
                match S % 4 {
                    0 => {
                        load!("tmm6", first);
                        load!("tmm4", high);
                        dot!("tmm0", "tmm4", "tmm6");
                    }
                    1 => {
                        load!("tmm5", low);
                        dot!("tmm1", "tmm5", "tmm6");
                    }
                    2 => {
                        load!("tmm7", second);
                        dot!("tmm2", "tmm4", "tmm7");
                    }
                    _ => dot!("tmm3", "tmm5", "tmm7"),
                }
            }
        }
        if self.stored {
            let unit = &self.units[self.turn];
            add::<S>(self.job, self.x, unit, stored, &mut self.sums[unit.sums]);
        }
    }
}

/// Adds the products of a slice times their mantissas to the sums: the first group's to what corrects them; the last group's sums become results.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn add<const S: usize>(job: &Job<'_>, x: &Operands, unit: &Unit, Products(products): &Products, sums: &mut Sums) {
    let (at, part) = (S / (SLICES / BLOCKS), S % (SLICES / BLOCKS));
    // One block alone needs no second. Positions beyond the last of a slice have sums that nobody reads.
    if part * SLICE >= unit.positions.len() || (at > 0 && unit.pair[0] == unit.pair[1]) {
        return;
    }
    let (view, block) = (job.view, unit.pair[at]);
    let mantissas = &view.block_mantissas(block).as_chunks::<MANTISSA_BYTES>().0[unit.group];
    // SAFETY: 32 bytes are readable; the load needs no alignment.
    let even = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(mantissas.as_ptr().cast()) });
    let odd = _mm512_srli_epi64::<32>(even);
    let [high, low] = products[at].each_ref().map(|digit| &digit.as_chunks::<SLICE>().0[part]);
    let sums = &mut sums[at].as_chunks_mut::<SLICE>().0[part];
    if unit.group == 0 {
        let correction = correction(view.tails, block);
        for [evens, odds] in &mut *sums {
            evens.store(correction[0]);
            odds.store(correction[1]);
        }
    }
    for (([evens, odds], high), low) in sums.iter_mut().zip(high).zip(low) {
        // SAFETY: 64 bytes are readable at each, aligned because `Products` is and each row is 64 bytes long.
        let [high, low] = unsafe { [_mm512_load_si512(high.as_ptr().cast()), _mm512_load_si512(low.as_ptr().cast())] };
        let product = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
        evens.store(_mm512_add_epi64(evens.load(), _mm512_mul_epi32(product, even)));
        odds.store(_mm512_add_epi64(odds.load(), _mm512_mul_epi32(_mm512_srli_epi64::<32>(product), odd)));
    }
    if unit.group + 1 == view.groups {
        let tail = Finish::new(view.tails, block);
        for (position, [even, odd]) in unit.positions.clone().skip(part * SLICE).zip(&*sums) {
            tail.write(job.results(block, position), [even.load(), odd.load()], x.shift(position));
        }
    }
}

/// What a unit reads: digits (high and low) and weights (two blocks') of each of its steps.
struct Read {
    digits: [[*const u8; 2]; STEPS],
    weights: [[*const u8; BLOCKS]; STEPS],
    /// Two steps, or one.
    both: bool,
}

/// Asks for the weights of a block's next group, at its end for the next pair's. No memory is read: an address beyond the matrix does nothing.
#[target_feature(enable = "avx512f")]
#[inline]
fn fetch(weights: &[u8], next: usize) {
    let next = if next < weights.len() { next } else { next + weights.len() };
    for line in (next..next + STEPS * WEIGHTS).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(weights.as_ptr().wrapping_add(line).cast());
    }
}
