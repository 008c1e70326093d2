//! Tiles of two blocks of 16 rows times up to 16 positions, by `tdpbusd` on tiles: int8 weights times unsigned digits of q + 32768, 64 columns
//! a step. Sixteen quads of a block are a tile as they lie.
//!
//! A few panels of positions go through one group of columns before the next: its weights stay in the first-level cache meanwhile, and so do
//! all sums. The products of a group go to memory; while the tiles make the next ones, their digits are joined and multiplied by the mantissas.
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
/// Panels that share the weights of a group. Their sums and two steps' products are 24 KiB.
const PANELS: usize = 4;
/// Bytes of a tile of weights.
const WEIGHTS: usize = TILE_ROWS * QUAD_BYTES;
/// Steps of a group.
const STEPS: usize = GROUP_QUADS / TILE_ROWS;

/// Sums of a panel and two blocks: for each block and position, the even rows, then the odd ones.
type Sums = [[[Eight; 2]; TILE_ROWS]; BLOCKS];

/// Products of a group: for each block, its high digits', then its low ones', by position.
#[repr(align(64))]
struct Products([[[[i32; BLOCK]; TILE_ROWS]; 2]; BLOCKS]);

/// The last quads of a block where they are less than a tile, zeros behind them.
#[repr(align(64))]
struct Rest([u8; WEIGHTS]);

/// What stays in the first-level cache.
struct Near {
    sums: [Sums; PANELS],
    products: [Products; 2],
    rests: [Rest; BLOCKS],
}

/// Products of some blocks with some panels of positions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn run(amx: Amx, job: &Job<'_>, blocks: Range<usize>, x: &Operands, panels: Range<usize>) {
    let mut near = Near {
        sums: [[[[Eight([0; 8]); 2]; TILE_ROWS]; BLOCKS]; PANELS],
        products: [const { Products([[[[0; BLOCK]; TILE_ROWS]; 2]; BLOCKS]) }; 2],
        rests: [const { Rest([0; WEIGHTS]) }; BLOCKS],
    };
    let mut tiles = Tiles::new(amx);
    for block in blocks.clone().step_by(BLOCKS) {
        let count = BLOCKS.min(blocks.end - block);
        let mut first = panels.start;
        while first < panels.end {
            tiles.shape(x.panel(first).len());
            let same = (first..panels.end).take(PANELS).take_while(|&panel| x.panel(panel).len() == tiles.positions());
            let last = first + same.count();
            sweep(&tiles, job, block..block + count, x, first..last, &mut near);
            first = last;
        }
    }
}

/// The whole of K for one or two blocks and up to [`PANELS`] panels of the tiles' shape.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sweep(tiles: &Tiles, job: &Job<'_>, blocks: Range<usize>, x: &Operands, panels: Range<usize>, near: &mut Near) {
    let view = job.view;
    let (positions, count) = (tiles.positions(), panels.len());
    let (whole, rest) = (view.quads / TILE_ROWS, view.quads % TILE_ROWS);
    // One block alone is multiplied twice; a matrix has one such at most.
    let pair = [blocks.start, blocks.end - 1];
    let weights = pair.map(|block| view.block_weights(block));
    let mantissas = pair.map(|block| view.block_mantissas(block).as_chunks::<MANTISSA_BYTES>().0);
    let Near { sums, products, rests } = near;
    for (Rest(slot), weights) in rests.iter_mut().zip(weights) {
        slot[..rest * QUAD_BYTES].copy_from_slice(&weights[whole * WEIGHTS..]);
        slot[rest * QUAD_BYTES..].fill(0);
    }
    for (block, at) in pair.into_iter().zip(0..) {
        let first = correction(view.tails, block);
        for sums in &mut sums[..count] {
            for [even, odd] in &mut sums[at][..positions] {
                even.store(first[0]);
                odd.store(first[1]);
            }
        }
    }
    let steps = whole + usize::from(rest != 0);
    let digits: [_; PANELS] = std::array::from_fn(|at| x.digits(&x.panel(panels.start + at.min(count - 1))));
    let tile = positions * TILE_BYTES;
    assert!(digits.as_flattened().iter().all(|digits| digits.len() == steps * tile), "digits of {steps} steps");
    let step_weights = |step: usize| {
        std::array::from_fn(|at| if step < whole { weights[at][step * WEIGHTS..][..WEIGHTS].as_ptr() } else { rests[at].0.as_ptr() })
    };

    let mut before = None;
    for group in 0..view.groups {
        let first = group * STEPS;
        let last = steps.min(first + STEPS) - 1;
        let step_tiles = [step_weights(first), step_weights(last)];
        for (panel, digits) in digits[..count].iter().enumerate() {
            let digits = [first, last].map(|step| digits.map(|digits| digits[step * tile..][..tile].as_ptr()));
            let [now, then] = &mut *products;
            let (now, then) = if (group * count + panel).is_multiple_of(2) { (now, then) } else { (then, now) };
            // SAFETY: tiles of `positions` rows are readable at the digits, of 16 rows at the weights.
            unsafe { multiply(digits, step_tiles, first != last, now) };
            if panel == 0 {
                for weights in weights {
                    fetch(weights, (first + STEPS) * WEIGHTS);
                }
            }
            if let Some((panel, group)) = before.replace((panel, group)) {
                add(&mut sums[panel], then, mantissas.map(|mantissas| &mantissas[group]), positions);
            }
        }
    }
    if let Some((panel, group)) = before {
        let then = &products[(group * count + panel) % 2];
        add(&mut sums[panel], then, mantissas.map(|mantissas| &mantissas[group]), positions);
    }
    for (block, at) in blocks.zip(0..) {
        let tail = Finish::new(view.tails, block);
        for (panel, sums) in panels.clone().zip(&*sums) {
            for (position, [even, odd]) in x.panel(panel).zip(&sums[at]) {
                tail.write(job.results(block, position), [even.load(), odd.load()], x.shift(position));
            }
        }
    }
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

