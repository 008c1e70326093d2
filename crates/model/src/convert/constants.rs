//! The constants of the header, as integers.

/// log2(e) · 2^60, to the nearest integer.
const LOG2_E_Q60: u128 = 0x1715_4765_2b82_fe17;

/// The attention scale c = log2(e) / sqrt(head dim) in Q24: floor((isqrt(floor(4 · L² / (head dim · 2^72))) + 1) / 2) with L = log2(e) in Q60.
///
/// ROUNDING: to the nearest integer of the value that L gives.
pub(crate) fn attention_scale(head_dim: u32) -> u32 {
    // L < 2^61, so 4 · L² < 2^124. The result is at most log2(e) · 2^24 < 2^25.
    let square = 4 * LOG2_E_Q60 * LOG2_E_Q60 / (u128::from(head_dim.max(1)) << 72);
    u32::try_from(square.isqrt().div_ceil(2)).unwrap_or(u32::MAX)
}

/// The embedding scale S = sqrt(dim) in Q14: floor((isqrt(4 · dim · 2^28) + 1) / 2).
///
/// ROUNDING: to the nearest integer; there is no tie.
pub(crate) fn embedding_scale(dim: u32) -> u32 {
    // dim < 2^32: the root is below 2^31.
    u32::try_from((u64::from(dim) << 30).isqrt().div_ceil(2)).unwrap_or(u32::MAX)
}

/// A decimal number as it stands in a JSON file: `digits · 10^-places`, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    digits: u64,
    places: u32,
}

impl Decimal {
    /// Reads a JSON number from 0 to below 10^18, with at most 18 digits and at most 30 decimal places; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let places = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        let all = format!("{whole}{fraction}");
        if all.is_empty() || all.len() > 40 || !all.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let significant = all.trim_start_matches('0');
        let stripped = significant.trim_end_matches('0');
        if stripped.is_empty() {
            return Some(Self { digits: 0, places: 0 });
        }
        let places = places - i32::try_from(significant.len() - stripped.len()).ok()?;
        let length = i32::try_from(stripped.len()).ok()?;
        if !(-17..=30).contains(&places) || length.max(length - places) > 18 {
            return None;
        }
        let digits: u64 = stripped.parse().ok()?;
        match u32::try_from(places) {
            Ok(places) => Some(Self { digits, places }),
            // At most 18 digits in all.
            Err(_) => Some(Self { digits: digits * 10u64.pow(places.unsigned_abs()), places: 0 }),
        }
    }

    /// Whether it is below a whole number.
    pub(crate) fn is_below(self, limit: u32) -> bool {
        // At most 30 places: 10^30 · 2^32 < 2^132 does not fit, but digits end at 2^60.
        match 10u128.pow(self.places).checked_mul(u128::from(limit)) {
            Some(limit) => u128::from(self.digits) < limit,
            None => true,
        }
    }

    /// Whether it is less than another one; both are at least 1, so they have fewer than 18 places.
    pub(crate) fn is_less(self, other: Self) -> bool {
        let [a, b] = [self, other].map(|x| u128::from(x.digits));
        a.saturating_mul(10u128.pow(other.places)) < b.saturating_mul(10u128.pow(self.places))
    }

    /// A part of a whole number; `None` if that is no whole number.
    pub(crate) fn of(self, whole: u32) -> Option<u32> {
        let (product, denominator) = (u128::from(self.digits) * u128::from(whole), 10u128.pow(self.places));
        if product.is_multiple_of(denominator) { u32::try_from(product / denominator).ok() } else { None }
    }

    /// The number as a fraction: below 10^18 over a power of ten.
    pub(crate) fn fraction(self) -> (u64, u128) {
        (self.digits, 10u128.pow(self.places))
    }
}

impl From<u32> for Decimal {
    fn from(whole: u32) -> Self {
        Self { digits: u64::from(whole), places: 0 }
    }
}

