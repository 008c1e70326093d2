//! The tables of the rotation: cosines and sines of position times frequency in Q30, each the integer nearest to the real number.
//!
//! Frequencies, and the cosine and sine of each for one position, are computed in fixed point with [`BITS`] fraction bits and an error that
//! is far below 2^-[`BASE_BITS`]. The following positions come by turning on, in [`STEP_BITS`] fraction bits, which adds at most 5 units
//! per position. An entry whose distance from a rounding tie is not more than the error that it can have is not rounded but reported, so every
//! entry that there is is proven. (2^77 entries would be needed to expect one that is not.)

use num_bigint::{BigInt, BigUint};
use quern_exact::format::TableI32;

use super::{constants::Decimal, number::Dyadic};
use crate::source::{Rope, Scaling};

/// Fraction bits of the series.
const BITS: u32 = 320;
/// Every number of the series is at least this exact, in fraction bits: they have fewer than 2^12 operations behind them, each off by at most one unit
/// of 2^-320 and none magnified by more than 2^60 (a logarithm times a power below 2^6, a quotient by a number above 2^-60).
#[cfg(test)]
const BASE_BITS: u32 = 240;
/// Fraction bits of turning on; a cosine is at most 1, so it fits int128.
const STEP_BITS: u32 = 126;
/// Fraction bits of the table.
const TABLE_BITS: u32 = 30;

/// Cosines and sines for the positions of a context, rows of rotary dims / 2. `None` if an entry is too near to a tie to be proven.
pub(crate) fn rotary_tables(rope: &Rope, rotary_dims: u32, context: u32) -> Option<(TableI32, TableI32)> {
    let (rows, width) = (context as usize, rotary_dims as usize / 2);
    let (mut cos, mut sin) = (vec![0; rows * width], vec![0; rows * width]);
    let frequencies = Series::new(BITS).frequencies(rope, rotary_dims);
    for (column, (step_cos, step_sin)) in frequencies.into_iter().enumerate() {
        let (mut c, mut s) = (1i128 << STEP_BITS, 0i128);
        for position in 0..rows {
            let error = 5 * position as u128 + 1;
            cos[position * width + column] = rounded(c, error)?;
            sin[position * width + column] = rounded(s, error)?;
            (c, s) = (product(c, step_cos) - product(s, step_sin), product(s, step_cos) + product(c, step_sin));
        }
    }
    Some((TableI32::new(rows, width, cos).ok()?, TableI32::new(rows, width, sin).ok()?))
}

/// a · b in [`STEP_BITS`] fraction bits, toward zero: off by less than one unit. The product is below 2 in magnitude.
///
/// ROUNDING: toward zero.
fn product(a: i128, b: i128) -> i128 {
    let (x, y) = (a.unsigned_abs(), b.unsigned_abs());
    let mask = u128::from(u64::MAX);
    let (low, high) = ((x & mask) * (y & mask), (x >> 64) * (y >> 64));
    // Magnitudes are at most about 2^126: no high half has more than 63 bits.
    let (left, right) = ((x >> 64) * (y & mask), (x & mask) * (y >> 64));
    let middle = (low >> 64) + (left & mask) + (right & mask);
    let high = high + (left >> 64) + (right >> 64) + (middle >> 64);
    let low = (middle << 64) | (low & mask);
    let magnitude = ((high << (128 - STEP_BITS)) | (low >> STEP_BITS)).cast_signed();
    if (a < 0) == (b < 0) { magnitude } else { -magnitude }
}

/// The integer in Q30 nearest to a number that is off by at most `error` units of 2^-126; `None` if it could be another one.
fn rounded(x: i128, error: u128) -> Option<i32> {
    const SHIFT: u32 = STEP_BITS - TABLE_BITS;
    let shifted = x + (1 << (SHIFT - 1));
    let rest = shifted.cast_unsigned() & ((1 << SHIFT) - 1);
    let proven = rest >= error && rest + error < 1 << SHIFT;
    proven.then(|| i32::try_from(shifted >> SHIFT).ok()).flatten()
}

