//! Choices of many rows of logits; twin of [`reference::choose`](crate::reference::choose), whose widths hold here.

use super::{
    Isa, Pool,
    isa::multiversion,
    keccak::{STATES, States, permute},
    rows::map_into,
};
use crate::{
    arith::{bit_length, rs},
    reference::{Draw, lg, noise},
};

/// log2(e) in Q26.
const LOG2_E: i64 = 96_817_625;
/// Ids of eight sampling blocks, whose hashes are computed together.
const IDS: usize = 8 * STATES;
/// Ids of a block, whose logits fit the first-level cache: its greatest logit says whether it is read again.
const BLOCK: usize = 64 * IDS;

/// A key and its id; of equal keys the lower id is better.
type Best = (i64, u32);

/// What choices need besides their logits; kept from step to step, so that a step allocates nothing.
#[derive(Debug, Default)]
pub struct ChoiceScratch {
    /// The greatest logits: `[row][block]`.
    maxima: Vec<i32>,
    /// `[row][part of ids]`.
    best: Vec<Best>,
}

/// The choice of each row of `vocabulary` logits, at least one, by the draw of the same index, on the threads of a pool.
///
/// # Panics
/// If there are not as many rows as draws.
pub fn choose<'s>(
    pool: &Pool,
    vocabulary: usize,
    logits: &[i32],
    draws: &[Draw<'_>],
    scratch: &'s mut ChoiceScratch,
) -> impl Iterator<Item = u32> + use<'s> {
    assert_eq!(logits.len(), vocabulary * draws.len(), "a row of {vocabulary} logits for each draw");
    let ChoiceScratch { maxima, best } = scratch;
    let blocks = vocabulary.div_ceil(BLOCK);
    let block_of = |row: usize, block: usize| &logits[row * vocabulary..][block * BLOCK..vocabulary.min((block + 1) * BLOCK)];
    map_into(pool, maxima, draws.len() * blocks, |task| greatest(pool.isa(), block_of(task / blocks, task % blocks)));
    // Few rows are cut into parts, so that all threads have some.
    let parts = (4 * pool.width()).div_ceil(draws.len().max(1)).min(blocks).max(1);
    let size = blocks.div_ceil(parts);
    map_into(pool, best, draws.len() * parts, |task| {
        let (row, first) = (task / parts, task % parts * size);
        let maxima = &maxima[row * blocks..][..blocks];
        let max = maxima.iter().copied().max().unwrap_or(i32::MIN);
        let greedy = draws[row].temperature == 0;
        let least = if greedy { max } else { least_eligible(&draws[row], max) };
        let mut best = (i64::MIN, 0);
        for block in (first..blocks.min(first + size)).filter(|&block| maxima[block] >= least) {
            let logits = block_of(row, block);
            // An id is below 2^24.
            let first = u32::try_from(block * BLOCK).unwrap_or(u32::MAX);
            if greedy {
                return (0, (first..).zip(logits).find(|(_, logit)| **logit == max).map_or(first, |(id, _)| id));
            }
            best = sample(pool.isa(), logits, first, &draws[row], least, best);
        }
        best
    });
    best.chunks_exact(parts).map(|parts| parts.iter().copied().reduce(better).map_or(0, |(_, id)| id))
}

/// The greater key; of equal ones the first.
#[inline(always)]
const fn better(first: Best, second: Best) -> Best {
    if second.0 > first.0 { second } else { first }
}

multiversion! { fn greatest(logits: &[i32]) -> i32 = greatest_body }

#[inline(always)]
fn greatest_body(logits: &[i32]) -> i32 {
    logits.iter().fold(i32::MIN, |max, &logit| max.max(logit))
}

