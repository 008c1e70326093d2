//! Rotation of all heads of a row; twin of [`reference::rotate`](crate::reference::rotate), whose widths hold here.

use super::isa::multiversion;
use crate::arith::clamp32;

multiversion! {
    /// Turns every head of `head_dim` elements of a row by the angles of its position, in place.
    ///
    /// # Panics
    /// If `head_dim` is 0 or less than two dims for each cosine.
    pub fn rotate(row: &mut [i32], head_dim: usize, cos: &[i32], sin: &[i32]) -> () = body
}

#[inline(always)]
fn body(row: &mut [i32], head_dim: usize, cos: &[i32], sin: &[i32]) {
    for head in row.chunks_exact_mut(head_dim) {
        let (first, second) = head.split_at_mut(cos.len());
        for ((x, y), (&cos, &sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
            let ([a, b], cos, sin) = ([*x, *y].map(i64::from), i64::from(cos), i64::from(sin));
            let turned = |p: i64, q: i64| clamp32(p.wrapping_add(q).wrapping_add(1 << 29) >> 30);
            (*x, *y) = (turned(a.wrapping_mul(cos), b.wrapping_mul(sin).wrapping_neg()), turned(b.wrapping_mul(cos), a.wrapping_mul(sin)));
        }
    }
}
