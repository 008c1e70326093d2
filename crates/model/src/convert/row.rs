//! One row of a matrix: from floats to int8 in groups, with a 16-bit mantissa per group and one shift per row.
//!
//! The rule is docs/EXACT.md, "Conversion": anybody who follows it gets the same bytes.

use quern_exact::bounds::{GROUP, ROW_SHIFT_MAX, ROW_SHIFT_MIN};

use super::number::{Dyadic, magnitude};

/// The shifts a row may have.
const SHIFTS: std::ops::RangeInclusive<u8> = ROW_SHIFT_MIN..=ROW_SHIFT_MAX;
/// The largest magnitude of an int8 weight; -128 is malformed.
const WEIGHT_MAX: u64 = 127;
/// Mantissas that are tried where some channels weigh more than others: m + floor(m · j / 256) for j below this.
const CANDIDATES: u32 = 16;
/// Bits below a row's unit in which the error of a candidate is measured.
const ERROR_BITS: u32 = 8;

/// A row of the profile q8a16: weight i is `weights[i] · mantissas[i / 128] · 2^-shift`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Q8Row {
    pub(crate) shift: u8,
    pub(crate) mantissas: Vec<u16>,
    pub(crate) weights: Vec<i8>,
}

/// A weight past what the profile can hold: `127 · 65535 · 2^-17`, about 63.5. `index` is its position in the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WeightTooLarge {
    pub(crate) index: usize,
}

/// Converts a row of finite f32, given as their bits.
///
/// With a_g the largest magnitude of group g: the shift is the smallest t from 17 to 62 for which the largest of ceil(a_g · 2^t / 127)
/// has 16 bits, 62 where there is none; the mantissa of g is max(1, ceil(a_g · 2^t / 127)); a weight is x · 2^t / m_g rounded to
/// nearest, ties away from zero. A row of which nothing is left is shift 17, mantissas 1.
///
/// With `importance`, one number per element, the mantissa of each group is instead the one of 16 from that one up to 6 % above it whose
/// error, squared and weighted, is least.
///
/// ROUNDING: mantissas up, so that no weight passes 127; weights half away from zero.
pub(crate) fn quantize_row(row: &[u32], importance: Option<&[u128]>) -> Result<Q8Row, WeightTooLarge> {
    let largest: Vec<Dyadic> = row.chunks(GROUP).map(largest_magnitude).collect();
    let row_largest = Dyadic::from_f32_bits(row.iter().map(|bits| magnitude(*bits)).max().unwrap_or(0));

    let shift = SHIFTS.clone().find(|t| row_largest.magnitude_ceil(i32::from(*t), WEIGHT_MAX) >= 1 << 15).unwrap_or(*SHIFTS.end());
    let power = i32::from(shift);

    let mut mantissas = Vec::with_capacity(largest.len());
    for (g, group_largest) in largest.iter().enumerate() {
        let Ok(mantissa) = u16::try_from(group_largest.magnitude_ceil(power, WEIGHT_MAX)) else {
            let group = &row[g * GROUP..row.len().min((g + 1) * GROUP)];
            let at = (0..group.len()).max_by_key(|i| (magnitude(group[*i]), std::cmp::Reverse(*i))).unwrap_or(0);
            return Err(WeightTooLarge { index: g * GROUP + at });
        };
        mantissas.push(mantissa.max(1));
    }
    if let Some(importance) = importance {
        for ((mantissa, group), importance) in mantissas.iter_mut().zip(row.chunks(GROUP)).zip(importance.chunks(GROUP)) {
            *mantissa = best_mantissa(*mantissa, group, importance, power);
        }
    }

    let weights: Vec<i8> = row.iter().enumerate().map(|(i, bits)| weight(*bits, power, mantissas[i / GROUP])).collect();
    if weights.iter().all(|w| *w == 0) {
        return Ok(Q8Row { shift: *SHIFTS.start(), mantissas: vec![1; mantissas.len()], weights });
    }
    Ok(Q8Row { shift, mantissas, weights })
}

fn largest_magnitude(group: &[u32]) -> Dyadic {
    Dyadic::from_f32_bits(group.iter().map(|bits| magnitude(*bits)).max().unwrap_or(0))
}

/// Of the candidates from `least` on, the one with the least sum of h · (X - w · m · 2^8)², the smallest among equals: X = |x| · 2^(t + 8)
/// and w = X / (m · 2^8), both to nearest, ties up.
///
/// Widths: X <= 127 · 65535 · 2^8 + 1 < 2^31 + 1, the difference is at most half of m · 2^8, below 2^23, and h < 2^66 (16 squares of 31 bits):
/// 128 terms below 2^(46 + 66) make less than 2^119.
fn best_mantissa(least: u16, group: &[u32], importance: &[u128], power: i32) -> u16 {
    let scaled: Vec<u64> =
        group.iter().map(|bits| Dyadic::from_f32_bits(*bits).magnitude_nearest(power + ERROR_BITS.cast_signed(), 1)).collect();
    let error = |mantissa: u16| -> u128 {
        let step = u64::from(mantissa) << ERROR_BITS;
        let one = |(x, h): (&u64, &u128)| {
            let nearest = (2 * x + step) / (2 * step) * step;
            h * u128::from(x.abs_diff(nearest).pow(2))
        };
        scaled.iter().zip(importance).map(one).sum()
    };
    let candidates = (0..CANDIDATES).map_while(|j| u16::try_from(u32::from(least) + ((u32::from(least) * j) >> 8)).ok());
    candidates.min_by_key(|mantissa| error(*mantissa)).unwrap_or(least)
}

