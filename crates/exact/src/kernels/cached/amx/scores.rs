//! Scores of a group of queries: products of bytes in tiles, joined and scaled.

use std::{
    arch::{
        asm,
        x86_64::{
            __m512i, _mm_loadu_si128, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_cvtepu8_epi32, _mm512_mask_mov_epi32,
            _mm512_mask_shuffle_epi32, _mm512_maskz_mov_epi32, _mm512_max_epi32, _mm512_mul_epi32, _mm512_or_si512, _mm512_set1_epi32,
            _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_slli_epi64, _mm512_srai_epi32, _mm512_srav_epi64,
            _mm512_srli_epi64, _mm512_sub_epi64, _mm512_test_epi32_mask, _mm512_xor_si512,
        },
    },
    ops::Range,
};

use super::{
    super::{LANES, Sequence, tile::Tile},
    Bytes, CHUNK, CHUNK_BLOCKS, Chunk, MOST, MOST_STEPS, Rows, Split, Sums, UNREAD, load, split, store,
};
use crate::kernels::tiles::{TILE_BYTES, TILE_ROWS, Tiles};

/// A block of keys, and 35 - s_k of the even and of the odd ones.
#[derive(Clone, Copy)]
struct Keys {
    first: usize,
    shifts: [__m512i; 2],
}

/// All scores of a group, and their maxima. False if some are beyond 2^29.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn scores(
    shapes: &Tiles,
    group: &Tile<'_>,
    tiles: &[Rows],
    positions: Range<usize>,
    (queries, chunks): (&[Split], &mut [Chunk]),
    maxima: &mut [[i32; LANES]; MOST],
) -> bool {
    let Sequence { cache, .. } = group.sequence;
    let (steps, pairs) = (group.attention.head_dim.div_ceil(TILE_BYTES), cache.dim_pairs());
    let chunk_count = positions.len().div_ceil(CHUNK);
    let scale = _mm512_set1_epi64(i64::from(group.attention.score_scale));
    let mut keys = [[Bytes::ZERO; 2]; MOST_STEPS];
    let mut products = [const { Sums::<3>([[[0; LANES]; TILE_ROWS]; 3]) }; 2];
    let mut before: Option<(usize, Keys)> = None;
    let mut beyond = _mm512_setzero_si512();
    let mut turn = 0;
    for block in 0..chunk_count * CHUNK_BLOCKS {
        let first = positions.start + block * LANES;
        let read = first < positions.end;
        let mut shifts = [_mm512_setzero_si512(); 2];
        if read {
            let lines = cache.key_blocks(group.kv_head, first / LANES..first / LANES + 1);
            for (split_keys, lines) in keys.iter_mut().zip(lines[..pairs].chunks(TILE_BYTES / 2)) {
                split(lines, split_keys, |quad| quad);
            }
            let of_keys: &[u8; LANES] = cache.key_shifts(group.kv_head, first..first + LANES).as_chunks().0.first().expect("a whole block");
            // SAFETY: 16 bytes are readable; the load needs no alignment.
            let of_keys = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(of_keys.as_ptr().cast()) });
            let even = _mm512_and_si512(of_keys, _mm512_set1_epi64(0xffff_ffff));
            let most = _mm512_set1_epi64(35);
            shifts = [_mm512_sub_epi64(most, even), _mm512_sub_epi64(most, _mm512_srli_epi64::<32>(of_keys))];
        }
        for (tile, rows) in tiles.iter().enumerate() {
            let some = rows.some();
            if read && first < some.end && first + LANES > some.start {
                let [now, then] = &mut products;
                let (now, then) = if turn == 0 { (now, then) } else { (then, now) };
                turn ^= 1;
                multiply(shapes, &queries[tile * steps..][..steps], &keys[..steps], now);
                if let Some((tile, keys)) = before.replace((tile, Keys { first, shifts })) {
                    let at = (keys.first - positions.start) / LANES;
                    let chunk = &mut chunks[tile * chunk_count + at / CHUNK_BLOCKS];
                    beyond = _mm512_or_si512(
                        beyond,
                        scale_block(then, &tiles[tile], &keys, scale, (chunk, at % CHUNK_BLOCKS), &mut maxima[tile * TILE_ROWS..]),
                    );
                }
            } else {
                chunks[tile * chunk_count + block / CHUNK_BLOCKS].0[block % CHUNK_BLOCKS] = [[UNREAD; LANES]; TILE_ROWS];
            }
        }
    }
    if let Some((tile, keys)) = before {
        let at = (keys.first - positions.start) / LANES;
        let chunk = &mut chunks[tile * chunk_count + at / CHUNK_BLOCKS];
        let last =
            scale_block(&products[1 - turn], &tiles[tile], &keys, scale, (chunk, at % CHUNK_BLOCKS), &mut maxima[tile * TILE_ROWS..]);
        beyond = _mm512_or_si512(beyond, last);
    }
    _mm512_test_epi32_mask(beyond, beyond) == 0
}

