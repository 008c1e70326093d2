use super::Operand;
use crate::{
    arith::{clamp32, rs},
    bounds::GROUP,
    format::Q8Matrix,
};

/// Product of a matrix and an operand, one int32 in Q14 per row (EXACT.md, section 4.2):
/// `y = clamp32(rs(sum over groups of m · (sum over the group of q · w), t - s) + bias)`.
///
/// Widths. |q| <= 2^15 - 1 and |w| <= 127 give |group| <= 128 · 127 · 32767 < 2^29: int32. Times m < 2^16 that is < 2^45 per group,
/// and at most 2^15 / 128 = 2^8 groups: |whole| < 2^53. t - s >= 17 - 16 = 1, so the rounded sum is at most 2^52 and the bias fits on top.
///
/// # Panics
/// If the operand's length is not the matrix's K.
#[must_use]
pub fn linear(matrix: &Q8Matrix, x: &Operand) -> Vec<i32> {
    assert_eq!(x.elements.len(), matrix.cols(), "an operand has as many elements as the matrix has columns");
    let product = |weights: &[i8], x: &[i16]| -> i32 { weights.iter().zip(x).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum() };
    matrix
        .iter_rows()
        .map(|row| {
            let groups = row.weights.chunks(GROUP).zip(x.elements.chunks(GROUP));
            let whole: i64 = groups.zip(row.mantissas).map(|((w, q), &m)| i64::from(m) * i64::from(product(w, q))).sum();
            clamp32(rs(whole, u32::from(row.shift) - x.shift) + i64::from(row.bias))
        })
        .collect()
}
