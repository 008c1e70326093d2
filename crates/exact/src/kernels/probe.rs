//! What this machine can do at most, for figures that are shares of it. The caller has the clock.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::{Pool, isa::multiversion};

/// Reads all bytes on all threads of a pool and returns their exclusive or. Over memory much larger than the caches, bytes by time is the bandwidth
/// that decoding cannot exceed.
#[must_use]
pub fn read(pool: &Pool, bytes: &[u8]) -> u64 {
    let sum = std::sync::atomic::AtomicU64::new(0);
    let (threads, lines) = (pool.threads(), bytes.len() / 64);
    pool.run(threads, |part| {
        let piece = &bytes[lines * part / threads * 64..lines * (part + 1) / threads * 64];
        sum.fetch_xor(xor(pool.isa(), piece), std::sync::atomic::Ordering::Relaxed);
    });
    sum.into_inner()
}

multiversion! { fn xor(bytes: &[u8]) -> u64 = xor_body }

/// Bytes that are asked for ahead of those that are read: with less or none, memory is not busy all the time.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 1 << 10;

#[inline(always)]
fn xor_body(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 64];
    for chunk in bytes.as_chunks::<512>().0 {
        #[cfg(target_arch = "x86_64")]
        for line in chunk.as_chunks::<64>().0 {
            // SAFETY: every x86-64 has SSE; asking reads nothing, and an address beyond the end does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD).cast()) };
        }
        for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *sum ^= u64::from_le_bytes(*word);
        }
    }
    sums.into_iter().fold(0, |all, sum| all ^ sum)
}

/// Does nothing but the multiply-adds of this pool's kernels, in registers, `rounds` times a few thousand on each thread, and returns how many
/// operations that was (two per multiply-add). Profile `q8a16` needs two of them per weight where they multiply bytes.
#[must_use]
pub fn multiply(pool: &Pool, rounds: u64) -> u64 {
    let done = std::sync::atomic::AtomicU64::new(0);
    pool.run(pool.threads(), |_| {
        done.fetch_add(peak(pool, rounds), std::sync::atomic::Ordering::Relaxed);
    });
    done.into_inner()
}

/// Operations of the product kernels of this pool per weight and position: multiplying bytes, they need two multiply-adds.
#[must_use]
pub const fn operations_per_weight(pool: &Pool) -> usize {
    match pool.isa() {
        #[cfg(target_arch = "x86_64")]
        super::Isa::Avx512(_) | super::Isa::Amx(_) => 4,
        #[cfg(target_arch = "aarch64")]
        super::Isa::DotProd(_) => 4,
        _ => 2,
    }
}

const STEPS: u64 = 1000;

fn peak(pool: &Pool, rounds: u64) -> u64 {
    match pool.isa() {
        // SAFETY: a value of `Avx512` exists only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        super::Isa::Avx512(_) => unsafe { x86::bytes(rounds) },
        #[cfg(target_arch = "x86_64")]
        super::Isa::Amx(amx) => x86::tiles(amx, rounds),
        // SAFETY: a value of `Avx2` exists only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        super::Isa::Avx2(_) => unsafe { x86::pairs(rounds) },
        _ => plain(rounds),
    }
}

/// Multiply-adds as the compiler makes them.
fn plain(rounds: u64) -> u64 {
    let mut sums = [0i32; 64];
    let x: [i16; 64] = std::array::from_fn(|at| i16::from(at.to_le_bytes()[0]));
    for _ in 0..rounds * STEPS / 16 {
        let x = std::hint::black_box(&x);
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum = sum.wrapping_add(i32::from(x).wrapping_mul(i32::from(x)));
        }
    }
    std::hint::black_box(sums);
    rounds * STEPS / 16 * 64 * 2
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::asm,
        arch::x86_64::{
            _mm256_add_epi32, _mm256_madd_epi16, _mm256_set1_epi16, _mm256_setzero_si256, _mm512_dpbusd_epi32, _mm512_set1_epi8,
            _mm512_setzero_si512,
        },
        hint::black_box,
    };

    use super::STEPS;
    use crate::kernels::{
        isa::Amx,
        tiles::{TILE_ROWS, Tiles},
    };

    pub(super) fn tiles(amx: Amx, rounds: u64) -> u64 {
        let mut tiles = Tiles::new(amx);
        tiles.shape(TILE_ROWS);
        for _ in 0..rounds * STEPS / 16 {
            // SAFETY: the tiles have a shape, so the machine has the instructions; no memory is touched.
            unsafe {
                asm!(
                    "tdpbusd tmm0, tmm4, tmm6", "tdpbusd tmm1, tmm5, tmm6", "tdpbusd tmm2, tmm4, tmm7", "tdpbusd tmm3, tmm5, tmm7",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nomem, nostack, preserves_flags),
                );
            }
        }
        rounds * STEPS / 16 * 4 * 16 * 16 * 64 * 2
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn bytes(rounds: u64) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 16];
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(1)));
        for _ in 0..rounds * STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        rounds * STEPS * 16 * 64 * 2
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn pairs(rounds: u64) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 12];
        let (a, b) = (black_box(_mm256_set1_epi16(3)), black_box(_mm256_set1_epi16(1)));
        for _ in 0..rounds * STEPS {
            for sum in &mut sums {
                // Each depends on the last, so that none can be left out.
                *sum = _mm256_add_epi32(_mm256_madd_epi16(*sum, b), a);
            }
        }
        black_box(sums);
        rounds * STEPS * 12 * 16 * 2
    }
}