/// The better of a key and the best of some logits not below `least`, the first of them that of id `first`, a multiple of [`IDS`].
fn sample(isa: Isa, logits: &[i32], first: u32, draw: &Draw<'_>, least: i32, mut best: Best) -> Best {
    let temperature = i64::from(draw.temperature);
    let message = message(draw);
    for (at, logits) in (0u32..).zip(logits.chunks(IDS)) {
        if greatest(isa, logits) < least {
            continue;
        }
        let first = first.wrapping_add(at.wrapping_mul(64));
        let numbers = blocks(isa, &message, first >> 3);
        for ((id, &logit), &number) in (first..).zip(logits).zip(&numbers) {
            if logit < least {
                continue;
            }
            let base = i64::from(logit).wrapping_mul(LOG2_E);
            // What the noise is less than, by the size of what u lacks of its end: most ids need no logarithm.
            let lacks = (1u64 << 33).wrapping_sub(2 * u64::from(number) + 1);
            let bound = i64::from(34 - bit_length(lacks)) << 24;
            if base.wrapping_add(temperature.wrapping_mul(bound)) > best.0 {
                best = better(best, (base.wrapping_add(temperature.wrapping_mul(noise(number))), id));
            }
        }
    }
    best
}

/// The least logit that min-p lets pass: `(max - logit) · log2(e) <= temperature · (2^28 - rs(lg(minP), 6))`.
fn least_eligible(draw: &Draw<'_>, max: i32) -> i32 {
    if draw.min_p == 0 {
        return i32::MIN;
    }
    let bound = i64::from(draw.temperature) * ((1 << 28) - rs(lg(u64::from(draw.min_p.min(1 << 16))), 6));
    i32::try_from(i64::from(max) - bound.div_euclid(LOG2_E)).unwrap_or(i32::MIN)
}

/// The preimage of a sampling block but for the block, padded as keccak-256 pads, as words.
fn message(draw: &Draw<'_>) -> [u64; 25] {
    let mut bytes = [0u8; 200];
    bytes[0] = 0x60;
    bytes[1..33].copy_from_slice(draw.seed);
    for (slot, word) in bytes[33..45].as_chunks_mut::<4>().0.iter_mut().zip([draw.item, draw.sample, draw.position]) {
        *slot = word.to_be_bytes();
    }
    (bytes[49], bytes[135]) = (0x01, 0x80);
    let mut words = [0; 25];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// The numbers of eight sampling blocks from `first` on: those of 64 ids.
fn blocks(isa: Isa, message: &[u64; 25], first: u32) -> [u32; IDS] {
    let mut states: States = [[0; STATES]; 25];
    for (states, &word) in states.iter_mut().zip(message) {
        *states = [word; STATES];
    }
    for (block, state) in (first..).zip(0..STATES) {
        let [a, b, c, d] = block.to_be_bytes().map(u64::from);
        // Bytes 45 to 48 of the message.
        states[5][state] |= a << 40 | b << 48 | c << 56;
        states[6][state] |= d;
    }
    permute(isa, &mut states);
    let mut numbers = [0; IDS];
    for (block, numbers) in numbers.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for (lane, number) in numbers.iter_mut().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "one half of the word")]
            let half = (states[lane / 2][block] >> (lane % 2 * 32)) as u32;
            *number = half.swap_bytes();
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::{IDS, blocks, message};
    use crate::{
        kernels::Isa,
        reference::{Draw, sampling_block},
    };

    #[test]
    fn eight_hashes_at_once_are_eight_sampling_blocks() {
        let seed: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 5 + 1).unwrap_or(0));
        for (at, first) in [0u32, 8, 248, 256, 65_536, (1 << 21) - 8, u32::MAX - 15].into_iter().enumerate() {
            let number = u32::try_from(at).unwrap_or(0).wrapping_mul(0x3456_789b);
            let draw = Draw { temperature: 1, min_p: 0, seed: &seed, item: number, sample: !number, position: number >> 3 };
            for isa in Isa::available() {
                let numbers = blocks(isa, &message(&draw), first);
                for (block, eight) in numbers.chunks(IDS / 8).enumerate() {
                    assert_eq!(eight, sampling_block(&draw, first + u32::try_from(block).unwrap_or(0)), "{isa:?}");
                }
            }
        }
    }
}