/// One group of two blocks and a panel: one step, or two.
///
/// # Safety
/// Tiles of the shape that this thread's have are readable at the digits (high and low of each step) and weights (two blocks' of each step).
#[inline]
unsafe fn multiply(digits: [[*const u8; 2]; STEPS], weights: [[*const u8; BLOCKS]; STEPS], both: bool, out: &mut Products) {
    let [[high, low], [next_high, next_low]] = digits;
    let [[first, second], [next_first, next_second]] = weights;
    // SAFETY: what is read is readable by this function's contract; what is written are four tiles of at most 16 rows of 64 bytes each, as
    // `out` has them. A value of `Tiles` has been shaped, so the machine has the instructions.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tileloadd tmm6, [{first} + {line}]",
            "tileloadd tmm4, [{high} + {line}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{low} + {line}]",
            "tdpbusd tmm1, tmm5, tmm6",
            "tileloadd tmm7, [{second} + {line}]",
            "tdpbusd tmm2, tmm4, tmm7",
            "tdpbusd tmm3, tmm5, tmm7",
            "test {both:e}, {both:e}",
            "jz 2f",
            "tileloadd tmm6, [{next_first} + {line}]",
            "tileloadd tmm4, [{next_high} + {line}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{next_low} + {line}]",
            "tdpbusd tmm1, tmm5, tmm6",
            "tileloadd tmm7, [{next_second} + {line}]",
            "tdpbusd tmm2, tmm4, tmm7",
            "tdpbusd tmm3, tmm5, tmm7",
            "2:",
            "tilestored [{out} + {line}], tmm0",
            "tilestored [{out} + {line} + 1024], tmm1",
            "tilestored [{out} + {line} + 2048], tmm2",
            "tilestored [{out} + {line} + 3072], tmm3",
            high = in(reg) high,
            low = in(reg) low,
            next_high = in(reg) next_high,
            next_low = in(reg) next_low,
            first = in(reg) first,
            second = in(reg) second,
            next_first = in(reg) next_first,
            next_second = in(reg) next_second,
            both = in(reg) u32::from(both),
            line = in(reg) TILE_BYTES,
            out = in(reg) &raw mut *out,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Adds a group's products times its mantissas to the sums.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn add(sums: &mut Sums, Products(products): &Products, mantissas: [&[u8; MANTISSA_BYTES]; BLOCKS], positions: usize) {
    for ((sums, [high, low]), mantissas) in sums.iter_mut().zip(products).zip(mantissas) {
        // SAFETY: 32 bytes are readable; the load needs no alignment.
        let even = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(mantissas.as_ptr().cast()) });
        let odd = _mm512_srli_epi64::<32>(even);
        for (([evens, odds], high), low) in sums[..positions].iter_mut().zip(high).zip(low) {
            // SAFETY: 64 bytes are readable at each, aligned because `Products` is and each row is 64 bytes long.
            let [high, low] = unsafe { [_mm512_load_si512(high.as_ptr().cast()), _mm512_load_si512(low.as_ptr().cast())] };
            let product = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
            evens.store(_mm512_add_epi64(evens.load(), _mm512_mul_epi32(product, even)));
            odds.store(_mm512_add_epi64(odds.load(), _mm512_mul_epi32(_mm512_srli_epi64::<32>(product), odd)));
        }
    }
}
