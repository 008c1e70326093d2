use super::normalise;
use crate::{
    arith::{clamp16, rs},
    format::TableI32,
};

/// Sum over all positions (EXACT.md, section 4.8): at most 2^15 positions of 31 bits, so |sum| < 2^46. The mean differs from it
/// by a factor that unit length takes out.
#[must_use]
pub fn pool(rows: &TableI32) -> Vec<i64> {
    let mut sum = vec![0; rows.width()];
    for row in rows.iter_rows() {
        for (sum, &x) in sum.iter_mut().zip(row) {
            *sum += i64::from(x);
        }
    }
    sum
}

/// The vector of unit length in Q15: `clamp16(rs(c · r, 29))` with c and r of [`normalise`] for n = 1, E = 0. h <= 22.
/// Zero stays zero.
#[must_use]
pub fn unit_length(x: &[i64]) -> Vec<i16> {
    let n = normalise(x, 0, 1);
    n.elements.iter().map(|&c| clamp16(rs(c * n.reciprocal, 29))).collect()
}
