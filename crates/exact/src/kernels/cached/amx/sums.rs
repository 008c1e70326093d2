//! Weights from scores, and sums of weights times values: products of bytes in tiles, joined.

use std::arch::{
    asm,
    x86_64::{
        _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_cmpeq_epi32_mask, _mm512_cmplt_epu32_mask, _mm512_min_epu32,
        _mm512_packus_epi16, _mm512_packus_epi32, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_si512,
        _mm512_slli_epi64, _mm512_srli_epi16, _mm512_srli_epi32, _mm512_srli_epi64, _mm512_sub_epi32,
    },
};

use super::{
    super::{
        LANES,
        avx512::{self, widen},
    },
    Chunk, LIVE, RUN_CHUNKS, Split, Sums, WHOLE, load, load_lanes, store, store_lanes,
};
use crate::kernels::tiles::{TILE_BYTES, TILE_ROWS, Tiles};

/// Weights from scores, in place, and their sums. Returns the chunk's kind.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn weigh(Chunk([first, second, third, fourth]): &mut Chunk, maxima: &[i32], totals: &mut [[i64; LANES / 2]]) -> u8 {
    // From here on a weight is 0.
    let far = _mm512_set1_epi32(26 << 16);
    let byte = _mm512_set1_epi16(255);
    let mut kind = 0;
    let rows = first.iter_mut().zip(second).zip(third.iter_mut().zip(fourth));
    for (((first, second), (third, fourth)), (&max, totals)) in rows.zip(maxima.iter().zip(totals)) {
        // Below 2^31 + 2^30 as unsigned numbers, for |maximum| <= 2^29: what is not read is far.
        let max = _mm512_set1_epi32(max);
        let below = |scores: &[i32; LANES]| _mm512_min_epu32(_mm512_sub_epi32(max, load(scores)), far);
        let z = [below(first), below(second), below(third), below(fourth)];
        let least = _mm512_min_epu32(_mm512_min_epu32(z[0], z[1]), _mm512_min_epu32(z[2], z[3]));
        if _mm512_cmplt_epu32_mask(least, far) == 0 {
            let zero = _mm512_setzero_si512();
            store(first, zero);
            store(second, zero);
            store(third, zero);
            store(fourth, zero);
            continue;
        }
        kind |= if _mm512_cmpeq_epi32_mask(least, _mm512_setzero_si512()) == 0 { LIVE } else { LIVE | WHOLE };
        let e = [avx512::exp2_negative(z[0]), avx512::exp2_negative(z[1]), avx512::exp2_negative(z[2]), avx512::exp2_negative(z[3])];
        // Four weights a lane: at most 2^26.
        let sum = _mm512_add_epi32(_mm512_add_epi32(e[0], e[1]), _mm512_add_epi32(e[2], e[3]));
        let sum = _mm512_add_epi64(_mm512_and_si512(sum, _mm512_set1_epi64(0xffff_ffff)), _mm512_srli_epi64::<32>(sum));
        store_lanes(totals, _mm512_add_epi64(load_lanes(totals), sum));
        let upper = |a, b| _mm512_packus_epi32(_mm512_srli_epi32::<16>(a), _mm512_srli_epi32::<16>(b));
        let low = _mm512_set1_epi32(0xffff);
        let lower = |a, b| _mm512_packus_epi32(_mm512_and_si512(a, low), _mm512_and_si512(b, low));
        let [upper, next_upper, lower, next_lower] = [upper(e[0], e[1]), upper(e[2], e[3]), lower(e[0], e[1]), lower(e[2], e[3])];
        // 256 becomes 255.
        store(first, _mm512_packus_epi16(upper, next_upper));
        store(second, _mm512_packus_epi16(_mm512_srli_epi16::<8>(lower), _mm512_srli_epi16::<8>(next_lower)));
        store(third, _mm512_packus_epi16(_mm512_and_si512(lower, byte), _mm512_and_si512(next_lower, byte)));
        store(fourth, _mm512_packus_epi16(_mm512_srli_epi16::<8>(upper), _mm512_srli_epi16::<8>(next_upper)));
    }
    kind
}

/// Sums of weight times value over some chunks, for a tile of queries and a block of dims. The bounds are those of [`RUN_CHUNKS`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn mix(tiles: &Tiles, weights: &[Chunk], kinds: &[u8], values: &[Split], sums: &mut [[i64; LANES]]) {
    let mut products = Sums::<4>([[[0; LANES]; TILE_ROWS]; 4]);
    assert!(tiles.positions() == TILE_ROWS, "tiles of {TILE_ROWS} queries");
    assert!(weights.len() == kinds.len() && weights.len() == values.len(), "as many chunks of weights as of values");
    assert!((1..=RUN_CHUNKS).contains(&weights.len()), "a run of chunks");
    // SAFETY: for each chunk its kind, four tiles of weights and two of values are readable; what is written
    // are four tiles, as `products` has them. The tiles have been given shapes of 16 rows, so the machine has the instructions.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "movzx {kind:e}, byte ptr [{kinds}]",
            "test {kind:e}, {kind:e}",
            "jz 4f",
            "tileloadd tmm4, [{weights} + {line}]",
            "tileloadd tmm6, [{values} + {line}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{values} + {line} + 1024]",
            "tdpbuud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{weights} + {line} + 1024]",
            "tdpbuud tmm2, tmm5, tmm7",
            "tileloadd tmm4, [{weights} + {line} + 2048]",
            "tdpbuud tmm3, tmm4, tmm7",
            "tdpbusd tmm1, tmm5, tmm6",
            "tdpbusd tmm2, tmm4, tmm6",
            "test {kind:e}, 2",
            "jz 4f",
            "tileloadd tmm5, [{weights} + {line} + 3072]",
            "tdpbusd tmm0, tmm5, tmm6",
            "tdpbuud tmm1, tmm5, tmm7",
            "4:",
            "inc {kinds}",
            "add {weights}, 4096",
            "add {values}, 2048",
            "dec {chunks}",
            "jnz 2b",
            "tilestored [{out} + {line}], tmm0",
            "tilestored [{out} + {line} + 1024], tmm1",
            "tilestored [{out} + {line} + 2048], tmm2",
            "tilestored [{out} + {line} + 3072], tmm3",
            kind = out(reg) _,
            kinds = inout(reg) kinds.as_ptr() => _,
            weights = inout(reg) weights.as_ptr() => _,
            values = inout(reg) values.as_ptr() => _,
            chunks = inout(reg) weights.len() => _,
            line = in(reg) TILE_BYTES,
            out = in(reg) &raw mut products,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    let [first, second, third, fourth] = &products.0;
    for (row, sums) in sums.iter_mut().enumerate() {
        let [first, second, third, fourth] =
            [widen(load(&first[row])), widen(load(&second[row])), widen(load(&third[row])), widen(load(&fourth[row]))];
        for (half, sums) in sums.as_chunks_mut::<{ LANES / 2 }>().0.iter_mut().enumerate() {
            let upper = _mm512_add_epi64(_mm512_slli_epi64::<24>(first[half]), _mm512_slli_epi64::<16>(second[half]));
            let lower = _mm512_add_epi64(_mm512_slli_epi64::<8>(third[half]), fourth[half]);
            store_lanes(sums, _mm512_add_epi64(load_lanes(sums), _mm512_add_epi64(upper, lower)));
        }
    }
}
