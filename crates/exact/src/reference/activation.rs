use crate::{
    arith::{clamp32, rs},
    tables::NORMAL_CDF,
};

/// GELU(x) = x · Phi(x) with Phi of the normal distribution by a 513-entry Q30 table over |x| in [0, 8] (EXACT.md, section 4.7).
///
/// a = min(|x|, 2^17 - 1) is |x| in Q14 below 8: entry a >> 8, remainder a & 255. p <= 2^30 and |x| <= 2^31 - 1, so |x · p| < 2^61 and
/// the result is not larger than |x|.
#[must_use]
pub fn gelu_erf(x: i32) -> i32 {
    let a = x.unsigned_abs().min((1 << 17) - 1);
    let (index, rest) = ((a >> 8) as usize, i64::from(a & 255));
    let (low, high) = (i64::from(NORMAL_CDF[index]), i64::from(NORMAL_CDF[index + 1]));
    let positive = low + rs((high - low) * rest, 8);
    let p = if x < 0 { (1 << 30) - positive } else { positive };
    clamp32(rs(i64::from(x) * p, 30))
}
