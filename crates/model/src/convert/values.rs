//! The static shifts of values, from a bound that is proven (docs/EXACT.md, "Conversion"). Computed from the package's own integers,
//! so whoever holds a package recomputes them.

use quern_exact::{bounds, format::Row};

use super::number::sqrt_ceil;

/// What the norm before the values can put out: `y = rs(rs(c · r, 28) · gain, 16) + offset`, by its gain and offset in Q14.
pub(crate) struct NormBound<'a> {
    gain: &'a [i32],
    offset: &'a [i32],
    /// At least the length of the vector rs(c · r, 28), in Q16.
    length: u128,
    /// At least the error of an element: of rounding y and of its int16 form, in Q14.
    error: u128,
}

impl<'a> NormBound<'a> {
    /// `None` where an element can pass int32, so that the norm would saturate and nothing below holds.
    ///
    /// c · r / 2^28 has length at most sqrt(dim) · 2^16, because r <= sqrt(dim · 2^88 / v) and v is at least the sum of squares of c; rounding
    /// adds at most 1/2 to each of dim elements, so at most sqrt(dim) / 2 to the length. No element is longer than the vector.
    pub(crate) fn new(gain: &'a [i32], offset: &'a [i32]) -> Option<Self> {
        let dim = gain.len() as u128;
        let length = sqrt_ceil(dim << 32) + sqrt_ceil(dim);
        let element = |(gain, offset): (&i32, &i32)| {
            let product = (u128::from(gain.unsigned_abs()) * length).div_ceil(1 << 16);
            product + 1 + u128::from(offset.unsigned_abs())
        };
        let largest = gain.iter().zip(offset).map(element).max().unwrap_or(0);
        if largest > i32::MAX as u128 {
            return None;
        }
        // The shift of the int16 form is at most the one of the largest element. It rounds by at most half of 2^shift, and clamps 32768 to
        // 32767, which is at most 2^shift; 1 covers the half of the norm's own rounding.
        let bits = u128::BITS - largest.leading_zeros();
        let error = if bits > 15 { 1 + (1 << (bits - 15)) } else { 1 };
        Some(Self { gain, offset, length, error })
    }

    /// At least the magnitude, in Q14, of what this row can put out behind this norm.
    ///
    /// With W = weight · mantissa, y = gain · u / 2^16 + offset and |u| <= length: |sum of W · y| <= |W · gain| · length / 2^16 + |sum of W · offset|
    /// by Cauchy and Schwarz, plus error · sum of |W|. The row's shift divides, and its rounding adds at most 1/2.
    ///
    /// ROUNDING: every step up.
    fn largest(&self, row: &Row<'_>) -> u128 {
        let mut squares = 0u128; // < 2^14 · (2^23 · 2^31)^2 = 2^122
        let mut centre = i128::from(row.bias) << row.shift; // < 2^93
        let mut magnitudes = 0u128; // < 2^37
        for (i, weight) in row.weights.iter().enumerate() {
            let product = i64::from(*weight) * i64::from(row.mantissas[i / bounds::GROUP]);
            let scaled = u128::from(product.unsigned_abs()) * u128::from(self.gain[i].unsigned_abs());
            squares += scaled * scaled;
            centre += i128::from(product) * i128::from(self.offset[i]);
            magnitudes += u128::from(product.unsigned_abs());
        }
        let spread = (sqrt_ceil(squares) * self.length).div_ceil(1 << 16); // 2^61 · 2^24
        let sum = spread + centre.unsigned_abs() + magnitudes * self.error;
        sum.div_ceil(1 << row.shift) + 1
    }

