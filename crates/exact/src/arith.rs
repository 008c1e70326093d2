//! The two roundings of profile `q8a16` and its clamps. There is no other rounding anywhere in this crate, and no `/` on
//! signed values (EXACT.md, section 1).

/// Largest magnitude of an int32 activation. Symmetric, so that `|x|` has at most 31 bits and no negation overflows.
pub const MAX_I32: i64 = 0x7fff_ffff;

/// Largest magnitude of an int16 operand of a product. Symmetric for the same reason.
pub const MAX_I16: i64 = 0x7fff;

/// Rounding shift: `(x + 2^(n-1)) >> n` for n > 0, `x` for n = 0; halves round toward plus infinity.
///
/// `n` is at most 62 and the sum fits at every use in this crate by the bound beside it; a larger sum is a broken bound and
/// panics under the profile's overflow checks rather than wrapping. ROUNDING: this is `rs` of EXACT.md.
#[inline]
#[must_use]
pub const fn rs(x: i64, n: u32) -> i64 {
    if n == 0 { x } else { (x + (1 << (n - 1))) >> n }
}

/// Rounding division: `floor((2a + b) / (2b))` for b > 0; halves round toward plus infinity.
///
/// i128 because the numerator of attention reaches 2^71 (EXACT.md, section 4.6). ROUNDING: this is `rdiv` of EXACT.md.
#[inline]
#[must_use]
pub const fn rdiv(a: i128, b: i128) -> i128 {
    // For a positive divisor the Euclidean quotient is the floor.
    (2 * a + b).div_euclid(2 * b)
}

/// `x` limited to `[-(2^31 - 1), 2^31 - 1]`.
#[inline]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "limited to 32 bits on the line itself")]
pub const fn clamp32(x: i64) -> i32 {
    if x > MAX_I32 {
        MAX_I32 as i32
    } else if x < -MAX_I32 {
        -MAX_I32 as i32
    } else {
        x as i32
    }
}

/// `x` limited to `[-32767, 32767]`.
#[inline]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "limited to 16 bits on the line itself")]
pub const fn clamp16(x: i64) -> i16 {
    if x > MAX_I16 {
        MAX_I16 as i16
    } else if x < -MAX_I16 {
        -MAX_I16 as i16
    } else {
        x as i16
    }
}

/// Number of bits of `x`: 0 for 0, else `floor(log2 x) + 1`.
#[inline]
#[must_use]
pub const fn bit_length(x: u64) -> u32 {
    u64::BITS - x.leading_zeros()
}

/// Largest integer whose square is at most `x`.
#[inline]
#[must_use]
pub const fn floor_sqrt(x: u128) -> u128 {
    x.isqrt()
}