/// E = eps · dim · 2^28, to the nearest integer: the variance floor of a norm, in the units of a sum of squares of Q14.
///
/// ROUNDING: to nearest; a tie would need 29 decimal digits.
pub(crate) fn norm_epsilon(eps: Decimal, dim: u32) -> u64 {
    // digits < 10^18 < 2^60, times 2^32 and 2^29: below 2^121. The result: below 10 · 2^32 · 2^28 < 2^64.
    let numerator = (u128::from(eps.digits) * u128::from(dim)) << 29;
    let denominator = 10u128.pow(eps.places);
    u64::try_from((numerator + denominator) / (2 * denominator)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_scale_is_log2_e_over_the_root_of_the_head_dim() {
        // Computed with 60 decimal digits.
        let expected = [(1, 24_204_406), (8, 8_557_550), (32, 4_278_775), (64, 3_025_551), (128, 2_139_387), (256, 1_512_775)];
        for (head_dim, scale) in expected {
            assert_eq!(attention_scale(head_dim), scale, "head dim {head_dim}");
        }
    }

    #[test]
    fn embedding_scale_is_the_root_of_the_dim() {
        // sqrt(2048) = 45.2548339959, sqrt(3072) = 55.4256258422, sqrt(48) = 6.92820323028.
        for (dim, scale) in [(1, 1 << 14), (4096, 1 << 20), (2048, 741_455), (3072, 908_093), (48, 113_512), (1 << 14, 1 << 21)] {
            assert_eq!(embedding_scale(dim), scale, "dim {dim}");
        }
    }

    #[test]
    fn a_part_is_a_whole_number_or_none() {
        let part = |text: &str, whole| Decimal::parse(text).and_then(|decimal| decimal.of(whole));
        assert_eq!([part("0.75", 128), part("1.0", 96), part("0.5", 3), part("0", 8)], [Some(96), Some(96), None, Some(0)]);
    }

    #[test]
    fn decimals_are_read_exactly_and_nothing_else_is() {
        let decimal = |digits, places| Some(Decimal { digits, places });
        assert_eq!(Decimal::parse("1e-12"), decimal(1, 12));
        assert_eq!(Decimal::parse("1E-05"), decimal(1, 5));
        assert_eq!(Decimal::parse("0.00001"), decimal(1, 5));
        assert_eq!(Decimal::parse("0.1250e-3"), decimal(125, 6));
        assert_eq!(Decimal::parse("1"), decimal(1, 0));
        assert_eq!(Decimal::parse("0.0"), decimal(0, 0));
        assert_eq!(Decimal::parse("0.01e2"), decimal(1, 0));
        assert_eq!(Decimal::parse("500000.0"), decimal(500_000, 0));
        assert_eq!(Decimal::parse("1e6"), decimal(1_000_000, 0));
        assert_eq!(Decimal::parse("1e17"), decimal(100_000_000_000_000_000, 0));
        assert_eq!(Decimal::parse("10.5"), decimal(105, 1));
        for refused in [
            "",
            "-1e-5",
            "1e-31",
            "1e18",
            "1234567890123456789",
            "NaN",
            "1e",
            "0x1",
            "1.2.3",
            "e-5",
            "0.1234567890123456789",
            "1e-99999999999",
        ] {
            assert_eq!(Decimal::parse(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_decimal_is_below_what_is_above_it() {
        for (text, limit, below) in
            [("10", 10, false), ("9.999", 10, true), ("0", 1, true), ("1", 1, false), ("1.5", 1, false), ("1e-30", 1, true)]
        {
            assert_eq!(Decimal::parse(text).map(|decimal| decimal.is_below(limit)), Some(below), "{text} below {limit}");
        }
    }

    #[test]
    fn epsilon_is_scaled_to_a_sum_of_squares_in_q28() {
        let e = |text, dim| norm_epsilon(Decimal::parse(text).expect("a decimal"), dim);
        assert_eq!(e("1e-12", 384), 0);
        assert_eq!(e("1e-5", 1024), 2_748_779);
        assert_eq!(e("1e-6", 4096), 1_099_512);
        // 2^-29 is about 1.862645149230957e-9, and times 2^28 it is a half.
        assert_eq!(e("1.862645149230956e-9", 1), 0);
        assert_eq!(e("1.862645149230958e-9", 1), 1);
        assert_eq!(e("0.5", 1), 1 << 27);
        assert_eq!(e("9.99999999999999999", 16_384), 43_980_465_111_040);
    }
}
