//! Keccak-f[1600] of eight states at once, a lane of each beside the others; a test holds it to the library's keccak-256.

use super::Isa;

/// States.
pub(super) const STATES: usize = 8;
/// 25 words of 64 bits of each state: `[word][state]`.
pub(super) type States = [[u64; STATES]; 25];

/// FIPS 202, section 3.2.5.
const ROUNDS: [u64; 24] = [
    0x0000_0000_0000_0001,
    0x0000_0000_0000_8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x0000_0000_0000_808b,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x0000_0000_0000_008a,
    0x0000_0000_0000_0088,
    0x0000_0000_8000_8009,
    0x0000_0000_8000_000a,
    0x0000_0000_8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x0000_0000_0000_800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8008,
];
/// Repeats a body with an index that is a constant each time, so that all words stay in registers.
macro_rules! unrolled {
    ($at:ident in [$($value:literal)*] $body:block) => { $({ const $at: usize = $value; $body })* };
}

/// The rounds (FIPS 202, sections 3.2 and 3.3) over 25 words of a type that has the functions `xor3`, `rotate`, `chi` (a ^ !b & c), `xor`.
macro_rules! rounds {
    ($a:ident, $zero:expr, $broadcast:expr) => {
        for round in ROUNDS {
            let mut columns = [$zero; 5];
            unrolled!(X in [0 1 2 3 4] {
                columns[X] = xor3(xor3($a[X], $a[X + 5], $a[X + 10]), $a[X + 15], $a[X + 20]);
            });
            unrolled!(X in [0 1 2 3 4] {
                let (left, right) = (columns[(X + 4) % 5], rotate::<1>(columns[(X + 1) % 5]));
                unrolled!(Y in [0 5 10 15 20] { $a[X + Y] = xor3($a[X + Y], left, right); });
            });
            // Words go from place to place, each rotated on the way: 1 to 10, 10 to 7, and so on back to 1.
            let mut carried = $a[1];
            macro_rules! go {
                ($to:literal by $bits:literal) => {
                    let next = $a[$to];
                    $a[$to] = rotate::<$bits>(carried);
                    #[allow(unused_assignments, reason = "the last goes nowhere")]
                    { carried = next; }
                };
            }
            go!(10 by 1);
            go!(7 by 3);
            go!(11 by 6);
            go!(17 by 10);
            go!(18 by 15);
            go!(3 by 21);
            go!(5 by 28);
            go!(16 by 36);
            go!(8 by 45);
            go!(21 by 55);
            go!(24 by 2);
            go!(4 by 14);
            go!(15 by 27);
            go!(23 by 41);
            go!(19 by 56);
            go!(13 by 8);
            go!(12 by 25);
            go!(2 by 43);
            go!(20 by 62);
            go!(14 by 18);
            go!(22 by 39);
            go!(9 by 61);
            go!(6 by 20);
            go!(1 by 44);
            unrolled!(Y in [0 5 10 15 20] {
                let row = [$a[Y], $a[Y + 1], $a[Y + 2], $a[Y + 3], $a[Y + 4]];
                unrolled!(X in [0 1 2 3 4] { $a[Y + X] = chi(row[X], row[(X + 1) % 5], row[(X + 2) % 5]); });
            });
            $a[0] = xor($a[0], $broadcast(round));
        }
    };
}

/// The permutation, of each state.
pub(super) fn permute(isa: Isa, words: &mut States) {
    match isa {
        // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512::permute(words) },
        _ => {
            for state in 0..STATES {
                let mut one: [u64; 25] = std::array::from_fn(|at| words[at][state]);
                permute_one(&mut one);
                for (word, one) in words.iter_mut().zip(one) {
                    word[state] = one;
                }
            }
        }
    }
}

fn permute_one(words: &mut [u64; 25]) {
    const fn xor(a: u64, b: u64) -> u64 {
        a ^ b
    }
    const fn xor3(a: u64, b: u64, c: u64) -> u64 {
        a ^ b ^ c
    }
    const fn rotate<const BITS: u32>(a: u64) -> u64 {
        a.rotate_left(BITS)
    }
    const fn chi(a: u64, b: u64, c: u64) -> u64 {
        a ^ (!b & c)
    }
    let mut a = *words;
    rounds!(a, 0, u64::from);
    *words = a;
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_rol_epi64, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_storeu_si512,
        _mm512_ternarylogic_epi64, _mm512_xor_si512,
    };

    use super::{ROUNDS, States};

    #[target_feature(enable = "avx512f")]
    pub(super) fn permute(words: &mut States) {
        let mut a = [_mm512_setzero_si512(); 25];
        for (a, word) in a.iter_mut().zip(&*words) {
            // SAFETY: 64 bytes are readable at `word`; the load needs no alignment.
            *a = unsafe { _mm512_loadu_si512(word.as_ptr().cast()) };
        }
        rounds!(a, _mm512_setzero_si512(), broadcast);
        for (a, word) in a.iter().zip(words) {
            // SAFETY: 64 bytes are writable at `word`; the store needs no alignment.
            unsafe { _mm512_storeu_si512(word.as_mut_ptr().cast(), *a) };
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn broadcast(round: u64) -> __m512i {
        _mm512_set1_epi64(round.cast_signed())
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn xor(a: __m512i, b: __m512i) -> __m512i {
        _mm512_xor_si512(a, b)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        _mm512_ternarylogic_epi64::<0x96>(a, b, c)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn rotate<const BITS: i32>(a: __m512i) -> __m512i {
        _mm512_rol_epi64::<BITS>(a)
    }

    /// a ^ !b & c: 1 where a differs from (!b and c).
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn chi(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        _mm512_ternarylogic_epi64::<0xd2>(a, b, c)
    }
}
