//! Floating-point numbers taken apart into integers. Nothing in the conversion adds, multiplies or compares floats.

/// A finite float as what it is: `±mantissa · 2^exponent`, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dyadic {
    negative: bool,
    /// Below 2^24: the significand of an f32, which also holds every f16 and bf16.
    mantissa: u32,
    /// From -149 to 104.
    exponent: i32,
}

/// The bits of the f32 that equals the f16 with these bits. Every f16 is an f32, so nothing is rounded.
pub(crate) fn f32_bits_of_f16(bits: u16) -> u32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits) & 0x3ff;
    match (exponent, fraction) {
        (0, 0) => sign,
        // Subnormal: fraction · 2^-24 with its leading bit at position `top`, normal as an f32.
        (0, _) => {
            let top = 31 - fraction.leading_zeros();
            sign | ((127 - 24 + top) << 23) | ((fraction << (23 - top)) & 0x7f_ffff)
        }
        (0x1f, _) => sign | 0x7f80_0000 | (fraction << 13),
        _ => sign | ((exponent + 127 - 15) << 23) | (fraction << 13),
    }
}

/// The bits of the f32 that equals the bf16 with these bits: its upper half.
pub(crate) fn f32_bits_of_bf16(bits: u16) -> u32 {
    u32::from(bits) << 16
}

/// Whether the f32 with these bits is a number: neither infinite nor NaN.
pub(crate) fn is_finite(bits: u32) -> bool {
    bits & 0x7f80_0000 != 0x7f80_0000
}

/// The magnitude of a finite f32 as an integer that orders like it: its bits without the sign.
pub(crate) fn magnitude(bits: u32) -> u32 {
    bits & 0x7fff_ffff
}

impl Dyadic {
    /// The number with these f32 bits, which must be finite ([`is_finite`]).
    pub(crate) fn from_f32_bits(bits: u32) -> Self {
        debug_assert!(is_finite(bits));
        let field = ((bits >> 23) & 0xff).cast_signed();
        let fraction = bits & 0x7f_ffff;
        let (mantissa, exponent) = if field == 0 { (fraction, -149) } else { (fraction | 0x80_0000, field - 150) };
        Self { negative: bits >> 31 == 1, mantissa, exponent }
    }

    /// Mantissa and exponent of the magnitude.
    pub(crate) fn parts(self) -> (u32, i32) {
        (self.mantissa, self.exponent)
    }

    /// Below zero, or the float's negative zero.
    pub(crate) fn is_negative(self) -> bool {
        self.negative
    }

    /// `x · 2^fraction_bits` to the nearest integer, ties away from zero; `None` where that is past 2^31 - 1 in magnitude.
    ///
    /// ROUNDING: half away from zero.
    pub(crate) fn to_fixed(self, fraction_bits: u32) -> Option<i32> {
        let magnitude = self.scaled_divided(fraction_bits.cast_signed(), 1, Direction::HalfAway);
        let magnitude = i32::try_from(magnitude).ok()?;
        Some(if self.negative { -magnitude } else { magnitude })
    }

    /// `(1 + x) · 2^fraction_bits` to the nearest integer, ties away from zero; `None` where that is past 2^31 - 1 in magnitude.
    ///
    /// ROUNDING: half away from zero, of the sum.
    pub(crate) fn to_fixed_of_one_more(self, fraction_bits: u32) -> Option<i32> {
        let one = 1i64 << fraction_bits;
        let magnitude = |direction| i64::try_from(self.scaled_divided(fraction_bits.cast_signed(), 1, direction)).ok();
        let away = magnitude(Direction::HalfAway)?;
        // Below zero, ties of x go up as long as the sum does not fall below zero.
        let toward = magnitude(Direction::HalfToward)?;
        let sum = match self.negative {
            false => one + away,
            true if toward < one => one - toward,
            true => one - away,
        };
        i32::try_from(sum).ok().filter(|sum| *sum != i32::MIN)
    }

    /// The smallest integer not below `|x| · 2^shift / divisor`; `u64::MAX` where it is past 2^47.
    ///
    /// ROUNDING: up.
    pub(crate) fn magnitude_ceil(self, shift: i32, divisor: u64) -> u64 {
        self.scaled_divided(shift, divisor, Direction::Up)
    }