/// Fixed-point arithmetic with a number of fraction bits; every operation rounds down.
struct Series {
    bits: u32,
    one: BigInt,
}

impl Series {
    fn new(bits: u32) -> Self {
        Self { bits, one: BigInt::from(1) << bits }
    }

    /// Cosine and sine of each frequency, in [`STEP_BITS`] fraction bits: below one unit off.
    fn frequencies(&self, rope: &Rope, rotary_dims: u32) -> Vec<(i128, i128)> {
        self.angles(rope, rotary_dims)
            .iter()
            .map(|angle| {
                let down = |x: BigInt| i128::try_from(x >> (self.bits - STEP_BITS)).unwrap_or(0);
                (down(self.cos(angle)), down(self.sin(angle)))
            })
            .collect()
    }

    /// theta^(-2i / dims), scaled: each from 0 to 1.
    fn angles(&self, rope: &Rope, rotary_dims: u32) -> Vec<BigInt> {
        let logarithm = self.ln(&self.decimal(rope.theta));
        let plain = (0..rotary_dims / 2).map(|i| self.exp_negative(&(&logarithm * (2 * i) / rotary_dims)));
        match &rope.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|angle| self.quotient(&angle, &self.decimal(*factor))).collect(),
            Scaling::Llama3 { factor, low, high, original } => {
                let [factor, low, high] = [factor, low, high].map(|decimal| self.decimal(*decimal));
                let turn = self.pi() * 2;
                let scale = |angle: BigInt| {
                    // How often the wave turns within the original context.
                    let turns = self.quotient(&(&angle * *original), &turn);
                    let slow = self.quotient(&angle, &factor);
                    if turns < low {
                        slow
                    } else if turns > high {
                        angle
                    } else {
                        let mix = self.quotient(&(turns - &low), &(&high - &low));
                        self.times(&(&self.one - &mix), &slow) + self.times(&mix, &angle)
                    }
                };
                plain.map(scale).collect()
            }
            Scaling::Divisors(divisors) => {
                let divisor = |bits: &u32| self.dyadic(Dyadic::from_f32_bits(*bits));
                plain.zip(divisors).map(|(angle, bits)| self.quotient(&angle, &divisor(bits))).collect()
            }
        }
    }

    fn times(&self, a: &BigInt, b: &BigInt) -> BigInt {
        (a * b) >> self.bits
    }

    /// For b > 0.
    fn quotient(&self, a: &BigInt, b: &BigInt) -> BigInt {
        (a << self.bits) / b
    }

    fn decimal(&self, decimal: Decimal) -> BigInt {
        let (numerator, denominator) = decimal.fraction();
        (BigInt::from(numerator) << self.bits) / BigInt::from(denominator)
    }

    /// At least 2^-149, of which a series has more bits than that.
    fn dyadic(&self, dyadic: Dyadic) -> BigInt {
        let (mantissa, exponent) = dyadic.parts();
        let shift = self.bits.cast_signed() + exponent;
        BigInt::from(BigUint::from(mantissa) << u32::try_from(shift).unwrap_or(0))
    }

    /// atanh(1 / x) for a fraction 1 / x = a / b of at most 1/3: sum of (a/b)^(2n + 1) / (2n + 1).
    fn atanh(&self, x: &BigInt) -> BigInt {
        let square = self.times(x, x);
        let (mut power, mut sum, mut n) = (x.clone(), BigInt::ZERO, 1u32);
        while power != BigInt::ZERO {
            sum += &power / n;
            power = self.times(&power, &square);
            n += 2;
        }
        sum
    }

    fn ln2(&self) -> BigInt {
        self.atanh(&(&self.one / 3)) * 2
    }

    /// For x >= 1: x = 2^k · y with y from 1 to below 2, ln y = 2 atanh((y - 1) / (y + 1)).
    fn ln(&self, x: &BigInt) -> BigInt {
        let k = x.bits().saturating_sub(u64::from(self.bits) + 1);
        let y = x >> k;
        let fraction = self.quotient(&(&y - &self.one), &(&y + &self.one));
        self.ln2() * k + self.atanh(&fraction) * 2
    }

    /// e^-z for z >= 0: 2^-k · e^-r with r below ln 2.
    fn exp_negative(&self, z: &BigInt) -> BigInt {
        let ln2 = self.ln2();
        let k = z / &ln2;
        let r = z - &k * &ln2;
        let (mut term, mut sum, mut n) = (self.one.clone(), BigInt::ZERO, 1u32);
        while term.magnitude() > BigInt::from(1).magnitude() {
            sum += &term;
            term = -self.times(&term, &r) / n;
            n += 1;
        }
        sum >> u64::try_from(k).unwrap_or(u64::MAX).min(u64::from(self.bits))
    }

    /// Machin: pi = 16 atan(1/5) - 4 atan(1/239).
    fn pi(&self) -> BigInt {
        let atan = |x: u32| {
            let (mut power, mut sum, mut n) = (&self.one / x, BigInt::ZERO, 1u32);
            while power != BigInt::ZERO {
                let term = &power / n;
                if n % 4 == 1 {
                    sum += term;
                } else {
                    sum -= term;
                }
                power /= x * x;
                n += 2;
            }
            sum
        };
        atan(5) * 16 - atan(239) * 4
    }

    fn cos(&self, x: &BigInt) -> BigInt {
        self.alternating(self.one.clone(), 1, x)
    }

    fn sin(&self, x: &BigInt) -> BigInt {
        self.alternating(x.clone(), 2, x)
    }

    /// first - first · x² / (n (n + 1)) + ..., for x from 0 to 1.
    fn alternating(&self, first: BigInt, mut n: u32, x: &BigInt) -> BigInt {
        let square = self.times(x, x);
        let (mut term, mut sum) = (first, BigInt::ZERO);
        while term.magnitude() > BigInt::from(1).magnitude() {
            sum += &term;
            term = -self.times(&term, &square) / (n * (n + 1));
            n += 2;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: &str, scaling: Scaling) -> Rope {
        Rope { theta: decimal(theta), scaling }
    }

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).expect("a decimal")
    }

    fn llama3(factor: &str) -> Scaling {
        Scaling::Llama3 { factor: decimal(factor), low: decimal("1.0"), high: decimal("4.0"), original: 8192 }
    }

    fn all() -> Vec<(Rope, u32)> {
        let divisors = (0..32u8).map(|i| (1.0 + f32::from(i) / 7.0).to_bits()).collect();
        vec![
            (rope("10000.0", Scaling::None), 64),
            (rope("500000.0", llama3("32.0")), 64),
            (rope("500000.0", llama3("8.0")), 128),
            (rope("1000000", Scaling::None), 128),
            (rope("100000", Scaling::Linear { factor: decimal("2.5") }), 12),
            (rope("1", Scaling::None), 4),
            (rope("10000", Scaling::Divisors(divisors)), 64),
        ]
    }

    /// f64 is a second opinion with about 2^-40 at these angles.
    #[test]
    fn tables_are_the_cosines_and_sines_of_the_formula() {
        for (rope, dims) in all() {
            let number = |decimal: Decimal| decimal.fraction().0 as f64 / decimal.fraction().1 as f64;
            let (cos, sin) = rotary_tables(&rope, dims, 9000).expect("proven entries");
            for i in 0..dims / 2 {
                let plain = number(rope.theta).powf(-2.0 * f64::from(i) / f64::from(dims));
                let angle = match &rope.scaling {
                    Scaling::None => plain,
                    Scaling::Linear { factor } => plain / number(*factor),
                    Scaling::Divisors(divisors) => plain / f64::from(f32::from_bits(divisors[i as usize])),
                    Scaling::Llama3 { factor, low, high, original } => {
                        // As transformers' `_compute_llama3_parameters` has it, in wave lengths.
                        let (factor, low, high, length) = (number(*factor), number(*low), number(*high), f64::from(*original));
                        let wave = 2.0 * std::f64::consts::PI / plain;
                        if wave < length / high {
                            plain
                        } else if wave > length / low {
                            plain / factor
                        } else {
                            let smooth = (length / wave - low) / (high - low);
                            (1.0 - smooth) * plain / factor + smooth * plain
                        }
                    }
                };
                for position in (0..9000).step_by(37) {
                    let real = f64::from(position) * angle;
                    let found = [cos.row(position as usize), sin.row(position as usize)].map(|row| row.expect("a row")[i as usize]);
                    for (found, real) in found.into_iter().zip([real.cos(), real.sin()]) {
                        let off = f64::from(found) - real * f64::from(1 << 30);
                        assert!(off.abs() < 0.51, "{rope:?}, dim {i}, position {position}: off by {off}");
                    }
                }
            }
        }
    }

    /// The series are as exact as the page says: one with 160 bits more agrees with them.
    #[test]
    fn series_are_off_by_less_than_the_base_bits() {
        let (here, finer) = (Series::new(BITS), Series::new(BITS + 160));
        for (rope, dims) in all() {
            for (a, b) in here.angles(&rope, dims).iter().zip(finer.angles(&rope, dims)) {
                for (a, b) in [(a.clone(), b.clone()), (here.cos(a), finer.cos(&b)), (here.sin(a), finer.sin(&b))] {
                    let off = ((a << 160u32) - b) >> (BITS + 160 - BASE_BITS);
                    assert!(off == BigInt::ZERO || off == BigInt::from(-1), "{rope:?}: {off}");
                }
            }
        }
    }

    /// Turning on is as exact as the error that an entry is tested for: positions against the series of the whole angle.
    #[test]
    fn turning_on_stays_within_its_error() {
        let series = Series::new(BITS);
        for (rope, dims) in all() {
            for (angle, (step_cos, step_sin)) in series.angles(&rope, dims).iter().zip(series.frequencies(&rope, dims)).step_by(5) {
                let (mut c, mut s) = (1i128 << STEP_BITS, 0i128);
                let turn = series.pi() * 2;
                for position in 0..32_768u32 {
                    if position % 4099 == 0 || position == 32_767 {
                        // cos(8y) by three doublings, y below 1.
                        let rest: BigInt = angle * position % &turn;
                        let mut expected = series.cos(&(&rest / 8));
                        for _ in 0..3 {
                            expected = series.times(&expected, &expected) * 2 - &series.one;
                        }
                        let off: BigInt = (expected >> (BITS - STEP_BITS)) - BigInt::from(c);
                        assert!(*off.magnitude() <= BigUint::from(5 * position + 2), "{rope:?}, position {position}: {off}");
                    }
                    (c, s) = (product(c, step_cos) - product(s, step_sin), product(s, step_cos) + product(c, step_sin));
                }
            }
        }
    }

    #[test]
    fn products_are_those_of_the_integers() {
        let numbers = [0, 1, -1, (1 << 126) - 1, -(1 << 126), 1 << 126, 0x1234_5678_9abc_def0_0fed_cba9_8765_4321];
        for a in numbers {
            for b in numbers {
                let exact = BigInt::from(a) * BigInt::from(b);
                let shifted = exact.magnitude() >> STEP_BITS;
                if let Ok(expected) = i128::try_from(shifted) {
                    assert_eq!(product(a, b).unsigned_abs(), expected.unsigned_abs(), "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn an_entry_near_a_tie_is_not_rounded() {
        let tie = (5 << 96) + (1i128 << 95);
        assert_eq!(rounded(tie, 3), None);
        assert_eq!(rounded(tie - 2, 3), None);
        assert_eq!(rounded(tie + 3, 3), Some(6));
        assert_eq!(rounded(tie - 4, 3), Some(5));
        assert_eq!(rounded(-tie + 3, 3), Some(-5));
        assert_eq!(rounded(1 << 126, 1), Some(1 << 30));
    }
}
