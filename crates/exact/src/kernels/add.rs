//! Residual add; twin of [`reference::residual`](crate::reference::residual).

use super::isa::multiversion;

multiversion! {
    /// `clamp32(x + y)` of each pair of elements, into `x`.
    pub fn add(x: &mut [i32], y: &[i32]) -> () = body
}

#[inline(always)]
fn body(x: &mut [i32], y: &[i32]) {
    for (x, &y) in x.iter_mut().zip(y) {
        // In 32 bits: what saturates at -2^31, or is it, is one less than the least activation.
        *x = x.saturating_add(y).max(-i32::MAX);
    }
}