fn weight(bits: u32, power: i32, mantissa: u16) -> i8 {
    let x = Dyadic::from_f32_bits(bits);
    let nearest = x.magnitude_nearest(power, u64::from(mantissa));
    // INVARIANT: m_g >= |x| · 2^t / 127, so the quotient is at most 127 and rounds to at most 127.
    debug_assert!(nearest <= WEIGHT_MAX);
    let magnitude = i8::try_from(nearest).unwrap_or(i8::MAX);
    if x.is_negative() { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use num_bigint::{BigInt, Sign};
    use proptest::prelude::*;

    use super::*;

    /// The value of a finite f32 times 2^149, as an integer, from the definition of the format.
    fn scaled(bits: u32) -> BigInt {
        let exponent = (bits >> 23) & 0xff;
        let fraction = BigInt::from(bits & 0x7f_ffff);
        let magnitude = if exponent == 0 { fraction } else { (fraction + (1u32 << 23)) << (exponent - 1) };
        if bits >> 31 == 1 { -magnitude } else { magnitude }
    }

    fn magnitude_of(x: &BigInt) -> BigInt {
        BigInt::from_biguint(Sign::Plus, x.magnitude().clone())
    }

    /// docs/EXACT.md, section 7, word for word in rationals.
    fn by_the_page(row: &[u32], importance: Option<&[u128]>) -> Option<Q8Row> {
        let one: BigInt = BigInt::from(1) << 149;
        let values: Vec<BigInt> = row.iter().map(|bits| scaled(*bits)).collect();
        let ceil = |a: &BigInt, t: u32| -> BigInt {
            let denominator = &one * 127;
            ((a << t) + &denominator - 1) / denominator
        };
        let largest: Vec<BigInt> = values.chunks(128).map(|group| group.iter().map(magnitude_of).max().unwrap_or_default()).collect();
        let fits = |t: &u32| largest.iter().map(|a| ceil(a, *t)).max().unwrap_or_default() >= BigInt::from(1 << 15);
        let t = (17..=62).find(fits).unwrap_or(62);
        let mut mantissas: Vec<u16> = largest.iter().map(|a| u16::try_from(ceil(a, t).max(BigInt::from(1))).ok()).collect::<Option<_>>()?;
        for (g, m) in mantissas.iter_mut().enumerate().filter(|_| importance.is_some()) {
            let group = g * 128..values.len().min((g + 1) * 128);
            let error = |m: u16| -> BigInt {
                let term = |k: usize| {
                    let half = |n: BigInt, d: &BigInt| -> BigInt { (n * 2 + d) / (d * 2) };
                    let x = half(magnitude_of(&values[k]) << (t + 8), &one);
                    let step = BigInt::from(m) * 256;
                    let off: BigInt = &x - half(x.clone(), &step) * &step;
                    BigInt::from(importance.expect("filtered")[k]) * &off * off
                };
                group.clone().map(term).sum()
            };
            let first = u32::from(*m);
            let candidates: Vec<u16> = (0..16).map(|j| first + first * j / 256).filter_map(|m| u16::try_from(m).ok()).collect();
            let least = candidates.iter().map(|m| error(*m)).min().expect("at least the first");
            *m = *candidates.iter().find(|m| error(**m) == least).expect("one of them");
        }
        let weights: Vec<i8> = values
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let denominator: BigInt = &one * mantissas[i / 128];
                let nearest: BigInt = ((magnitude_of(x) << t) * 2 + &denominator) / (denominator * 2);
                let nearest = i8::try_from(nearest).expect("at most 127");
                if x.sign() == Sign::Minus { -nearest } else { nearest }
            })
            .collect();
        if weights.iter().all(|w| *w == 0) {
            return Some(Q8Row { shift: 17, mantissas: vec![1; mantissas.len()], weights });
        }
        Some(Q8Row { shift: u8::try_from(t).expect("at most 62"), mantissas, weights })
    }

    /// Rows as models have them, and rows of numbers of every size, up to three groups with a ragged last one.
    fn rows() -> impl Strategy<Value = Vec<u32>> {
        let ordinary = (-1.0f32..1.0).prop_map(f32::to_bits);
        let any_size = any::<u32>().prop_filter("finite", |bits| magnitude(*bits) < 0x7f80_0000);
        let small = (any::<bool>(), 0u32..0x4280_0000).prop_map(|(negative, bits)| u32::from(negative) << 31 | bits);
        let tiny = (0u32..0x2d80_0000).prop_map(|bits| bits);
        let element = prop_oneof![8 => ordinary, 1 => small.clone(), 1 => Just(0u32), 1 => Just(0x8000_0000)];
        prop_oneof![
            6 => prop::collection::vec(element, 1..300),
            2 => prop::collection::vec(small, 1..300),
            1 => prop::collection::vec(tiny, 1..140),
            1 => prop::collection::vec(any_size, 1..140),
        ]
    }

    proptest! {
        #[test]
        fn a_row_is_converted_as_the_page_says(row in rows(), seed in any::<u64>(), weighted in any::<bool>()) {
            // A few channels that weigh far more than the others, up to the largest weight there is.
            let weigh = |k: u64| u128::from(seed.rotate_left(7 * u32::try_from(k % 64).expect("below 64")) >> 20) << (if k % 31 == 3 { 22 } else { 0 });
            let importance: Vec<u128> = (0..row.len() as u64).map(weigh).collect();
            let importance = weighted.then_some(&importance[..]);
            let expected = by_the_page(&row, importance);
            match quantize_row(&row, importance) {
                Ok(found) => {
                    prop_assert!(found.weights.iter().all(|w| *w != i8::MIN));
                    prop_assert_eq!(Some(found), expected);
                }
                Err(WeightTooLarge { index }) => {
                    prop_assert_eq!(expected, None);
                    // The refusal names a weight that is too large: above 127 · 65535 · 2^-17.
                    prop_assert!(magnitude(row[index]) > 63.498f32.to_bits(), "{}", f32::from_bits(row[index]));
                }
            }
        }

        /// What the profile promises: no weight is off by more than half a step of its group.
        #[test]
        fn a_weight_is_off_by_at_most_half_a_step(row in rows()) {
            let Ok(found) = quantize_row(&row, Some(&vec![(1 << 66) - 1; row.len()])) else { return Ok(()) };
            for (i, bits) in row.iter().enumerate() {
                // In units of 2^-149 · 2^-shift.
                let exact = scaled(*bits) << found.shift;
                let step: BigInt = BigInt::from(found.mantissas[i / GROUP]) << 149;
                let error = magnitude_of(&(&step * found.weights[i] - exact));
                let zeroed = found.weights.iter().all(|w| *w == 0);
                prop_assert!(zeroed || error * 2 <= step, "element {}", i);
            }
        }
    }

    #[test]
    fn the_edges_of_the_rule() {
        let row = |values: &[f32]| quantize_row(&values.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), None);
        let zero = Q8Row { shift: 17, mantissas: vec![1], weights: vec![0, 0] };
        assert_eq!(row(&[0.0, -0.0]), Ok(zero.clone()));
        // Too small for the largest shift: 2^-64 is a quarter of 2^-62.
        assert_eq!(row(&[2f32.powi(-64), 0.0]), Ok(zero));
        // Half of 2^-62 rounds away from zero, and the shift is the largest.
        assert_eq!(row(&[2f32.powi(-63), 0.0]), Ok(Q8Row { shift: 62, mantissas: vec![1], weights: vec![1, 0] }));
        // The largest weight there is: 127 · 65535 · 2^-17 = 63.49903106689453.
        assert_eq!(row(&[-63.499_03, 0.0]).map(|row| (row.shift, row.mantissas, row.weights)), Ok((17, vec![65_535], vec![-127, 0])));
        assert_eq!(row(&[1.0, 63.499_04]), Err(WeightTooLarge { index: 1 }));
        assert_eq!(row(&[f32::MAX]), Err(WeightTooLarge { index: 0 }));
        // One group decides the shift; one of zeros keeps mantissa 1.
        let mut two = vec![0.0; 129];
        two[128] = 1.0;
        let two = row(&two).expect("small weights");
        assert_eq!((two.shift, two.mantissas, two.weights[128]), (22, vec![1, 33_027], 127));
    }

    #[test]
    fn a_channel_that_weighs_more_gets_the_smaller_error() {
        let mut generator = 1u32;
        let mut next = || {
            generator = generator.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(generator >> 17).expect("15 bits")) / 32_768.0 - 0.5
        };
        let (mut plain_error, mut weighted_error) = (0.0, 0.0);
        for _ in 0..200 {
            let row: Vec<f32> = (0..128).map(|_| next()).collect();
            let bits: Vec<u32> = row.iter().map(|x| x.to_bits()).collect();
            let mut importance = vec![1; 128];
            importance[77] = 1000;
            let off = |found: Q8Row| {
                let value = f64::from(found.weights[77]) * f64::from(found.mantissas[0]) / 2f64.powi(i32::from(found.shift));
                (value - f64::from(row[77])).abs()
            };
            plain_error += off(quantize_row(&bits, None).expect("small weights"));
            weighted_error += off(quantize_row(&bits, Some(&importance)).expect("small weights"));
        }
        assert!(weighted_error < 0.4 * plain_error, "{weighted_error} against {plain_error}");
    }
}
