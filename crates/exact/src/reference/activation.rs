use crate::{
    arith::{clamp32, rdiv, rs},
    reference::exp2_negative,
    tables::{NORMAL_CDF, TANH_CDF},
};

/// GELU(x) = x · Phi(x) with Phi of the normal distribution by a 513-entry Q30 table over |x| in [0, 8] (EXACT.md, section 4.7).
///
/// a = min(|x|, 2^17 - 1) is |x| in Q14 below 8: entry a >> 8, remainder a & 255. p <= 2^30 and |x| <= 2^31 - 1, so |x · p| < 2^61 and
/// the result is not larger than |x|.
#[must_use]
pub fn gelu_erf(x: i32) -> i32 {
    gelu(x, &NORMAL_CDF)
}

/// GELU by the hyperbolic tangent: the same with (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))) / 2 for Phi (EXACT.md, section 4.7).
#[must_use]
pub fn gelu_tanh(x: i32) -> i32 {
    gelu(x, &TANH_CDF)
}

fn gelu(x: i32, table: &[u32; 513]) -> i32 {
    let a = x.unsigned_abs().min((1 << 17) - 1);
    let (index, rest) = ((a >> 8) as usize, i64::from(a & 255));
    let (low, high) = (i64::from(table[index]), i64::from(table[index + 1]));
    let positive = low + rs((high - low) * rest, 8);
    let p = if x < 0 { (1 << 30) - positive } else { positive };
    clamp32(rs(i64::from(x) * p, 30))
}

/// log2(e) in Q30.
const LOG2_E: i64 = 1_549_082_005;

/// SiLU(x) = x · sigmoid(x) by the exponential of attention (EXACT.md, section 4.11).
///
/// z is |x| · log2(e) in Q16: |x| · 2^31 < 2^62. e <= 2^24, so the quotient q = sigmoid(|x|) is in [2^29, 2^30] and |x · q| < 2^61.
#[must_use]
pub fn silu(x: i32) -> i32 {
    let z = rs(i64::from(x.unsigned_abs()) * LOG2_E, 28);
    let quotient = rdiv(1 << 54, i128::from((1 << 24) + exp2_negative(z)));
    let positive = i64::try_from(quotient).unwrap_or(0);
    let p = if x < 0 { (1 << 30) - positive } else { positive };
    clamp32(rs(i64::from(x) * p, 30))
}

/// Gated product: `clamp32(rs(activation · up, 14))`, below 2^62 before the rounding (EXACT.md, section 4.12).
#[must_use]
pub fn gated(activation: i32, up: i32) -> i32 {
    clamp32(rs(i64::from(activation) * i64::from(up), 14))
}