    /// The static shift of a head: the smallest s from 0 to 16 with `bound <= 32767 · 2^s` for each of its rows; 16 where there is none, at
    /// which every int32 fits but for the last rounding, which clamps.
    pub(crate) fn head_shift<'r>(&self, rows: impl Iterator<Item = Row<'r>>) -> i32 {
        let largest = rows.map(|row| self.largest(&row)).max().unwrap_or(0);
        (0..bounds::VALUE_SHIFT_MAX).find(|shift| largest <= 32_767 << shift).unwrap_or(bounds::VALUE_SHIFT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quern_exact::{
        encoder::Norm,
        format::{Q8Matrix, VectorI32},
        reference::{layer_norm, linear, to_operand},
    };

    use super::*;

    const DIM: usize = 140;

    fn matrices() -> impl Strategy<Value = Q8Matrix> {
        let row = (prop::collection::vec(-127i8..=127, DIM), 1u16.., 1u16.., 17u8..=40, -1_000_000i32..1_000_000);
        prop::collection::vec(row, 1..4).prop_map(|rows| {
            let weights: Vec<i8> = rows.iter().flat_map(|row| row.0.iter().copied()).collect();
            let mantissas = rows.iter().flat_map(|row| [row.1, row.2]).collect();
            let shifts = rows.iter().map(|row| row.3).collect();
            let bias = rows.iter().map(|row| row.4).collect();
            Q8Matrix::new(rows.len(), DIM, weights, mantissas, shifts, Some(bias)).expect("well formed")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// The bound holds for whatever the norm can put out, worst cases first: the input that points along a row, and a single spike.
        #[test]
        fn no_value_passes_the_bound(
            matrix in matrices(),
            gain in prop::collection::vec(-60_000i32..60_000, DIM),
            offset in prop::collection::vec(-60_000i32..60_000, DIM),
            noise in prop::collection::vec(-1_000_000i32..1_000_000, DIM),
            spike in 0..DIM,
        ) {
            let bound = NormBound::new(&gain, &offset).expect("moderate gains");
            let norm = Norm { gain: VectorI32::from(gain.clone()), bias: VectorI32::from(offset.clone()) };
            let rows: Vec<Row<'_>> = matrix.iter_rows().collect();
            let along = |row: &Row<'_>, sign: i64| -> Vec<i32> {
                let element = |i: usize| sign * i64::from(row.weights[i]) * i64::from(row.mantissas[i / bounds::GROUP]) * i64::from(gain[i]);
                let largest = (0..DIM).map(|i| element(i).unsigned_abs()).max().unwrap_or(1).max(1);
                (0..DIM).map(|i| i32::try_from(element(i) / i64::try_from(largest.div_ceil(1 << 30)).unwrap_or(1)).unwrap_or(0)).collect()
            };
            let mut inputs = vec![noise];
            let mut single = vec![0; DIM];
            single[spike] = i32::MAX;
            inputs.push(single);
            for row in &rows {
                inputs.push(along(row, 1));
                inputs.push(along(row, -1));
            }
            let shift = bound.head_shift(rows.iter().copied());
            for x in inputs {
                let values = linear(&matrix, &to_operand(&layer_norm(&x, 0, &norm)));
                for (row, value) in rows.iter().zip(values) {
                    prop_assert!(u128::from(value.unsigned_abs()) <= bound.largest(row), "{value} past {}", bound.largest(row));
                    let largest = bound.largest(row);
                    prop_assert!(shift == bounds::VALUE_SHIFT_MAX || largest <= 32_767 << shift);
                }
            }
        }
    }

    #[test]
    fn the_bound_is_not_loose() {
        // One row along the first channel of 64, gain one: the norm's vector has length 8 at most, so the value is 8 times the weight.
        let matrix = Q8Matrix::new(1, 64, [vec![127], vec![0; 63]].concat(), vec![65_535], vec![23], None).expect("well formed");
        let (gain, offset) = (vec![1 << 14; 64], vec![0; 64]);
        let bound = NormBound::new(&gain, &offset).expect("moderate gains");
        let row = matrix.row(0).expect("one row");
        let real = 127.0 * 65_535.0 / f64::from(1 << 23) * 8.0 * 16_384.0;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let ratio = bound.largest(&row) as f64 / real;
        assert!((1.0..1.001).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_norm_that_can_saturate_has_no_bound() {
        assert!(NormBound::new(&[i32::MAX; 4], &[0; 4]).is_none());
        assert!(NormBound::new(&[1 << 14; 4], &[i32::MAX, 0, 0, 0]).is_none());
        assert!(NormBound::new(&[1 << 14; 4], &[0; 4]).is_some());
    }
}
