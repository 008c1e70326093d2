use alloy_primitives::keccak256;

use crate::{
    arith::{bit_length, rs},
    tables::{LOG1M, LOG2},
};

/// log2(e) in Q26.
const LOG2_E: i64 = 96_817_625;
/// Tag of the preimage of a sampling block (PROTOCOL.md, section 1).
const TAG: u8 = 0x60;
/// One in Q16, the greatest min-p.
const ONE: u32 = 1 << 16;

/// What a choice depends on besides the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw<'a> {
    /// Q16; 0 is greedy.
    pub temperature: u32,
    /// Least share of the likeliest id's probability, Q16; more than 2^16 counts as 2^16.
    pub min_p: u32,
    /// Of the job.
    pub seed: &'a [u8; 32],
    /// Index of the item in the job.
    pub item: u32,
    /// Index of the sample of the item.
    pub sample: u32,
    /// Position whose logits these are.
    pub position: u32,
}

/// log2(n) in Q30, below 2^36 (EXACT.md, section 4.13): the exponent, and a 257-entry table with linear interpolation. n is at least 1.
#[must_use]
pub fn lg(n: u64) -> i64 {
    let exponent = bit_length(n.max(1)) - 1;
    let mantissa = n.max(1) << (63 - exponent);
    // Both are masked.
    let index = usize::try_from((mantissa >> 55) & 255).unwrap_or(0);
    let rest = i64::try_from((mantissa >> 39) & 0xffff).unwrap_or(0);
    let (low, high) = (i64::from(LOG2[index]), i64::from(LOG2[index + 1]));
    (i64::from(exponent) << 30) + low + rs((high - low) * rest, 16)
}

/// -log2(-log2((u + 1/2) / 2^32)) in Q24 (EXACT.md, section 4.13): Gumbel's distribution in log2 units, but for a constant.
///
/// Below one half the inner logarithm is at least 1, and Q30 holds it well. Above it is v · T(v), v the distance from one, so its own
/// relative error stays small however near u comes to the end: v < 2^32 and T <= 2^31, so the product is below 2^63.
#[must_use]
pub fn noise(u: u32) -> i64 {
    let odd = 2 * u64::from(u) + 1;
    if u < 1 << 31 {
        let inner = (33 << 30) - lg(odd);
        // 2^30 <= inner <= 33 · 2^30.
        return rs((30 << 30) - lg(inner.unsigned_abs()), 6);
    }
    let v = (1 << 33) - odd;
    // v < 2^32: the index is at most 255.
    let (index, rest) = (usize::try_from(v >> 24).unwrap_or(0), i64::try_from(v & 0xff_ffff).unwrap_or(0));
    let (low, high) = (i64::from(LOG1M[index]), i64::from(LOG1M[index + 1]));
    let t = low + rs((high - low) * rest, 24);
    rs((63 << 30) - lg(v * t.unsigned_abs()), 6)
}

/// Eight numbers of 32 bits for the ids `8 · block` to `8 · block + 7` (EXACT.md, section 4.14).
#[must_use]
pub fn sampling_block(draw: &Draw<'_>, block: u32) -> [u32; 8] {
    let mut preimage = [0; 49];
    preimage[0] = TAG;
    preimage[1..33].copy_from_slice(draw.seed);
    for (slot, word) in preimage[33..].chunks_exact_mut(4).zip([draw.item, draw.sample, draw.position, block]) {
        slot.copy_from_slice(&word.to_be_bytes());
    }
    let hash = keccak256(preimage);
    std::array::from_fn(|lane| u32::from_be_bytes([hash[4 * lane], hash[4 * lane + 1], hash[4 * lane + 2], hash[4 * lane + 3]]))
}

/// The id chosen from the logits of one position, int32 in Q14 (EXACT.md, section 4.14): the greatest logit, or the greatest key of the
/// eligible ids; the lowest id among equals. 0 where there are no logits.
///
/// Widths. M - logit < 2^32, times log2(e) in Q26 < 2^59. temperature < 2^32 and the bracket of the bound is at most 2^28; |noise| < 2^30,
/// so a key is below 2^58 + 2^62: int64.
#[must_use]
pub fn choose(logits: &[i32], draw: &Draw<'_>) -> u32 {
    let max = logits.iter().copied().max().unwrap_or(0);
    if draw.temperature == 0 {
        return (0..).zip(logits).find(|(_, logit)| **logit == max).map_or(0, |(id, _)| id);
    }
    let temperature = i64::from(draw.temperature);
    let bound = match draw.min_p {
        0 => i64::MAX,
        min_p => temperature * ((1 << 28) - rs(lg(u64::from(min_p.min(ONE))), 6)),
    };
    let below_max = |logit: i32| (i64::from(max) - i64::from(logit)) * LOG2_E;
    let mut best = (i64::MIN, 0);
    for (block, logits) in (0u32..).zip(logits.chunks(8)) {
        if logits.iter().any(|&logit| below_max(logit) <= bound) {
            let lanes = sampling_block(draw, block);
            for ((id, &logit), &lane) in (8 * block..).zip(logits).zip(&lanes) {
                if below_max(logit) <= bound {
                    best = better(best, (i64::from(logit) * LOG2_E + temperature * noise(lane), id));
                }
            }
        }
    }
    best.1
}

/// The greater key; of equal ones the first.
const fn better(first: (i64, u32), second: (i64, u32)) -> (i64, u32) {
    if second.0 > first.0 { second } else { first }
}