/// Dot products of a tile of queries and a block of keys, their bytes apart.
///
/// With at most 256 dims, |Σ high · high| <= 256 · 2^14, |Σ high · low + low · high| < 2 · 256 · 128 · 255 < 2^24, and Σ low · low < 2^24.
#[inline]
fn multiply(tiles: &Tiles, queries: &[Split], keys: &[Split], out: &mut Sums<3>) {
    assert!(tiles.positions() == TILE_ROWS, "tiles of {TILE_ROWS} queries");
    assert!(queries.len() == keys.len() && !keys.is_empty(), "as many steps of queries as of keys");
    // SAFETY: two tiles of 16 rows of 64 bytes are read for each step of queries and keys; what is written are three tiles, as `out` has them.
    // The tiles have been given shapes of 16 rows, so the machine has the instructions.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "2:",
            "tileloadd tmm6, [{keys} + {line}]",
            "tileloadd tmm4, [{queries} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{keys} + {line} + 1024]",
            "tdpbsud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{queries} + {line} + 1024]",
            "tdpbuud tmm2, tmm5, tmm7",
            "tdpbusd tmm1, tmm5, tmm6",
            "add {keys}, 2048",
            "add {queries}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {line}], tmm0",
            "tilestored [{out} + {line} + 1024], tmm1",
            "tilestored [{out} + {line} + 2048], tmm2",
            keys = inout(reg) keys.as_ptr() => _,
            queries = inout(reg) queries.as_ptr() => _,
            steps = inout(reg) keys.len() => _,
            line = in(reg) TILE_BYTES,
            out = in(reg) &raw mut *out,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Scores of a tile and a block of keys: `rs(dot · c, 36 - s_q - s_k)`. Returns a vector that is 0 if none that is read is beyond 2^29.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn scale_block(
    Sums([high, mixed, low]): &Sums<3>,
    rows: &Rows,
    keys: &Keys,
    scale: __m512i,
    (chunk, block): (&mut Chunk, usize),
    maxima: &mut [[i32; LANES]],
) -> __m512i {
    let mut beyond = _mm512_setzero_si512();
    let all = rows.all();
    let inside = all.start <= keys.first && keys.first + LANES <= all.end;
    for row in 0..rows.count {
        // 256 · upper + lower: |upper| <= 2^30 + 2^24, 0 <= lower < 2^24.
        let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(load(&high[row])), load(&mixed[row]));
        let lower = load(&low[row]);
        let shift = _mm512_set1_epi64(i64::from(rows.shifts[row]));
        // Before the last bit of the rounding goes: rs(x, n) = ((x >> (n - 1)) + 1) >> 1, 3 <= n - 1 <= 35.
        let twice = |upper, lower, base| {
            let product = _mm512_add_epi64(_mm512_slli_epi64::<8>(_mm512_mul_epi32(upper, scale)), _mm512_mul_epi32(lower, scale));
            _mm512_srav_epi64(product, _mm512_sub_epi64(base, shift))
        };
        let even = twice(upper, lower, keys.shifts[0]);
        let odd = twice(_mm512_srli_epi64::<32>(upper), _mm512_srli_epi64::<32>(lower), keys.shifts[1]);
        let bits = _mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xaaaa, odd);
        let sign = _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even);
        // Twice the score is below 2^30 if all bits above the lowest 30 are the same.
        let differ = |mask| _mm512_maskz_mov_epi32(mask, _mm512_xor_si512(sign, _mm512_srai_epi32::<30>(bits)));
        let mut score = _mm512_srai_epi32::<1>(_mm512_add_epi32(bits, _mm512_set1_epi32(1)));
        if inside {
            beyond = _mm512_or_si512(beyond, differ(0xffff));
        } else {
            let range = &rows.ranges[row];
            let read = lanes(range.end.saturating_sub(keys.first)) & !lanes(range.start.saturating_sub(keys.first));
            beyond = _mm512_or_si512(beyond, differ(read));
            score = _mm512_mask_mov_epi32(_mm512_set1_epi32(UNREAD), read, score);
        }
        let max = _mm512_max_epi32(load(&maxima[row]), score);
        store(&mut maxima[row], max);
        store(&mut chunk.0[block][row], score);
    }
    beyond
}

/// The first lanes of 16, so many of them.
fn lanes(count: usize) -> u16 {
    if count >= LANES { u16::MAX } else { (1 << count) - 1 }
}
