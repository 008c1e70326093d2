use crate::arith::{clamp32, rs};

/// Turns one head at one position, in place (EXACT.md, section 4.10): dims i and i + r by the angle whose cosine and sine are element i
/// of the rows, Q30, r elements each; dims from 2r on stay.
///
/// |x| <= 2^31 - 1 and |cos|, |sin| <= 2^31: the sum of two products is at most 2^63 - 2^32, and the rounding adds 2^29: int64.
///
/// # Panics
/// If the rows differ in length, or the head has fewer than 2r dims.
pub fn rotate(head: &mut [i32], cos: &[i32], sin: &[i32]) {
    assert!(cos.len() == sin.len() && 2 * cos.len() <= head.len(), "as many cosines as sines, and two dims for each");
    let (first, second) = head.split_at_mut(cos.len());
    for ((x, y), (&cos, &sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
        let ([a, b], cos, sin) = ([*x, *y].map(i64::from), i64::from(cos), i64::from(sin));
        *x = clamp32(rs(a * cos - b * sin, 30));
        *y = clamp32(rs(b * cos + a * sin, 30));
    }
}