    /// The integer nearest to `|x| · 2^shift / divisor`, ties up (away from zero, for the number itself); `u64::MAX` where it is past 2^47.
    ///
    /// ROUNDING: half away from zero.
    pub(crate) fn magnitude_nearest(self, shift: i32, divisor: u64) -> u64 {
        self.scaled_divided(shift, divisor, Direction::HalfAway)
    }

    /// `mantissa · 2^(exponent + shift) / divisor`, for a divisor of at most 32 bits.
    fn scaled_divided(self, shift: i32, divisor: u64, direction: Direction) -> u64 {
        debug_assert!(divisor > 0 && divisor < 1 << 32);
        let mantissa = u64::from(self.mantissa);
        let power = self.exponent + shift;
        if mantissa == 0 {
            return 0;
        }
        // What fits 64 bits, as nearly everything does: twice 2^61, and twice 2^58.
        let small = match power {
            0..=37 => Some((mantissa << power, divisor)),
            -26..0 => Some((mantissa, divisor << -power)),
            _ => None,
        };
        if let Some((numerator, denominator)) = small {
            let quotient = match direction {
                Direction::Up => numerator.div_ceil(denominator),
                Direction::HalfAway => (2 * numerator + denominator) / (2 * denominator),
                Direction::HalfToward => (2 * numerator + denominator - 1) / (2 * denominator),
            };
            return if quotient <= 1 << 47 { quotient } else { u64::MAX };
        }
        // The mantissa is below 2^24: past 2^79 the quotient by 32 bits is past 2^47; below 2^-26 it is under a half.
        let (numerator, denominator) = match power {
            80.. => return u64::MAX,
            0..80 => (u128::from(mantissa) << power, u128::from(divisor)),
            _ => return u64::from(direction == Direction::Up),
        };
        let quotient = match direction {
            Direction::Up => numerator.div_ceil(denominator),
            Direction::HalfAway => (2 * numerator + denominator) / (2 * denominator),
            Direction::HalfToward => (2 * numerator + denominator - 1) / (2 * denominator),
        };
        match u64::try_from(quotient) {
            Ok(quotient) if quotient <= 1 << 47 => quotient,
            _ => u64::MAX,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    HalfAway,
    HalfToward,
}

/// The smallest integer not below sqrt(x).
pub(crate) fn sqrt_ceil(x: u128) -> u128 {
    let root = x.isqrt();
    // root^2 <= x < 2^128, so the product does not overflow.
    if root * root == x { root } else { root + 1 }
}

#[cfg(test)]
mod tests {
    use num_bigint::BigInt;
    use proptest::prelude::*;

    use super::*;

    /// |x| · 2^149 of a finite f32: an integer. Computed from the definition of the format, not from [`Dyadic`].
    fn scaled(bits: u32) -> BigInt {
        let exponent = (bits >> 23) & 0xff;
        let fraction = BigInt::from(bits & 0x7f_ffff);
        if exponent == 0 { fraction } else { (fraction + (1u32 << 23)) << (exponent - 1) }
    }

    fn finite() -> impl Strategy<Value = u32> {
        any::<u32>().prop_filter("finite", |bits| is_finite(*bits))
    }

    proptest! {
        #[test]
        fn fixed_point_is_the_nearest_integer_with_ties_away_from_zero(bits in finite(), moderate in -200_000.0f32..200_000.0) {
            for bits in [bits, moderate.to_bits(), (moderate / 65_536.0).to_bits()] {
                let numerator: BigInt = scaled(bits) << 14;
                let one: BigInt = BigInt::from(1) << 149;
                let nearest: BigInt = (numerator * 2 + &one) / (one * 2);
                let expected = i32::try_from(nearest).ok().map(|n| if bits >> 31 == 1 { -n } else { n });
                prop_assert_eq!(Dyadic::from_f32_bits(bits).to_fixed(14), expected);
            }
        }

        #[test]
        fn one_more_in_fixed_point_is_the_nearest_integer_with_ties_away_from_zero(bits in finite(), small in -3.0f32..3.0, tie in -40_000i32..40_000) {
            let tie = f64::from(2 * tie + 1) / 32_768.0;
            for bits in [bits, small.to_bits(), (tie as f32).to_bits()] {
                let one: BigInt = BigInt::from(1) << 149;
                let signed = if bits >> 31 == 1 { -scaled(bits) } else { scaled(bits) };
                let sum: BigInt = (signed + &one) << 14;
                let magnitude = BigInt::from(sum.magnitude().clone());
                let nearest: BigInt = (magnitude * 2 + &one) / (&one * 2);
                let expected = i32::try_from(nearest).ok().map(|n| if sum < BigInt::ZERO { -n } else { n });
                prop_assert_eq!(Dyadic::from_f32_bits(bits).to_fixed_of_one_more(14), expected, "{}", f32::from_bits(bits));
            }
        }

        #[test]
        fn quotients_are_those_of_the_rationals(bits in finite(), shift in 0i32..80, divisor in 1u64..1 << 32) {
            let x = Dyadic::from_f32_bits(bits);
            let numerator: BigInt = scaled(bits) << shift;
            let denominator = BigInt::from(divisor) << 149;
            let limit = BigInt::from(1u64 << 47);
            let capped = |quotient: BigInt| if quotient > limit { u64::MAX } else { u64::try_from(quotient).unwrap_or(u64::MAX) };
            let up: BigInt = (&numerator + &denominator - 1) / &denominator;
            let nearest: BigInt = (&numerator * 2 + &denominator) / (&denominator * 2);
            prop_assert_eq!(x.magnitude_ceil(shift, divisor), capped(up));
            prop_assert_eq!(x.magnitude_nearest(shift, divisor), capped(nearest));
        }

        #[test]
        fn sqrt_ceil_is_the_least_integer_not_below(x in any::<u128>()) {
            let root = sqrt_ceil(x);
            prop_assert!(BigInt::from(root) * root >= BigInt::from(x));
            prop_assert!(root == 0 || BigInt::from(root - 1) * (root - 1) < BigInt::from(x));
        }
    }

    #[test]
    fn ties_go_away_from_zero() {
        let fixed = |x: f32| Dyadic::from_f32_bits(x.to_bits()).to_fixed(14);
        let unit = 1.0 / 16_384.0;
        assert_eq!(fixed(0.5 * unit), Some(1));
        assert_eq!(fixed(-0.5 * unit), Some(-1));
        assert_eq!(fixed(1.5 * unit), Some(2));
        assert_eq!(fixed(-2.5 * unit), Some(-3));
        assert_eq!(fixed(0.499_999_97 * unit), Some(0));
        assert_eq!(fixed(-0.0), Some(0));
        assert_eq!(fixed(f32::from_bits(1)), Some(0));
        assert_eq!(fixed(131_071.99), Some(131_071 * 16_384 + 16_256));
        assert_eq!(fixed(131_072.0), None);
        assert_eq!(fixed(-131_072.0), None);
        assert_eq!(fixed(f32::MAX), None);
    }

    #[test]
    fn every_f16_becomes_the_f32_of_the_same_value() {
        for bits in 0..=u16::MAX {
            let (exponent, fraction) = ((bits >> 10) & 0x1f, bits & 0x3ff);
            let wide = f32_bits_of_f16(bits);
            assert_eq!(wide >> 31, u32::from(bits >> 15), "sign of {bits:#06x}");
            if exponent == 0x1f {
                assert!(!is_finite(wide), "{bits:#06x}");
                continue;
            }
            // |x| · 2^24 is an integer below 2^41 for every finite f16, and f64 holds those.
            let scaled = if exponent == 0 { u64::from(fraction) } else { (1024 + u64::from(fraction)) << (exponent - 1) };
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let expected = scaled as f64 / f64::from(1 << 24);
            assert_eq!(f64::from(f32::from_bits(wide)).abs().to_bits(), expected.to_bits(), "{bits:#06x}");
        }
    }

    #[test]
    fn bf16_is_the_upper_half_of_an_f32() {
        assert_eq!(f32_bits_of_bf16(0x3f80), 1f32.to_bits());
        assert_eq!(f32_bits_of_bf16(0xc2f7), (-123.5f32).to_bits());
        assert!(!is_finite(f32_bits_of_bf16(0x7f80)));
        assert!(!is_finite(f32_bits_of_bf16(0x7fc0)));
    }
}
