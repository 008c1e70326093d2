use crate::{
    arith::{bit_length, clamp32, floor_sqrt, rdiv, rs},
    bounds::EPSILON,
    encoder::Norm,
};

/// A vector brought to at most 24 bits, with the reciprocal of its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normalised {
    /// c, at most 2^24 in magnitude.
    pub elements: Vec<i64>,
    /// h, the bits that were taken out.
    pub shift: u32,
    /// v = max(sum of c² + (E >> 2h), 1), below 2^63.
    pub square: u64,
    /// r = floor(sqrt(n · 2^88 / v)), at most 2^51.
    pub reciprocal: i64,
}

/// The part that norms and unit length share (EXACT.md, section 4.4), for n = `count`.
///
/// Widths. h = max(0, bit_length(max |x|) - 24), so |x| < 2^(24 + h) and after rounding |c| <= 2^24. At most 2^14 elements give a
/// sum of squares <= 2^62, and E < 2^62: v < 2^63. n <= 2^14 gives n · 2^88 <= 2^102, so 128 bits, and r <= 2^51.
/// A checker needs no root: `r² · v <= n · 2^88 < (r + 1)² · v`. Since c² <= v, |c · r| <= sqrt(n) · 2^44 <= 2^51.
#[must_use]
pub fn normalise(x: &[i64], epsilon: u64, count: u32) -> Normalised {
    let largest = x.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0);
    let shift = bit_length(largest).saturating_sub(24);
    let elements: Vec<i64> = x.iter().map(|&x| rs(x, shift)).collect();
    let sum: u64 = elements.iter().map(|c| c.unsigned_abs() * c.unsigned_abs()).sum();
    let square = (sum + (epsilon >> (2 * shift))).max(1);
    let root = floor_sqrt((u128::from(count) << 88) / u128::from(square));
    // r <= 2^51 by the bound above.
    let reciprocal = i64::try_from(root).unwrap_or(i64::MAX);
    Normalised { elements, shift, square, reciprocal }
}

/// LayerNorm of one position (EXACT.md, section 4.4): centred by `rdiv(sum, d)`, then normalised and scaled.
///
/// |sum| <= 2^14 · 2^31 = 2^45; |x - mean| < 2^32, so h <= 8. `epsilon` is E of the header.
///
/// # Panics
/// If the norm's parameters have another length than `x`, or `x` is empty.
#[must_use]
pub fn layer_norm(x: &[i32], epsilon: u64, norm: &Norm) -> Vec<i32> {
    let sum: i64 = x.iter().map(|&x| i64::from(x)).sum();
    let dim = i128::try_from(x.len()).unwrap_or(i128::MAX);
    // A mean lies between the least and the greatest element: 32 bits.
    let mean = i64::try_from(rdiv(i128::from(sum), dim)).unwrap_or(0);
    let centred: Vec<i64> = x.iter().map(|&x| i64::from(x) - mean).collect();
    scale(&centred, epsilon, norm.gain.as_slice(), norm.bias.as_slice())
}

/// RMSNorm of one position: as [`layer_norm`] without the centring and without a bias. h <= 7.
///
/// # Panics
/// If the gain has another length than `x`.
#[must_use]
pub fn rms_norm(x: &[i32], epsilon: u64, gain: &[i32]) -> Vec<i32> {
    let wide: Vec<i64> = x.iter().map(|&x| i64::from(x)).collect();
    scale(&wide, epsilon, gain, &vec![0; gain.len()])
}

/// E for the norm of a head of `head_dim` elements, from E of the header for `dim` (EXACT.md, section 4.4):
/// `min(rdiv(E · head dim, dim), 2^62 - 1)`. E < 2^62 and head dim <= 2^8: 128 bits.
#[must_use]
pub fn head_epsilon(epsilon: u64, head_dim: u32, dim: u32) -> u64 {
    let share = rdiv(i128::from(epsilon) * i128::from(head_dim), i128::from(dim));
    u64::try_from(share).unwrap_or(EPSILON).min(EPSILON)
}

/// `clamp32(rs(rs(c · r, 28) · gain, 16) + bias)`: c · r is the unit vector in Q44, then Q16, and |c · r| <= 2^51, so the inner
/// factor is at most 2^23 and the product with the gain at most 2^54.
fn scale(x: &[i64], epsilon: u64, gain: &[i32], bias: &[i32]) -> Vec<i32> {
    assert!(x.len() == gain.len() && x.len() == bias.len(), "a norm has one gain and one bias per element");
    let count = u32::try_from(x.len()).unwrap_or(u32::MAX);
    let n = normalise(x, epsilon, count);
    let parameters = gain.iter().zip(bias);
    let scaled = |c: i64, gain: i32, bias: i32| clamp32(rs(rs(c * n.reciprocal, 28) * i64::from(gain), 16) + i64::from(bias));
    n.elements.iter().zip(parameters).map(|(&c, (&gain, &bias))| scaled(c, gain, bias)).collect()
}
